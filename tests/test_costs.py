"""What the client itself costs, in function calls."""

from __future__ import annotations

import asyncio
import cProfile
import pstats
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml import AsyncEmbeddingClient, EmbeddingConfig
from qwen_aiml._protocol.response import Response, decode
from qwen_aiml._transport.asyncio_transport import AsyncioTransport, _Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

MOST_A_REQUEST = 450  # 337 when this was written; more where the rate limiter makes each of them wait
MOST_TO_READ = 100  # 83 when this was written, on Python 3.10 91; usage takes some 25 of them

FLOATS = ",".join(["0.0123456789"] * 1024)
ROWS = ",".join(f'{{"object":"embedding","index":{at},"embedding":[{FLOATS}]}}' for at in range(10))
BODY = f'{{"object":"list","data":[{ROWS}],"model":"m","usage":{{"total_tokens":50}}}}'.encode()
ANSWER = Response(200, {"content-type": "application/json"}, BODY)


def calls(function: Callable[[], Any]) -> int:
    """Count the calls of functions, in Python or in C, that a call makes; a busy machine makes it more."""
    counted: list[int] = []
    for _ in range(3):
        profile = cProfile.Profile()
        profile.runcall(function)
        counted.append(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]
    return min(counted)


@pytest.fixture
def embed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Give a function that embeds so many texts with a client whose transport has responses at hand."""

    async def post(*_: Any) -> Response:
        return Response(ANSWER.status, ANSWER.headers, ANSWER.body)

    monkeypatch.setattr(AsyncioTransport, "post", post)
    config = EmbeddingConfig(api_key="k", base_url="http://127.0.0.1:9", max_concurrency=1)
    client = AsyncEmbeddingClient(config)
    loop = asyncio.new_event_loop()

    def embed(texts: int) -> None:
        loop.run_until_complete(client.embed([f"text {at}" for at in range(texts)]))

    embed(10)  # imports what is needed
    yield embed
    loop.run_until_complete(client.aclose())
    loop.close()


def test_a_request(embed: Callable[[int], None]) -> None:
    """A request of ten texts, from the texts to their embeddings, takes a few hundred calls."""
    each = (calls(lambda: embed(400)) - calls(lambda: embed(200))) / 20

    assert each <= MOST_A_REQUEST


def test_no_request_costs_more_than_another(embed: Callable[[int], None]) -> None:
    """However many texts there are, each costs the same."""
    assert calls(lambda: embed(5000)) / 500 <= 1.2 * calls(lambda: embed(500)) / 50


def test_reading() -> None:
    """To read an answer takes no call for each number, nor for each byte."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)

    def read() -> None:
        reader = _Reader(10_000_000)
        assert reader.feed(memoryview(head + BODY[:60_000])) is False
        assert reader.feed(memoryview(BODY[60_000:])) is True
        assert len(decode(reader.conclude(None), 10, 1024).embeddings) == 10

    assert calls(read) <= MOST_TO_READ
