"""
The emulator behind httpx transports: no socket, no thread. The only module of it that imports httpx.

What a real connection would do to httpx is done here by raising what httpx
would raise, in httpx's words.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from ._answers import Request

if TYPE_CHECKING:
    from ._emulator import Emulator, Reply


def clients(emulator: Emulator) -> dict[str, Any]:
    """Give a client of each kind whose requests go to *emulator*."""
    return {
        "http_client": httpx.Client(transport=sync_transport(emulator)),
        "http_async_client": httpx.AsyncClient(transport=async_transport(emulator)),
    }


def sync_transport(emulator: Emulator) -> httpx.MockTransport:
    """Give a transport that waits with `time.sleep`."""

    def handle(request: httpx.Request) -> httpx.Response:
        with emulator.answering(_received(request)) as reply:
            patience = _patience(request)
            time.sleep(min(reply.latency, patience))
            return _outcome(request, reply, patience)

    return httpx.MockTransport(handle)


def async_transport(emulator: Emulator) -> httpx.MockTransport:
    """Give the same as `sync_transport`, waiting with `anyio.sleep`."""

    async def handle(request: httpx.Request) -> httpx.Response:
        with emulator.answering(_received(request)) as reply:
            patience = _patience(request)
            await anyio.sleep(min(reply.latency, patience))
            return _outcome(request, reply, patience)

    return httpx.MockTransport(handle)


def _received(request: httpx.Request) -> Request:
    return Request(
        method=request.method,
        path=request.url.raw_path.decode("ascii"),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=request.content,
    )


def _patience(request: httpx.Request) -> float:
    """Say how many seconds of silence *request* allows."""
    seconds = request.extensions.get("timeout", {}).get("read")
    return float("inf") if seconds is None else float(seconds)


def _outcome(request: httpx.Request, reply: Reply, patience: float) -> httpx.Response:
    """Give what *reply* comes to, after the wait."""
    if reply.latency > patience:
        raise httpx.ReadTimeout("The read operation timed out", request=request)
    if reply.answer is None:
        raise httpx.ReadError("[Errno 104] Connection reset by peer", request=request)
    answer = reply.answer
    if reply.cut is not None:
        message = (
            "peer closed connection without sending complete message body "
            f"(received {reply.cut} bytes, expected {len(answer.body)})"
        )
        raise httpx.RemoteProtocolError(message, request=request)
    return httpx.Response(answer.status, headers=answer.headers, content=answer.body, request=request)
