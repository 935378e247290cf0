"""Options that LangChain users pass to the core: a rate limiter, a cache, policies for texts."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.rate_limiters import BaseRateLimiter, InMemoryRateLimiter
from langchain_core.stores import InMemoryByteStore

from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml import ConfigurationError, SQLiteCache
from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text number {at}" for at in range(37)]


class Counting(BaseRateLimiter):
    """A limiter that counts calls and never blocks."""

    def __init__(self) -> None:
        self.asked = self.awaited = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        """Count a sync call."""
        assert blocking
        self.asked += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """Count an async call."""
        assert blocking
        self.awaited += 1
        return True


def make(emulator: Emulator | None = None, **options: Any) -> QwenAIMLEmbeddings:
    """Create an object connected to an emulator, with short vectors."""
    return QwenAIMLEmbeddings(**{"dimensions": 64, **(emulator or Emulator()).client_options(), **options})


def test_rate_limiter() -> None:
    """LangChain's limiter is called once per request, retries included, by its sync or async method."""
    emulator, limiter = Emulator(), Counting()
    emulator.script(Fault(status=503), None, Fault(cut=5))
    model = make(emulator, rate_limiter=limiter)
    model.embed_documents(TEXTS)
    model.embed_query("a")
    assert (limiter.asked, limiter.awaited) == (emulator.request_count, 0) == (7, 0)

    asyncio.run(model.aembed_documents(TEXTS))
    asyncio.run(model.aembed_query("a"))
    assert (limiter.asked, limiter.awaited) == (7, 5)


def test_real_limiter() -> None:
    """The framework's own limiter works, and admits one request after another."""
    limiter = InMemoryRateLimiter(requests_per_second=1000, check_every_n_seconds=0.001, max_bucket_size=1)
    emulator = Emulator()
    make(emulator, rate_limiter=limiter).embed_documents(TEXTS)

    assert emulator.request_count == 4


def test_what_is_no_limiter() -> None:
    """An invalid limiter is rejected immediately, by a model and by a copy."""
    message = "must be a BaseRateLimiter of langchain-core, not int"
    with pytest.raises(ConfigurationError, match=message):
        make(rate_limiter=10)
    with pytest.raises(ConfigurationError, match=message):
        make().model_copy(update={"rate_limiter": 10})


def test_fixed_rates() -> None:
    """Fixed rates reach the core, and apply to sync and async calls together."""
    model = make(requests_per_minute=600, tokens_per_minute=1e6)

    assert model._client.config.requests_per_minute == 600
    assert model._client.config.tokens_per_minute == 1e6
    assert model._client.limiter is model._async_client.limiter


@pytest.mark.parametrize("kind", ["path", "SQLiteCache", "ByteStore"])
def test_cache(kind: str, tmp_path: Path) -> None:
    """A path, an SQLite cache or a LangChain store caches the embeddings of sync and async calls."""
    path = tmp_path / "embeddings.db"
    cache: Any = {"path": path, "SQLiteCache": SQLiteCache(path), "ByteStore": InMemoryByteStore()}[kind]
    emulator = Emulator()
    with make(emulator, cache=cache) as model:
        first = model.embed_documents(TEXTS)
        assert asyncio.run(model.aembed_documents(TEXTS)) == first
    with make(emulator, cache=cache) as model:
        assert model.embed_documents(TEXTS) == first
        model.embed_query(TEXTS[0])

    # A query does not get the entry of a document.
    assert emulator.request_count == 5
    assert model.cache is cache


def test_copies_share_the_cache_and_the_limiter(tmp_path: Path) -> None:
    """Copies share the limiter and the cache."""
    emulator, limiter = Emulator(), Counting()
    model = make(emulator, cache=tmp_path / "embeddings.db", rate_limiter=limiter)
    model.embed_documents(TEXTS)
    for copied in (copy.copy(model), copy.deepcopy(model), model.model_copy(update={"max_retries": 1})):
        assert copied.rate_limiter is limiter
        copied.embed_documents(TEXTS)

    assert emulator.request_count == limiter.asked == 4


def test_pickle_takes_the_cache_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle contains the path of the cache, and each policy."""
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)
    model = QwenAIMLEmbeddings(
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
    model = make(on_blank="replace", blank_replacement="(nothing)", on_too_long="truncate")
    long = "A sentence of some words. " * 4000
    rows = model.embed_documents(["", long, "(nothing)"])

    assert rows[0] == rows[2] != rows[1]
    assert asyncio.run(model.aembed_documents(["", long, "(nothing)"])) == rows


def test_cache_namespaces() -> None:
    """The namespaces for the framework's own caches differ between models and roles."""
    model, other = make(query_instruction="Find"), make(dimensions=128)

    assert len({model.cache_namespace, model.query_cache_namespace, other.cache_namespace}) == 3
    assert model.cache_namespace.startswith("qwen-aiml-1.alibaba-qwen-text-embedding-v4.64.")
