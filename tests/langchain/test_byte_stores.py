"""LangChain's stores as caches, and LangChain's own cache without its traps."""

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
    """Embeddings with what the helper asks of them; counts what it is asked to embed."""

    texts_in_flight = 4

    def __init__(self, size: float = 1.0, task: str | None = None) -> None:
        self.size, self.task = size, task
        self.calls: list[list[str]] = []

    @property
    def cache_namespace(self) -> str:
        """Name what documents' vectors depend on."""
        return namespace(SERVICE, f"{MODEL}-{self.size}", 2)

    @property
    def query_cache_namespace(self) -> str:
        """Name what queries' vectors depend on."""
        return namespace(SERVICE, f"{MODEL}-{self.size}", 2, role="query", instruction=self.task)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed, or fail at a text that says so."""
        self.calls.append(texts)
        if "fail" in texts:
            raise ConnectionError
        return [[self.size, float(len(text))] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Embed as something else than a document."""
        self.calls.append([text])
        return [-self.size, float(len(text))]


def backed(model: Model, store: ByteStore, **options: Any) -> Any:
    """Make what is tested."""
    classic("embeddings.cache")
    made: Any = cache_backed_embeddings
    return made(model, store, **options)


@pytest.fixture(params=["sync", "async"])
def ways(request: pytest.FixtureRequest) -> Any:
    """Give each way to embed documents and a query."""
    if request.param == "sync":
        return (lambda model, texts: model.embed_documents(texts)), (lambda m, text: m.embed_query(text))
    return (
        lambda model, texts: asyncio.run(model.aembed_documents(texts)),
        lambda model, text: asyncio.run(model.aembed_query(text)),
    )


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ByteStore:
    """Give each store that comes with LangChain."""
    if request.param == "memory":
        return InMemoryByteStore()
    made: ByteStore = classic("storage").LocalFileStore(tmp_path)
    return made


def entries() -> dict[str, bytes]:
    """Give entries as the core writes them."""
    packed = {}
    for text in ("a", "b"):
        key = cache_key(NAMESPACE, text)
        entry = pack(key, [0.5, 2.0])
        assert entry is not None
        packed[key] = entry
    return packed


def test_round_trip(store: ByteStore) -> None:
    """Entries come back in the order of the keys, None where there is none."""
    cache: Cache = ByteStoreCache(store)
    first, second = stored = entries()
    cache.set_many(stored)

    assert isinstance(cache, Cache)
    assert cache.get_many([second, f"{NAMESPACE}.other", first]) == [stored[second], None, stored[first]]
    assert unpack(first, cache.get_many([first])[0], 2) == [0.5, 2.0]


def test_round_trip_async(store: ByteStore) -> None:
    """The asynchronous twins do the same, on asyncio, whose threads LangChain lends to its stores."""
    cache = ByteStoreCache(store)
    first, second = stored = entries()

    async def work() -> list[bytes | None]:
        await cache.aset_many(stored)
        return await cache.aget_many([second, f"{NAMESPACE}.other", first])

    assert asyncio.run(work()) == [stored[second], None, stored[first]]


@pytest.mark.anyio
async def test_native_async_store() -> None:
    """A store with asynchronous methods of its own works on both event loops."""
    cache = ByteStoreCache(InMemoryByteStore())
    await cache.aset_many(entries())

    assert await cache.aget_many(list(entries())) == list(entries().values())


def test_cut_off_file(tmp_path: Path) -> None:
    """A file that a killed process has left half written is a miss."""
    cache = ByteStoreCache(classic("storage").LocalFileStore(tmp_path))
    first, _ = stored = entries()
    cache.set_many(stored)
    (tmp_path / first).write_bytes(stored[first][:10])

    assert unpack(first, cache.get_many([first])[0], 2) is None


def test_paid_once(ways: Any, store: ByteStore) -> None:
    """Documents are embedded once, a second object finds them, and nothing warns."""
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
    """Models that differ share a store, and each gets its own vectors."""
    documents, _ = ways
    for size in (1.0, 2.0, 1.0):
        assert documents(backed(Model(size), store), ["a"]) == [[size, 1.0]]


@pytest.mark.parametrize("given", [True, "same", "other"])
def test_queries_are_not_documents(ways: Any, store: ByteStore, given: Any) -> None:
    """A query never gets a document's vector, nor one of another instruction, be the store the same."""
    documents, query = ways
    given = {"same": store, "other": InMemoryByteStore()}.get(given, given)
    model = Model()
    made = backed(model, store, query_embedding_cache=given)

    assert documents(made, ["a"]) == [[1.0, 1.0]]
    assert [query(made, "a") for _ in range(2)] == [[-1.0, 1.0]] * 2
    assert documents(made, ["a"]) == [[1.0, 1.0]]
    assert model.calls == [["a"], ["a"]]

    other = Model(task="Find it")
    query(backed(other, store, query_embedding_cache=given), "a")
    assert other.calls == [["a"]]


def test_queries_are_not_kept_unasked(ways: Any) -> None:
    """As in LangChain, queries are kept where asked for only."""
    _, query = ways
    model, store = Model(), InMemoryByteStore()
    for _ in range(2):
        query(backed(model, store), "a")

    assert model.calls == [["a"], ["a"]]
    assert list(store.yield_keys()) == []


def test_a_store_that_is_empty_and_false() -> None:
    """A store that is false while it is empty is a store."""

    class Sized(InMemoryByteStore):
        def __len__(self) -> int:
            return len(self.store)

    store = Sized()
    backed(Model(), InMemoryByteStore(), query_embedding_cache=store).embed_query("a")
    assert len(store) == 1


@pytest.mark.parametrize(("batch_size", "calls"), [(None, [4, 4, 2]), (3, [3, 3, 3, 1])])
def test_stored_as_it_goes(ways: Any, batch_size: int | None, calls: list[int]) -> None:
    """What is done is stored after as many texts as are sent at once, and survives a later failure."""
    documents, _ = ways
    model, store = Model(), InMemoryByteStore()
    texts = [*map(str, range(9)), "fail"]
    with pytest.raises(ConnectionError):
        documents(backed(model, store, batch_size=batch_size), texts)

    assert [len(call) for call in model.calls] == calls
    assert len(list(store.yield_keys())) == sum(calls[:-1])


@pytest.mark.parametrize(
    "damaged", [b"", b"[1.0, 2.", b"[]", b"[0.0, 0.0]", b"{}", b"7", b'["a"]', b"[null]", b"[true]", b"\xff"]
)
def test_damaged_entries(ways: Any, damaged: bytes) -> None:
    """An entry of the framework's form that is cut off or damaged is a miss, and mended."""
    documents, _ = ways
    store = InMemoryByteStore()
    made = backed(Model(), store)
    documents(made, ["a"])
    (key,) = store.yield_keys()
    store.mset([(str(key), damaged)])

    assert documents(made, ["a"]) == [[1.0, 1.0]]
    assert [json.loads(entry) for entry in store.mget([str(key)]) if entry] == [[1.0, 1.0]]


def test_any_text(store: ByteStore) -> None:
    """Texts that UTF-8 can't carry, and long ones, have keys of their own that every store takes."""
    model = Model()
    texts = ["\ud800", "\udfff", "\ufffd", "x" * 10_000, "../a", "a\nb"]
    for _ in range(2):
        backed(model, store).embed_documents(texts)

    assert [text for call in model.calls for text in call] == texts


def test_same_keys_as_by_hand() -> None:
    """What was kept with the namespace and `from_bytes_store` is found again."""
    cached = classic("embeddings").CacheBackedEmbeddings
    model, store = Model(), InMemoryByteStore()
    by_hand = cached.from_bytes_store(model, store, namespace=model.cache_namespace, key_encoder="sha256")
    by_hand.embed_documents(["a"])
    backed(model, store).embed_documents(["a"])

    assert model.calls == [["a"]]


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package that has the class, the error says what to install."""
    for name in ("langchain_classic", "langchain"):
        monkeypatch.setitem(sys.modules, f"{name}.embeddings.cache", None)
    made: Any = cache_backed_embeddings

    with pytest.raises(ModuleNotFoundError, match="pip install langchain-classic"):
        made(Model(), InMemoryByteStore())


def test_package_that_lacks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is there and lacks a package of its own, that is what is said."""

    def lacking(_: str) -> None:
        raise ModuleNotFoundError(name="other")

    monkeypatch.setattr("langchain_qwen_aiml.cache_backed.import_module", lacking)
    made: Any = cache_backed_embeddings

    with pytest.raises(ModuleNotFoundError) as caught:
        made(Model(), InMemoryByteStore())
    assert caught.value.name == "other"
