"""HTTP/1.1 over asyncio, parsed by httptools. The event loop does name look-up, TLS and buffering."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import anyio
import httptools
from aiohappyeyeballs import start_connection

from .._urls import DEFAULT_PORTS, address
from . import failures
from .base import CONNECT_TIMEOUT, KEEP_ALIVE, TransportFailure, request_headers
from .body import Body
from .environment import tls_context

if TYPE_CHECKING:
    from .._config import EmbeddingConfig
    from .._protocol.response import Response
    from .base import Post

_POLL_AFTER = 0.1  # seconds idle after which the loop checks whether the server has closed a connection
_BUFFER_SIZE = 256 * 1024
_MAX_HEAD = 64 * 1024


class AsyncioTransport:
    """Posts over asyncio connections; each instance is for one event loop."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self._timeout = config.operation_timeout
        self._idle: list[_Connection] = []
        self._is_closed = False
        self._is_wary = False  # true once the server has closed a reused connection
        # Shared by all connections, as it is filled and emptied in one step; on Windows the system fills it.
        self._buffer = None if sys.platform == "win32" else bytearray(_BUFFER_SIZE)
        parts = urlsplit(config.endpoint)
        self._host = parts.hostname or ""
        self._port = parts.port or DEFAULT_PORTS[parts.scheme]
        self._is_tls = parts.scheme == "https"
        headers = request_headers(config, Host=parts.netloc.removesuffix(f":{DEFAULT_PORTS[parts.scheme]}"))
        path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        self._head = "\r\n".join(lines).encode()

    async def post(self, request: Post) -> Response:
        """Post a request and return its response; see `Transport.post`."""
        used = await self._take()
        connection = used or await self._connect()
        try:
            # The key is not in a local variable, which a traceback could show.
            return await connection.send(
                request,
                b"%b\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
                % (self._head, request.secret.reveal().encode(), len(request.body), request.body),
            )
        except TransportFailure:
            self._is_wary = self._is_wary or used is not None
            raise
        finally:
            if connection.is_usable and not self._is_closed:
                self._idle.append(connection)
            else:
                connection.abort()

    async def aclose(self) -> None:
        """Close idle connections now, and those in use once their response has arrived."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().abort()
        # The event loop closes the sockets in its next iteration.
        await asyncio.sleep(0)

    async def _take(self) -> _Connection | None:
        loop = asyncio.get_running_loop()
        while self._idle:
            if self._is_wary or loop.time() - self._idle[-1].used_at > _POLL_AFTER:
                # The server may have closed it: the loop polls its sockets, then runs the callbacks.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            connection = self._idle.pop() if self._idle else None
            if connection is None or connection.is_usable:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        loop, limit = asyncio.get_running_loop(), min(self._timeout, CONNECT_TIMEOUT)
        tls = tls_context() if self._is_tls else None
        connection = _Connection(loop, self._buffer or bytearray(_BUFFER_SIZE), self._timeout)
        try:
            with anyio.fail_after(limit) as scope:
                where: dict[str, Any] = {"host": self._host, "port": self._port}
                if address(self._host) is None:
                    failures.check_lookup(loop)
                    found = await loop.getaddrinfo(**where, type=socket.SOCK_STREAM)
                    # Source: RFC 8305, section 5. uvloop tries addresses one after the other, and
                    # asyncio's own race fails with eager tasks (observed in Python 3.12.1 and 3.13.0).
                    where = {"sock": await start_connection(found, happy_eyeballs_delay=0.25)}
                await loop.create_connection(lambda: connection, **where)
                if tls is not None:
                    # A separate step, since a handshake started by `create_connection` can't be aborted.
                    await connection.start_tls(tls, self._host)
                return connection
        except BaseException as error:
            connection.abort()
            if scope.cancelled_caught:
                raise TransportFailure("connection", f"no connection within {limit:.3g} s") from None
            if isinstance(error, (OSError, ValueError, RuntimeError)):
                raise failures.no_connection(error) from None
            raise


class _Connection(asyncio.BufferedProtocol):
    """One connection, which carries one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, buffer: bytearray, timeout: float) -> None:
        self._loop = loop
        self._buffer = memoryview(buffer)
        self._transport: Any = None
        self._is_open = False
        self._reader: _Reader | None = None
        self._outcome: asyncio.Future[Response] | None = None
        self._timeout = timeout
        self._deadline = self.used_at = 0.0
        # When it fires, it checks whether the deadline has moved, so that few requests need to set it.
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_usable(self) -> bool:
        if not self._is_open or self._reader is not None or self._transport.get_write_buffer_size():
            return False
        return self._loop.time() < self._deadline

    async def start_tls(self, context: Any, host: str) -> None:
        self.connection_made(await self._loop.start_tls(self._transport, self, context, server_hostname=host))

    def send(self, request: Post, data: bytes) -> asyncio.Future[Response]:
        self._outcome = self._loop.create_future()
        if not self._is_open:
            # It was closed after connecting, which is not reported a second time.
            self._outcome.set_exception(TransportFailure("connection", failures.CLOSED))
            return self._outcome
        self._reader = _Reader(request.max_bytes)
        self._extend(self._timeout)
        if self._timer is None or self._timer.when() > self._deadline:
            self._set_timer()
        self._transport.write(data)
        return self._outcome

    def abort(self) -> None:
        self._is_open = False
        self._reader = self._outcome = None
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._is_open = True
        # Writing is paused until everything is sent, so that the response has its own timeout.
        transport.set_write_buffer_limits(high=1, low=0)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 (the loop's signature)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        reader = self._reader
        if reader is None:
            # Unsolicited data: the next response could not be matched to its request.
            self._is_open = False
            return
        self._extend(self._timeout)
        if reader.feed(self._buffer[:nbytes]):
            self._finish(reader, reader.failure)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def resume_writing(self) -> None:
        if self._reader is not None:
            self._extend(self._timeout)

    def _extend(self, seconds: float) -> None:
        self.used_at = self._loop.time()
        self._deadline = self.used_at + seconds

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        if self._loop.time() < self._deadline:
            self._set_timer()
        elif self._reader is None:
            self.abort()
        else:
            self._finish(self._reader, failures.no_response_in_time(self._timeout))

    def _end(self, error: Exception | None) -> None:
        self._is_open = False
        if (reader := self._reader) is not None:
            self._finish(reader, reader.end() if error is None else failures.no_response(error))

    def _finish(self, reader: _Reader, failure: TransportFailure | None) -> None:
        outcome, self._outcome, self._reader = self._outcome, None, None
        self._is_open = self._is_open and failure is None and reader.is_reusable
        self._extend(KEEP_ALIVE)
        if outcome is None or outcome.done():  # cancelled
            return
        try:
            outcome.set_result(reader.conclude(failure))
        except TransportFailure as error:
            self._is_open = False
            outcome.set_exception(error)


class _Reader:
    """Reads one response. Callbacks do not raise, since httptools would replace the exception."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._headers: dict[str, str] = {}
        self._body: Body | None = None
        self._is_complete = self.is_reusable = False
        self.failure: TransportFailure | None = None
        self._left = _MAX_HEAD  # bytes still allowed
        self._parser: Any = httptools.HttpResponseParser(self)
        # Folded headers, bare line feeds and padded chunk sizes, as in h11. Framing stays unambiguous.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    def feed(self, data: memoryview) -> bool:
        """Process received data; return whether reading is finished."""
        self._left -= len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # Data after a complete response is not part of it. The parser's message may quote data.
            self._fail(failures.NOT_HTTP)
        is_finished = self._body is not None and self._body.is_finished
        if self._left < 0 and not is_finished:
            self._fail(failures.LONG_HEAD if self._body is None else failures.TOO_LONG)
        return self._is_complete or is_finished or self.failure is not None

    def end(self) -> TransportFailure | None:
        """Return the failure if the connection was closed too early; None if nothing is missing."""
        if self._body is None:
            return TransportFailure("connection", failures.CLOSED)
        is_chunked = "chunked" in self._headers.get("transfer-encoding", "").lower()
        return failures.cut_body(self._body.size) if is_chunked or "content-length" in self._headers else None

    def conclude(self, failure: TransportFailure | None) -> Response:
        # It refers to this object, and the cycle would keep the body until garbage collection.
        self._parser = None
        if self._body is None:
            raise failure or TransportFailure("connection", failures.CLOSED)
        return self._body.response(failure)

    def _fail(self, detail: str) -> None:
        self.is_reusable = False
        if not self._is_complete:
            self.failure = self.failure or TransportFailure("connection", detail)

    def on_message_begin(self) -> None:
        self.is_reusable = False  # data follows a complete response

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body is None:
            key, text = name.decode("latin-1").strip().lower(), value.decode("latin-1")
            self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if self._body is None and status >= 200:  # noqa: PLR2004 (below that are interim responses)
            self._body = Body(status, self._headers, self._max_bytes)
            # A chunk of one byte takes six bytes. Trailers count towards this limit, too.
            self._left += 6 * self._max_bytes

    def on_body(self, data: bytes) -> None:
        if self._body is not None and not self._is_complete:
            self._body.feed(data)

    def on_message_complete(self) -> None:
        if self._body is None:
            self._headers.clear()
        elif not self._is_complete:
            self._is_complete = True
            self.is_reusable = self._parser.should_keep_alive()
