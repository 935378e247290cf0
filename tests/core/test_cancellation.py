"""Cancellation of async calls, by anyio and by asyncio, and their deadlines."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from qwen_aiml import AsyncEmbeddingClient, DeadlineError, EmbeddingClient, EmbeddingConfig
from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text {at}" for at in range(40)]

pytestmark = [
    pytest.mark.anyio,
    # httpx wraps a body in a generator, which is not closed if the request is cancelled while it is sent.
    pytest.mark.filterwarnings("ignore:Async generator 'httpx.*:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Override the shared fixture: this file needs real delays."""


class Store:
    """A cache with configurable delays."""

    def __init__(self, *, reading: float = 0.0, writing: float = 0.0) -> None:
        self.reading = reading
        self.writing = writing
        self.lookups = 0
        self.begun = anyio.Event()
        self.kept: dict[str, bytes] = {}

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Look up."""
        self.lookups += 1
        time.sleep(self.reading)
        return [self.kept.get(key) for key in keys]

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store."""
        self.kept.update(entries)

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Look up."""
        self.lookups += 1
        await anyio.sleep(self.reading)
        return [self.kept.get(key) for key in keys]

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Store."""
        self.begun.set()
        await anyio.sleep(self.writing)
        self.kept.update(entries)


def make(address: str, cache: Store | None = None, **settings: Any) -> AsyncEmbeddingClient:
    settings = {"api_key": KEY, "base_url": address, "dimensions": 64, "batch_size": 1, **settings}
    return AsyncEmbeddingClient(EmbeddingConfig(**settings), cache=cache)


FAULTS = {
    "request": Fault(hang=True),
    "backoff": Fault(status=503, headers={"retry-after": "50"}),
    "pause": Fault(status=429, headers={"retry-after": "50"}),
}


# Before 4.16, anyio leaves a connection to the garbage collector if it is cancelled while opening.
@pytest.mark.slow
@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS], ids=len)
@pytest.mark.parametrize("phase", FAULTS)
async def test_cancelled(address: str, emulator: Emulator, phase: str, texts: list[str]) -> None:
    """Cancellation ends a request, a backoff, a pause and a wait in the queue; the client stays usable."""
    emulator.script(*[FAULTS[phase]] * 100)
    seen = emulator.request_count
    async with make(address) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.embed, texts)
            with anyio.fail_after(30):
                while emulator.request_count == seen:  # noqa: ASYNC110 (it has no event to await)
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        emulator._script.clear()
        client.limiter._paused_until = 0.0
        [session] = client._engine._sessions.values()
        assert session.queue.in_flight == 0
        with anyio.fail_after(30):
            assert len((await client.embed(TEXTS[:3])).embeddings) == 3
    gc.collect()


@pytest.mark.parametrize("cached", [False, True])
async def test_log_of_what_is_lost(
    address: str, emulator: Emulator, cached: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The log reports how many texts were embedded, and whether they are cached."""
    caplog.set_level("INFO", "qwen_aiml")
    emulator.script(None, None, *[Fault(hang=True)] * 9)
    seen = emulator.request_count
    async with make(address, Store() if cached else None, max_concurrency=1) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.embed, TEXTS)
            with anyio.fail_after(30):
                while emulator.request_count < seen + 3:  # noqa: ASYNC110 (it has no event to await)
                    await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        async with anyio.create_task_group() as group:
            group.start_soon(client.embed, [TEXTS[-1]])  # nothing was embedded, so nothing is lost
            await anyio.sleep(0.05)
            group.cancel_scope.cancel()
    emulator._script.clear()
    gc.collect()

    [message] = [record.getMessage() for record in caplog.records if "interrupted" in record.message]
    assert message.startswith(f"interrupted: 2 of {len(TEXTS)} texts were embedded and are ")
    assert message.endswith(
        "in the cache"
        if cached
        else "Set cache= (a path is enough) to keep them; another run then sends only the rest"
    )


async def test_log_counts_repeated_texts(
    address: str, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """The log counts each text of the call, as the result does, even if it is sent once."""
    emulator.script(None, *[Fault(hang=True)] * 9)
    seen = emulator.request_count
    async with make(address, max_concurrency=1) as client, anyio.create_task_group() as group:
        group.start_soon(client.embed, [*TEXTS[:2], TEXTS[0]])
        with anyio.fail_after(30):
            while emulator.request_count < seen + 2:  # noqa: ASYNC110 (it has no event to await)
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    emulator._script.clear()

    [message] = caplog.messages
    assert message.startswith("interrupted: 2 of 3 texts were embedded and are lost")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS], ids=len)
async def test_cancelled_by_asyncio_while_storing(address: str, texts: list[str]) -> None:
    """Embeddings are stored even under asyncio's own cancellation, which ignores shields."""
    store = Store(writing=0.1)
    async with make(address, store) as client:
        task = asyncio.create_task(client.embed(texts))
        await store.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert store.kept


async def test_deadline_of_a_slow_cache(address: str) -> None:
    """The deadline ends a look-up in a cache that does not respond."""
    async with make(address, Store(reading=1e6), total_timeout=0.1) as client:
        with anyio.fail_after(30), pytest.raises(DeadlineError, match=r"total_timeout of 0\.1 s ran out"):
            await client.embed(TEXTS)


def test_deadline_of_a_slow_cache_in_a_thread() -> None:
    """In sync calls, the deadline ends the look-up before the next thousand keys."""
    store = Store(reading=0.6)
    config = EmbeddingConfig(api_key=KEY, total_timeout=0.5)
    http_client = httpx.Client(transport=Emulator().transport())
    with pytest.raises(DeadlineError):
        EmbeddingClient(config, http_client=http_client, cache=store).embed(map(str, range(5000)))

    assert store.lookups == 1


async def test_deadline_of_a_slow_limiter(address: str) -> None:
    """The deadline ends a wait for a rate limiter that never admits the request."""

    async def never(_: int) -> None:
        await anyio.sleep_forever()

    async with make(address, total_timeout=0.1) as client:
        with anyio.fail_after(30), pytest.raises(DeadlineError):
            await client.embed(TEXTS, admit=never)
