"""Specifics of the asyncio transport: connections, their timers, and kinds of event loops."""

from __future__ import annotations

import asyncio
import gc
import gzip
import socket
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

import anyio
import pytest

from qwen_aiml._keys import Secret
from qwen_aiml._transport import asyncio_transport
from qwen_aiml._transport.asyncio_transport import AsyncioTransport
from qwen_aiml._transport.base import Post, TransportFailure

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]

SECRET = Secret("sk-test-0123456789abcdef")
POST = Post(b"{}", 1000, SECRET)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run on asyncio's own loop and on uvloop."""
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


async def test_unused_for_long(serving: Any, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is idle for some seconds is closed, by its timer or by the next request."""
    with serving(OK, OK) as server:
        transport = AsyncioTransport(config(server.url, timeout=1.0))
        monkeypatch.setattr(asyncio_transport, "KEEP_ALIVE", 0.0)
        await transport.post(POST)
        assert not transport._idle
        monkeypatch.setattr(asyncio_transport, "KEEP_ALIVE", 0.3)
        await transport.post(POST)
        [connection] = transport._idle
        await anyio.sleep(1.2)
        assert not connection._is_open
        assert connection._timer is not None
        assert connection._timer.cancelled()
        await transport.aclose()

    assert server.connections == 2


async def test_closed_while_the_loop_was_blocked(serving: Any, config: Any) -> None:
    """A connection that the server closed while the event loop was blocked is not reused."""
    received, closed = threading.Event(), threading.Event()

    def close_later(connection: Any, _: Any) -> None:
        connection.sendall(OK)
        received.wait(60)
        connection.close()
        closed.set()

    with serving(close_later, OK) as server:
        transport = AsyncioTransport(config(server.url))
        await transport.post(POST)
        received.set()
        closed.wait(60)  # blocks the event loop; that is the point
        time.sleep(2 * asyncio_transport._POLL_AFTER)  # noqa: ASYNC251 (connections used just now are not polled)
        await transport.post(POST)
        await transport.aclose()

    assert server.connections == 2


async def test_closed_after_each_response(serving: Any, config: Any) -> None:
    """A server that closes each connection after its response, unannounced, fails at most one request."""
    closed = threading.Semaphore(0)

    def close(connection: Any, _: Any) -> None:
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_WR)
        closed.release()

    failed = 0
    with serving(always=close) as server:
        transport = AsyncioTransport(config(server.url))
        for _ in range(20):
            try:
                await transport.post(POST)
            except TransportFailure:
                failed += 1
            else:
                closed.acquire(timeout=60)  # blocks the event loop, so that it does not notice it
        await transport.aclose()

    assert failed <= 1


async def test_eager_tasks(serving: Any, config: Any) -> None:
    """Connecting to a host name works with eager tasks, with which asyncio's own race of addresses fails."""
    if not hasattr(asyncio, "eager_task_factory"):
        pytest.skip("Python has no eager tasks before 3.12")
    loop = asyncio.get_running_loop()
    with serving(OK) as server:
        transport = AsyncioTransport(config(server.url.replace("127.0.0.1", "localhost")))
        loop.set_task_factory(asyncio.eager_task_factory)
        try:
            await transport.post(POST)
        finally:
            loop.set_task_factory(None)
        await transport.aclose()

    assert server.connections == 1


async def test_unasked(serving: Any, config: Any) -> None:
    """A connection with unsolicited data is not reused."""
    received, sent = threading.Event(), threading.Event()

    def more(connection: Any, _: Any) -> None:
        connection.sendall(OK)
        received.wait(60)
        connection.sendall(OK)
        sent.set()

    with serving(more, OK) as server:
        transport = AsyncioTransport(config(server.url))
        await transport.post(POST)
        received.set()
        await anyio.to_thread.run_sync(sent.wait, 60)
        await anyio.sleep(0.01)  # the event loop reads what has arrived
        await transport.post(POST)
        await transport.aclose()

    assert server.connections == 2


async def test_timeout_of_each_request(serving: Any, config: Any) -> None:
    """Each request has its own timeout, even after the connection was idle for longer than that."""

    def slow(connection: Any, _: Any) -> None:
        time.sleep(0.5)
        connection.sendall(OK)

    with serving(OK, slow, OK) as server:
        transport = AsyncioTransport(config(server.url, timeout=1.5))
        await transport.post(POST)
        await anyio.sleep(1.6)  # longer than the timeout, shorter than the keep-alive
        await transport.post(POST)
        await transport.post(POST)
        with pytest.raises(TransportFailure, match=r"no response within 1.5 s"):
            await transport.post(POST)
        await transport.aclose()

    assert server.connections == 1


async def test_slowly_sent(serving: Any, config: Any) -> None:
    """A long request is sent as the server reads it; a response before its end closes the connection."""
    body = b"x" * 8_000_000

    def hurry(connection: Any, _: Any) -> None:
        connection.sendall(OK)
        time.sleep(0.2)

    with serving(OK, always=None) as server:
        transport = AsyncioTransport(config(server.url))
        assert (await transport.post(Post(body, 1000, SECRET))).body == b"{}"
        await transport.aclose()
    assert server.requests[0].endswith(b"\r\n\r\n" + body)
    with serving(always=hurry) as server:
        transport = AsyncioTransport(config(server.url))
        assert (await transport.post(Post(body, 1000, SECRET))).body == b"{}"
        assert not transport._idle
        await transport.aclose()


async def test_closed_at_once(config: Any) -> None:
    """A connection that is closed as soon as it is open fails its request."""
    transport = AsyncioTransport(config("http://127.0.0.1:1"))
    connection = asyncio_transport._Connection(asyncio.get_running_loop(), bytearray(10), 5.0)
    with pytest.raises(TransportFailure, match="closed without a response"):
        await connection.send(POST, b"")
    connection.abort()
    await transport.aclose()


async def test_closed_in_use(serving: Any, config: Any) -> None:
    """Closing lets a request finish, and does not keep its connection."""

    def slow(connection: Any, _: Any) -> None:
        time.sleep(0.2)
        connection.sendall(OK)

    with serving(slow) as server:
        transport = AsyncioTransport(config(server.url))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.post, POST)
            await anyio.sleep(0.1)
            await transport.aclose()
        assert not transport._idle


async def test_cancelled(serving: Any, config: Any) -> None:
    """A cancelled request closes its connection; otherwise the next request would get its response."""
    asked, cancelled = threading.Event(), threading.Event()

    def slow(connection: Any, _: Any) -> None:
        asked.set()
        cancelled.wait(60)
        connection.sendall(OK.replace(b"{}", b"[]"))

    with serving(slow, OK) as server:
        transport = AsyncioTransport(config(server.url))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.post, POST)
            await anyio.to_thread.run_sync(asked.wait, 60)
            tasks.cancel_scope.cancel()
        cancelled.set()
        assert not transport._idle
        assert (await transport.post(POST)).body == b"{}"
        await transport.aclose()

    assert server.connections == 2


async def test_unreadable(serving: Any, config: Any) -> None:
    """A connection with an unreadable body is not reused."""
    cut = gzip.compress(b"{}")[:-9]
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(cut)
    with serving(head + cut) as server:
        transport = AsyncioTransport(config(server.url))
        with pytest.raises(TransportFailure, match="ends within its gzip"):
            await transport.post(POST)
        assert not transport._idle
        await transport.aclose()


async def test_no_connection_in_time(config: Any) -> None:
    """Connecting, including the TLS handshake, has a timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = AsyncioTransport(config(f"https://127.0.0.1:{listener.getsockname()[1]}", timeout=0.2))
        with pytest.raises(TransportFailure, match=r"no connection within 0.2 s") as caught:
            await transport.post(POST)
    assert caught.value.kind == "connection"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog may not be silent")
@pytest.mark.parametrize("is_eager", [False, True], ids=["", "eager tasks"])
@pytest.mark.parametrize("first", ["refuses", "is silent"])
async def test_several_addresses(serving: Any, config: Any, first: str, is_eager: bool) -> None:
    """A host is reached even if its first address refuses connections or never responds."""
    kind: Any = type(asyncio.get_running_loop())
    factory = getattr(asyncio, "eager_task_factory", None)
    if is_eager and (factory is None or "uvloop" in kind.__module__):
        pytest.skip("there are no eager tasks here")
    with serving(OK) as server, ExitStack() as sockets:
        other = sockets.enter_context(socket.socket())
        other.bind(("127.0.0.1", 0))
        if first == "is silent":
            other.listen(0)
            for _ in range(2):  # with these in the backlog, the system ignores others
                waiting = sockets.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(other.getsockname())
        addresses = [other.getsockname(), ("127.0.0.1", int(server.url.rpartition(":")[2]))]

        class Loop(kind):  # type: ignore[misc]
            async def getaddrinfo(self, host: Any, *args: Any, **options: Any) -> Any:
                if host != "localhost":
                    return await super().getaddrinfo(host, *args, **options)
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

        async def post() -> bytes:
            transport = AsyncioTransport(config("http://localhost:8000"))
            try:
                return (await transport.post(POST)).body
            finally:
                await transport.aclose()

        loop = Loop()
        loop.set_task_factory(factory if is_eager else None)
        try:
            assert await anyio.to_thread.run_sync(loop.run_until_complete, post()) == b"{}"
        finally:
            loop.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_in_a_thread(serving: Any, config: Any) -> None:
    """The transport works in a loop of another thread, even if the loop is closed before the transport."""
    with serving(OK) as server:
        bodies = []

        def run() -> None:
            loop = asyncio.new_event_loop()
            transport = AsyncioTransport(config(server.url))
            bodies.append(loop.run_until_complete(transport.post(POST)).body)
            loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        gc.collect()
    assert bodies == [b"{}"]


async def test_key_in_no_variable(serving: Any, config: Any) -> None:
    """No local variable in a traceback contains the key."""
    with serving() as server:
        transport = AsyncioTransport(config(server.url, timeout=0.2))
        with pytest.raises(TransportFailure) as caught:
            await transport.post(POST)
        shown = [
            repr(value)
            for entry in caught.traceback
            if "asyncio_transport" in str(entry.path)
            for value in entry.frame.f_locals.values()
        ]
    assert shown
    assert "sk-test" not in "".join(shown)


async def test_key_that_changes(serving: Any, config: Any) -> None:
    """Each request uses its own key."""
    with serving(OK, OK) as server:
        transport = AsyncioTransport(config(server.url))
        await transport.post(POST)
        await transport.post(Post(b"{}", 1000, Secret("sk-other")))
        await transport.aclose()
    assert b"Bearer sk-other\r\n" in server.requests[1]


async def test_buffer_of_an_unused_connection() -> None:
    """A connection whose buffer drains while no response is awaited stays idle."""
    connection = asyncio_transport._Connection(asyncio.get_running_loop(), bytearray(10), 5.0)
    connection.pause_writing()
    connection.resume_writing()

    assert connection._outcome is None
    assert connection._timer is None


async def test_response_to_a_cancelled_request() -> None:
    """A response that is complete just after its request was cancelled is dropped."""
    loop = asyncio.get_running_loop()
    connection = asyncio_transport._Connection(loop, bytearray(10), 5.0)
    connection._outcome = outcome = loop.create_future()
    outcome.cancel()
    connection._finish(asyncio_transport._Reader(10), None)

    assert outcome.cancelled()
    assert connection._outcome is None


async def test_cancelled_before_a_connection_is_used_again(serving: Any, config: Any) -> None:
    """A request that is cancelled while it checks an idle connection does not leak the connection."""
    with serving(OK) as server:
        transport = AsyncioTransport(config(server.url))
        await transport.post(POST)
        [connection] = transport._idle
        connection.used_at -= 1
        task = asyncio.create_task(transport.post(POST))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await transport.aclose()

        assert connection._transport.is_closing()


async def test_names_as_the_interpreter_ends(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the main thread has ended, asyncio looks up no names, since it could not end its threads."""
    transport = AsyncioTransport(config("http://localhost:9/v1"))
    monkeypatch.setattr(threading, "main_thread", threading.Thread)  # one that does not run
    with pytest.raises(TransportFailure) as caught:
        await transport.post(POST)
    monkeypatch.undo()
    await transport.aclose()

    is_asyncio = isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
    assert ("main thread has ended" in caught.value.detail) == is_asyncio
