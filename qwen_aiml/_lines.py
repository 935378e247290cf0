"""Connections of our own, for both colours: each carries one request at a time, and is kept for the next."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import certifi

from ._dial import dial
from ._http1 import DEFAULT_PORTS, Incoming, Poster, ProtocolError
from ._steps import LATE, Fault
from ._waits import Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ._config import EmbeddingConfig
    from ._steps import Outcome, Send
    from ._waits import LookUp

_Result = TypeVar("_Result")

CONNECT_TIMEOUT = 10.0
RECEIVED = 256 * 1024  # bytes at a time, at the most
KEPT = 4.0  # seconds that a connection is kept unused; after five many servers close it

_of_thread = threading.local()


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
    A connection that does not block.

    Args:
        target: Where it goes.

    Attributes:
        is_reusable: Whether it can carry another request, by what was said on it.
    """

    through_httpx = False

    def __init__(self, target: Target) -> None:
        self.is_reusable = False
        self._target = target
        self._socket: Any = None
        self._used_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it still stands."""
        return _is_open(self._socket, self._used_at)

    def post(self, step: Send, limit: float) -> Generator[Ready | LookUp, Any, Outcome]:
        """Post, with at most *limit* seconds of silence, until the deadline at the latest."""
        self.is_reusable = False
        target = self._target
        try:
            if self._socket is None:
                yield from self._connect(self._until(min(limit, CONNECT_TIMEOUT), step))
        except OSError as error:
            return self._or_late(no_connection(error, limit), step)
        incoming = Incoming(step.most)
        try:
            yield from self._send(memoryview(target.poster.request(step.body)), self._until(limit, step))
            # Nothing has come yet, and to try to read it costs more than to wait for it.
            if not (yield Ready(self._socket, to_write=False, until=self._until(limit, step))):
                raise TimeoutError
            while True:
                received = yield from self._when_ready(self._receive, self._until(limit, step))
                if not received:
                    incoming.end()
                    break
                if incoming.feed(received):
                    break
                if step.is_late(target.now()):
                    return LATE
        except (OSError, ProtocolError) as error:
            return self._or_late(no_answer(error, limit), step)
        self.is_reusable, self._used_at = incoming.is_reusable, time.monotonic()
        return incoming.answer()

    def close(self) -> None:
        """Close it, without a word to the other side."""
        if self._socket is not None:
            self._socket.close()

    def _connect(self, until: float) -> Generator[Ready | LookUp, Any, None]:
        target = self._target
        self._socket = yield from dial(target.host, target.port, until, target.now)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls is not None:
            self._socket = target.tls.wrap_socket(
                self._socket, server_hostname=target.host, do_handshake_on_connect=False
            )
            yield from self._when_ready(self._socket.do_handshake, until)

    # A view, since a traceback that prints local variables would show the key that is in the bytes.
    def _send(self, left: memoryview, until: float) -> Generator[Ready, bool, None]:
        while left:
            sent = yield from self._when_ready(partial(self._socket.send, left), until, writing=True)
            left = left[sent:]

    def _receive(self) -> memoryview:
        # One for all that comes: memory that is asked for anew each time is cleared by the system each time.
        memory: memoryview | None = getattr(_of_thread, "memory", None)
        if memory is None:
            memory = _of_thread.memory = memoryview(bytearray(RECEIVED))
        return memory[: self._socket.recv_into(memory)]

    def _when_ready(
        self, do: Callable[[], _Result], until: float, *, writing: bool = False
    ) -> Generator[Ready, bool, _Result]:
        """Do what may have to wait, as often as that takes."""
        while True:
            to_write = writing
            try:
                return do()
            except BlockingIOError:
                pass
            # TLS may have to read where it is to write, and the other way about.
            except ssl.SSLWantReadError:
                to_write = False
            except ssl.SSLWantWriteError:
                to_write = True
            if not (yield Ready(self._socket, to_write, until)):
                raise TimeoutError

    def _until(self, seconds: float, step: Send) -> float:
        until = self._target.now() + seconds
        return until if step.deadline is None else min(until, step.deadline)

    def _or_late(self, fault: Fault, step: Send) -> Fault:
        return LATE if step.is_late(self._target.now()) else fault


def no_connection(error: Exception, limit: float) -> Fault:
    """Say why there is no connection, after at most *limit* seconds."""
    if isinstance(error, TimeoutError):
        return Fault("connection", f"no connection within {min(limit, CONNECT_TIMEOUT):.3g} s")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Fault("certificate", f"its certificate can't be verified ({error})")
    if isinstance(error, ssl.SSLError):
        return Fault("connection", f"no connection by https, which it may not speak ({error})")
    return Fault("connection", f"no connection ({error})")


def no_answer(error: Exception, limit: float) -> Fault:
    """Say why there is no answer, after at most *limit* seconds of silence."""
    if isinstance(error, TimeoutError):
        return Fault("timeout", f"silence for {limit:.3g} s")
    return Fault("connection", str(error) or type(error).__name__)


def tls_context() -> ssl.SSLContext:
    """Give what TLS needs, with the certificates that the environment names, or else certifi's."""
    return _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _tls_context(file: str | None, folder: str | None) -> ssl.SSLContext:
    # Reading the CA certificates takes some 25 ms, so all connections share one context.
    if folder and not file:
        return ssl.create_default_context(capath=folder)
    return ssl.create_default_context(cafile=file or certifi.where())


def _is_open(handle: Any, used_at: float) -> bool:
    """Tell whether the other side has neither closed a connection nor sent what nobody asked for."""
    if time.monotonic() - used_at > KEPT:
        return False
    if not hasattr(select, "poll"):  # pragma: no cover (Windows)
        return not select.select([handle], [], [], 0)[0]
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return not poll.poll(0)
