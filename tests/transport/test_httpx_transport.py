"""Specifics of the httpx transports: users' clients and hooks, unwrapped errors, closing, messages."""

from __future__ import annotations

import asyncio
import gc
import importlib
import ssl
import time
from typing import Any

import anyio
import httpx
import pytest

from qwen_aiml._errors import ConfigurationError
from qwen_aiml._keys import Secret
from qwen_aiml._transport.base import Post, TransportFailure
from qwen_aiml._transport.failures import first_cause
from qwen_aiml._transport.failures import httpx_failure as failure
from qwen_aiml._transport.httpx_transport import HTTPXTransport, ThreadedHTTPXTransport

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

KEY = "sk-test-0123456789abcdef"
SECRET = Secret(KEY)
POST = Post(b"{}", 1000, SECRET)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
BAD = b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\n{}"


class Given:
    """A user's sync or async client, with a response hook."""

    def __init__(self, library: str, sync: bool, hook: Any = None, **options: Any) -> None:
        module = importlib.import_module(library)
        self.sync = sync

        async def ahook(response: Any) -> None:
            result = hook(response)
            if hasattr(result, "__await__"):
                await result

        hooks = {"event_hooks": {"response": [hook if sync else ahook]}} if hook else {}
        self.http = (module.Client if sync else module.AsyncClient)(**hooks, **options)

    def transport(self, config: Any) -> Any:
        """Return a transport over the client."""
        return (ThreadedHTTPXTransport if self.sync else HTTPXTransport)(config, self.http)

    async def close(self) -> None:
        """Close the client."""
        if self.sync:
            self.http.close()
        else:
            await self.http.aclose()


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> str:
    """Return the name of each library."""
    pytest.importorskip(request.param)
    return str(request.param)


async def test_socks() -> None:
    """An exception of socksio is a failure of the proxy."""

    class SOCKSError(Exception):
        pass

    result = failure(SOCKSError("Malformed reply"), 5.0, proxied=True)

    assert result is not None
    assert (result.kind, result.detail) == ("proxy", "Malformed reply")


@pytest.mark.parametrize("sync", [True, False])
async def test_hooks(library: str, sync: bool, serving: Any, config: Any) -> None:
    """A response that a hook reads or closes is returned, and so is one for whose status it raises."""
    with serving(OK, BAD, OK) as server:
        for hook, expected in (
            (lambda response: response.read() if sync else response.aread(), (200, b"{}")),
            (lambda response: response.raise_for_status() and None, (404, b"")),
            (lambda response: response.close() if sync else response.aclose(), (200, b"")),
        ):
            given = Given(library, sync, hook)
            response = await given.transport(config(server.url)).post(POST)
            assert (response.status, response.body) == expected
            await given.close()


@pytest.mark.parametrize("sync", [True, False])
async def test_errors_of_users(library: str, sync: bool, serving: Any, config: Any) -> None:
    """An exception of a hook or of a custom stream is raised unchanged; a closed client is an error."""

    def fail(_: Any) -> None:
        raise ZeroDivisionError

    with serving(OK) as server:
        given = Given(library, sync, fail)
        with pytest.raises(ZeroDivisionError):
            await given.transport(config(server.url)).post(POST)
        await given.close()
        with pytest.raises(ConfigurationError, match="is closed"):
            await given.transport(config(server.url)).post(POST)

    module = importlib.import_module(library)

    class Broken(module.SyncByteStream, module.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Any:
            yield b"{"
            raise ZeroDivisionError

        async def __aiter__(self) -> Any:
            yield b"{"
            raise ZeroDivisionError

    given = Given(
        library, sync, transport=module.MockTransport(lambda _: module.Response(200, stream=Broken()))
    )
    with pytest.raises(ZeroDivisionError):
        await given.transport(config("https://service.example")).post(POST)
    await given.close()


@pytest.mark.parametrize("sync", [True, False])
async def test_corrupt_record(library: str, sync: bool, serving: Any, config: Any) -> None:
    """A corrupt TLS record is a failure of the connection."""

    def corrupt(connection: Any, _: Any) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + b"x" * 1000)
        time.sleep(0.1)
        plain = ssl.SSLSocket.detach(connection)
        import os  # noqa: PLC0415

        os.write(plain, b"\x17\x03\x03\x00\x20" + b"junk" * 8)
        time.sleep(0.1)
        os.close(plain)

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with serving(corrupt, tls=True) as server:
        given = Given(library, sync, verify=context)
        with pytest.raises(TransportFailure) as caught:
            await given.transport(config(server.url)).post(POST_LONG)
        await given.close()
    assert caught.value.kind == "connection"


POST_LONG = Post(b"{}", 1_000_000, SECRET)


@pytest.mark.parametrize("sync", [True, False])
async def test_body_that_is_not_read(library: str, sync: bool, serving: Any, config: Any) -> None:
    """A body that is too long does not keep a connection of the user's client."""
    long = b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n" + b"x" * 500_000
    with serving(long, OK) as server, anyio.fail_after(10):
        limits = importlib.import_module(library).Limits(max_connections=1)
        given = Given(library, sync, limits=limits)
        bodies = [(await given.transport(config(server.url)).post(POST)).body for _ in range(2)]
        await given.close()
    assert bodies == [b"x" * POST.max_bytes, b"{}"]


@pytest.mark.parametrize("sync", [True, False])
async def test_settings_of_users(library: str, sync: bool, serving: Any, config: Any) -> None:
    """A user's client neither replaces the key with its own authentication nor limits waits for its pool."""

    def slow(connection: Any, _: Any) -> None:
        time.sleep(0.1)
        connection.sendall(OK)

    limits = importlib.import_module(library).Limits(max_connections=1)
    with serving(*[slow] * 8) as server:
        given = Given(library, sync, auth=("user", "password"), limits=limits)
        # The last request waits 0.7 s for the only connection, and each 0.1 s for its response.
        transport = given.transport(config(server.url, timeout=0.6))
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(transport.post, POST)
        await given.close()
    assert all(b"authorization: bearer " in request.lower() for request in server.requests)
    assert len(server.requests) == 8


def test_timeouts(config: Any) -> None:
    """Connecting takes at most ten seconds, every other operation the timeout."""
    timeouts = HTTPXTransport(config("http://127.0.0.1:1", timeout=60))._timeout.as_dict()
    assert timeouts == {"connect": 10.0, "read": 60.0, "write": 60.0, "pool": None}


@pytest.mark.parametrize("kind", [HTTPXTransport, ThreadedHTTPXTransport])
async def test_connection_is_kept(kind: Any, serving: Any, config: Any) -> None:
    """Requests one after another use one connection."""
    with serving(OK, OK) as server:
        transport = kind(config(server.url))
        for _ in range(2):
            await transport.post(POST)
        await transport.aclose()
        assert server.connections == 1


async def test_client_is_closed_after_a_failure(
    serving: Any, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose request failed is closed; its pool may hold a connection that hangs in a proxy."""
    created: list[httpx.AsyncClient] = []
    create = HTTPXTransport._create_client

    def record(transport: HTTPXTransport) -> Any:
        created.append(create(transport))
        return created[-1]

    monkeypatch.setattr(HTTPXTransport, "_create_client", record)
    with serving(b"no HTTP\r\n\r\n", OK) as server:
        transport = HTTPXTransport(config(server.url))
        with pytest.raises(TransportFailure):
            await transport.post(POST)
        await transport.post(POST)
        assert [client.is_closed for client in created] == [True, False]
        await transport.aclose()


@pytest.mark.parametrize("kind", [HTTPXTransport, ThreadedHTTPXTransport])
async def test_closed_in_use(kind: Any, serving: Any, config: Any) -> None:
    """Closing lets a request finish, and does not keep its connection."""

    def slow(connection: Any, _: Any) -> None:
        time.sleep(0.3)
        connection.sendall(OK)

    with serving(slow) as server:
        transport = kind(config(server.url))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.post, POST)
            await anyio.sleep(0.15)
            await transport.aclose()
        assert not getattr(transport, "_idle", None)


async def test_interrupted_closing(config: Any) -> None:
    """All connections are closed, even if closing one is interrupted."""
    transport = HTTPXTransport(config("http://127.0.0.1:1"))
    closed = []

    class Interrupted:
        async def aclose(self) -> None:
            closed.append(self)
            raise KeyboardInterrupt

    transport._idle = [Interrupted(), Interrupted()]
    with pytest.raises(KeyboardInterrupt):
        await transport.aclose()
    assert len(closed) == 2


@pytest.mark.parametrize(
    ("error", "kind", "detail"),
    [
        (httpx.ConnectTimeout("x"), "connection", "no connection within 10 s"),
        (httpx.WriteTimeout("x"), "timeout", "no response within 60 s"),
        (httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'"), "local", "LocalProtocolError"),
        (httpx.RemoteProtocolError(f"illegal {KEY}"), "connection", "the response is not HTTP"),
        (
            httpx.RemoteProtocolError("Server disconnected"),
            "connection",
            "the connection was closed without a response",
        ),
        (httpx.ReadError(""), "connection", "the connection was lost (ReadError)"),
        (anyio.EndOfStream(), "connection", "the connection was lost (EndOfStream)"),
        (httpx.ProxyError("407 Authenticate"), "refused", "ProxyError: 407 Authenticate"),
        (httpx.ProxyError("502 Bad Gateway"), "proxy", "ProxyError: 502 Bad Gateway"),
        (httpx.ProxyError("408 Request Timeout"), "proxy", "ProxyError: 408 Request Timeout"),
        (httpx.ProxyError("429 Too Many Requests"), "proxy", "ProxyError: 429 Too Many Requests"),
        (
            httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"),
            "certificate",
            "its certificate can't be verified ([SSL: CERTIFICATE_VERIFY_FAILED] self-signed)",
        ),
    ],
    ids=repr,
)
def test_words(error: Exception, kind: str, detail: str) -> None:
    """Exceptions of httpx are described without text that may contain the key."""
    result = failure(error, 60.0)

    assert result is not None
    assert (result.kind, result.detail) == (kind, detail)


def test_first_cause() -> None:
    """For a host with several addresses, the error of the first is reported."""
    first = ConnectionRefusedError(111, "Connection refused")
    several, cause = OSError("All connection attempts failed"), OSError("several")
    cause.exceptions = (first, OSError("other"))  # type: ignore[attr-defined]
    several.__cause__ = cause

    assert first_cause(several) is first


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # from asyncio, about what its loop left open
@pytest.mark.parametrize("size", [2, 200_000])
def test_another_event_loop(library: str, size: int, serving: Any, config: Any) -> None:
    """A client with connections of an ended event loop fails with an error that says so."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b" " * size

    async def post(transport: HTTPXTransport) -> None:
        assert (await transport.post(POST_LONG)).status == 200

    with serving(answer, answer) as server:
        given = Given(library, sync=False)
        asyncio.run(post(given.transport(config(server.url))))
        with pytest.raises(TransportFailure, match="connections of another event loop") as caught:
            asyncio.run(post(given.transport(config(server.url))))
        assert caught.value.kind == "loop"
        del given, caught
        gc.collect()
