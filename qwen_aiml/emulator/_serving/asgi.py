"""The emulator as an ASGI application on uvicorn. The emulator's only module that imports uvicorn."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from http.client import responses
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .._responses import Request
from .entered import entered

if TYPE_CHECKING:
    import asyncio

    from .._emulator import Emulator
    from .._reply import Reply
    from .._responses import Response

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

_GRACE = 1  # seconds, for aborted requests to finish
_MOMENT = 0.05  # seconds, for data in transit


class _Protocol(H11Protocol):
    """Passes each connection's transport to the application, as ASGI has no message for aborting one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Otherwise Nagle's algorithm delays each body on a kept-alive connection by 40 ms, until its head is
        # acknowledged. asyncio sets this only if the listener was created with an explicit protocol number.
        _socket(transport).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {"transport": transport}


class Server(uvicorn.Server):
    """A uvicorn server for an emulator that logs nothing and does not wait for clients when it stops."""

    def __init__(self, emulator: Emulator) -> None:
        """Create a server that is not running yet."""
        config = uvicorn.Config(
            _application(emulator),
            http=_Protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            # The response headers are the emulator's own, the same as in the process.
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections, then set `ready`."""
        try:
            await anyio.lowlevel.checkpoint()  # loads anyio's backend: the first response is 50 ms earlier
            await super().startup(sockets)
        finally:
            self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Abort the requests in flight, then stop as uvicorn does."""
        for server in self.servers:
            server.close()
        await anyio.sleep(_MOMENT)  # until connections accepted just now are listed
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


def _application(emulator: Emulator) -> Callable[[_Message, _Receive, _Send], Awaitable[None]]:
    async def application(scope: _Message, receive: _Receive, send: _Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        query = scope["query_string"]
        request = Request(
            method=scope["method"],
            path=(scope["raw_path"] + (b"?" + query if query else b"")).decode("ascii"),
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
            body=body,
        )
        with ExitStack() as in_flight:
            reply = await entered(emulator, request, in_flight)
            if await _wait(reply.latency, receive):
                await _send(reply, scope["state"]["transport"], receive, send)

    return application


async def _wait(seconds: float, receive: _Receive) -> bool:
    """Wait *seconds*, forever if infinite; return whether the client stayed connected."""
    if not seconds:
        return True
    with anyio.move_on_after(seconds) as scope:
        await receive()  # the whole request was read, so the next message is the disconnect
    return scope.cancelled_caught


async def _send(reply: Reply, transport: asyncio.Transport, receive: _Receive, send: _Send) -> None:
    """Send *reply*, after its latency."""
    response = reply.response
    if response is None:
        _reset(transport)
    elif reply.is_plain:
        await send({"type": "http.response.start", "status": response.status, "headers": _headers(response)})
        await send({"type": "http.response.body", "body": response.body})
        return
    elif not await _write(reply, response, transport, receive):
        return
    elif reply.resets:
        _reset(transport)
    else:
        transport.close()
    await receive()  # wait until uvicorn has noticed


async def _write(reply: Reply, response: Response, transport: asyncio.Transport, receive: _Receive) -> bool:
    """
    Write as much of *response* as *reply* sends; return whether the client is still connected.

    This bypasses uvicorn, which sends heads whole and enforces correct
    framing, so it must be the last response on its connection.
    """
    lines = [b"HTTP/1.1 %d %s" % (response.status, responses.get(response.status, "").encode())]
    lines += [b"%s: %s" % header for header in _headers(response)]
    sent = b"\r\n".join([*lines, b"connection: close", b"", response.body[: reply.sent]])
    size = 1 if reply.drip else len(sent)
    for start in range(0, len(sent), size):
        if not await _wait(reply.drip, receive):
            return False
        transport.write(sent[start : start + size])
    if not reply.resets:
        return True
    # A reset discards data that has not been delivered yet.
    connected = await _wait(_MOMENT, receive)
    while connected and transport.get_write_buffer_size():
        connected = await _wait(_MOMENT, receive)
    return connected and not transport.is_closing()


def _headers(response: Response) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.framed.items()]


def _reset(transport: asyncio.Transport) -> None:
    # With a linger time of 0, closing the socket discards unsent data and sends a reset instead of an end.
    _socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _socket(transport: asyncio.Transport) -> socket.socket:
    return cast("socket.socket", transport.get_extra_info("socket"))
