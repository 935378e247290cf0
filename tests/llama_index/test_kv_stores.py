"""LlamaIndex's stores as caches, and the framework's own cache shared by several models."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import Field

from llama_index_qwen_aiml.cache import KVStoreCache, NamespacedKVStore
from qwen_aiml import CacheError, ConfigurationError
from qwen_aiml._cache.entries import cache_key, namespace, pack, unpack
from qwen_aiml._cache.protocol import Cache

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACE = namespace("https://api.example/v1", "alibaba/qwen-text-embedding-v4", 2)
COLLECTION = "qwen_aiml_embeddings"


def entries() -> dict[str, bytes]:
    """Return entries as the core writes them."""
    packed = {}
    for text in ("a", "b"):
        key = cache_key(NAMESPACE, text)
        entry = pack(key, [0.5, 2.0])
        assert entry is not None
        packed[key] = entry
    return packed


class Model(BaseEmbedding):
    """A model that uses the framework's cache; records the texts that it embeds."""

    size: float = 1.0
    calls: list[str] = Field(default_factory=list)

    def _get_text_embedding(self, text: str) -> list[float]:
        self.calls.append(text)
        return [self.size, float(len(text))]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.fixture(params=["sync", "async"])
def embed(request: pytest.FixtureRequest) -> Any:
    """Return each way to embed texts."""
    if request.param == "sync":
        return lambda model, texts: model.get_text_embedding_batch(texts)
    return lambda model, texts: asyncio.run(model.aget_text_embedding_batch(texts))


def test_round_trip() -> None:
    """Entries are returned in the order of the keys, None if there is none."""
    store = SimpleKVStore()
    cache: Cache = KVStoreCache(store)
    first, second = stored = entries()
    assert cache.get_many([first]) == [None]
    cache.set_many(stored)

    assert isinstance(cache, Cache)
    assert cache.get_many([second, "other", first]) == [stored[second], None, stored[first]]
    assert set(store.to_dict()) == {COLLECTION}


@pytest.mark.anyio
async def test_round_trip_async() -> None:
    """The async methods do the same, on both event loops."""
    cache = KVStoreCache(SimpleKVStore())
    first, second = stored = entries()
    await cache.aset_many(stored)

    assert await cache.aget_many([second, "other", first]) == [stored[second], None, stored[first]]


def test_stored_as_json(tmp_path: Path) -> None:
    """Entries survive when the store is persisted as JSON."""
    path = str(tmp_path / "store.json")
    store, (key, _) = SimpleKVStore(), entries()
    KVStoreCache(store).set_many(entries())
    store.persist(path)

    (entry,) = KVStoreCache(SimpleKVStore.from_persist_path(path)).get_many([key])
    assert unpack(key, entry, 2) == [0.5, 2.0]


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"entry": None},
        {"entry": 7},
        {"entry": "AAA"},
        {"entry": "A*=="},
        {"entry": "é"},
        {"x": "AAAA"},
    ],
    ids=str,
)
def test_damaged_entries(value: Any) -> None:
    """A malformed entry is a miss."""
    store = SimpleKVStore({COLLECTION: {"key": value}})
    cache = KVStoreCache(store)

    assert cache.get_many(["key"]) == [None]
    assert asyncio.run(cache.aget_many(["key"])) == [None]


@pytest.mark.parametrize("value", [[], "{}", b"{}", 7], ids=str)
def test_store_that_returns_other_types(value: Any) -> None:
    """A store that does not return dictionaries is an error, since nothing would ever be found in it."""

    class Store(SimpleKVStore):
        def get(self, *_: Any, **__: Any) -> Any:
            return value

    cache = KVStoreCache(Store())
    message = f"^the store returned {type(value).__name__}, expected dict or None. What to do: return values"

    with pytest.raises(CacheError, match=message):
        cache.get_many(["key"])
    with pytest.raises(CacheError, match=message):
        asyncio.run(cache.aget_many(["key"]))


def test_cut_off_entry() -> None:
    """A truncated entry is a miss, even if it is valid base64."""
    store, (key, _) = SimpleKVStore(), entries()
    cache = KVStoreCache(store)
    cache.set_many(entries())
    value = store.get(key, collection=COLLECTION)
    assert value is not None
    store.put(key, {"entry": value["entry"][:8]}, collection=COLLECTION)

    assert unpack(key, cache.get_many([key])[0], 2) is None


def test_models_share_a_store(embed: Any) -> None:
    """Different models share a store through the framework's cache, and each embeds its texts once."""
    store, calls = SimpleKVStore(), []
    for size in (1.0, 2.0, 1.0):
        cache = NamespacedKVStore(store, f"model-{size}")
        model = Model(size=size, embeddings_cache=cache)
        assert embed(model, ["a", "bb"]) == [[size, 1.0], [size, 2.0]]
        calls.append(model.calls)

    assert calls == [["a", "bb"], ["a", "bb"], []]
    assert len(store.get_all(collection="embeddings")) == 4


def test_only_its_own() -> None:
    """A namespace reads, lists and deletes only its own entries, by their original keys."""
    store = SimpleKVStore()
    store.put("key", {"of": "nobody"})
    one, other = NamespacedKVStore(store, "a"), NamespacedKVStore(store, "a.a")
    one.put("key", {"of": 1})
    one.put("a:key", {"of": 2})
    other.put_all([("key", {"of": 3})])

    assert one.get_all() == {"key": {"of": 1}, "a:key": {"of": 2}}
    assert other.get_all() == {"key": {"of": 3}}
    assert (one.get("key"), other.get("key"), other.get("a:key")) == ({"of": 1}, {"of": 3}, None)
    assert (one.delete("key"), one.delete("key")) == (True, False)
    assert (one.get("key"), other.get("key"), store.get("key")) == (None, {"of": 3}, {"of": "nobody"})
    assert one.get_all(collection="another") == {}
    one.put_all([("key", {"of": 4})], collection="another")
    assert (one.get("key"), one.get("key", collection="another")) == (None, {"of": 4})
    assert (one.delete("key"), one.delete("key", collection="another")) == (False, True)


@pytest.mark.anyio
async def test_only_its_own_async() -> None:
    """The async methods do the same, on both event loops."""
    store = SimpleKVStore()
    one, other = NamespacedKVStore(store, "a"), NamespacedKVStore(store, "b")
    await one.aput("key", {"of": 1}, collection="c")
    await other.aput_all([("key", {"of": 2}), ("more", {"of": 3})], collection="c")

    assert await one.aget_all(collection="c") == {"key": {"of": 1}}
    assert await other.aget_all(collection="c") == {"key": {"of": 2}, "more": {"of": 3}}
    assert (await one.aget("key", collection="c"), await one.aget("key")) == ({"of": 1}, None)
    assert (await one.adelete("key", collection="c"), await one.adelete("key", collection="c")) == (
        True,
        False,
    )
    assert await other.aget("key", collection="c") == {"of": 2}


@pytest.mark.anyio
async def test_batches_of_the_store() -> None:
    """The batch size for writing is passed to the store, which may reject it."""
    store = NamespacedKVStore(SimpleKVStore(), "a")

    with pytest.raises(NotImplementedError):
        store.put_all([("key", {})], batch_size=2)
    with pytest.raises(NotImplementedError):
        await store.aput_all([("key", {})], batch_size=2)


@pytest.mark.parametrize("name", ["", "a:b", "a b", "é", "a\n"])
def test_namespaces(name: str) -> None:
    """A namespace that could collide with another one is rejected."""
    with pytest.raises(ConfigurationError, match="namespace must be made of"):
        NamespacedKVStore(SimpleKVStore(), name)


def test_pickle() -> None:
    """Both can be pickled if the store can, as worker processes of a pipeline require."""
    store = SimpleKVStore()
    KVStoreCache(store).set_many(entries())
    NamespacedKVStore(store, "a").put("key", {"of": 1})
    cache, namespaced = pickle.loads(pickle.dumps((KVStoreCache(store), NamespacedKVStore(store, "a"))))

    assert cache.get_many(list(entries())) == list(entries().values())
    assert namespaced.get_all() == {"key": {"of": 1}}
    assert json.dumps(store.to_dict())
