"""Options that LlamaIndex users pass to the core: a rate limiter, a cache, policies for texts."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.embeddings.utils import resolve_embed_model
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import ConfigurationError, SQLiteCache
from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text number {at}" for at in range(37)]


class Counting:
    """A limiter with the framework's interface, which counts requests and tokens and never blocks."""

    def __init__(self) -> None:
        self.asked = self.awaited = self.tokens = 0

    def acquire(self, num_tokens: int = 0) -> None:
        """Count a sync call."""
        self.asked += 1
        self.tokens += num_tokens

    async def async_acquire(self, num_tokens: int = 0) -> None:
        """Count an async call."""
        self.awaited += 1
        self.tokens += num_tokens


def make(emulator: Emulator | None = None, **options: Any) -> QwenAIMLEmbedding:
    """Create a model connected to an emulator, with short vectors."""
    return QwenAIMLEmbedding(**{"dimensions": 64, **(emulator or Emulator()).client_options(), **options})


WAYS: dict[str, tuple[int, Callable[[QwenAIMLEmbedding], Any]]] = {
    "batch": (4, lambda model: model.get_text_embedding_batch(TEXTS)),
    "batch with progress": (4, lambda model: model.get_text_embedding_batch(TEXTS, show_progress=True)),
    "async batch": (4, lambda model: asyncio.run(model.aget_text_embedding_batch(TEXTS))),
    "text": (1, lambda model: model.get_text_embedding("a")),
    "async text": (1, lambda model: asyncio.run(model.aget_text_embedding("a"))),
    "query": (1, lambda model: model.get_query_embedding("a")),
    "async query": (1, lambda model: asyncio.run(model.aget_query_embedding("a"))),
    "several queries": (2, lambda model: model.get_agg_embedding_from_queries(["a", "b"])),
    "nodes": (4, lambda model: model([TextNode(text=text) for text in TEXTS])),
    "hook": (4, lambda model: model._get_text_embeddings(TEXTS)),
    "async hook": (4, lambda model: asyncio.run(model._aget_text_embeddings(TEXTS))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"query_instruction": "Find"}], ids=str)
def test_counted_once(way: str, options: dict[str, Any]) -> None:
    """By every method, the framework's limiter is called once per request, with its tokens."""
    emulator, limiter = Emulator(), Counting()
    expected, call = WAYS[way]
    call(make(emulator, rate_limiter=limiter, **options))

    assert limiter.asked + limiter.awaited == emulator.request_count == expected
    assert limiter.tokens > 0


def test_repetitions_are_counted() -> None:
    """The limiter is called again for each retry."""
    emulator, limiter = Emulator(), Counting()
    emulator.script(Fault(status=503), Fault(reset="before"))
    make(emulator, rate_limiter=limiter).get_text_embedding("a")

    assert limiter.asked == emulator.request_count == 3


def test_limiter_set_later() -> None:
    """A limiter that is set on an existing model is used."""
    emulator, limiter = Emulator(), Counting()
    model = make(emulator)
    model.rate_limiter = limiter
    model.get_text_embedding("a")

    assert limiter.asked == 1


class Falsy(Counting):
    """A limiter of length zero."""

    def __len__(self) -> int:
        """Return zero."""
        return 0


@pytest.mark.parametrize("way", ["batch", "async text"])
def test_limiter_that_is_false(way: str) -> None:
    """A falsy limiter is used."""
    limiter = Falsy()
    expected, call = WAYS[way]
    call(make(rate_limiter=limiter))

    assert limiter.asked + limiter.awaited == expected


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rate_limiter", 60, "rate_limiter must have the methods acquire and async_acquire, not be int"),
        ("rate_limiter", "", "set requests_per_minute"),
        ("embeddings_cache", "embeddings.db", "must be a BaseKVStore of LlamaIndex, not str"),
        ("num_workers", "two", "num_workers"),
        ("callback_manager", [], "must be a CallbackManager of LlamaIndex, not list. Handlers go into one"),
    ],
)
def test_parts_of_the_wrong_type(name: str, value: Any, message: str) -> None:
    """A framework object of the wrong type is rejected by a model, by a copy, and when set later."""
    model = make()
    for given in (
        lambda: make(**{name: value}),
        lambda: model.model_copy(update={name: value}),
        lambda: setattr(model, name, value),
    ):
        with pytest.raises(ConfigurationError) as caught:
            given()
        assert message in str(caught.value)
    assert not isinstance(getattr(model, name), type(value))


def test_requests_go_out_together() -> None:
    """With a limiter too, lists are sent in several requests at a time."""
    emulator = Emulator(latency=1.0)
    make(emulator, rate_limiter=Counting()).get_text_embedding_batch(TEXTS)

    assert emulator.peak_in_flight == 4


@pytest.mark.parametrize("kind", ["path", "SQLiteCache", "KVStore"])
def test_cache(kind: str, tmp_path: Path) -> None:
    """A path, an SQLite cache or a LlamaIndex store caches the embeddings of sync and async calls."""
    path = tmp_path / "embeddings.db"
    cache: Any = {"path": path, "SQLiteCache": SQLiteCache(path), "KVStore": SimpleKVStore()}[kind]
    emulator = Emulator()
    with make(emulator, cache=cache) as model:
        first = model.get_text_embedding_batch(TEXTS)
        assert asyncio.run(model.aget_text_embedding_batch(TEXTS)) == first
    with make(emulator, cache=cache) as model:
        assert model.get_text_embedding_batch(TEXTS) == first
        assert model.get_text_embedding(TEXTS[0]) == first[0]
        model.get_query_embedding(TEXTS[0])

    # A query does not get the entry of a document.
    assert emulator.request_count == 5
    assert "cache" not in model.to_dict()


@pytest.mark.slow
def test_pipeline_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of an ingestion share a cache, so that running it again sends nothing."""
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)
    expected = make(Emulator()).get_text_embedding_batch(TEXTS)
    emulator = Emulator(api_keys=[KEY])
    with serve(emulator) as address:
        model = QwenAIMLEmbedding(api_base=address, dimensions=64, cache=str(tmp_path / "embeddings.db"))
        for processes in (2, None):
            nodes = [TextNode(text=text) for text in TEXTS]
            done = IngestionPipeline(transformations=[model]).run(nodes=nodes, num_workers=processes)
            assert [node.embedding for node in done] == expected
        model.close()

    assert set(emulator.texts_billed.values()) == {1}
    assert len(emulator.texts_billed) == 37


def test_copies_share_the_cache_and_the_limiter(tmp_path: Path) -> None:
    """Copies share the limiter and the cache."""
    emulator, limiter = Emulator(), Counting()
    model = make(emulator, cache=tmp_path / "embeddings.db", rate_limiter=limiter)
    model.get_text_embedding_batch(TEXTS)
    for copied in (copy.copy(model), copy.deepcopy(model), model.model_copy(update={"max_retries": 1})):
        assert copied.rate_limiter is limiter
        copied.get_text_embedding_batch(TEXTS)

    assert emulator.request_count == limiter.asked == 4


def test_pickle_takes_the_cache_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle contains the path of the cache, and each policy."""
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)
    model = QwenAIMLEmbedding(
        cache=str(tmp_path / "embeddings.db"),
        on_blank="replace",
        blank_replacement="-",
        on_too_long="truncate",
    )
    loaded = pickle.loads(pickle.dumps(model))

    assert repr(loaded._client.cache) == repr(model._client.cache)
    assert (loaded.blank_replacement, loaded.on_too_long) == ("-", "truncate")


def test_policies() -> None:
    """Policies for texts reach the core, sync and async."""
    model = resolve_embed_model(
        make(on_blank="replace", blank_replacement="(nothing)", on_too_long="truncate")
    )
    long = "A sentence of some words. " * 4000
    rows = model.get_text_embedding_batch(["", long, "(nothing)"])

    assert rows[0] == rows[2] != rows[1]
    assert asyncio.run(model.aget_text_embedding_batch(["", long, "(nothing)"])) == rows


def test_fixed_rates() -> None:
    """Fixed rates reach the core, and apply to sync and async calls together."""
    model = make(requests_per_minute=600, tokens_per_minute=1e6)

    assert model._client.config.requests_per_minute == 600
    assert model._client.config.tokens_per_minute == 1e6
    assert model._client.limiter is model._async_client.limiter
