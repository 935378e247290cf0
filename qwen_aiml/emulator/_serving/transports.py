"""
The emulator as httpx transports: no socket, no thread. The emulator's only module that imports httpx.

Connection failures are simulated by raising httpx's own exceptions with its
messages. Status and headers always arrive together.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from .._responses import Request
from .._service import PATH
from .entered import entered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .._reply import Reply
    from .._responses import Response
    from .entered import Handler

# The core reads this attribute of an HTTP client: only clients of the same service share cache entries.
_SERVICE = "qwen_aiml_service"
_FOREVER = 1e8  # seconds, three years: `time.sleep` does not accept infinity


def clients(emulator: Handler, mount: str) -> dict[str, Any]:
    """Create a sync and an async client for *emulator*; *mount* distinguishes its vectors from others."""
    options: dict[str, Any] = {
        "http_client": httpx.Client(transport=sync_transport(emulator, mount)),
        "http_async_client": httpx.AsyncClient(transport=async_transport(emulator, mount)),
    }
    for client in options.values():
        # Its requests have the service's own URL, so only this distinguishes its vectors from the service's.
        setattr(client, _SERVICE, f"emulator{mount}")
    return options


def sync_transport(emulator: Handler, mount: str | None = None) -> httpx.MockTransport:
    """Create a transport that waits with `time.sleep`; with *mount*, any base URL is accepted."""

    def handle(request: httpx.Request) -> httpx.Response:
        with ExitStack() as in_flight:
            reply = in_flight.enter_context(emulator.answering(_received(request, mount)))
            timeout = _read_timeout(request)
            time.sleep(min(reply.latency, timeout))
            return _respond(request, reply, timeout, in_flight)

    return httpx.MockTransport(handle)


def async_transport(emulator: Handler, mount: str | None = None) -> httpx.MockTransport:
    """Create a transport like that of `sync_transport` that waits with `anyio.sleep`."""

    async def handle(request: httpx.Request) -> httpx.Response:
        with ExitStack() as in_flight:
            reply = await entered(emulator, _received(request, mount), in_flight)
            timeout = _read_timeout(request)
            await anyio.sleep(min(reply.latency, timeout))
            return _respond(request, reply, timeout, in_flight)

    return httpx.MockTransport(handle)


def _received(request: httpx.Request, mount: str | None) -> Request:
    path = request.url.raw_path.decode("ascii")
    if mount is not None:
        path = mount + (PATH if path.endswith("/embeddings") else path.removeprefix(mount))
    return Request(
        method=request.method,
        path=path,
        headers={name.lower(): value for name, value in request.headers.items()},
        body=request.content,
    )


def _read_timeout(request: httpx.Request) -> float:
    """Return the read timeout of *request* in seconds."""
    seconds = request.extensions.get("timeout", {}).get("read")
    return _FOREVER if seconds is None else float(seconds)


def _respond(request: httpx.Request, reply: Reply, timeout: float, in_flight: ExitStack) -> httpx.Response:
    """Return the response for *reply*, or raise, after the wait; it is in flight until its body is closed."""
    if reply.latency > timeout:
        raise httpx.ReadTimeout("The read operation timed out", request=request)
    if reply.response is None:
        raise httpx.ReadError("[Errno 104] Connection reset by peer", request=request)
    chunks = _chunks(request, reply, reply.response, timeout)
    body = _Body(chunks, min(reply.drip, timeout), in_flight.pop_all())
    return httpx.Response(reply.response.status, headers=reply.response.framed, stream=body, request=request)


def _chunks(request: httpx.Request, reply: Reply, response: Response, timeout: float) -> Iterator[bytes]:
    """Yield the part of the body that is sent, then raise if that is not all; a pause precedes each chunk."""
    sent = response.body[: reply.sent]
    if reply.drip > timeout and sent:
        yield b""
        raise httpx.ReadTimeout("The read operation timed out", request=request)
    size = 1 if reply.drip else max(1, len(sent))
    for start in range(0, len(sent), size):
        yield sent[start : start + size]
    if len(sent) == len(response.body):
        return
    if reply.resets:
        raise httpx.ReadError("[Errno 104] Connection reset by peer", request=request)
    received = f"received {len(sent)} bytes, expected {len(response.body)}"
    message = f"peer closed connection without sending complete message body ({received})"
    raise httpx.RemoteProtocolError(message, request=request)


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that yields one of *chunks* every *pause* seconds, and closes *in_flight* when it is closed."""

    def __init__(self, chunks: Iterator[bytes], pause: float, in_flight: ExitStack) -> None:
        self._chunks = chunks
        self._pause = pause
        self._in_flight = in_flight

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            time.sleep(self._pause)
            yield chunk

    def close(self) -> None:
        self._in_flight.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            await anyio.sleep(self._pause)
            yield chunk

    async def aclose(self) -> None:
        self._in_flight.close()
