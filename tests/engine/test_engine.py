"""The state of a client between calls: sessions per event loop, usage, the cache, and forks."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from qwen_aiml import ConfigurationError, EmbeddingClient, EmbeddingConfig, Usage
from qwen_aiml._engine import engine as module
from qwen_aiml._engine.engine import Engine
from qwen_aiml._engine.runner import BackgroundCall
from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwen_aiml._engine.job import Job


def make(emulator: Emulator, *, sync: bool = False, **options: Any) -> Engine:
    """Create the engine of a client that sends to an emulator."""
    clients: Any = emulator.client_options()
    client = clients["http_client" if sync else "http_async_client"]
    config = EmbeddingConfig(api_key=clients["api_key"], dimensions=64)
    options = {"http_client": client, "cache": None, "limiter": None, **options}
    return Engine(config, sync=sync, **options)


def job(engine: Engine, admit: Callable[[int], Any] | None = None) -> Job:
    return engine.job(["a", "b"], role="document", admit=admit, packed=False)


async def embed(engine: Engine) -> Job:
    work = job(engine)
    await engine.run(work)
    return work


@pytest.mark.anyio
async def test_usage() -> None:
    """The usage of all calls is summed."""
    engine = make(Emulator())
    works = [await embed(engine) for _ in range(2)]

    assert works[0].result().usage == works[1].result().usage
    assert engine.usage.total == Usage() + works[0].call.usage + works[1].call.usage


def test_rate_limiter_of_synchronous_calls() -> None:
    """In sync calls, a rate limiter is called in a worker thread."""
    engine = make(Emulator(), sync=True)
    admitted: list[int] = []
    work = job(engine, admitted.append)
    BackgroundCall(lambda: engine.run(work)).run()
    assert len(admitted) == 1


class Transport:
    """A transport that counts how often it was closed."""

    def __init__(self, *_: object, **__: object) -> None:
        self.closed = 0

    async def aclose(self) -> None:
        """Close."""
        self.closed += 1
        await anyio.lowlevel.checkpoint()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self.closed > 0


@pytest.fixture
def transports(monkeypatch: pytest.MonkeyPatch) -> list[Transport]:
    """Return the transports that are created."""
    created: list[Transport] = []

    def make(*_: object, **__: object) -> Transport:
        created.append(Transport())
        return created[-1]

    monkeypatch.setattr(module, "SelectedTransport", make)
    return created


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sessions(backend: str, transports: list[Transport]) -> None:
    """Each event loop has a session, whose transport is closed when the loop ends."""
    engine = make(Emulator(), http_client=None)

    async def main() -> None:
        assert await engine._session() is await engine._session()

    for _ in range(3):
        anyio.run(main, backend=backend)
        gc.collect()

    assert [transport.closed for transport in transports] == [1, 1, 1]
    assert len(engine._sessions) <= 1


def test_a_session_of_a_loop_that_was_closed_without_end(transports: list[Transport]) -> None:
    """The session of a closed loop is dropped once there is another loop; those of open loops stay."""
    engine = make(Emulator())
    closed, opened, another = loops = [asyncio.new_event_loop() for _ in range(3)]
    for loop in loops:
        loop.run_until_complete(engine._session())
        closed.close()

    assert len(transports) == 3
    assert list(engine._sessions) == [opened, another]
    for loop in loops:
        loop.close()


@pytest.mark.anyio
async def test_aclose(transports: list[Transport]) -> None:
    """`aclose` closes and releases the transport of this loop; the next call opens another."""
    engine = make(Emulator(), http_client=None)
    await engine.aclose()
    session = await engine._session()
    await engine.aclose()
    await engine.aclose()
    assert session.transport.is_closed
    assert await engine._session() is not session
    await engine.aclose()

    assert [transport.closed for transport in transports] == [1, 1]
    first = weakref.ref(session.transport)
    transports.clear()
    del session
    gc.collect()
    assert first() is None


@pytest.mark.anyio
async def test_aclose_without_hooks(transports: list[Transport], monkeypatch: pytest.MonkeyPatch) -> None:
    """`aclose` closes the transport in an event loop that does not close async generators."""
    hooks = SimpleNamespace(finalizer=None)
    monkeypatch.setattr(module, "sys", SimpleNamespace(get_asyncgen_hooks=lambda: hooks))
    engine = make(Emulator(), http_client=None)
    await engine._session()
    await engine.aclose()

    assert [transport.closed for transport in transports] == [1]


@pytest.mark.parametrize("system", [None, SimpleNamespace(is_finalizing=lambda: True)])
def test_collected_at_exit(
    system: object, transports: list[Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At interpreter shutdown, the connections of a client that is collected are not handed to asyncio."""
    engine: Engine | None = make(Emulator(), http_client=None)
    assert engine is not None
    scheduled: list[object] = []
    with closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(engine._session())
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *arguments: scheduled.extend(arguments))
        monkeypatch.setattr(module, "sys", system)
        engine = None
        gc.collect()
        monkeypatch.undo()

    assert len(transports) == 1
    assert not scheduled


def test_collected_after_its_loop(transports: list[Transport]) -> None:
    """A client that is collected once its event loop is closed raises and logs nothing."""
    engine: Engine | None = make(Emulator(), http_client=None)
    assert engine is not None
    hooks = sys.get_asyncgen_hooks()
    with closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(engine._session())
    with pytest.MonkeyPatch.context() as patch:
        raised: list[object] = []
        patch.setattr(sys, "unraisablehook", raised.append)
        engine = None
        gc.collect()

    assert len(transports) == 1
    assert not raised
    assert sys.get_asyncgen_hooks() == hooks


def test_hooks_of_other_generators(transports: list[Transport]) -> None:
    """A client leaves the hooks for async generators of its event loop as they were."""
    engine = make(Emulator(), http_client=None)

    async def main() -> bool:
        hooks = sys.get_asyncgen_hooks()
        await engine._session()
        return sys.get_asyncgen_hooks() == hooks

    assert asyncio.run(main())
    assert len(transports) == 1


def test_collected_on_trio(transports: list[Transport]) -> None:
    """On Trio, the connections of a client that is collected are closed, and Trio warns."""
    engine: Engine | None = make(Emulator(), http_client=None)

    async def main() -> None:
        nonlocal engine
        assert engine is not None
        await engine._session()
        engine = None
        gc.collect()

    with pytest.warns(ResourceWarning, match="garbage collected"):
        anyio.run(main, backend="trio")
    assert [transport.closed for transport in transports] == [1]


@pytest.mark.anyio
async def test_aclose_twice_at_once(transports: list[Transport]) -> None:
    """Two tasks may close at the same time."""
    engine = make(Emulator(), http_client=None)
    await engine._session()
    async with anyio.create_task_group() as group:
        group.start_soon(engine.aclose)
        group.start_soon(engine.aclose)

    assert [transport.closed for transport in transports] == [1]


def test_close(transports: list[Transport]) -> None:
    """`close` closes the transport of sync calls."""
    engine = make(Emulator(), sync=True, http_client=None)
    engine.close()

    async def main() -> None:
        await engine._session()

    BackgroundCall(main).run()
    engine.close()

    assert [transport.closed for transport in transports] == [1]


def test_close_that_fails(transports: list[Transport], monkeypatch: pytest.MonkeyPatch) -> None:
    """`close` raises the exception of a transport."""
    engine = make(Emulator(), sync=True, http_client=None)
    BackgroundCall(engine._session).run()

    async def fail() -> None:
        raise OSError("broken")

    monkeypatch.setattr(transports[0], "aclose", fail)
    with pytest.raises(OSError, match="broken"):
        engine.close()


@pytest.mark.parametrize("of_stream", [True, False])
def test_close_under_a_lock(monkeypatch: pytest.MonkeyPatch, *, of_stream: bool) -> None:
    """Closing ends even if the event loop waits for a lock of the thread, as in garbage collection."""
    monkeypatch.setattr(BackgroundCall.join, "__defaults__", (0.01,))
    http_client, released = Emulator(latency=0.05).client_options()["http_client"], threading.Event()
    with EmbeddingClient(EmbeddingConfig(api_key="k", dimensions=64), http_client=http_client) as client:
        client.embed(["a"])
        rows = client.embed_iter(["b"])
        rows._begin_blocks()

        async def wait() -> None:
            released.wait(60)

        BackgroundCall(wait).start()
        thread = threading.Thread(target=rows.close if of_stream else client.close)
        thread.start()
        thread.join(30)
        is_waiting = thread.is_alive()
        released.set()
        thread.join()

    assert not is_waiting


@pytest.mark.parametrize("sync", [False, True])
def test_namespace(sync: bool) -> None:
    """Cache namespaces differ between emulator and service, and between roles."""
    here = make(Emulator(), sync=sync)
    there = make(Emulator(), sync=sync, http_client=None)
    names = [each.cache_namespace(role) for each in (here, there) for role in ("document", "query")]

    assert len(set(names)) == 4
    assert all("text-embedding-v4.64" in name for name in names)


def test_fork(monkeypatch: pytest.MonkeyPatch, transports: list[Transport]) -> None:
    """A child process does not touch the parent's sessions, and can't use a custom HTTP client."""
    own, given = make(Emulator(), http_client=None), make(Emulator())
    monkeypatch.setattr(module, "_engines", [own, given])
    kept: list[Any] = []
    monkeypatch.setattr(module, "_parent_sessions", kept)

    async def main() -> None:
        session = await own._session()
        module._after_fork()
        assert await own._session() is not session
        assert session in [found for sessions in kept for _, found in sessions]
        await session.closer.aclose()

    anyio.run(main)
    assert len(transports) == 2
    job(own)
    with pytest.raises(ConfigurationError, match=r"can't be used after a fork.*Create another object"):
        job(given)
