"""User functions that call the client again from within one of its calls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient, EmbeddingConfig

if TYPE_CHECKING:
    from collections.abc import Callable

TEXTS = [f"text {at}" for at in range(23)]


@pytest.fixture
def config(address: str) -> EmbeddingConfig:
    """Allow one request in flight, so that a second one would have to wait for it."""
    return EmbeddingConfig(api_key="k", base_url=address, dimensions=64, max_concurrency=1)


def bounded(function: Callable[[], Any]) -> Any:
    """Return the result of a function; fail if it hangs."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return found[0]


@pytest.mark.parametrize("hook", ["progress", "admit"])
def test_sync(config: EmbeddingConfig, hook: str) -> None:
    """A sync call may be made from within another call of the same client."""
    inner: list[int] = []

    def call(_: object) -> None:
        inner.append(len(client.embed(["inner"]).embeddings))

    with EmbeddingClient(config) as client:
        options: dict[str, Any] = {hook: call}
        result = bounded(lambda: client.embed(TEXTS, **options))

    assert len(result.embeddings) == 23
    assert inner == [1] * (4 if hook == "progress" else 3)


def test_sync_while_iterating(config: EmbeddingConfig) -> None:
    """A sync call may be made from within `embed_iter` of the same client."""
    with EmbeddingClient(config) as client:
        rows = bounded(lambda: list(client.embed_iter(TEXTS, admit=lambda _: client.embed(["inner"]))))

    assert len(rows) == 23


@pytest.mark.anyio
async def test_admit(config: EmbeddingConfig) -> None:
    """An async rate limiter may await the same client."""
    async with AsyncEmbeddingClient(config) as client:
        with anyio.fail_after(30):
            result = await client.embed(TEXTS, admit=lambda _: client.embed(["inner"]))

    assert (len(result.embeddings), client.usage.requests) == (23, 6)


@pytest.mark.anyio
async def test_progress(config: EmbeddingConfig) -> None:
    """A progress function may start another call of the same client."""
    async with AsyncEmbeddingClient(config) as client:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                result = await client.embed(
                    TEXTS, progress=lambda _: group.start_soon(client.embed, ["inner"])
                )

    assert (len(result.embeddings), client.usage.requests) == (23, 7)


def test_synchronous_call_within_an_asynchronous_one(config: EmbeddingConfig) -> None:
    """Two clients that share a limiter do not wait for each other."""
    inner: list[int] = []
    other = EmbeddingClient(config)

    def call(_: object) -> None:
        inner.append(len(other.embed(["inner"]).embeddings))

    async def main() -> int:
        async with AsyncEmbeddingClient(config, limiter=other.limiter) as client:
            result = await client.embed(
                TEXTS, progress=lambda _: inner.append(len(other.embed(["a"]).embeddings))
            )
            return len(result.embeddings)

    with other:
        assert bounded(lambda: anyio.run(main)) == 23
    assert inner == [1] * 4
