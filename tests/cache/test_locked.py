"""A cache file locked by another process: a call waits for it once, within every deadline."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from qwen_aiml import (
    AsyncEmbeddingClient,
    CacheError,
    DeadlineError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
)
from qwen_aiml._cache import access, sqlite
from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

TEXTS = [f"text {at}" for at in range(40)]
LONG = 30.0  # seconds after which a test counts as hanging


def config(**settings: Any) -> EmbeddingConfig:
    return EmbeddingConfig(api_key="k", dimensions=64, max_concurrency=1, **settings)


def sync_client(path: Path, **settings: Any) -> EmbeddingClient:
    http_client = httpx.Client(transport=Emulator().transport())
    return EmbeddingClient(config(**settings), http_client=http_client, cache=path)


def async_client(path: Path, **settings: Any) -> AsyncEmbeddingClient:
    http_client = httpx.AsyncClient(transport=Emulator().transport())
    return AsyncEmbeddingClient(config(**settings), http_client=http_client, cache=path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a cache file with one entry."""
    path = tmp_path / "embeddings.db"
    with sync_client(path) as client:
        client.embed(["stored before"])
    return path


@contextmanager
def locked(path: Path, how: str = "IMMEDIATE") -> Iterator[None]:
    """Hold the lock of a file."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute(f"BEGIN {how}")
        yield


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Hold the lock of a file so that it can't be read, as during its creation."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB)")
        yield


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every wait for the lock time out soon."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.3)
    monkeypatch.setattr(access, "STORE_SECONDS", 0.3)
    monkeypatch.setattr(access, "LATER_STORE_SECONDS", 0.2)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no wait for the lock time out within a test."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 4 * LONG)
    monkeypatch.setattr(access, "STORE_SECONDS", 4 * LONG)


def bounded(function: Callable[[], Any]) -> Any:
    """Call a function, and fail if it hangs."""
    found: list[Any] = []

    def call() -> None:
        try:
            found.append(function())
        except Exception as error:  # noqa: BLE001 (raised below)
            found.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def run(function: Callable[[], Awaitable[Any]], backend: str = "asyncio") -> Any:
    """Run a coroutine function, and fail if it hangs."""
    return bounded(lambda: anyio.run(function, backend=backend))


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_one_wait(kind: str, how: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After one wait and one warning, the call continues without storing, and returns all embeddings."""

    async def main() -> int:
        async with async_client(path) as client:
            return len((await client.embed(["stored before", *TEXTS])).embeddings)

    caplog.set_level(logging.WARNING, logger="qwen_aiml")
    with locked(path, how):
        if kind == "sync":
            with sync_client(path) as client:
                count = bounded(lambda: len(client.embed(["stored before", *TEXTS]).embeddings))
        else:
            count = run(main, kind)

    assert count == 41
    [warning] = caplog.records
    assert "could not be stored in the cache" in warning.getMessage()


@pytest.mark.usefixtures("soon")
def test_unreadable(path: Path) -> None:
    """A file that can't be read ends the call after one wait, before any request."""
    with unreadable(path), sync_client(path) as client, pytest.raises(CacheError, match="locked"):
        bounded(lambda: client.embed(TEXTS))
    assert client.usage.requests == 0


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_deadline_of_a_look_up(kind: str, path: Path) -> None:
    """The deadline of a call ends its wait for the lock, and closing does not wait for the lock."""

    async def main() -> None:
        async with async_client(path, total_timeout=0.3) as client:
            await client.embed(TEXTS)

    def call() -> None:
        with sync_client(path, total_timeout=0.3) as client:
            client.embed(TEXTS)

    with unreadable(path), pytest.raises(DeadlineError):
        bounded(call) if kind == "sync" else run(main, kind)


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_deadline_of_a_store(kind: str, path: Path) -> None:
    """The deadline also ends a write that waits for the lock; the error contains the embeddings received."""

    async def main() -> None:
        async with async_client(path, total_timeout=0.5) as client:
            await client.embed(TEXTS)

    def call() -> None:
        with sync_client(path, total_timeout=0.5) as client:
            client.embed(TEXTS)

    with locked(path), pytest.raises(EmbeddingBatchError) as caught:
        bounded(call) if kind == "sync" else run(main, kind)
    assert 0 < len(caught.value.failures) < 40


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("lock", [locked, unreadable])
def test_cancelled(lock: Callable[[Path], Any], path: Path) -> None:
    """asyncio's `wait_for` ends the wait for the lock, and closing does not wait for the lock."""  # noqa: D403

    async def main() -> None:
        async with async_client(path) as client:
            await asyncio.wait_for(client.embed(TEXTS), 0.3)

    with lock(path), pytest.raises((asyncio.TimeoutError, TimeoutError)):
        run(main)


@pytest.mark.usefixtures("late")
def test_closed_meanwhile(path: Path) -> None:
    """Closing a client in another thread does not wait for its writes."""
    with locked(path):
        client = sync_client(path, total_timeout=1.0)
        failed = threading.Event()

        def store() -> None:
            with pytest.raises(EmbeddingBatchError):
                client.embed(TEXTS)
            failed.set()

        storing = threading.Thread(target=store)
        storing.start()
        while not failed.is_set() and not client.cache._lock.locked():  # type: ignore[union-attr]
            pass
        bounded(client.close)
        storing.join(LONG)
    assert not storing.is_alive()
