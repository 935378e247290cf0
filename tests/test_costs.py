"""What the client itself costs, in function calls, which no other work on the machine changes."""

from __future__ import annotations

import cProfile
import pstats
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml import EmbeddingClient, EmbeddingConfig, _lines
from qwen_aiml._http1 import Incoming
from qwen_aiml._waits import Pause
from qwen_aiml._protocol.response import Response, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

MOST_A_REQUEST = 330  # 291 when this was written
MOST_TO_READ = 70  # 60 then

FLOATS = ",".join(["0.0123456789"] * 1024)
ROWS = ",".join(f'{{"object":"embedding","index":{at},"embedding":[{FLOATS}]}}' for at in range(10))
BODY = f'{{"object":"list","data":[{ROWS}],"model":"m","usage":{{"total_tokens":50}}}}'.encode()
ANSWER = Response(200, {"content-type": "application/json"}, BODY)


def calls(function: Callable[[], Any]) -> int:
    """Count the calls of functions, in Python or in C, that a call makes."""
    profile = cProfile.Profile()
    profile.runcall(function)
    total: int = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    return total


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> EmbeddingClient:
    """Give a client whose connections have answers at hand."""

    def post(*_: Any) -> Generator[Pause, Any, Answer]:
        yield Pause(0.0)
        return Response(ANSWER.status, ANSWER.headers, ANSWER.body)

    monkeypatch.setattr(_lines.Connection, "post", post)
    config = EmbeddingConfig(api_key="k", base_url="http://127.0.0.1:9", max_concurrency=1)
    client = EmbeddingClient(config)
    client.embed([f"first {at}" for at in range(10)])  # imports what is needed
    return client


def test_a_request(client: EmbeddingClient) -> None:
    """A request of ten texts, from the texts to their embeddings, takes a few hundred calls."""
    few, many = ([f"text {at}" for at in range(10 * requests)] for requests in (20, 40))
    each = (calls(lambda: client.embed(many)) - calls(lambda: client.embed(few))) / 20

    assert each <= MOST_A_REQUEST


def test_no_request_costs_more_than_another(client: EmbeddingClient) -> None:
    """However many texts there are, each costs the same."""
    few, many = ([f"text {at}" for at in range(10 * requests)] for requests in (100, 2000))

    assert calls(lambda: client.embed(many)) / 2000 <= 1.1 * calls(lambda: client.embed(few)) / 100


def test_reading() -> None:
    """To read an answer takes no call for each number, nor for each byte."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)

    def read() -> None:
        incoming = Incoming(10_000_000)
        assert incoming.feed(head + BODY[:60_000]) is False
        assert incoming.feed(BODY[60_000:]) is True
        assert len(decode(incoming.answer(), 10, 1024).embeddings) == 10

    assert calls(read) <= MOST_TO_READ
