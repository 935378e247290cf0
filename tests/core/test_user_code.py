"""User functions that exit, raise, or are cancelled during a call."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from qwen_aiml import (
    AsyncEmbeddingClient,
    ConfigurationError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    InputError,
)
from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from qwen_aiml import Progress

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text {at}" for at in range(40)]


def settings(address: str, **more: Any) -> EmbeddingConfig:
    return EmbeddingConfig(**{"api_key": KEY, "base_url": address, "dimensions": 64, "batch_size": 1, **more})


class Cancelling:
    """An async function, or a cache, whose third use is cancelled by other code."""

    def __init__(self) -> None:
        self.uses = 0

    async def __call__(self, *_: object) -> str:
        """Return a key; a rate limiter may return anything."""
        self.uses += 1
        if self.uses == 3:
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled
        return KEY

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Find nothing."""
        return [None] * len(keys)

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store nothing."""

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Find nothing."""
        return [None] * len(keys)

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:  # noqa: ARG002
        """Store nothing."""
        await self()


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("what", ["admit", "key"])
def test_cancelled_by_other_code(address: str, what: str, workers: int) -> None:
    """If a function that a call awaits is cancelled, but the call is not, no text is silently missing."""
    cancelling: Any = Cancelling()
    config = settings(address, api_key=cancelling if what == "key" else KEY, max_concurrency=workers)
    admit = cancelling if what == "admit" else None

    async def embed() -> None:
        async with AsyncEmbeddingClient(config) as client:
            with pytest.raises(EmbeddingBatchError, match="was cancelled by other code") as caught:
                await client.embed(TEXTS, admit=admit)
            missing = {index for index, row in enumerate(caught.value.embeddings) if row is None}
            assert len(caught.value.failures) == 1
            assert caught.value.failures.keys() <= missing == set(caught.value.indices)

    async def iterate() -> None:
        cancelling.uses, rows = 0, []

        async def read(client: AsyncEmbeddingClient) -> None:
            async with client.embed_iter(TEXTS, admit=admit, look_ahead=120) as stream:
                async for index, _ in stream:
                    rows.append(index)

        async with AsyncEmbeddingClient(config) as client:
            with pytest.raises(EmbeddingBatchError, match="was cancelled by other code") as caught:
                await read(client)
            assert sorted({*rows, *caught.value.indices}) == list(range(len(TEXTS)))

    asyncio.run(embed())
    asyncio.run(iterate())


def test_storing_cancelled_by_other_code(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """If storing is cancelled, a warning is logged and all embeddings are returned."""

    async def embed() -> None:
        async with AsyncEmbeddingClient(settings(address), cache=Cancelling()) as client:
            assert None not in (await client.embed(TEXTS)).embeddings

    asyncio.run(embed())

    assert caplog.text.count("1 embeddings could not be stored in the cache: CancelledError") == 1


def test_look_up_cancelled_by_other_code(address: str) -> None:
    """If the cache look-up is cancelled, a stream does not end as if it were complete."""

    class Store(Cancelling):
        async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:  # noqa: ARG002
            raise asyncio.CancelledError("of the store")

    async def read(client: AsyncEmbeddingClient) -> None:
        async with client.embed_iter(TEXTS) as stream:
            [row async for row in stream]

    async def iterate() -> None:
        async with AsyncEmbeddingClient(settings(address), cache=Store()) as client:
            with pytest.raises(asyncio.CancelledError, match="of the store"):
                await read(client)

    asyncio.run(iterate())


def leave(*_: object) -> str:
    raise SystemExit("please set the key")


@pytest.mark.parametrize("what", ["admit", "key", "hook"])
def test_exit(address: str, what: str) -> None:
    """``sys.exit`` in a user function ends the call, and no later one."""
    http_client = httpx.Client(event_hooks={"request": [leave]}) if what == "hook" else None
    config = settings(address, api_key=leave if what == "key" else KEY, max_retries=0)
    client = EmbeddingClient(config, http_client=http_client)
    with pytest.raises(SystemExit, match="please set the key"):
        client.embed(TEXTS[:3], admit=leave if what == "admit" else None)
    with EmbeddingClient(settings(address)) as another:
        assert len(another.embed(TEXTS[:2]).embeddings) == 2


def test_exit_from_a_progress_function(address: str) -> None:
    """``sys.exit`` in a progress function ends the call; no incomplete result is returned."""

    def leave_after_a_batch(progress: Progress) -> None:
        if progress.done:
            leave()

    async def embed() -> None:
        async with AsyncEmbeddingClient(settings(address, max_concurrency=1)) as client:
            await client.embed(TEXTS, progress=leave_after_a_batch)

    with pytest.raises(SystemExit, match="please set the key"):
        asyncio.run(embed())


def test_async_function_of_a_synchronous_client(address: str) -> None:
    """A sync client awaits an async rate limiter."""
    asked = []

    async def admit(tokens: int) -> None:
        await anyio.lowlevel.checkpoint()
        asked.append(tokens)

    with EmbeddingClient(settings(address)) as client:
        client.embed(TEXTS[:3], admit=admit)

    assert len(asked) == 3


def test_synchronous_function_of_an_async_client(address: str) -> None:
    """An async client rejects a sync rate limiter, which would block the event loop."""
    admit: Any = len

    async def embed() -> None:
        async with AsyncEmbeddingClient(settings(address)) as client:
            await client.embed(TEXTS[:3], admit=lambda _: admit("ab"))

    with pytest.raises(ConfigurationError, match="must be async for async calls: it returned int"):
        asyncio.run(embed())


def test_rate_limiter_that_is_no_function(address: str) -> None:
    """A rate limiter that can't be called raises, in calls and in streams."""
    admit: Any = 5
    with EmbeddingClient(settings(address)) as client:
        with pytest.raises(ConfigurationError, match="admit must be a function that takes a number of tok"):
            client.embed(TEXTS[:1], admit=admit)
        with pytest.raises(ConfigurationError, match="admit must be a function that takes a number of tok"):
            list(client.embed_iter(TEXTS[:1], admit=admit))


def test_key_function_that_raises(address: str) -> None:
    """If the key function raises, nothing was sent, so the error counts no attempt."""

    def key() -> str:
        raise KeyError

    with pytest.raises(ConfigurationError) as caught:
        EmbeddingClient(settings(address, api_key=key)).embed(TEXTS[:1])

    assert caught.value.attempts == 0


@pytest.mark.anyio
@pytest.mark.parametrize("is_open", [True, False])
async def test_timeout_while_texts_are_read(address: str, is_open: bool) -> None:
    """An async generator that was ended by a timeout is not taken as complete."""
    scope = anyio.CancelScope()

    async def texts() -> AsyncIterator[str]:
        for text in TEXTS[:25]:
            yield text
        scope.cancel()  # not after a time, which may be too short for the requests before
        await anyio.sleep_forever()

    rows = []

    async def read(client: AsyncEmbeddingClient) -> None:
        stream = client.embed_iter(texts(), look_ahead=30)
        async with stream if is_open else nullcontext():
            for limit in (scope, nullcontext()):
                with limit:
                    async for index, _ in stream:
                        rows.append(index)

    async with AsyncEmbeddingClient(settings(address)) as client:
        with pytest.raises(InputError, match="cancelled"):
            await read(client)

    assert rows == list(range(25))


class Texts:
    """An async iterator that blocks once, cancels the scope given, and can be read again."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._texts = iter(TEXTS)
        self._has_waited = False
        self._scope = scope

    def __aiter__(self) -> Texts:
        return self

    async def __anext__(self) -> str:
        if not self._has_waited:
            self._has_waited = True
            self._scope.cancel()
            await anyio.sleep_forever()
        for text in self._texts:
            return text
        raise StopAsyncIteration


@pytest.mark.anyio
async def test_timeout_while_an_iterator_is_read(address: str) -> None:
    """If texts can still be read after a timeout, all are embedded."""
    rows, scope = [], anyio.CancelScope()
    async with AsyncEmbeddingClient(settings(address)) as client, client.embed_iter(Texts(scope)) as stream:
        for limit in (scope, nullcontext()):
            with limit:
                async for index, _ in stream:
                    rows.append(index)

    assert rows == list(range(len(TEXTS)))


@pytest.mark.anyio
async def test_cancelled_before_it_begins() -> None:
    """A call in an already cancelled scope sends nothing, even on open connections."""
    emulator = Emulator()
    with serve(emulator) as base_url:
        async with AsyncEmbeddingClient(settings(base_url)) as client:
            await client.embed(TEXTS[:4])
            seen = emulator.request_count
            with anyio.CancelScope() as scope:
                scope.cancel()
                await client.embed(TEXTS)

    assert (scope.cancelled_caught, emulator.request_count) == (True, seen)
