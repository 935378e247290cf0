"""The watch over synchronous requests: at the deadline it ends them, whatever they wait for."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from qwen_aiml import DeadlineError, EmbeddingClient, EmbeddingConfig, _client
from qwen_aiml._through_httpx import HTTPXLine
from qwen_aiml._watch import Watch
from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-test-0123456789abcdef"


@contextmanager
def dripping(data: bytes, sent: list[int] | None = None) -> Iterator[str]:
    """Serve one connection that gets *data* a byte every 50 ms, for ten seconds at the most."""
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def run() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                for at in range(200):
                    if closing.wait(0.05):
                        return
                    try:
                        connection.sendall(data[at % len(data) : at % len(data) + 1])
                    except OSError:
                        return
                    if sent is not None:
                        sent.append(at)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            closing.set()
            thread.join(15)


def test_headers_that_drip() -> None:
    """Headers that come a byte at a time, each within the timeout, do not outlast the deadline."""
    data = b"HTTP/1.1 200 OK\r\n" + b"x-header: value\r\n" * 100
    with dripping(data) as address:
        config = EmbeddingConfig(api_key=KEY, base_url=f"http://{address}", total_timeout=0.3, timeout=5)
        with EmbeddingClient(config) as client, pytest.raises(DeadlineError) as caught:
            client.embed(["a"])

    assert caught.value.attempts == 1


def test_a_connection_that_comes_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they where the look-up of the name alone has outlasted it."""
    look_up = socket.getaddrinfo

    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(0.3)
        return look_up(*args, **options)

    sent: list[int] = []
    with dripping(b"HTTP/1.1 200 OK\r\n" + b"x-header: value\r\n" * 100, sent) as address:
        config = EmbeddingConfig(api_key=KEY, base_url=f"http://{address}", total_timeout=0.1, timeout=5)
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        with EmbeddingClient(config) as client, pytest.raises(DeadlineError):
            client.embed(["a"])
    assert len(sent) < 100


def test_texts_that_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that the texts take is time of the call."""
    watched: list[float | None] = []

    class Noted(Watch):
        def __init__(self, seconds: float | None) -> None:
            watched.append(seconds)
            super().__init__(seconds)

    def texts() -> Iterator[str]:
        time.sleep(0.2)
        yield "a"

    monkeypatch.setattr(_client, "Watch", Noted)
    config = EmbeddingConfig(api_key=KEY, total_timeout=60.0)
    EmbeddingClient(config, http_client=httpx.Client(transport=Emulator().transport())).embed(texts())

    [seconds] = watched
    assert seconds is not None
    assert seconds < 59.9


def test_tls_that_drips() -> None:
    """Nor does a TLS handshake that comes a byte at a time."""
    # A record of 16 kB is announced, of a handshake that never ends.
    data = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03" + bytes(500)
    with dripping(data) as address:
        config = EmbeddingConfig(api_key=KEY, base_url=f"https://{address}", total_timeout=0.3, timeout=5)
        with EmbeddingClient(config) as client, pytest.raises(DeadlineError):
            client.embed(["a"])


def test_a_connection_that_is_used_again() -> None:
    """A connection that an earlier call opened is watched as well."""
    emulator = Emulator()
    with serve(emulator) as address:
        config = EmbeddingConfig(
            api_key=KEY, base_url=address, dimensions=64, total_timeout=0.5, timeout=5, max_concurrency=1
        )
        with EmbeddingClient(config) as client:
            client.embed(["a"])
            emulator.script(Fault(drip=0.05))
            with pytest.raises(DeadlineError):
                client.embed(["b"])
            assert client.embed(["c"]).usage.requests == 1


def test_no_thread_without_a_deadline() -> None:
    """A call without total_timeout has no watch, and one with it leaves no thread."""
    before = set(threading.enumerate())
    with Watch(None):
        assert set(threading.enumerate()) == before
    with Watch(60):
        assert len(set(threading.enumerate()) - before) == 1
    assert set(threading.enumerate()) == before


def new_line() -> HTTPXLine:
    return HTTPXLine(EmbeddingConfig(api_key=KEY), time.monotonic)


class Stream:
    """What httpcore tells of: a network stream with its socket."""

    def __init__(self, handle: socket.socket) -> None:
        self.handle = handle

    def get_extra_info(self, name: str) -> Any:
        """Give the socket."""
        return self.handle if name == "socket" else None


def test_a_line() -> None:
    """A line follows its connection through TLS and leaves no handle open, whether that succeeds or fails."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = new_line()
        line.break_off()
        line.trace("connection.start_tls.started", {})
        line.trace("connection.connect_tcp.complete", {"return_value": Stream(ours)})
        line.trace("http11.send_request_headers.started", {})
        for end in ("complete", "failed"):
            line.trace("connection.start_tls.started", {})
            assert line._negotiating is not None
            line.trace(f"connection.start_tls.{end}", {"return_value": Stream(ours)})
            assert line._negotiating is None

        line.trace("connection.start_tls.started", {})
        line.break_off()
        assert theirs.recv(1) == b""
        line.trace("connection.start_tls.failed", {})
        theirs.close()
        ours.close()
        line.break_off()


def test_tls_within_that_of_a_proxy() -> None:
    """Where a proxy is spoken to by TLS, that of the service takes no socket over."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    ours, theirs = socket.socketpair()
    with theirs, context.wrap_socket(ours, do_handshake_on_connect=False) as secured:
        line = new_line()
        line.trace("connection.start_tls.complete", {"return_value": Stream(secured)})
        line.trace("proxy.start_tls.started", {})
        line.break_off()
        assert theirs.recv(1) == b""


def test_once_and_for_all() -> None:
    """A request that begins after the end, and a connection that is made after it, are broken off at once."""
    ours, theirs = socket.socketpair()
    line = new_line()
    with ours, theirs, Watch(None) as watch:
        watch.break_off()
        with watch.over(line):
            line.trace("connection.connect_tcp.complete", {"return_value": Stream(ours)})
        assert theirs.recv(1) == b""
        assert line.is_broken_off


def test_only_the_lines_of_the_call() -> None:
    """A line is let alone once its request has ended."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = new_line()
        line.trace("connection.connect_tcp.complete", {"return_value": Stream(ours)})
        with Watch(0.01) as watch:
            with watch.over(line):
                pass
            time.sleep(0.05)
            assert not watch._lines
        ours.sendall(b"still open")
        assert theirs.recv(20) == b"still open"


def test_tls_sockets() -> None:
    """A socket that speaks TLS is broken off beneath it, while another thread reads from it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    ours, theirs = socket.socketpair()
    with theirs, context.wrap_socket(ours, do_handshake_on_connect=False) as secured:
        line = new_line()
        line.trace("connection.start_tls.complete", {"return_value": Stream(secured)})
        ended = []

        def shake_hands() -> None:
            try:
                secured.do_handshake()
            except (OSError, ValueError) as error:
                ended.append(error)

        thread = threading.Thread(target=shake_hands)
        thread.start()
        assert theirs.recv(1)
        line.break_off()
        thread.join(10)
        assert len(ended) == 1
