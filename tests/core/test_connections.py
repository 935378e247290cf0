"""Real connections to a local server: event loops, threads, processes, deadlines, proxies, cleanup."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import httpx
import pytest
import trio

from qwen_aiml import (
    AsyncEmbeddingClient,
    ConfigurationError,
    DeadlineError,
    EmbeddingClient,
    EmbeddingConfig,
    TransportError,
)
from qwen_aiml._engine import engine
from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text {at}" for at in range(37)]


@pytest.fixture
def config(address: str) -> EmbeddingConfig:
    """Return settings that point to the emulator."""
    return EmbeddingConfig(api_key=KEY, base_url=address, dimensions=64)


@pytest.fixture(scope="module")
def expected() -> list[list[float]]:
    """Embed each text in a separate request, without a connection."""
    http_client = httpx.Client(transport=Emulator().transport())
    config = EmbeddingConfig(api_key=KEY, dimensions=64, batch_size=1)
    return EmbeddingClient(config, http_client=http_client).embed(TEXTS).embeddings


def test_sync(config: EmbeddingConfig, expected: list[list[float]]) -> None:
    """A client opens connections on demand, again also after it was closed."""
    with EmbeddingClient(config) as client:
        assert client.embed(TEXTS).embeddings == expected
    assert client.embed(TEXTS).embeddings == expected
    client.close()


def test_several_event_loops(config: EmbeddingConfig, expected: list[list[float]]) -> None:
    """One client serves several event loops in turn, and leaves no socket open in any of them."""
    client = AsyncEmbeddingClient(config)
    for _ in range(3):
        assert asyncio.run(client.embed(TEXTS)).embeddings == expected
        assert trio.run(client.embed, TEXTS).embeddings == expected

        assert all(session.transport.is_closed for session in client._engine._sessions.values())


def test_connections_are_kept(
    config: EmbeddingConfig, monkeypatch: pytest.MonkeyPatch, expected: list[list[float]]
) -> None:
    """Within one event loop, later calls reuse the connections of earlier ones."""
    opened = []
    connect = asyncio.SelectorEventLoop.create_connection

    async def count(*args: Any, **options: Any) -> Any:
        opened.append(args)
        return await connect(*args, **options)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "create_connection", count)

    async def twice() -> None:
        async with AsyncEmbeddingClient(config) as client:
            for _ in range(3):
                assert (await client.embed(TEXTS)).embeddings == expected

    asyncio.run(twice())

    assert len(opened) <= 4


def test_event_loops_in_threads(config: EmbeddingConfig, expected: list[list[float]]) -> None:
    """Eight threads, each with its own event loop, share one client."""
    client = AsyncEmbeddingClient(config)
    with ThreadPoolExecutor(8) as pool:
        results = [
            future.result() for future in [pool.submit(asyncio.run, client.embed(TEXTS)) for _ in range(8)]
        ]

    assert all(result.embeddings == expected for result in results)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_loop_closed_without_ceremony(config: EmbeddingConfig, expected: list[list[float]]) -> None:
    """A loop that is closed without closing its async generators does not stay in memory."""
    client = AsyncEmbeddingClient(config)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(client.embed(TEXTS)).embeddings == expected
        loop.close()
        assert len(client._engine._sessions) == 1
        del loop
    gc.collect()  # here, where warnings about sockets are not errors
    asyncio.run(client.embed(["a"]))
    gc.collect()

    assert [session.transport.is_closed for session in client._engine._sessions.values()] == [True]


def test_closed_while_in_use(
    config: EmbeddingConfig, emulator: Emulator, expected: list[list[float]]
) -> None:
    """Closing ends idle connections at once, and busy ones when they become free."""

    async def main() -> None:
        client = AsyncEmbeddingClient(config)
        emulator.script(Fault(latency=0.2))
        async with anyio.create_task_group() as group:
            group.start_soon(client.embed, ["slow"])
            while not any(each.texts == ("slow",) for each in emulator.requests):  # noqa: ASYNC110 (the server has no event to await)
                await anyio.sleep(0.01)
            await client.aclose()
        assert (await client.embed(TEXTS)).embeddings == expected

    asyncio.run(main())


def test_cancelled_connection_is_not_used_again(
    config: EmbeddingConfig, emulator: Emulator, expected: list[list[float]]
) -> None:
    """After a cancelled request the next call gets its own response, not the late one."""

    async def main() -> None:
        async with AsyncEmbeddingClient(config) as client:
            emulator.script(Fault(latency=0.3))
            before = emulator.request_count
            async with anyio.create_task_group() as group:
                group.start_soon(client.embed, ["given up"])
                while emulator.request_count == before:  # noqa: ASYNC110 (the server has no event to await)
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()
            assert group.cancel_scope.cancelled_caught
            assert (await client.embed(TEXTS)).embeddings == expected

    for _ in range(2):
        asyncio.run(main())


def test_closed_while_in_use_by_threads(
    config: EmbeddingConfig, emulator: Emulator, expected: list[list[float]]
) -> None:
    """Closing in one thread lets calls in others finish, and leaves no connection open."""
    client = EmbeddingClient(config)
    for _ in range(5):
        emulator.script(Fault(latency=0.2))
        before = emulator.request_count
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(client.embed, TEXTS)
            while emulator.request_count == before:
                time.sleep(0.01)
            client.close()
            assert call.result().embeddings == expected
    client.close()
    assert [session.transport.is_closed for session in client._engine._sessions.values()] == [True]


@pytest.mark.parametrize("kind", [EmbeddingClient, AsyncEmbeddingClient])
def test_bound_after_closing(kind: Any) -> None:
    """Calls still running when the client is closed count towards max_concurrency of later ones."""
    emulator = Emulator(latency=0.1)

    async def main(url: str) -> None:
        client = kind(EmbeddingConfig(api_key=KEY, base_url=url, dimensions=64, max_concurrency=1))

        async def call(text: str) -> None:
            if kind is EmbeddingClient:
                await anyio.to_thread.run_sync(client.embed, [text])
            else:
                await client.embed([text])

        async with anyio.create_task_group() as group:
            group.start_soon(call, "begun before")
            while not emulator.request_count:  # noqa: ASYNC110 (the server has no event to await)
                await anyio.sleep(0.01)
            await client.aclose()
            group.start_soon(call, "begun after")
        await client.aclose()

    with serve(emulator) as url:
        asyncio.run(main(url))
    assert emulator.request_count == 2
    assert emulator.peak_in_flight == 1


def test_after_a_fork(config: EmbeddingConfig, expected: list[list[float]]) -> None:
    """The child does not touch its parent's connections and locks, and rejects a custom HTTP client."""
    own, given = EmbeddingClient(config), EmbeddingClient(config, http_client=httpx.Client())
    given_async = AsyncEmbeddingClient(config, http_client=httpx.AsyncClient())
    assert own.embed(TEXTS).embeddings == expected
    own.limiter._lock.acquire()

    engine._after_fork()

    assert own.embed(TEXTS).embeddings == expected
    own.close()
    with pytest.raises(ConfigurationError, match="can't be used after a fork"):
        given.embed(["a"])
    with pytest.raises(ConfigurationError, match="can't be used after a fork"):
        asyncio.run(given_async.embed(["a"]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork(config: EmbeddingConfig, expected: list[list[float]]) -> None:
    """After a fork, parent and child use separate connections."""
    with EmbeddingClient(config) as client:
        assert client.embed(TEXTS).embeddings == expected
        with multiprocessing.get_context("fork").Pool(1, initializer=_inherit, initargs=(client,)) as pool:
            in_child = pool.map_async(_embed_inherited, [TEXTS])
            assert client.embed(TEXTS).embeddings == expected
            assert in_child.get(30) == [expected]
            pool.close()
            pool.join()
        assert client.embed(TEXTS).embeddings == expected


_inherited: list[EmbeddingClient] = []


def _inherit(client: EmbeddingClient) -> None:
    _inherited.append(client)


def _embed_inherited(texts: list[str]) -> list[list[float]]:
    return _inherited[0].embed(texts).embeddings


def _embed_unpickled(pickled: bytes) -> list[list[float]]:
    client: EmbeddingClient = pickle.loads(pickled)
    return client.embed(TEXTS).embeddings


@pytest.mark.slow
def test_spawn(config: EmbeddingConfig, expected: list[list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickled client works in a new process, with the key from its environment."""
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        in_child = pool.map_async(_embed_unpickled, [pickle.dumps(EmbeddingClient(config))])
        assert in_child.get(60) == [expected]
        pool.close()
        pool.join()


CLIENTS = [EmbeddingClient, AsyncEmbeddingClient]


def embed(kind: Any, config: EmbeddingConfig, texts: list[str]) -> list[list[float]]:
    """Embed with a new sync or async client, in a thread without an event loop."""
    if kind is EmbeddingClient:
        with EmbeddingClient(config) as client:
            return client.embed(texts).embeddings
    return asyncio.run(AsyncEmbeddingClient(config).embed(texts)).embeddings


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    "fault", [Fault(cut=40), Fault(reset="before"), Fault(reset="after"), Fault(status=502)]
)
def test_broken_connections(
    kind: Any, fault: Fault, config: EmbeddingConfig, emulator: Emulator, expected: list[list[float]]
) -> None:
    """Resets, truncated bodies and 502 responses on a real socket are retried."""
    emulator.script(fault, fault)

    assert embed(kind, config, TEXTS) == expected


@contextmanager
def server(*chunks: bytes, pause: float = 0.0) -> Iterator[str]:
    """Serve one connection that gets *chunks*, with a pause before each, and yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def respond() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                connection.recv(65536)
                for chunk in chunks:
                    if closing.wait(pause):
                        return
                    try:
                        connection.sendall(chunk)
                    except OSError:
                        return

        closing = threading.Event()
        thread = threading.Thread(target=respond)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            closing.set()
            thread.join(10)


DRIP = [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n", *[b" "] * 200]


@pytest.mark.parametrize("kind", CLIENTS)
def test_deadline_against_a_drip(kind: Any) -> None:
    """total_timeout ends a call whose response arrives a byte at a time, each within the timeout."""
    with server(*DRIP, pause=0.05) as address:
        config = EmbeddingConfig(api_key=KEY, base_url=address, total_timeout=0.5, timeout=5)
        with pytest.raises(DeadlineError) as caught:
            embed(kind, config, ["a"])

    assert caught.value.attempts == 1


@pytest.mark.parametrize("kind", CLIENTS)
def test_deadline_against_silence(kind: Any) -> None:
    """total_timeout ends a call that gets no response, though timeout would allow more."""
    with server(b"late", pause=30) as address:
        config = EmbeddingConfig(api_key=KEY, base_url=address, total_timeout=0.3)
        with pytest.raises(DeadlineError):
            embed(kind, config, ["a"])


@pytest.mark.parametrize("kind", CLIENTS)
def test_timeout(kind: Any) -> None:
    """`timeout` limits each wait for data, and the error reports it."""
    with server(b"late", pause=30) as address:
        config = EmbeddingConfig(api_key=KEY, base_url=address, timeout=0.2, max_retries=0)
        with pytest.raises(TransportError, match=r"no response within 0.2 s\."):
            embed(kind, config, ["a"])


@pytest.mark.parametrize("kind", CLIENTS)
def test_refused(kind: Any) -> None:
    """A refused connection raises a TransportError that names the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = EmbeddingConfig(api_key=KEY, base_url=f"http://127.0.0.1:{port}", max_retries=1)
    message = rf"no response from http://127.0.0.1:{port}/v1: no connection \(.*\b111\b.*[Cc]onnect"
    with pytest.raises(TransportError, match=message) as caught:
        embed(kind, config, ["a"])

    assert caught.value.attempts == 2


def require_authentication(listener: socket.socket) -> None:
    """Respond to one request as a proxy that requires authentication."""
    with listener.accept()[0] as connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("is_reachable", [True, False])
def test_proxy_in_the_way(kind: Any, is_reachable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable proxy is retried, a 407 is not; both errors name the variable."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:hidden@127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=require_authentication, args=(listener,))
        if is_reachable:
            thread.start()
        else:
            listener.close()
        with pytest.raises(TransportError) as caught:
            embed(kind, EmbeddingConfig(api_key=KEY, max_retries=1), TEXTS[:1])
        if is_reachable:
            thread.join()

    message = str(caught.value)
    assert "check the proxy that HTTPS_PROXY names" in message
    assert ("407 Proxy Authentication Required" if is_reachable else "Errno") in message
    assert "hidden" not in message
    assert caught.value.attempts == (1 if is_reachable else 2)


@pytest.mark.parametrize("kind", CLIENTS)
def test_local_requests_go_to_no_proxy(
    kind: Any, config: EmbeddingConfig, expected: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests to this machine bypass the proxy of the environment, which would see the key."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert embed(kind, config, TEXTS) == expected

        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "SSL_CERT_FILE",
            "/nonexistent.pem",
            "SSL_CERT_FILE in the environment can't be used",
        ),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE in the environment"),
        ("HTTPS_PROXY", "socks5://user:hidden@127.0.0.1:9", "pip install 'httpx[socks]'"),
        ("HTTPS_PROXY", "ftp://user:hidden@127.0.0.1:9", "HTTPS_PROXY in the environment can't be used"),
    ],
)
def test_environment_that_cannot_be_used(
    kind: Any, name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names a proxy or certificate that can't be used, without the proxy's password."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        embed(kind, EmbeddingConfig(api_key=KEY), TEXTS)

    assert message in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("kind", CLIENTS)
def test_logs(kind: Any, config: EmbeddingConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Even the debug logs of the HTTP libraries contain neither the key nor a text."""
    caplog.set_level(logging.DEBUG)
    embed(kind, config, ["a secret diary"])

    assert "POST" in caplog.text
    assert KEY not in caplog.text
    assert "diary" not in caplog.text


def test_nothing_left_behind(address: str) -> None:
    """A program that closes nothing still ends at once and without output, with -W error."""
    program = f"""
import asyncio
from qwen_aiml import *
config = EmbeddingConfig(api_key="k", base_url={address!r}, dimensions=64)
texts = [f"text {{at}}" for at in range(37)]
client = AsyncEmbeddingClient(config)
for _ in range(2):
    asyncio.run(client.embed(texts))
with EmbeddingClient(config) as other:
    print(len(other.embed(texts).embeddings), client.usage.requests)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    done = subprocess.run(  # noqa: S603 (our own program)
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )

    assert (done.stdout, done.stderr, done.returncode) == ("37 8\n", "", 0)
