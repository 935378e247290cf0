"""Usage by block: each call counts where it was made, whatever runs concurrently."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    AsyncEmbeddingClient,
    AuthenticationError,
    EmbeddingClient,
    EmbeddingConfig,
    Limits,
    TrackedUsage,
    Usage,
    track_usage,
)
from qwen_aiml._observe.budget import usage_lock
from qwen_aiml.emulator import Emulator, Fault
from qwen_aiml.emulator._service import estimate_tokens

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

TENANTS, THREADS, TASKS = 3, 8, 8


def create(emulator: Emulator, kind: Any, **settings: Any) -> Any:
    """Create an object of the class that embeds with the emulator."""
    options = emulator.client_options()
    if kind in (EmbeddingClient, AsyncEmbeddingClient):
        name = "http_client" if kind is EmbeddingClient else "http_async_client"
        config = EmbeddingConfig(api_key=options["api_key"], dimensions=64)
        return kind(config, http_client=options[name], **settings)
    return kind(dimensions=64, **options, **settings)


def sync_calls(model: Any, texts: list[str], task: int) -> None:
    """Embed synchronously; tasks alternate between the methods of a client."""
    if isinstance(model, QwenAIMLEmbeddings):
        model.embed_documents(texts)
    elif isinstance(model, QwenAIMLEmbedding):
        model.get_text_embedding_batch(texts)
    elif task % 2:
        assert len(list(model.embed_iter(texts, look_ahead=3))) == len(texts)
    else:
        model.embed(texts)


async def async_calls(model: Any, texts: list[str], task: int) -> None:
    """Embed asynchronously; tasks alternate between the methods of a client."""
    if isinstance(model, QwenAIMLEmbeddings):
        await model.aembed_documents(texts)
    elif isinstance(model, QwenAIMLEmbedding):
        await model.aget_text_embedding_batch(texts)
    elif task % 2:
        async with model.embed_iter(texts, look_ahead=3) as rows:
            assert len([row async for row in rows]) == len(texts)
    else:
        await model.embed(texts)


def texts_of(tenant: int, thread: int, task: int) -> list[str]:
    """Create the texts of a task, whose lengths depend on the tenant."""
    return [f"{tenant}-{thread}-{task}-{at} " + "word " * (1 + tenant * 7) for at in range(4)]


def run_thread(model: Any, tenant: int, thread: int, *, is_async: bool) -> None:
    """Run the tasks of a thread: in its own event loop, or one after the other."""

    async def main() -> None:
        tasks = (async_calls(model, texts_of(tenant, thread, task), task) for task in range(TASKS))
        await asyncio.gather(*tasks)

    if is_async:
        asyncio.run(main())
    else:
        for task in range(TASKS):
            sync_calls(model, texts_of(tenant, thread, task), task)


def run_tenant(model: Any, tenant: int, together: threading.Barrier, *, is_async: bool) -> TrackedUsage:
    """Run the threads of a tenant at the same time as those of the others."""
    together.wait(60)
    with track_usage() as usage, ThreadPoolExecutor(THREADS) as threads:
        work = partial(run_thread, model, tenant, is_async=is_async)
        for done in [threads.submit(copy_context().run, work, thread) for thread in range(THREADS)]:
            done.result()
    return usage


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "is_async"),
    [
        (AsyncEmbeddingClient, True),
        (QwenAIMLEmbeddings, False),
        pytest.param(EmbeddingClient, False, marks=pytest.mark.long),
        pytest.param(QwenAIMLEmbeddings, True, marks=pytest.mark.long),
        pytest.param(QwenAIMLEmbedding, False, marks=pytest.mark.long),
        pytest.param(QwenAIMLEmbedding, True, marks=pytest.mark.long),
    ],
)
def test_every_token_at_the_right_tenant(kind: Any, is_async: bool, tmp_path: Path) -> None:
    """Three tenants of eight threads of eight tasks share one object, and each gets its own usage."""
    emulator = Emulator()
    model = create(emulator, kind, cache=tmp_path / "cache.db")
    expected = [
        sum(
            estimate_tokens(text)
            for thread in range(THREADS)
            for task in range(TASKS)
            for text in texts_of(tenant, thread, task)
        )
        for tenant in range(TENANTS)
    ]
    for cached in (0, THREADS * TASKS * 4):
        together = threading.Barrier(TENANTS)
        run = partial(run_tenant, model, together=together, is_async=is_async)
        with ThreadPoolExecutor(TENANTS) as tenants:
            found = list(tenants.map(run, range(TENANTS)))

        assert [usage.total_tokens for usage in found] == ([0] * TENANTS if cached else expected)
        assert [usage.cached for usage in found] == [cached] * TENANTS
        assert (sum(usage.requests for usage in found) == 0) == bool(cached)
    assert model.usage.total_tokens == sum(expected)
    assert model.usage.requests == emulator.request_count
    model.close() if hasattr(model, "close") else asyncio.run(model.aclose())


@pytest.mark.parametrize("reported", [Usage(1, 2, 3, 4, 0.5), Limits(2.5, 6, 10)])
def test_conversion(reported: Any) -> None:
    """Usage and limits can be converted by dataclasses, pydantic and thus web frameworks."""
    fields = dataclasses.asdict(reported)

    assert list(fields.values()) in ([1, 2, 3, 4, 0.5], [2.5, 6, 10])
    assert json.loads(TypeAdapter(type(reported)).dump_json(reported)) == fields


def test_blocks_in_blocks() -> None:
    """A call counts in each enclosing block; calls outside count only in the running total."""
    with create(Emulator(), EmbeddingClient) as client:
        with track_usage() as outer:
            client.embed(["a"])
            with track_usage() as inner:
                client.embed(["b"])
            client.embed(["c"])
        client.embed(["d"])

    assert (outer.requests, inner.requests, client.usage.requests) == (3, 1, 4)
    assert inner.total == Usage(1, 1, 1, usd_spent=0.0000005)
    assert (inner.total_tokens, inner.credits_used, inner.cached, inner.usd_spent) == (1, 1, 0, 0.0000005)
    assert repr(outer) == (
        "TrackedUsage(requests=3, total_tokens=3, credits_used=3, cached=0, usd_spent=1.5e-06)"
    )


def test_unknown_stays_unknown() -> None:
    """A value that one response does not report is unknown for the whole block, not 0."""
    emulator = Emulator()
    emulator.script(None, Fault(edit=lambda body: {"data": body["data"]}))
    with create(emulator, EmbeddingClient) as client, track_usage() as usage:
        client.embed(["a"])
        client.embed(["b"])

    assert (usage.requests, usage.total_tokens, usage.cached) == (2, None, 0)
    assert usage.credits_used == 2  # reported in a header


def test_failed_calls_count() -> None:
    """Failed attempts and calls count as requests."""
    emulator = Emulator()
    emulator.script(Fault(status=503), Fault(edit=lambda _: b"{}"), None, Fault(status=401))
    with create(emulator, EmbeddingClient) as client, track_usage() as usage:
        client.embed(["a"])
        with pytest.raises(AuthenticationError):
            client.embed(["b"])

    assert usage.requests == 4


@pytest.mark.parametrize("start", [copy_context, None])
def test_threads(start: Callable[[], Any] | None) -> None:
    """A thread started in a block counts there only if it runs in a copy of the context."""
    with create(Emulator(), EmbeddingClient) as client, track_usage() as usage:
        work = partial(client.embed, ["a"])
        thread = threading.Thread(target=work if start is None else partial(start().run, work))
        thread.start()
        thread.join(60)

    assert usage.requests == (start is not None)


def test_stream_that_is_read_elsewhere() -> None:
    """A stream counts in the blocks where it was created, wherever it is read."""
    with create(Emulator(), EmbeddingClient) as client:
        with track_usage() as begun:
            rows = client.embed_iter(f"text {at}" for at in range(40))
        with track_usage() as elsewhere:
            assert len(list(rows)) == 40

    assert (begun.requests > 0, elsewhere.requests) == (True, 0)
    assert begun.total == client.usage


def test_block_left_in_another_context() -> None:
    """Leaving a block in another context raises nothing; calls in the first one no longer count."""
    with create(Emulator(), EmbeddingClient) as client:
        first, block = copy_context(), track_usage(max_tokens=1)
        usage = first.run(block.__enter__)
        first.run(client.embed, ["a"])
        block.__exit__(None, None, None)
        first.run(client.embed, ["b"])  # also without the budget
        assert (usage.requests, client.usage.requests) == (1, 2)


def test_blocks_in_any_order() -> None:
    """Blocks that end in another order than they began, as in generators, count no later calls."""
    with create(Emulator(), EmbeddingClient) as client:
        first, second = track_usage(), track_usage()
        began = [first.__enter__(), second.__enter__()]
        first.__exit__(None, None, None)
        client.embed(["a"])
        second.__exit__(None, None, None)
        client.embed(["b"])
        assert [usage.requests for usage in began] == [0, 1]


def test_generator_that_is_dropped() -> None:
    """A block in a generator that is left with ``break`` counts no later calls."""
    found: list[TrackedUsage] = []

    async def embedded(client: AsyncEmbeddingClient, ended: asyncio.Event) -> AsyncGenerator[None]:
        try:
            with track_usage() as usage:
                found.append(usage)
                while True:
                    await client.embed(["a"])
                    yield
        finally:
            ended.set()

    async def main() -> None:
        raised: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        async with create(Emulator(), AsyncEmbeddingClient) as client:
            ended = asyncio.Event()
            async for _ in embedded(client, ended):
                break
            gc.collect()
            await asyncio.wait_for(ended.wait(), 20)  # until the event loop has closed the generator
            await client.embed(["a"])
            assert (found[0].requests, client.usage.requests) == (1, 2)
        assert not raised

    asyncio.run(main())


def test_reentrance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Usage that garbage collection adds within an addition counts, and no lock is held meanwhile."""
    tracked, add = TrackedUsage(), Usage.__add__

    def collecting(usage: Usage, other: Usage) -> Usage:
        monkeypatch.undo()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(usage_lock.acquire, blocking=False).result()
            pool.submit(usage_lock.release).result()
        tracked.add(Usage(1))
        return add(usage, other)

    monkeypatch.setattr(Usage, "__add__", collecting)
    tracked.add(Usage(2))
    assert tracked.requests == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_a_thread_counts() -> None:
    """A child process never waits for a lock that another thread held at the fork."""
    held = threading.Event()

    def hold() -> None:
        with usage_lock:
            held.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        TrackedUsage().add(Usage(1))
        os._exit(0)
    thread.join()

    assert os.waitpid(child, 0)[1] == 0
    with usage_lock:
        TrackedUsage().add(Usage(1))
