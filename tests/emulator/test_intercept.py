"""The emulator in place of the service, for all clients of a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient, EmbeddingConfig, SQLiteCache
from qwen_aiml.emulator import Emulator, intercept, serve
from qwen_aiml.emulator import _locks as locks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GATEWAY = "https://gateway.example/embed/v1"
CHILD = "from qwen_aiml import EmbeddingClient as C, EmbeddingConfig as E; C({}).embed(['from a child'])"


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> str:
    """Set an API key and a base URL, as on a developer's machine."""
    monkeypatch.setenv("AIML_API_KEY", "sk-mine")
    monkeypatch.setenv("AIMLAPI_API_BASE", GATEWAY)
    return "sk-mine"


def test_environment(mine: str) -> None:
    """The API key and base URL in the environment are replaced, and restored even after an error."""
    before = dict(os.environ)
    meanwhile: dict[str, str] = {}
    with suppress(ZeroDivisionError), intercept(Emulator(api_keys=["first", "second"])):
        meanwhile.update(os.environ)
        _ = 1 / 0

    assert meanwhile["AIMLAPI_API_KEY"] == "first"
    assert not {mine, GATEWAY} & set(meanwhile.values())
    assert dict(os.environ) == before


@pytest.mark.anyio
async def test_whoever_made_it(mine: str) -> None:
    """Sync and async clients are redirected: created before, with another URL, with a custom HTTP client."""
    config = EmbeddingConfig()
    async with httpx.AsyncClient() as http_async_client:
        with httpx.Client() as http_client, intercept(Emulator(api_keys=["known"])) as emulator:
            for client in (
                EmbeddingClient(config),
                EmbeddingClient(config, http_client=http_client),
                EmbeddingClient(EmbeddingConfig(base_url=GATEWAY)),
                EmbeddingClient(EmbeddingConfig(api_key=mine)),
            ):
                await anyio.to_thread.run_sync(client.embed, ["a"])
            for other in (
                AsyncEmbeddingClient(config),
                AsyncEmbeddingClient(config, http_client=http_async_client),
            ):
                async with other:
                    await other.embed(["a"])

    assert emulator.texts_billed == {"a": 6}


def test_wrong_key_of_the_program() -> None:
    """An API key other than the environment's is checked by the emulator."""
    wrong = EmbeddingClient(EmbeddingConfig(api_key="wrong"))
    with intercept(Emulator(api_keys=["known"])), pytest.raises(Exception, match="HTTP 401"):
        wrong.embed(["a"])


def test_nested() -> None:
    """The innermost emulator responds; a client with another emulator's options keeps using that one."""
    outer, inner, other = Emulator(), Emulator(), Emulator()
    given: dict[str, Any] = other.client_options()
    kept = EmbeddingClient(EmbeddingConfig(api_key="k"), http_client=given["http_client"])
    with intercept(outer) as first:
        with intercept(inner):
            EmbeddingClient().embed(["inner"])
            kept.embed(["other"])
        EmbeddingClient().embed(["outer"])

    assert first is outer
    assert [list(emulator.texts_billed) for emulator in (outer, inner, other)] == [
        ["outer"],
        ["inner"],
        ["other"],
    ]


def test_cache(tmp_path: Path, mine: str) -> None:
    """The emulator's vectors are never used as the service's, even with the same client and cache."""
    with SQLiteCache(tmp_path / "cache.db") as cache:
        client = EmbeddingClient(EmbeddingConfig(api_key=mine, dimensions=64), cache=cache)
        namespace = client.cache_namespace()
        with intercept(Emulator()) as emulator:
            client.embed(["a"])
            client.embed(["a"])
            assert client.cache_namespace() != namespace
        assert client.cache_namespace() == namespace
        with intercept(Emulator()) as another:
            client.embed(["a"])

    assert (emulator.request_count, another.request_count) == (1, 0)


def test_connects_again_afterwards() -> None:
    """After the context is left, requests reach the configured URL again."""
    with serve(Emulator()) as base_url:
        client = EmbeddingClient(EmbeddingConfig(api_key="k", base_url=base_url))
        with intercept(Emulator()) as emulator:
            client.embed(["a"])
        client.embed(["b"])
        client.close()

    assert list(emulator.texts_billed) == ["a"]


def child(settings: str = "") -> str:
    """Embed in a separate process, and return the last line of its stderr."""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(  # noqa: S603 (our own program)
        [sys.executable, "-c", CHILD.format(settings)],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    return done.stderr.strip().rpartition("\n")[2]


@pytest.mark.usefixtures("mine")
def test_children() -> None:
    """A process started meanwhile reaches a served emulator, and otherwise no host."""
    emulator = Emulator()
    with serve(emulator) as base_url, intercept(emulator, base_url=base_url):
        assert child() == ""
    assert list(emulator.texts_billed) == ["from a child"]

    with intercept(emulator):
        assert "this-emulator-is-in-another-process.invalid" in child("E(max_retries=0)")
    assert emulator.request_count == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork(mine: str) -> None:
    """A forked process uses a copy of the emulator."""
    client = EmbeddingClient(EmbeddingConfig(api_key=mine))
    with intercept(Emulator()) as emulator:
        child = os.fork()
        if not child:  # pragma: no cover (the child process, which is not measured)
            signal.alarm(60)
            try:
                client.embed(["a"])
            except BaseException:  # noqa: BLE001 (reported by the exit code)
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    assert emulator.request_count == 0


class Slow:
    """A vectoriser that takes long for one text."""

    name = "slow"

    def __init__(self) -> None:
        self.is_embedding = threading.Event()
        self.may_end = threading.Event()

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed."""
        if "long" in texts:
            self.is_embedding.set()
            self.may_end.wait(60)
        return [[1.0]] * len(texts)


def test_lock_after_a_fork() -> None:
    """After a fork, a lock that another thread of the parent process holds is free."""
    lock = locks.ForkSafeLock()
    thread = threading.Thread(target=lock.__enter__)
    thread.start()
    thread.join()
    assert lock._lock.acquire(blocking=False) is False
    locks._after_fork()
    with lock:
        pass


def test_lock_within_a_lock() -> None:
    """A request that garbage collection ends in a thread that holds the lock does not wait for itself."""
    lock = locks.ForkSafeLock()
    with lock:
        assert lock._lock.acquire(blocking=False)
        lock.__exit__()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_while_a_thread_embeds(mine: str) -> None:
    """A forked process never waits for a lock of the emulator that another thread held at the fork."""
    client, slow = EmbeddingClient(EmbeddingConfig(api_key=mine, dimensions=64)), Slow()
    with intercept(Emulator(vectors=slow)) as emulator:
        thread = threading.Thread(target=client.embed, args=(["long"],))
        thread.start()
        assert slow.is_embedding.wait(60)
        with emulator._lock, emulator._account._lock:
            child = os.fork()
            if not child:  # pragma: no cover (the child process, which is not measured)
                signal.alarm(20)
                os._exit(len(client.embed(["a"]).embeddings) - 1)
        slow.may_end.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
