"""
The emulator behind httpx transports: no socket, no thread. The only module of it that imports httpx.

What a real connection would do to httpx is done here by raising what httpx
would raise, in httpx's words. Status and headers always come at once.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from .._answers import Request
from .entered import entered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .._answers import Answer
    from .._reply import Reply
    from .entered import Handler

# The core asks a client for this name: whether two services are one decides what may share a cache.
_SERVICE = "qwen_aiml_service"
_FOR_EVER = 1e8  # seconds, three years: `time.sleep` takes no infinity


def clients(emulator: Handler, mount: str) -> dict[str, Any]:
    """Give a client of each kind whose requests go to *emulator*; *mount* tells it from others."""
    made: dict[str, Any] = {
        "http_client": httpx.Client(transport=sync_transport(emulator, mount)),
        "http_async_client": httpx.AsyncClient(transport=async_transport(emulator, mount)),
    }
    for client in made.values():
        # Its requests name the service's own address, so nothing else tells its vectors from the service's.
        setattr(client, _SERVICE, f"emulator{mount}")
    return made


def sync_transport(emulator: Handler, mount: str = "") -> httpx.MockTransport:
    """Give a transport that waits with `time.sleep`; *mount* is put before paths that lack it."""

    def handle(request: httpx.Request) -> httpx.Response:
        with ExitStack() as in_flight:
            reply = in_flight.enter_context(emulator.answering(_received(request, mount)))
            patience = _patience(request)
            time.sleep(min(reply.latency, patience))
            return _outcome(request, reply, patience, in_flight)

    return httpx.MockTransport(handle)


def async_transport(emulator: Handler, mount: str = "") -> httpx.MockTransport:
    """Give the same as `sync_transport`, waiting with `anyio.sleep`."""

    async def handle(request: httpx.Request) -> httpx.Response:
        with ExitStack() as in_flight:
            reply = await entered(emulator, _received(request, mount), in_flight)
            patience = _patience(request)
            await anyio.sleep(min(reply.latency, patience))
            return _outcome(request, reply, patience, in_flight)

    return httpx.MockTransport(handle)


def _received(request: httpx.Request, mount: str) -> Request:
    return Request(
        method=request.method,
        path=mount + request.url.raw_path.decode("ascii").removeprefix(mount),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=request.content,
    )


def _patience(request: httpx.Request) -> float:
    """Say how many seconds of silence *request* allows."""
    seconds = request.extensions.get("timeout", {}).get("read")
    return _FOR_EVER if seconds is None else float(seconds)


def _outcome(request: httpx.Request, reply: Reply, patience: float, in_flight: ExitStack) -> httpx.Response:
    """Give what *reply* comes to, after the wait; its request is in flight until the body is closed."""
    if reply.latency > patience:
        raise httpx.ReadTimeout("The read operation timed out", request=request)
    if reply.answer is None:
        raise httpx.ReadError("[Errno 104] Connection reset by peer", request=request)
    chunks = _chunks(request, reply, reply.answer, patience)
    body = _Body(chunks, min(reply.drip, patience), in_flight.pop_all())
    return httpx.Response(reply.answer.status, headers=reply.answer.framed, stream=body, request=request)


def _chunks(request: httpx.Request, reply: Reply, answer: Answer, patience: float) -> Iterator[bytes]:
    """Give the body as far as it comes, then raise if that was not all; each chunk is waited for."""
    sent = answer.body[: reply.sent]
    if reply.drip > patience and sent:
        yield b""
        raise httpx.ReadTimeout("The read operation timed out", request=request)
    size = 1 if reply.drip else max(1, len(sent))
    for start in range(0, len(sent), size):
        yield sent[start : start + size]
    if len(sent) == len(answer.body):
        return
    if reply.resets:
        raise httpx.ReadError("[Errno 104] Connection reset by peer", request=request)
    received = f"received {len(sent)} bytes, expected {len(answer.body)}"
    message = f"peer closed connection without sending complete message body ({received})"
    raise httpx.RemoteProtocolError(message, request=request)


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body whose *chunks* come one every *pause* seconds, and that ends what is *in_flight* when closed."""

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
