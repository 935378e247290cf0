"""Connections of our own, in both colours: each carries one request at a time, and is kept for the next."""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import certifi
from anyio.abc import SocketAttribute

from ._http1 import DEFAULT_PORTS, Incoming, Poster, ProtocolError
from ._steps import LATE, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

    from ._config import EmbeddingConfig
    from ._steps import Outcome, Send

CONNECT_TIMEOUT = 10.0
RECEIVED = 256 * 1024  # bytes at a time, at the most
KEPT = 4.0  # seconds that a connection is kept unused; after five many servers close it


class Target:
    """
    Where connections go, and what is said on them.

    Args:
        config: Tells the address and the key.

        now: Reads the clock of deadlines.

    Raises:
        OSError: If the certificates that the environment names can't be read.
    """

    def __init__(self, config: EmbeddingConfig, now: Callable[[], float]) -> None:
        parts = urlsplit(config.endpoint)
        self.host = parts.hostname or ""
        self.port = parts.port or DEFAULT_PORTS[parts.scheme]
        self.tls = None if parts.scheme == "http" else tls_context()
        self.poster = Poster(config)
        self.now = now


class Connection:
    """
    A connection that blocks, and that another thread can break off.

    Args:
        target: Where it goes.

    Attributes:
        is_broken_off: Whether it was, and so is of no more use.
    """

    through_httpx = False

    def __init__(self, target: Target) -> None:
        self.is_broken_off = False
        self._target = target
        self._socket: socket.socket | None = None
        self._is_reusable = False
        self._used_at = 0.0
        # One for all that comes: memory that is asked for anew each time is cleared by the system each time.
        self._received = memoryview(bytearray(RECEIVED))

    @property
    def is_reusable(self) -> bool:
        """Whether it can carry another request, by what was said on it."""
        return self._is_reusable and not self.is_broken_off

    @property
    def is_open(self) -> bool:
        """Whether it still stands."""
        return _is_open(self._socket, self._used_at)

    def post(self, step: Send, limit: float) -> Outcome:
        """Post, with at most *limit* seconds of silence."""
        self._is_reusable = False
        try:
            connected = self._socket or self._connect(min(limit, CONNECT_TIMEOUT))
        except OSError as error:
            return self._or_late(no_connection(error, limit), step)
        incoming = Incoming(step.most)
        received = self._received
        try:
            connected.settimeout(limit)
            connected.sendall(self._target.poster.request(step.body))
            while True:
                size = connected.recv_into(received)
                if not size:
                    incoming.end()
                    break
                if incoming.feed(received[:size]):
                    break
                if step.is_late(self._target.now()):
                    return LATE
        except (OSError, ProtocolError) as error:
            return self._or_late(no_answer(error, limit), step)
        self._is_reusable, self._used_at = incoming.is_reusable, time.monotonic()
        return incoming.answer()

    def break_off(self) -> None:
        """End whatever waits for this connection, or would once it is there."""
        self.is_broken_off = True
        if self._socket is not None:
            with suppress(OSError):
                # Not TLS's own way, which is not for two threads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        if self._socket is not None:
            self._socket.close()

    def _connect(self, seconds: float) -> socket.socket:
        target = self._target
        plain = socket.create_connection((target.host, target.port), seconds)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls is None:
            self._socket = plain
        else:
            # The handshake comes after the socket is known, so that it can be broken off.
            self._socket = target.tls.wrap_socket(
                plain, server_hostname=target.host, do_handshake_on_connect=False
            )
        if self.is_broken_off:
            # It came too late for that, since nobody ends a look-up of a name.
            self.break_off()
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.do_handshake()
        return self._socket

    def _or_late(self, fault: Fault, step: Send) -> Fault:
        return LATE if step.is_late(self._target.now()) else fault


class AsyncConnection:
    """
    A connection that is awaited, on asyncio or Trio.

    Args:
        target: Where it goes.

    Attributes:
        is_reusable: Whether it can carry another request, by what was said on it.
    """

    through_httpx = False

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stream: ByteStream | None = None
        self._socket: Any = None
        self.is_reusable = False
        self._used_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it still stands."""
        return _is_open(self._socket, self._used_at)

    async def post(self, step: Send, limit: float) -> Outcome:
        """Post, with at most *limit* seconds of silence."""
        self.is_reusable = False
        if self._stream is None:
            seconds = min(limit, CONNECT_TIMEOUT)
            try:
                with anyio.fail_after(seconds):
                    self._stream = await self._connected()
                self._socket = self._stream.extra(SocketAttribute.raw_socket)  # noqa: S610 (no SQL)
            except (OSError, anyio.BrokenResourceError) as error:
                return no_connection(error, limit)
        incoming = Incoming(step.most)
        with anyio.CancelScope(deadline=anyio.current_time() + limit) as silence:
            try:
                await self._stream.send(self._target.poster.request(step.body))
                while True:
                    silence.deadline = anyio.current_time() + limit
                    if incoming.feed(await self._stream.receive(RECEIVED)):
                        break
            except anyio.EndOfStream:
                try:
                    incoming.end()
                except ProtocolError as error:
                    return no_answer(error, limit)
            except (OSError, anyio.BrokenResourceError, ProtocolError) as error:
                return no_answer(error, limit)
        if silence.cancelled_caught:
            return no_answer(TimeoutError(), limit)
        self.is_reusable, self._used_at = incoming.is_reusable, time.monotonic()
        return incoming.answer()

    async def aclose(self) -> None:
        """Close it, without a word to the other side."""
        if self._stream is not None:
            await anyio.aclose_forcefully(self._stream)

    async def _connected(self) -> ByteStream:
        target = self._target
        if target.tls is None:
            return await anyio.connect_tcp(target.host, target.port)
        return await anyio.connect_tcp(
            target.host,
            target.port,
            ssl_context=target.tls,
            tls_hostname=target.host,
            tls_standard_compatible=False,
        )


def no_connection(error: Exception, limit: float) -> Fault:
    """Say why there is no connection, after at most *limit* seconds."""
    cause = first_cause(error)
    if isinstance(cause, TimeoutError):
        return Fault("connection", f"no connection within {min(limit, CONNECT_TIMEOUT):.3g} s")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Fault("certificate", f"its certificate can't be verified ({cause})")
    if isinstance(cause, ssl.SSLError):
        return Fault("connection", f"no connection by https, which it may not speak ({cause})")
    return Fault("connection", f"no connection ({cause})")


def no_answer(error: Exception, limit: float) -> Fault:
    """Say why there is no answer, after at most *limit* seconds of silence."""
    cause = first_cause(error)
    if isinstance(cause, TimeoutError):
        return Fault("timeout", f"silence for {limit:.3g} s")
    return Fault("connection", str(cause) or type(cause).__name__)


def tls_context() -> ssl.SSLContext:
    """Give what TLS needs, with the certificates that the environment names, or else certifi's."""
    return _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _tls_context(file: str | None, folder: str | None) -> ssl.SSLContext:
    # Reading the CA certificates takes some 25 ms, so all connections share one context.
    if folder and not file:
        return ssl.create_default_context(capath=folder)
    return ssl.create_default_context(cafile=file or certifi.where())


def first_cause(error: BaseException) -> BaseException:
    """Give what the system said, which anyio puts into words of its own."""
    while True:
        # Of a host's several addresses the first.
        cause = next(iter(getattr(error, "exceptions", ())), error.__cause__)
        if cause is None:
            return error
        error = cause


def _is_open(handle: Any, used_at: float) -> bool:
    """Tell whether the other side has neither closed a connection nor sent what nobody asked for."""
    if time.monotonic() - used_at > KEPT:
        return False
    if not hasattr(select, "poll"):  # pragma: no cover (Windows)
        return not select.select([handle], [], [], 0)[0]
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return not poll.poll(0)
