"""LangChain's stores as caches, and LangChain's own cache with safe keys and entries."""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.stores import ByteStore, InMemoryByteStore

from langchain_qwen_aiml.cache import ByteStoreCache
from langchain_qwen_aiml.cache_backed import cache_backed_embeddings
from qwen_aiml._cache.entries import cache_key, namespace, pack, unpack
from qwen_aiml._cache.protocol import Cache

if TYPE_CHECKING:
    from pathlib import Path

SERVICE, MODEL = "https://api.example/v1", "alibaba/qwen-text-embedding-v4"
NAMESPACE = namespace(SERVICE, MODEL, 2)


def classic(module: str) -> Any:
    """Import a module that moved with langchain 1.0, or skip."""
    for package in ("langchain_classic", "langchain"):
        try:
            return import_module(f"{package}.{module}")
        except ModuleNotFoundError:
            continue
    pytest.skip("neither langchain-classic nor langchain 0.3 is installed")


class Model(Embeddings):
    """Embeddings with the attributes that the cache needs; records the texts to embed."""

    texts_in_flight = 4

    def __init__(self, size: float = 1.0, task: str | None = None) -> None:
        self.size, self.task = size, task
        self.calls: list[list[str]] = []

    @property
    def cache_namespace(self) -> str:
        """Return the namespace of documents."""
        return namespace(SERVICE, f"{MODEL}-{self.size}", 2)

    @property
    def query_cache_namespace(self) -> str:
        """Return the namespace of queries."""
        return namespace(SERVICE, f"{MODEL}-{self.size}", 2, role="query", instruction=self.task)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed, or fail if one of the texts is ``fail``."""
        self.calls.append(texts)
        if "fail" in texts:
            raise ConnectionError
        return [[self.size, float(len(text))] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Embed differently from a document."""
        self.calls.append([text])
        return [-self.size, float(len(text))]


def backed(model: Model, store: ByteStore, **options: Any) -> Any:
    """Create the object under test."""
    classic("embeddings.cache")
    create: Any = cache_backed_embeddings
    return create(model, store, **options)


@pytest.fixture(params=["sync", "async"])
def ways(request: pytest.FixtureRequest) -> Any:
    """Return each way to embed documents and a query."""
    if request.param == "sync":
        return (lambda model, texts: model.embed_documents(texts)), (lambda m, text: m.embed_query(text))
    return (
        lambda model, texts: asyncio.run(model.aembed_documents(texts)),
        lambda model, text: asyncio.run(model.aembed_query(text)),
    )


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ByteStore:
    """Return each store that comes with LangChain."""
    if request.param == "memory":
        return InMemoryByteStore()
    files: ByteStore = classic("storage").LocalFileStore(tmp_path)
    return files


def entries() -> dict[str, bytes]:
    """Return entries as the core writes them."""
    packed = {}
    for text in ("a", "b"):
        key = cache_key(NAMESPACE, text)
        entry = pack(key, [0.5, 2.0])
        assert entry is not None
        packed[key] = entry
    return packed


def test_round_trip(store: ByteStore) -> None:
    """Entries are returned in the order of the keys, None if there is none."""
    cache: Cache = ByteStoreCache(store)
    first, second = stored = entries()
    cache.set_many(stored)

    assert isinstance(cache, Cache)
    assert cache.get_many([second, f"{NAMESPACE}.other", first]) == [stored[second], None, stored[first]]
    assert unpack(first, cache.get_many([first])[0], 2) == [0.5, 2.0]


def test_round_trip_async(store: ByteStore) -> None:
    """The async methods do the same on asyncio, where LangChain runs its stores in threads."""
    cache = ByteStoreCache(store)
    first, second = stored = entries()

    async def work() -> list[bytes | None]:
        await cache.aset_many(stored)
        return await cache.aget_many([second, f"{NAMESPACE}.other", first])

    assert asyncio.run(work()) == [stored[second], None, stored[first]]


@pytest.mark.anyio
async def test_native_async_store() -> None:
    """A store with native async methods works on both event loops."""
    cache = ByteStoreCache(InMemoryByteStore())
    await cache.aset_many(entries())

    assert await cache.aget_many(list(entries())) == list(entries().values())


def test_cut_off_file(tmp_path: Path) -> None:
    """A file that a killed process left half-written is a miss."""
    cache = ByteStoreCache(classic("storage").LocalFileStore(tmp_path))
    first, _ = stored = entries()
    cache.set_many(stored)
    (tmp_path / first).write_bytes(stored[first][:10])

    assert unpack(first, cache.get_many([first])[0], 2) is None


def test_paid_once(ways: Any, store: ByteStore) -> None:
    """Documents are embedded once, a second object finds them, and there are no warnings."""
    documents, _ = ways
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Model()
        first = documents(backed(model, store), ["a", "bb"])
        assert model.calls == [["a", "bb"]]

    other = Model()
    assert documents(backed(other, store), ["bb", "a", "ccc"]) == [first[1], first[0], [1.0, 3.0]]
    assert other.calls == [["ccc"]]


def test_models_do_not_mix(ways: Any, store: ByteStore) -> None:
    """Different models share a store, and each gets its own vectors."""
    documents, _ = ways
    for size in (1.0, 2.0, 1.0):
        assert documents(backed(Model(size), store), ["a"]) == [[size, 1.0]]


@pytest.mark.parametrize("given", [True, "same", "other"])
def test_queries_are_not_documents(ways: Any, store: ByteStore, given: Any) -> None:
    """A query never gets the vector of a document or another instruction, even from the same store."""
    documents, query = ways
    given = {"same": store, "other": InMemoryByteStore()}.get(given, given)
    model = Model()
    embeddings = backed(model, store, query_embedding_cache=given)

    assert documents(embeddings, ["a"]) == [[1.0, 1.0]]
    assert [query(embeddings, "a") for _ in range(2)] == [[-1.0, 1.0]] * 2
    assert documents(embeddings, ["a"]) == [[1.0, 1.0]]
    assert model.calls == [["a"], ["a"]]

    other = Model(task="Find it")
    query(backed(other, store, query_embedding_cache=given), "a")
    assert other.calls == [["a"]]


def test_queries_are_not_kept_unasked(ways: Any) -> None:
    """As in LangChain, queries are cached on request only."""
    _, query = ways
    model, store = Model(), InMemoryByteStore()
    for _ in range(2):
        query(backed(model, store), "a")

    assert model.calls == [["a"], ["a"]]
    assert list(store.yield_keys()) == []


def test_a_store_that_is_empty_and_false() -> None:
    """A store that is falsy while it is empty is used."""

    class Sized(InMemoryByteStore):
        def __len__(self) -> int:
            return len(self.store)

    store = Sized()
    backed(Model(), InMemoryByteStore(), query_embedding_cache=store).embed_query("a")
    assert len(store) == 1


@pytest.mark.parametrize(("batch_size", "calls"), [(None, [4, 4, 2]), (3, [3, 3, 3, 1])])
def test_stored_as_it_goes(ways: Any, batch_size: int | None, calls: list[int]) -> None:
    """Embeddings are stored after each batch of the framework, and survive a later failure."""
    documents, _ = ways
    model, store = Model(), InMemoryByteStore()
    texts = [*map(str, range(9)), "fail"]
    with pytest.raises(ConnectionError):
        documents(backed(model, store, batch_size=batch_size), texts)

    assert [len(call) for call in model.calls] == calls
    assert len(list(store.yield_keys())) == sum(calls[:-1])


@pytest.mark.parametrize(
    "damaged",
    [b"", b"[1.0, 2.", b"[]", b"[0.0, 0.0]", b"{}", b"7", b'["a"]', b"[null]", b"[true]", b"[NaN]", b"\xff"],
)
def test_damaged_entries(ways: Any, damaged: bytes) -> None:
    """A truncated or damaged entry in the framework's format is a miss, and is replaced."""
    documents, _ = ways
    store = InMemoryByteStore()
    embeddings = backed(Model(), store)
    documents(embeddings, ["a"])
    (key,) = store.yield_keys()
    store.mset([(str(key), damaged)])

    assert documents(embeddings, ["a"]) == [[1.0, 1.0]]
    assert [json.loads(entry) for entry in store.mget([str(key)]) if entry] == [[1.0, 1.0]]


def test_any_text(store: ByteStore) -> None:
    """Texts with lone surrogates, and long ones, have distinct keys that every store accepts."""
    model = Model()
    texts = ["\ud800", "\udfff", "\ufffd", "x" * 10_000, "../a", "a\nb"]
    for _ in range(2):
        backed(model, store).embed_documents(texts)

    assert [text for call in model.calls for text in call] == texts


def test_same_keys_as_by_hand() -> None:
    """Entries from `from_bytes_store` with the same namespace are found."""
    cached = classic("embeddings").CacheBackedEmbeddings
    model, store = Model(), InMemoryByteStore()
    by_hand = cached.from_bytes_store(model, store, namespace=model.cache_namespace, key_encoder="sha256")
    by_hand.embed_documents(["a"])
    backed(model, store).embed_documents(["a"])

    assert model.calls == [["a"]]


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package that contains the class, the error names what to install."""
    for name in ("langchain_classic", "langchain"):
        monkeypatch.setitem(sys.modules, f"{name}.embeddings.cache", None)
    create: Any = cache_backed_embeddings

    with pytest.raises(ModuleNotFoundError, match="pip install langchain-classic"):
        create(Model(), InMemoryByteStore())


def test_package_that_lacks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the package is installed but one of its dependencies is missing, that error is raised."""

    def lacking(_: str) -> None:
        raise ModuleNotFoundError(name="other")

    monkeypatch.setattr("langchain_qwen_aiml.cache_backed.import_module", lacking)
    create: Any = cache_backed_embeddings

    with pytest.raises(ModuleNotFoundError) as caught:
        create(Model(), InMemoryByteStore())
    assert caught.value.name == "other"
