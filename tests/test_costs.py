"""The client's own overhead, in function calls."""

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

MAX_PER_REQUEST = 450  # 337 when this was written; more if the rate limiter delays each request
MAX_PER_READ = 100  # 83 when this was written, 91 on Python 3.10; about 25 of them are for usage

FLOATS = ",".join(["0.0123456789"] * 1024)
ROWS = ",".join(f'{{"object":"embedding","index":{at},"embedding":[{FLOATS}]}}' for at in range(10))
BODY = f'{{"object":"list","data":[{ROWS}],"model":"m","usage":{{"total_tokens":50}}}}'.encode()
ANSWER = Response(200, {"content-type": "application/json"}, BODY)


def calls(function: Callable[[], Any]) -> int:
    """Return the number of function calls, in Python and C; the minimum, as a busy machine adds calls."""
    counted: list[int] = []
    for _ in range(3):
        profile = cProfile.Profile()
        profile.runcall(function)
        counted.append(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]
    return min(counted)


@pytest.fixture
def embed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Return a function that embeds a number of texts through a transport with a fixed response."""

    async def post(*_: Any) -> Response:
        return Response(ANSWER.status, ANSWER.headers, ANSWER.body)

    monkeypatch.setattr(AsyncioTransport, "post", post)
    config = EmbeddingConfig(api_key="k", base_url="http://127.0.0.1:9", max_concurrency=1)
    client = AsyncEmbeddingClient(config)
    loop = asyncio.new_event_loop()

    def embed(texts: int) -> None:
        loop.run_until_complete(client.embed([f"text {at}" for at in range(texts)]))

    embed(10)  # triggers imports
    yield embed
    loop.run_until_complete(client.aclose())
    loop.close()


def test_a_request(embed: Callable[[int], None]) -> None:
    """A request with ten texts, from the texts to their embeddings, takes a few hundred function calls."""
    each = (calls(lambda: embed(400)) - calls(lambda: embed(200))) / 20

    assert each <= MAX_PER_REQUEST


def test_no_request_costs_more_than_another(embed: Callable[[int], None]) -> None:
    """The overhead per request does not depend on the number of texts."""
    assert calls(lambda: embed(5000)) / 500 <= 1.2 * calls(lambda: embed(500)) / 50


def test_reading() -> None:
    """Reading a response does not take a function call per number or byte."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)

    def read() -> None:
        reader = _Reader(10_000_000)
        assert reader.feed(memoryview(head + BODY[:60_000])) is False
        assert reader.feed(memoryview(BODY[60_000:])) is True
        assert len(decode(reader.conclude(None), 10, 1024).embeddings) == 10

    assert calls(read) <= MAX_PER_READ
