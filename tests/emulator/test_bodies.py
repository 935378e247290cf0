"""Response bodies in the process: whole, cut, reset, byte by byte, compressed."""

# ruff: noqa: SIM300 - expected == actual, in all tests

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Receive = Callable[..., Awaitable[tuple[list[bytes], Exception | None]]]
    Send = Callable[..., Awaitable[httpx.Response]]

URL = "https://api.aimlapi.com/v1/embeddings"
HEADERS = {"authorization": "Bearer key"}


@pytest.fixture(params=["sync", "async"])
def receive(request: pytest.FixtureRequest, body: Callable[..., Any]) -> Receive:
    """Return a function that sends a sync or async request and returns the body's chunks and its error."""

    async def chunks(emulator: Emulator, patience: float = 5) -> tuple[list[bytes], Exception | None]:
        more: Any = {"json": body(), "headers": HEADERS, "timeout": patience}
        received: list[bytes] = []
        try:
            if request.param == "sync":
                with (
                    httpx.Client(transport=emulator.transport()) as client,
                    client.stream("POST", URL, **more) as response,  # noqa: ASYNC212 - in the process
                ):
                    received.extend(response.iter_raw())
            else:
                async with (
                    httpx.AsyncClient(transport=emulator.async_transport()) as async_client,
                    async_client.stream("POST", URL, **more) as response,
                ):
                    async for chunk in response.aiter_raw():
                        received.append(chunk)  # noqa: PERF401 - chunks before an error are kept
        except httpx.TransportError as error:
            return received, error
        return received, None

    return chunks


@pytest.mark.anyio
@pytest.mark.parametrize(("asked", "sent"), [(0, 0), (100, 100), (10**9, -1)])
async def test_cut(send: Send, asked: int, sent: int) -> None:
    """A cut body lacks at least one byte, and raises httpx's error for an incomplete body."""
    emulator = Emulator(credits=10)
    size = len((await send(emulator)).content)
    emulator.script(Fault(cut=asked))
    with pytest.raises(httpx.RemoteProtocolError) as raised:
        await send(emulator)

    assert f"(received {sent % size} bytes, expected {size})" in str(raised.value)
    assert str(raised.value.request.url) == URL
    assert 8 == emulator.credits


@pytest.mark.anyio
async def test_nothing_to_cut(send: Send) -> None:
    """A body that an edit has emptied is not cut, and arrives."""
    emulator = Emulator()
    emulator.script(Fault(edit=lambda _: b"", cut=5))

    assert (200, b"") == ((response := await send(emulator)).status_code, response.content)


@pytest.mark.anyio
async def test_reset_during(receive: Receive) -> None:
    """A reset during the response is a read error after half of the body."""
    emulator = Emulator()
    emulator.script(Fault(reset="during", status=200, body=b"abcdefg"))
    chunks, error = await receive(emulator)

    assert [b"abc"] == chunks
    assert isinstance(error, httpx.ReadError)
    assert ("[Errno 104] Connection reset by peer", URL) == (str(error), str(error.request.url))
    assert 1 == emulator.texts_billed["Laura is a DJ."]


@pytest.mark.anyio
async def test_drip(receive: Receive) -> None:
    """A body drips byte by byte, with a pause before each; the read timeout applies to each byte."""
    emulator = Emulator()
    emulator.script(Fault(drip=0.02, status=200, body=b"abcd"))
    started = time.monotonic()

    assert ([b"a", b"b", b"c", b"d"], None) == await receive(emulator, patience=1)
    assert time.monotonic() - started >= 0.08
    assert 1 == emulator.texts_billed["Laura is a DJ."]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(drip=0.001, status=500, body=b"abcd", cut=2), httpx.RemoteProtocolError),
        (Fault(drip=0.001, status=500, body=b"abcd", reset="during"), httpx.ReadError),
    ],
)
async def test_drip_that_ends_early(receive: Receive, fault: Fault, error: type[Exception]) -> None:
    """A dripping body that is cut or reset drips up to that point."""
    emulator = Emulator()
    emulator.script(fault)
    chunks, raised = await receive(emulator)

    assert ([b"a", b"b"], error) == (chunks, type(raised))


@pytest.mark.anyio
async def test_drip_slower_than_patience(receive: Receive) -> None:
    """A read timeout shorter than the pause between bytes raises httpx's timeout, even after the headers."""
    emulator = Emulator()
    emulator.script(Fault(drip=30))
    chunks, error = await receive(emulator, patience=0.05)

    assert (b"", httpx.ReadTimeout) == (b"".join(chunks), type(error))


@pytest.mark.anyio
async def test_drip_without_a_body(send: Send) -> None:
    """A response without a body does not drip: headers arrive together."""
    emulator = Emulator()
    emulator.script(Fault(drip=30, status=204))

    assert 204 == (await send(emulator, timeout=0.05)).status_code


@pytest.mark.anyio
async def test_drip_is_in_flight(body: Callable[..., Any]) -> None:
    """A request is in flight until the response body is read or closed."""
    emulator = Emulator(concurrency_limit=1)
    emulator.script(Fault(drip=0.01))
    more: Any = {"json": body(), "headers": HEADERS}
    async with httpx.AsyncClient(transport=emulator.async_transport()) as client:
        async with client.stream("POST", URL, **more):
            assert 429 == (await client.post(URL, **more)).status_code
        assert 200 == (await client.post(URL, **more)).status_code


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 200),
        ({"status": 404}, 404),
        ({"status": 520}, 520),
        ({"edit": lambda _: b"edited"}, 200),
        ({"drip": 0.0001, "status": 200, "body": b"slow"}, 200),
        ({"status": 200, "body": b""}, 200),
    ],
)
async def test_gzip(send: Send, settings: dict[str, Any], status: int) -> None:
    """A compressed response decodes to the plain one, whatever the fault's other settings."""
    emulator = Emulator()
    emulator.script(Fault(**settings), Fault(**settings, gzip=True))
    plain, compressed = await send(emulator), await send(emulator)

    assert (status, plain.content) == (compressed.status_code, compressed.content)
    assert "gzip" == compressed.headers.pop("content-encoding")
    assert plain.headers.pop("content-length") != compressed.headers.pop("content-length")
    assert plain.headers == compressed.headers


@pytest.mark.anyio
async def test_refusals_are_compressed(send: Send) -> None:
    """A rejection is compressed like any other response."""
    emulator = Emulator(credits=0)
    emulator.script(Fault(gzip=True))
    response = await send(emulator)

    assert (403, "gzip") == (response.json()["status"], response.headers["content-encoding"])


@pytest.mark.anyio
async def test_gzip_cut(receive: Receive) -> None:
    """A cut applies to the compressed body."""
    emulator = Emulator()
    emulator.script(Fault(gzip=True, cut=20, status=200, body=b"a" * 1000))
    chunks, error = await receive(emulator)

    whole = gzip.compress(b"a" * 1000, mtime=0)
    assert [whole[:20]] == chunks
    assert isinstance(error, httpx.RemoteProtocolError)
    assert f"(received 20 bytes, expected {len(whole)})" in str(error)


@pytest.mark.anyio
async def test_bomb(send: Send) -> None:
    """A small compressed response can expand to a large one."""
    emulator = Emulator()
    emulator.script(Fault(gzip=True, status=200, body=bytes(1_000_000)))
    response = await send(emulator)

    assert (True, 1_000_000) == (int(response.headers["content-length"]) < 2000, len(response.content))
