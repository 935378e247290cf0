"""Valid and faulty responses for each transport: over real sockets, on asyncio and Trio."""

from __future__ import annotations

import gzip
import socket
import time
import tracemalloc
import zlib
from functools import cache
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from qwen_aiml._keys import Secret
from qwen_aiml._transport.base import Post, TransportFailure

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

KEY = "sk-test-0123456789abcdef"
SECRET = Secret(KEY)
POST = Post(b"{}", 1000, SECRET)
LENGTH = b"content-length: %d\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n"
OK = HEAD + LENGTH % 2 + b"{}"
ZIPPED = gzip.compress(b"{}", mtime=0)


def gzipped(packed: bytes, status: bytes = b"200 OK", coding: bytes = b"gzip") -> bytes:
    return b"HTTP/1.1 %b\r\ncontent-encoding: %b\r\n" % (status, coding) + LENGTH % len(packed) + packed


async def test_kept(serving: Any, config: Any, transporting: Any) -> None:
    """Sequential requests share a connection, and contain the right headers and body."""
    with serving(OK, OK, gzipped(ZIPPED)) as server:
        settings = config(server.url, default_headers={"X-Trace": "1"})
        async with transporting(settings) as transport:
            for _ in range(3):
                response = await transport.post(POST)
                assert (response.status, response.body) == (200, b"{}")
                await anyio.lowlevel.checkpoint()

    assert server.connections == 1
    for request in server.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        first, *lines = head.decode().lower().split("\r\n")
        assert body == b"{}"
        assert first == "post /v1/embeddings http/1.1"
        expected = {
            f"host: {server.url.removeprefix('http://')}",
            f"authorization: bearer {KEY}",
            "accept-encoding: gzip",
            "content-type: application/json",
            "x-trace: 1",
        }
        assert expected <= set(lines)


async def test_statuses(serving: Any, config: Any, transporting: Any) -> None:
    """Errors and redirects are returned as responses; interim responses are skipped."""
    moved = b"HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nX-A: b\r\nx-a: c\r\n" + LENGTH % 0
    hints = b"HTTP/1.1 100 Continue\r\nx-hint: h\r\n\r\nHTTP/1.1 103 Early Hints\r\nx-hint: h\r\n\r\n"
    with serving(moved, hints + OK, b"HTTP/1.1 204 None\r\n\r\n") as server:
        async with transporting(config(server.url)) as transport:
            response = await transport.post(POST)
            assert (response.status, response.headers["location"]) == (307, "/elsewhere")
            assert response.headers["x-a"] == "b, c"
            response = await transport.post(POST)
            assert (response.status, response.body) == (200, b"{}")
            assert "x-hint" not in response.headers
            assert (await transport.post(POST)).status == 204


async def test_until_closed(serving: Any, config: Any, closing: Any, transporting: Any) -> None:
    """A body without a length ends when the connection is closed."""
    with serving(closing(HEAD + b"\r\n{}"), OK) as server:
        async with transporting(config(server.url)) as transport:
            assert (await transport.post(POST)).body == b"{}"
            assert (await transport.post(POST)).body == b"{}"

    assert server.connections == 2


CUT = [
    ("closed", HEAD + LENGTH % 5 + b"{}", r"closed after 2 bytes of the response body"),
    ("closed", HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", r"closed after 2 bytes"),
    ("reset", HEAD + LENGTH % 5 + b"{}", r"lost|closed after 2 bytes"),
    ("closed", gzipped(ZIPPED[:-9]), "ends within its gzip"),
    ("closed", gzipped(b"nonsense"), "is not valid gzip"),
    ("closed", gzipped(b"{}", coding=b"br"), r"unsupported content encoding \(br\)"),
    ("closed", gzipped(b"{}", coding=b"gzip, gzip"), r"unsupported content encoding \(gzip, gzip\)"),
    ("closed", gzipped(b"{}", coding=KEY.encode()), r"unsupported content encoding \(unknown\)"),
]


@pytest.mark.parametrize(("how", "data", "message"), CUT)
async def test_unreadable_bodies(  # noqa: PLR0913, PLR0917 (fixtures)
    how: str,
    data: bytes,
    message: str,
    serving: Any,
    config: Any,
    closing: Any,
    resetting: Any,
    transporting: Any,
) -> None:
    """An error status is returned even if its body is unreadable; a 2xx status needs a complete body."""
    end = closing if how == "closed" else resetting
    with serving(end(data), end(data.replace(b"200 OK", b"401 No"))) as server:
        async with transporting(config(server.url)) as transport:
            with pytest.raises(TransportFailure, match=message) as caught:
                await transport.post(POST)
        async with transporting(config(server.url)) as transport:
            response = await transport.post(POST)

    assert caught.value.kind == "connection"
    assert KEY not in caught.value.detail
    assert response.status == 401
    assert response.body in (b"", b"{}")


@pytest.mark.parametrize("status", [b"200 OK", b"403 No"])
async def test_silence_in_a_body(status: bytes, serving: Any, config: Any, transporting: Any) -> None:
    """An error status is returned even if its body times out; with a 2xx status, the timeout is raised."""
    with serving(b"HTTP/1.1 " + status + b"\r\n" + LENGTH % 5 + b"{}") as server:
        # Long enough for the status to arrive on a busy machine.
        seconds = 0.3 if status == b"200 OK" else 1.5
        async with transporting(config(server.url, timeout=seconds)) as transport:
            if status != b"200 OK":
                assert (await transport.post(POST)).status == 403
                return
            with pytest.raises(TransportFailure, match=r"no response within 0.3 s") as caught:
                await transport.post(POST)

    assert caught.value.kind == "timeout"


async def test_slow_body(serving: Any, config: Any, transporting: Any) -> None:
    """A response that arrives in parts may take longer in all than the timeout."""

    def slow(connection: Any, _: Any) -> None:
        for at in range(0, len(OK), 9):
            connection.sendall(OK[at : at + 9])
            time.sleep(0.3)

    with serving(slow) as server:
        async with transporting(config(server.url, timeout=1.0)) as transport:
            assert (await transport.post(POST)).body == b"{}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "closed without a response"),
        (b"HTTP/1.1 2", "closed without a response|response is not HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed without a response"),
        (b"SSH-2.0-%b\r\n" % KEY.encode(), "closed without a response|the response is not HTTP"),
        (HEAD + b"bad " + KEY.encode() + b"\x00\r\n\r\n", "the response is not HTTP"),
    ],
)
async def test_no_response(
    data: bytes, message: str, serving: Any, config: Any, closing: Any, transporting: Any
) -> None:
    """Data that is not a response is reported without quoting it."""
    with serving(closing(data)) as server:
        async with transporting(config(server.url)) as transport:
            with pytest.raises(TransportFailure, match=message) as caught:
                await transport.post(POST)

    assert caught.value.kind == "connection"
    assert KEY not in caught.value.detail
    assert caught.value.__context__ is None


async def test_reset(serving: Any, config: Any, resetting: Any, transporting: Any) -> None:
    """A reset is a failure of the connection."""
    with serving(resetting(b"")) as server:
        async with transporting(config(server.url)) as transport:
            with pytest.raises(TransportFailure, match=r"lost|closed without") as caught:
                await transport.post(POST)

    assert caught.value.kind == "connection"


async def test_silence(serving: Any, config: Any, transporting: Any) -> None:
    """A server that stays silent causes a timeout."""
    with serving() as server:
        async with transporting(config(server.url, timeout=0.2)) as transport:
            with pytest.raises(TransportFailure, match=r"no response within 0.2 s") as caught:
                await transport.post(POST)

    assert caught.value.kind == "timeout"


async def test_nobody_there(config: Any, transporting: Any) -> None:
    """A refused connection is reported with the error of the system."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with transporting(config(f"http://127.0.0.1:{port}")) as transport:
        with pytest.raises(TransportFailure, match=r"no connection \(.*(111|refused)") as caught:
            await transport.post(POST)

    assert caught.value.kind == "connection"


async def test_unknown_host(config: Any, transporting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown host name is reported with the error of the system."""

    def unknown(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    async with transporting(config("https://nowhere.invalid")) as transport:
        with pytest.raises(TransportFailure, match="Name or service not known") as caught:
            await transport.post(POST)

    assert caught.value.kind == "connection"


async def test_untrusted(serving: Any, config: Any, transporting: Any) -> None:
    """An untrusted certificate is rejected before anything is sent."""
    with serving(OK, tls=True) as server:
        async with transporting(config(server.url)) as transport:
            with pytest.raises(TransportFailure, match=r"self.signed") as caught:
                await transport.post(POST)

    assert caught.value.kind == "certificate"
    assert server.requests == []


async def test_trusted(
    serving: Any, config: Any, transporting: Any, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    """A server whose certificate the environment trusts is used over TLS, with one connection."""
    monkeypatch.setenv("SSL_CERT_FILE", str(request.path.parent.parent / "matrix" / "self_signed.pem"))
    long = HEAD + LENGTH % 500_000 + b"x" * 500_000
    with serving(OK, long, tls=True) as server:
        async with transporting(config(server.url)) as transport:
            assert (await transport.post(POST)).body == b"{}"
            assert (await transport.post(Post(b"{}", 1_000_000, SECRET))).body == b"x" * 500_000

    assert server.connections == 1


async def test_certificate_of_another_host(
    serving: Any, config: Any, transporting: Any, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    """A trusted certificate that is for another host is rejected before anything is sent."""
    monkeypatch.setenv("SSL_CERT_FILE", str(request.path.parent.parent / "matrix" / "self_signed.pem"))
    with serving(OK, tls=True) as server:
        async with transporting(config(server.url.replace("127.0.0.1", "localhost"))) as transport:
            with pytest.raises(TransportFailure, match=r"(?i)hostname mismatch") as caught:
                await transport.post(POST)

    assert caught.value.kind == "certificate"
    assert server.requests == []


async def test_https_where_http_is_spoken(config: Any, transporting: Any) -> None:
    """A failed TLS handshake is distinguished from a failed connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, anyio.CancelScope():

        def banner() -> None:
            with listener.accept()[0] as connection:
                connection.sendall(b"SSH-2.0-OpenSSH and more than a record\r\n")
                connection.settimeout(5)
                connection.recv(65536)

        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        async with anyio.create_task_group() as tasks, transporting(config(url)) as transport:
            tasks.start_soon(anyio.to_thread.run_sync, banner)
            with pytest.raises(TransportFailure, match=r"the server may not support https") as caught:
                await transport.post(POST)

    assert caught.value.kind == "connection"


@cache
def bomb() -> bytes:
    """Compress 16 MiB of zeros twice, as `gzip, gzip` does."""
    inner = zlib.compressobj(9, wbits=31)
    once = b"".join([*(inner.compress(bytes(1 << 20)) for _ in range(16)), inner.flush()])
    return gzip.compress(once, mtime=0)


@pytest.mark.parametrize("coding", [b"gzip", b"gzip, gzip", b"br", b"deflate, gzip"])
async def test_bombs(coding: bytes, serving: Any, config: Any, transporting: Any) -> None:
    """No body takes much more memory than its limit, however it is compressed."""
    data = gzip.decompress(bomb()) if coding == b"gzip" else bomb()
    with serving(gzipped(data, coding=coding), OK) as server:
        async with transporting(config(server.url)) as transport:
            tracemalloc.start()
            try:
                response = await transport.post(POST)
            except TransportFailure as error:
                assert "unsupported content encoding" in error.detail  # noqa: PT017 (either way is fine)
            else:
                assert response.body == bytes(1000)
                assert coding == b"gzip"
            finally:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            assert peak < 4 << 20
            assert (await transport.post(POST)).body == b"{}"


@pytest.mark.parametrize("chunked", [True, False])
async def test_too_long(chunked: bool, serving: Any, config: Any, endless: Any, transporting: Any) -> None:
    """A body that is too long is truncated, and its connection is closed."""
    framing = b"transfer-encoding: chunked\r\n\r\n" if chunked else b"\r\n"
    piece = b"x" * 65536
    with serving(endless(HEAD + framing, b"10000\r\n%b\r\n" % piece if chunked else piece), OK) as server:
        async with transporting(config(server.url)) as transport:
            assert (await transport.post(POST)).body == b"x" * 1000
            assert (await transport.post(POST)).body == b"{}"

    assert server.connections == 2


async def test_endless_after_gzip(serving: Any, config: Any, endless: Any, transporting: Any) -> None:
    """Bytes after the end of the gzip stream are not waited for."""
    head = HEAD + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (len(ZIPPED), ZIPPED)
    with serving(endless(head + chunk, b"10000\r\n" + bytes(65536) + b"\r\n")) as server:
        async with transporting(config(server.url)) as transport:
            assert (await transport.post(POST)).body == b"{}"


@pytest.mark.parametrize("after", [b"HTTP/1.1 408 Late\r\nconnection: close\r\n" + LENGTH % 0, OK, b"junk"])
async def test_after_the_response(
    after: bytes, kind: str, serving: Any, config: Any, transporting: Any
) -> None:
    """Data after a complete response is not part of it, and closes the connection."""
    if kind != "asyncio":
        pytest.skip("httpcore gives what it has read already to the next request")
    with serving(OK + after, OK) as server:
        async with transporting(config(server.url)) as transport:
            assert (await transport.post(POST)).body == b"{}"
            response = await transport.post(POST)
            assert (response.status, response.body) == (200, b"{}")

    assert server.connections == 2


@pytest.mark.parametrize("state", ["connecting", "handshake", "waiting", "reading"])
async def test_cancelled(state: str, serving: Any, config: Any, transporting: Any, request: Any) -> None:
    """Cancellation leaks no connection, in any state of the request."""
    if state == "connecting":
        # A full backlog: the system does not respond to more connections.
        listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        fill = [socket.socket() for _ in range(4)]
        for each in fill:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        for each in (*fill, listener):
            request.addfinalizer(each.close)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with transporting(config(url)) as transport:
            with anyio.move_on_after(0.2) as scope:
                await transport.post(POST)
        assert scope.cancelled_caught
        return
    if state == "handshake":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with transporting(config(f"https://127.0.0.1:{listener.getsockname()[1]}")) as transport:
                with anyio.move_on_after(0.2) as scope:
                    await transport.post(POST)
                if "given" in request.node.name and "sync" in request.node.name:
                    connection, _ = listener.accept()
                    connection.close()  # the abandoned thread ends here
        assert scope.cancelled_caught
        return
    answers = () if state == "waiting" else (HEAD + LENGTH % 5 + b"{}",)
    with serving(*answers) as server:
        async with transporting(config(server.url)) as transport:
            with anyio.move_on_after(0.2) as scope:
                await transport.post(POST)

    assert scope.cancelled_caught


async def test_cancelled_before(serving: Any, config: Any, transporting: Any) -> None:
    """A request that is cancelled before it starts sends nothing, and does not affect the next one."""
    with serving(OK) as server:
        async with transporting(config(server.url)) as transport:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await transport.post(POST)
            assert (await transport.post(POST)).body == b"{}"


async def test_many(serving: Any, config: Any, transporting: Any) -> None:
    """Concurrent requests each have a connection, which later requests reuse."""
    with serving(*[OK] * 40) as server:
        async with transporting(config(server.url)) as transport:
            for _ in range(4):
                async with anyio.create_task_group() as tasks:
                    for _ in range(10):
                        tasks.start_soon(transport.post, POST)

    assert len(server.requests) == 40
    assert server.connections <= 20
