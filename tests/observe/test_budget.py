"""Budgets: a job stops at its bound, keeps what was embedded, and sends nothing more."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    APIStatusError,
    AsyncEmbeddingClient,
    BudgetError,
    ConfigurationError,
    EmbeddingClient,
    EmbeddingConfig,
    track_usage,
)
from qwen_aiml._errors import SpentError
from qwen_aiml._observe.budget import Budget
from qwen_aiml._results import Usage
from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = [f"text number {at}" for at in range(10_000)]  # of 4 tokens each
HERE = (1, None)  # process and event loop of a request
TOKENS_PER_REQUEST = 50  # maximum number of tokens per request


@pytest.fixture
def client_of() -> Any:
    """Return a function that creates a client of an emulator."""

    def make(emulator: Emulator, cache: Path | None = None, **settings: Any) -> EmbeddingClient:
        config = EmbeddingConfig(**{"api_key": "k", "dimensions": 64, **settings})
        return EmbeddingClient(config, http_client=emulator.client_options()["http_client"], cache=cache)

    return make


@pytest.mark.parametrize(
    ("name", "bound", "used", "per_request"),
    [
        ("max_tokens", 5_000, "total_tokens", TOKENS_PER_REQUEST),
        ("max_cost_usd", 0.00035, "usd_spent", 0.000004),
    ],
)
def test_a_job_stops_within_what_is_in_flight(
    client_of: Any, name: str, bound: Any, used: str, per_request: float
) -> None:
    """A job of 10,000 texts stops at the bound, plus at most what was in flight; its rows are kept."""
    emulator = Emulator()
    with (
        client_of(emulator, max_concurrency=8) as client,
        track_usage(**{name: bound}) as usage,
        pytest.raises(BudgetError, match=r"is reached") as caught,
    ):
        client.embed(TEXTS)

    error = caught.value
    embedded = [row for row in error.embeddings if row is not None]
    assert bound <= getattr(usage, used) <= bound + 8 * per_request
    assert len(embedded) == sum(emulator.texts_billed.values())
    assert len(error.embeddings) == len(TEXTS)
    assert error.usage.total_tokens == usage.total_tokens
    assert isinstance(next(iter(error.failures.values())), SpentError)
    assert emulator.request_count == usage.requests < 150


def test_the_bound_is_exceeded_by_about_one_request(client_of: Any) -> None:
    """Near the bound, requests in flight are deducted with their expected usage."""
    with (
        client_of(Emulator(latency=0.03), max_concurrency=8) as client,
        track_usage(max_tokens=2_000) as usage,
        pytest.raises(BudgetError),
    ):
        client.embed(TEXTS[:1000])

    assert 2_000 <= (usage.total_tokens or 0) <= 2_000 + 1.5 * TOKENS_PER_REQUEST


def test_price(client_of: Any) -> None:
    """If a price is given, the cost that responses report is ignored."""
    with (
        client_of(Emulator(), max_concurrency=2) as client,
        track_usage(max_cost_usd=0.001, usd_per_million_tokens=1) as usage,
        pytest.raises(BudgetError, match=r"max_cost_usd=0\.001 is reached"),
    ):
        client.embed(TEXTS[:1000])

    assert 1_000 <= (usage.total_tokens or 0) <= 1_000 + 2 * TOKENS_PER_REQUEST


def test_both_bounds(client_of: Any) -> None:
    """The first of two bounds to be reached counts, in nested blocks as well."""
    with client_of(Emulator(), max_concurrency=2) as client, track_usage(max_tokens=500) as outer:
        with (
            track_usage(max_cost_usd=1, max_tokens=200) as inner,
            pytest.raises(BudgetError, match="max_tokens=200 is"),
        ):
            client.embed(TEXTS[:1000])
        with track_usage(), pytest.raises(BudgetError, match="max_tokens=500 is reached"):
            client.embed(TEXTS[:1000])

    assert 200 <= (inner.total_tokens or 0) <= 300
    assert 500 <= (outer.total_tokens or 0) <= 600


def test_what_is_spent_stays_spent(client_of: Any) -> None:
    """Once a bound is reached, later calls in the block send nothing and raise."""
    emulator = Emulator()
    with client_of(emulator) as client, track_usage(max_tokens=1):
        client.embed(["a"])
        with pytest.raises(BudgetError) as caught:
            client.embed(["b"])
        with pytest.raises(BudgetError) as of_stream:
            list(client.embed_iter(["c"]))

    assert caught.value.embeddings == [None]
    assert of_stream.value.indices == (0,)
    assert emulator.request_count == 1
    with client_of(emulator) as client:
        assert len(client.embed(["b"]).embeddings) == 1


def test_message_without_embeddings(client_of: Any) -> None:
    """If no text was embedded, the message refers to no embeddings, and gives no advice on keeping them."""
    with client_of(Emulator()) as client, track_usage(max_tokens=2):
        client.embed(["a", "d"])
        with pytest.raises(BudgetError) as caught:
            client.embed(["b", "c"])
        with pytest.raises(BudgetError) as of_stream:
            list(client.embed_iter(["b", "c"]))

    end = (
        "not embedded: texts 0-1. The errors are in `.failures`. "
        "First error: max_tokens=2 is reached: 2 tokens"
    )
    assert str(caught.value) == f"2 of 2 texts {end}"
    assert str(of_stream.value) == f"2 texts {end}"


def test_cached_texts_are_free(client_of: Any, tmp_path: Path) -> None:
    """Cached texts are returned even if a bound is reached."""
    emulator = Emulator()
    with client_of(emulator, cache=tmp_path / "cache.db") as client, track_usage(max_tokens=1):
        first = client.embed(["a"])
        again = client.embed(["a"])

    assert again.embeddings == first.embeddings
    assert emulator.request_count == 1


def test_stream(client_of: Any) -> None:
    """A stream yields the completed rows, and then raises."""
    emulator = Emulator()
    rows: list[int] = []
    with client_of(emulator, max_concurrency=4) as client, track_usage(max_tokens=2_000) as usage:
        stream = client.embed_iter(TEXTS, in_order=False)
        with pytest.raises(BudgetError):
            rows.extend(index for index, _ in stream)

    assert len(rows) == sum(emulator.texts_billed.values())
    assert 2_000 <= (usage.total_tokens or 0) <= 2_000 + 4 * TOKENS_PER_REQUEST


@pytest.mark.parametrize("kind", [QwenAIMLEmbeddings, QwenAIMLEmbedding])
def test_frameworks(kind: Any) -> None:
    """The classes of both frameworks respect the bound."""
    emulator = Emulator()
    model = kind(dimensions=64, max_concurrency=2, **emulator.client_options())
    embed: Callable[[list[str]], object] = getattr(
        model, "embed_documents" if kind is QwenAIMLEmbeddings else "get_text_embedding_batch"
    )
    with track_usage(max_tokens=200) as usage, pytest.raises(BudgetError):
        embed(TEXTS[:1000])

    assert 200 <= (usage.total_tokens or 0) <= 200 + 2 * TOKENS_PER_REQUEST


@pytest.mark.anyio
async def test_async_calls_share_a_bound() -> None:
    """Concurrent calls in one block share its bound, on asyncio and Trio."""
    emulator = Emulator()
    http_client = emulator.client_options()["http_async_client"]
    client = AsyncEmbeddingClient(
        EmbeddingConfig(api_key="k", dimensions=64, max_concurrency=4), http_client=http_client
    )
    errors = []

    async def embed(at: int) -> None:
        try:
            await client.embed(TEXTS[at * 1000 : at * 1000 + 1000])
        except BudgetError as error:
            errors.append(error)

    with track_usage(max_tokens=2_000) as usage:
        async with anyio.create_task_group() as group:
            for at in range(4):
                group.start_soon(embed, at)

    assert len(errors) == 4
    assert 2_000 <= (usage.total_tokens or 0) <= 2_000 + 4 * TOKENS_PER_REQUEST


def test_cost_that_is_not_told(client_of: Any) -> None:
    """If a response reports no cost, a bound in dollars ends the job there, with advice."""
    emulator = Emulator()
    silent = {"x-aimlapi-credits-used": "", "x-aimlapi-usd-spent": ""}
    body = b'{"data": [{"index": 0, "embedding": [%s]}]}' % b",".join([b"1"] * 64)
    emulator.script(*[Fault(status=200, headers=silent, body=body)] * 5)
    with (
        client_of(emulator, batch_size=1, max_concurrency=2) as client,
        track_usage(max_cost_usd=1) as usage,
        pytest.raises(BudgetError, match="What to do: give usd_per_million_tokens"),
    ):
        client.embed(TEXTS[:100])

    assert usage.requests == 1  # the others waited for its cost
    assert usage.usd_spent is None


def test_another_failure(client_of: Any) -> None:
    """Other failures are raised as without a bound, and failed requests cost no tokens."""
    emulator = Emulator()
    emulator.script(Fault(status=401), Fault(reset="before"), None)
    with client_of(emulator) as client, track_usage(max_tokens=1) as usage:
        with pytest.raises(APIStatusError, match="401"):
            client.embed(["a"])
        assert len(client.embed(["a"]).embeddings) == 1

    assert (usage.requests, usage.total_tokens) == (3, 1)


def test_a_request_waits_for_those_in_flight() -> None:
    """Near the bound, a request waits until the usage of those in flight is known."""
    for budget in (Budget(100, None, None), Budget(100, 1.0, None), Budget(None, 0.0001, 1.0)):
        assert budget.has_room(HERE)
        budget.reserve(HERE, 110)
        assert not budget.has_room(HERE)
        budget.settle(HERE, 110, Usage(1, 60, 30))
        assert budget.has_room(HERE)
        budget.reserve(HERE, 50)
        budget.settle(HERE, 0, Usage(1, None, 30))
        budget.settle(HERE, 50, Usage(1, None, 30))
        with pytest.raises(SpentError):
            budget.has_room(HERE)


def test_first_cost_is_awaited() -> None:
    """Without a price, one request is sent at a time until a response reports the cost of tokens."""
    budget = Budget(None, 1.0, None)
    budget.reserve(HERE, 10)

    assert not budget.has_room(HERE)
    budget.settle(HERE, 10, Usage(1, 10, 2_000, usd_spent=None))
    budget.reserve(HERE, 10)
    assert budget.has_room(HERE)
    budget.settle(HERE, 10, Usage(1, 10, None, usd_spent=0.999))
    with pytest.raises(SpentError, match=r"max_cost_usd=1\.0 is reached: 1 USD"):
        budget.has_room(HERE)


@pytest.mark.parametrize("limits", [(100, None, None), (None, 1.0, 1.0)])
def test_first_requests(limits: tuple[Any, Any, Any]) -> None:
    """Unless a cost is to be learned first, several requests may start at once."""
    budget = Budget(*limits)
    budget.reserve(HERE, 10)

    assert budget.has_room(HERE)


def test_fork() -> None:
    """A child process does not wait for its parent's requests in flight; earlier usage still counts."""
    budget = Budget(100, None, None)
    budget.settle(HERE, 0, Usage(1, 40))
    budget.reserve(HERE, 60)
    assert not budget.has_room(HERE)

    child = (-1, HERE[1])
    assert budget.has_room(child)
    budget.reserve(child, 60)
    assert not budget.has_room(child)
    budget.settle(child, 60, Usage())
    budget.reserve(child, 10)
    assert budget.has_room(child)


def test_event_loops() -> None:
    """Requests in flight of all event loops count, but one that has none in flight may send one."""
    budget, other = Budget(100, None, None), (HERE[0], object())
    budget.reserve(HERE, 110)
    assert budget.has_room(other)
    for tokens in (0.1, 0.2):
        budget.reserve(other, tokens)
        assert not budget.has_room(other)
    budget.settle(other, 0.1, Usage(1, 10))
    assert not budget.has_room(other)
    budget.settle(other, 0.2, Usage(1, 10))
    assert budget.has_room(other)
    assert list(budget._reserved) == [HERE]


def test_closed_event_loop() -> None:
    """Requests in flight of a closed event loop are not awaited, not even by others of its thread."""
    emulator = Emulator(latency=0.05)
    http_client = emulator.client_options()["http_async_client"]
    client = AsyncEmbeddingClient(EmbeddingConfig(api_key="k", dimensions=64), http_client=http_client)
    with track_usage(max_tokens=50) as usage, closing(asyncio.new_event_loop()) as loop:
        task = loop.create_task(client.embed(["a long text " * 100]))
        while not emulator._in_flight:
            loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        asyncio.run(asyncio.wait_for(client.embed(["a"]), 10))

    assert usage.requests == 1
    assert not task.done()
    assert usage.budget is not None
    here = (os.getpid(), None)
    usage.budget.reserve(here, 1)
    assert usage.budget.has_room(here)


@pytest.mark.anyio
@pytest.mark.parametrize("limit", [{"max_tokens": 2}, {"max_cost_usd": 1.0}])
async def test_a_sync_call_in_an_event_loop(client_of: Any, limit: dict[str, Any]) -> None:
    """A sync call does not wait for requests in flight of the event loop that it blocks."""
    emulator = Emulator(latency=0.05)
    http_client = emulator.client_options()["http_async_client"]
    config = EmbeddingConfig(api_key="k", dimensions=64)
    client = AsyncEmbeddingClient(config, http_client=http_client)
    with track_usage(**limit) as usage:
        async with anyio.create_task_group() as group:
            group.start_soon(client.embed, TEXTS[:1])
            while not emulator._in_flight:  # noqa: ASYNC110 (no event tells)
                await anyio.sleep(0.001)
            client_of(emulator, total_timeout=10).embed(TEXTS[1:2])

    assert usage.requests == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_tokens": 1.5},
        {"max_cost_usd": 0},
        {"max_cost_usd": "1"},
        {"max_cost_usd": 1, "usd_per_million_tokens": -1},
    ],
)
def test_wrong_bounds(wrong: dict[str, Any]) -> None:
    """A bound or price that is not a number above 0 raises when the block is entered."""
    with pytest.raises(ConfigurationError, match=list(wrong)[-1]), track_usage(**wrong):
        pytest.fail("the block is not entered")
