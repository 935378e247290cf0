"""A scripted local server, the transports by name, and a check for leaked sockets."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import ssl
import struct
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from qwen_aiml._config import EmbeddingConfig
from qwen_aiml._transport.asyncio_transport import AsyncioTransport
from qwen_aiml._transport.httpx_transport import HTTPXTransport, ThreadedHTTPXTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qwen_aiml._transport.base import Transport

KEY = "sk-test-0123456789abcdef"
CERTIFICATE = Path(__file__).parent.parent / "matrix" / "self_signed.pem"


class Server:
    """
    Accepts at most a hundred connections, and responds to each request with the next scripted response.

    Attributes:
        url: Its URL.

        connections: Number of connections accepted.

        requests: The requests received, in order.

        left: Responses not sent yet; without any, the server is silent.
    """

    def __init__(self, answers: tuple[Any, ...], tls: ssl.SSLContext | None, always: Any) -> None:
        self.left = list(answers)
        self._always = always
        self.connections = 0
        self.requests: list[bytes] = []
        self.closing = threading.Event()
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self.closing.set()
        self._thread.join(20)
        self._listener.close()

    def _accept(self) -> None:
        threads: list[threading.Thread] = []
        end = time.monotonic() + 30
        while not self.closing.is_set() and self.connections < 100 and time.monotonic() < end:
            with suppress(TimeoutError):
                connection, _ = self._listener.accept()
                self.connections += 1
                threads.append(threading.Thread(target=self._talk, args=(connection,)))
                threads[-1].start()
        for thread in threads:
            thread.join(20)

    def _talk(self, connection: Any) -> None:
        connection.settimeout(5)
        with suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                connection.settimeout(0.02)
                self._answer(connection)

    def _answer(self, connection: Any) -> None:
        pending, end = b"", time.monotonic() + 30
        while not self.closing.is_set() and time.monotonic() < end:
            with suppress(TimeoutError):
                received = connection.recv(65536)
                if not received:
                    return
                pending += received
            if pending and self._always is not None:
                self._always(connection, self.closing)
                return
            head, _, body = pending.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            if length and len(body) >= int(length) and self.left:
                self.requests.append(pending)
                pending = b""
                answer = self.left.pop(0)
                connection.settimeout(5)
                if callable(answer):
                    answer(connection, self.closing)
                else:
                    connection.sendall(answer)
                connection.settimeout(0.02)


@contextmanager
def _serving(*answers: Any, tls: bool = False, always: Any = None) -> Iterator[Server]:
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
    server = Server(answers, context, always)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def serving() -> Any:
    """Return a context manager for a server with the given responses."""
    return _serving


def _closing(data: bytes) -> Any:
    def answer(connection: Any, _: threading.Event) -> None:
        connection.sendall(data)
        connection.close()

    return answer


@pytest.fixture
def closing() -> Any:
    """Return a factory of responses after which the connection is closed."""
    return _closing


def _resetting(data: bytes) -> Any:
    def answer(connection: Any, _: threading.Event) -> None:
        connection.sendall(data)
        time.sleep(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return answer


@pytest.fixture
def resetting() -> Any:
    """Return a factory of responses after which the connection is reset."""
    return _resetting


def _endless(data: bytes, again: bytes) -> Any:
    def answer(connection: Any, closing: threading.Event) -> None:
        with suppress(OSError):
            connection.sendall(data)
            for _ in range(5000):
                if closing.is_set():
                    return
                connection.sendall(again)

    return answer


@pytest.fixture
def endless() -> Any:
    """Return a factory of endless responses, which repeat the same bytes."""
    return _endless


def _config(url: str, **settings: Any) -> EmbeddingConfig:
    return EmbeddingConfig(**{"api_key": KEY, "base_url": url, "timeout": 5.0, **settings})


@pytest.fixture
def config() -> Any:
    """Return a factory of settings for a URL."""
    return _config


def _long(kind: str) -> Any:
    return pytest.param(kind, marks=pytest.mark.long)


# The others differ only in the library, or in who created the client.
KINDS = [
    "asyncio",
    "httpx async",
    "httpx sync given",
    "httpx2 async given",
    *map(_long, ["httpx sync", "httpx async given", "httpx2 async", "httpx2 sync", "httpx2 sync given"]),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, anyio_backend_name: str) -> str:
    """Return the name of each transport that runs on this backend."""
    name = str(request.param)
    if name == "asyncio" and anyio_backend_name != "asyncio":
        pytest.skip("asyncio only")
    if name.startswith("httpx2"):
        pytest.importorskip("httpx2")
    return name


@contextmanager
def _transports(kind: str, config: EmbeddingConfig) -> Iterator[Transport]:
    if kind == "asyncio":
        yield AsyncioTransport(config)
        return
    library, mode, *given = kind.split()
    module = importlib.import_module(library)
    client: Any = None
    if given:
        client = module.Client() if mode == "sync" else module.AsyncClient()
    yield (ThreadedHTTPXTransport if mode == "sync" else HTTPXTransport)(config, client, library=library)
    if client is not None:
        assert not client.is_closed
        if mode == "sync":
            client.close()
        # An async client is closed by `transporting`.


@pytest.fixture
def transporting(kind: str) -> Any:
    """Return an async context manager that creates the transport for settings, and closes it."""
    return lambda config: _Transporting(kind, config)


class _Transporting:
    def __init__(self, kind: str, config: EmbeddingConfig) -> None:
        self._manager = _transports(kind, config)
        self.transport: Any = None

    async def __aenter__(self) -> Any:
        self.transport = self._manager.__enter__()
        return self.transport

    async def __aexit__(self, *_: object) -> None:
        given = getattr(self.transport, "_user_client", None)
        with anyio.CancelScope(shield=True):
            await self.transport.aclose()
            with suppress(StopIteration):
                next(self._manager.gen)
            if given is not None and hasattr(given, "aclose"):
                await given.aclose()


@pytest.fixture
def nothing_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that no socket is left open, and that no error was logged."""
    before = _open_sockets()
    yield
    for _ in range(100):
        if _open_sockets() <= before:
            break
        time.sleep(0.02)
    assert _open_sockets() <= before
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def _open_sockets() -> int:
    folder = Path("/dev/fd")
    return sum(map(_is_open_socket, [int(each.name) for each in folder.iterdir()])) if folder.is_dir() else 0


def _is_open_socket(number: int) -> bool:
    try:
        handle = os.dup(number)
    except OSError:  # the descriptor of the listing itself
        return False
    try:
        with socket.socket(fileno=handle) as each:
            return each.family != socket.AF_UNIX
    except OSError:  # not a socket
        os.close(handle)
        return False
