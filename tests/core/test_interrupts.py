"""Ctrl-C during a sync call: the call ends at once and leaves nothing behind."""

from __future__ import annotations

import gc
import signal
import threading
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest

from qwen_aiml import EmbeddingClient, EmbeddingConfig
from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text {at}" for at in range(40)]

pytestmark = [
    pytest.mark.usefixtures("interruptible"),
    pytest.mark.skipif(
        not hasattr(signal, "pthread_kill"), reason="only there can one thread interrupt another"
    ),
]


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Override the shared fixture: this file needs real delays."""


@contextmanager
def interrupted(when: Callable[[], bool]) -> Iterator[None]:
    """Press Ctrl-C when *when* returns true, after 30 seconds at the latest; expect it to end the block."""
    ended = threading.Event()

    def press() -> None:
        for _ in range(3000):
            if ended.wait(0.01) or when():
                break
        ended.wait(0.1)
        # Repeatedly, as a user would: Python ignores an interrupt that arrives during garbage collection.
        for _ in range(5):
            if not ended.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            ended.wait(5)

    gc.collect()
    thread = threading.Thread(target=press)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        ended.set()
        thread.join()


def assert_idle(client: EmbeddingClient) -> None:
    """Assert that no request counts as in flight or waiting."""
    [session] = client._engine._sessions.values()
    assert session.queue.in_flight == 0
    assert not session.queue._starting.locked()


FAULTS = {
    "request": Fault(hang=True),
    "backoff": Fault(status=503, headers={"retry-after": "50"}),
    "pause": Fault(status=429, headers={"retry-after": "50"}),
}


@pytest.mark.parametrize("total_timeout", [None, 300.0])
@pytest.mark.parametrize("workers", [1, 32])
@pytest.mark.parametrize("phase", FAULTS)
def test_interrupt(phase: str, workers: int, total_timeout: float | None) -> None:
    """Ctrl-C ends a request, a backoff and a pause at once, with one worker and with many."""
    emulator = Emulator()
    emulator.script(*[FAULTS[phase]] * 100)
    EmbeddingClient(EmbeddingConfig(api_key=KEY)).embed([])  # starts the thread of the event loop
    threads = set(threading.enumerate())
    with serve(emulator) as address:
        config = EmbeddingConfig(
            api_key=KEY,
            base_url=address,
            dimensions=64,
            batch_size=1,
            max_concurrency=workers,
            timeout=300.0,
            total_timeout=total_timeout,
        )
        with EmbeddingClient(config) as client:
            with interrupted(lambda: emulator.request_count > 0):
                client.embed(TEXTS)
            assert_idle(client)
    assert threads >= set(threading.enumerate())


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_interrupt_of_a_client_given(library: str) -> None:
    """A worker thread that waits in the user's sync HTTP client is abandoned, not awaited."""
    emulator = Emulator()
    emulator.script(*[Fault(hang=True)] * 100)
    http_client = pytest.importorskip(library).Client(verify=False)  # plain http needs no certificates
    with http_client, serve(emulator) as address:
        config = EmbeddingConfig(api_key=KEY, base_url=address, dimensions=64, batch_size=1, timeout=60.0)
        with EmbeddingClient(config, http_client=http_client) as client:
            with interrupted(lambda: emulator.request_count > 0):
                client.embed(TEXTS)
            assert_idle(client)
            emulator._script.clear()
            assert len(client.embed(TEXTS).embeddings) == 40


def test_log_of_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """After Ctrl-C the log reports how many texts were embedded, and how to keep them."""
    emulator = Emulator()
    emulator.script(None, None, Fault(hang=True))
    with serve(emulator) as address:
        config = EmbeddingConfig(
            api_key=KEY, base_url=address, dimensions=64, batch_size=10, max_concurrency=1, timeout=300.0
        )
        with EmbeddingClient(config) as client, interrupted(lambda: emulator.request_count > 2):
            client.embed(TEXTS)

    assert "interrupted: 20 of 40 texts were embedded and are lost. Set cache= (a path is " in caplog.text


@pytest.mark.parametrize("phase", FAULTS)
def test_interrupt_while_iterating(phase: str) -> None:
    """Ctrl-C ends the wait for a row at once, with both blocks in progress."""
    emulator = Emulator()
    emulator.script(*[FAULTS[phase]] * 100)
    EmbeddingClient(EmbeddingConfig(api_key=KEY)).embed([])  # starts the thread of the event loop
    threads = set(threading.enumerate())
    with serve(emulator) as address:
        config = EmbeddingConfig(
            api_key=KEY, base_url=address, dimensions=64, batch_size=1, max_concurrency=8, timeout=300.0
        )
        with EmbeddingClient(config) as client:
            with interrupted(lambda: emulator.request_count > 0):
                next(client.embed_iter(map("text {}".format, count()), look_ahead=30))
            assert_idle(client)
    assert threads >= set(threading.enumerate())


class Store:
    """A cache that signals when it is written to."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.writing = threading.Event()

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Look up."""
        return [self.kept.get(key) for key in keys]

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store, after half a second."""
        self.writing.set()
        threading.Event().wait(0.5)
        self.kept.update(entries)

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Look up."""
        return self.get_many(keys)

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Store."""
        self.set_many(entries)


def test_interrupt_while_storing() -> None:
    """Embeddings being stored during Ctrl-C are stored completely, and not billed again."""
    emulator, store = Emulator(), Store()
    emulator.script(*[None] * 6, *[Fault(hang=True)] * 100)
    with serve(emulator) as address:
        config = EmbeddingConfig(
            api_key=KEY, base_url=address, dimensions=64, batch_size=1, timeout=300.0, max_retries=0
        )
        with EmbeddingClient(config, cache=store) as client:
            with interrupted(store.writing.is_set):
                client.embed(TEXTS)
            stored = len(store.kept)
            emulator._script.clear()
            assert client.embed(TEXTS).cached == stored > 0


@pytest.mark.parametrize("in_body", [False, True])
def test_log_of_what_a_stream_loses(caplog: pytest.LogCaptureFixture, *, in_body: bool) -> None:
    """After Ctrl-C in a stream, the log reports how many embedded texts were not yielded."""
    emulator = Emulator()
    emulator.script(None, None, None, *[Fault(hang=True)] * 9)
    with serve(emulator) as address:
        config = EmbeddingConfig(
            api_key=KEY, base_url=address, dimensions=64, max_concurrency=1, timeout=300.0
        )
        with (
            EmbeddingClient(config) as client,
            interrupted(lambda: emulator.request_count > 3),
            client.embed_iter(TEXTS, look_ahead=60) as rows,
        ):
            for _ in rows:  # the first block has 20 texts
                while in_body and emulator.request_count < 10_000:
                    time.sleep(0.01)

    # With 20 texts yielded, 10 of the second block are left.
    lost = "29 of 39" if in_body else "10 of 20"
    assert f"interrupted: {lost} texts were embedded and are lost. Set cache= (a path is " in caplog.text
