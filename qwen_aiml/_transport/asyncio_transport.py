"""
Posting over asyncio, on connections that are kept for the next request.

Names, addresses, TLS and buffering are the event loop's.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from .base import CONNECT_TIMEOUT, TransportFailure
from .failures import CLOSED, no_connection, no_response, no_response_in_time
from .http1 import DEFAULT_PORTS, ResponseReader, request_head
from .tls import tls_context

if TYPE_CHECKING:
    from .._config import EmbeddingConfig
    from .._protocol.response import Response
    from .base import Post

KEEP_ALIVE = 4.0  # seconds that a connection is kept unused; after five many servers close it
_LOOK_AGAIN = 0.1  # seconds unused after which the event loop gets to see whether the server has closed it
_HAPPY_EYEBALLS_DELAY = 0.25  # Source: RFC 8305, section 5
_BUFFER_SIZE = 256 * 1024


class AsyncioTransport:
    """
    Posts over connections of one asyncio event loop, the one that runs when it posts.

    Args:
        config: The settings.
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        self._config = config
        self._idle: list[_Connection] = []
        self._is_closed = False
        # One for all connections, since reading fills and empties it in one step; not so on Windows.
        self._buffer = None if sys.platform == "win32" else bytearray(_BUFFER_SIZE)
        parts = urlsplit(config.endpoint)
        host = parts.hostname or ""
        self._host = host if ":" in host else host.encode("idna").decode()
        self._port = parts.port or DEFAULT_PORTS[parts.scheme]
        self._is_tls = parts.scheme == "https"
        self._head = request_head(config, self._host, self._port)

    async def post(self, request: Post) -> Response:
        """
        Post, and read the response.

        Raises:
            TransportFailure: If no response came, or a 2xx without a whole body.
        """
        secret = self._config.secret
        connection = await self._take() or await self._connect(min(request.timeout, CONNECT_TIMEOUT))
        try:
            # The key is in no local variable, which a traceback could show.
            response = await connection.send(
                request,
                b"%b\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
                % (self._head, secret.reveal().encode(), len(request.body), request.body),
            )
        except BaseException:
            connection.abort()
            raise
        if connection.is_usable and not self._is_closed:
            self._idle.append(connection)
        else:
            connection.abort()
        return response

    async def aclose(self) -> None:
        """Close the connections, those in use as soon as their response is there; keep none any more."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().abort()
        # The event loop closes the sockets in its next round.
        await asyncio.sleep(0)

    async def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if time.monotonic() - connection.idle_since > _LOOK_AGAIN:
                # The loop may have been blocked since: it looks at its sockets, then makes the calls due.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            if connection.is_usable:
                return connection
            connection.abort()
        return None

    async def _connect(self, limit: float) -> _Connection:
        loop = asyncio.get_running_loop()
        tls = tls_context() if self._is_tls else None
        # uvloop tries one address after the other, and has no such parameter.
        delay: Any = (
            {"happy_eyeballs_delay": _HAPPY_EYEBALLS_DELAY} if isinstance(loop, asyncio.BaseEventLoop) else {}
        )
        connection = _Connection(loop, self._buffer or bytearray(_BUFFER_SIZE))
        failure = TransportFailure("connection", f"no connection within {limit:.3g} s")
        try:
            with anyio.move_on_after(limit):
                await loop.create_connection(lambda: connection, self._host, self._port, **delay)
                if tls is not None:
                    # A step of its own, since a handshake that `create_connection` begins can't be aborted.
                    await connection.start_tls(tls, self._host)
                return connection
        except (OSError, ValueError) as error:
            failure = no_connection(error)
        except BaseException:
            connection.abort()
            raise
        connection.abort()
        raise failure


class _Connection(asyncio.BufferedProtocol):
    """
    One connection, which carries one request at a time.

    Args:
        loop: The event loop.

        buffer: Where the loop puts what it receives.

    Attributes:
        idle_since: When the latest response was complete.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, buffer: bytearray) -> None:
        self._loop = loop
        self._buffer = memoryview(buffer)
        self._transport: Any = None
        self._is_open = False
        self._is_sending = False
        self._reader: ResponseReader | None = None
        self._outcome: asyncio.Future[Response] | None = None
        self._timeout = 0.0
        # One timer serves all requests: when it fires, it looks whether the deadline has moved.
        self._deadline = self._fires_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.idle_since = 0.0

    @property
    def is_usable(self) -> bool:
        """Whether it is open, and can carry a request."""
        return self._is_open and not self._is_sending and time.monotonic() < self._deadline

    async def start_tls(self, context: Any, host: str) -> None:
        """Do the TLS handshake."""
        tls = await self._loop.start_tls(self._transport, self, context, server_hostname=host)
        self.connection_made(tls)

    def send(self, request: Post, data: bytes) -> asyncio.Future[Response]:
        """Send a request; the future is that of its response."""
        self._outcome = self._loop.create_future()
        if not self._is_open:
            # It was closed between connecting and here, and nothing will tell so again.
            self._outcome.set_exception(TransportFailure("connection", CLOSED))
            return self._outcome
        self._reader = ResponseReader(request.max_bytes)
        self._timeout = request.timeout
        self._extend(request.timeout)
        if self._timer is None or self._fires_at > self._deadline:
            self._set_timer()
        self._transport.write(data)
        return self._outcome

    def abort(self) -> None:
        """Close it at once, sent or not."""
        self._is_open = False
        self._reader = self._outcome = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport
        self._is_open = True
        self._extend(KEEP_ALIVE)
        # Writing is paused until all is sent, which gives the response a timeout of its own.
        transport.set_write_buffer_limits(high=1, low=0)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (the loop's signature)
        """Give what to receive into."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what was received."""
        reader = self._reader
        if reader is None:
            # Nobody asked for it, so nobody knows what the next response would belong to.
            self._is_open = False
            return
        self._extend(self._timeout)
        if reader.feed(self._buffer[:nbytes]):
            self._finish(reader, reader.failure)

    def eof_received(self) -> None:
        """Take in that the server sends no more."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take in that the connection has ended."""
        self._end(exc)

    def pause_writing(self) -> None:
        """Note that not all is sent."""
        self._is_sending = True

    def resume_writing(self) -> None:
        """Note that all is sent."""
        self._is_sending = False
        if self._reader is not None:
            self._extend(self._timeout)

    def _extend(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = self._deadline
        self._timer = self._loop.call_later(self._deadline - time.monotonic(), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if time.monotonic() < self._deadline:
            self._set_timer()
        elif self._reader is None:
            self.abort()
        else:
            self._finish(self._reader, no_response_in_time(self._timeout))

    def _end(self, error: Exception | None) -> None:
        self._is_open = False
        if (reader := self._reader) is not None:
            self._finish(reader, reader.end() if error is None else no_response(error))

    def _finish(self, reader: ResponseReader, failure: TransportFailure | None) -> None:
        outcome, self._outcome, self._reader = self._outcome, None, None
        self._is_open = self._is_open and failure is None and reader.is_reusable
        self.idle_since = time.monotonic()
        self._extend(KEEP_ALIVE)
        if outcome is None or outcome.done():  # cancelled
            return
        try:
            outcome.set_result(reader.conclude(failure))
        except TransportFailure as error:
            outcome.set_exception(error)
