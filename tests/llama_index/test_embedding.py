"""LlamaIndex's requirements for a model: hooks, batches, events, caches, limiters, copies, pipelines."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import logging
import pickle
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.base.embeddings import base
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index_instrumentation import get_dispatcher
from pydantic import SecretStr, ValidationError

from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    EmbeddingBatchError,
    InputError,
    ResponseFormatError,
    Usage,
)
from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llama_index.core.instrumentation.events import BaseEvent

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text number {at}" for at in range(37)]


def make(emulator: Emulator | None = None, **options: Any) -> QwenAIMLEmbedding:
    """Create a model connected to an emulator, with short vectors."""
    return QwenAIMLEmbedding(**{"dimensions": 64, **(emulator or Emulator()).client_options(), **options})


@pytest.fixture(scope="module")
def expected() -> list[list[float]]:
    """Embed each text in a separate request."""
    return make(embed_batch_size=1).get_text_embedding_batch(TEXTS)


WAYS: dict[str, Callable[[QwenAIMLEmbedding, list[Any]], list[list[float]]]] = {
    "batch": lambda model, texts: model.get_text_embedding_batch(texts),
    "async batch": lambda model, texts: asyncio.run(model.aget_text_embedding_batch(texts)),
    "batch with progress": lambda model, texts: model.get_text_embedding_batch(texts, show_progress=True),
    "async batch with progress": lambda model, texts: asyncio.run(
        model.aget_text_embedding_batch(texts, show_progress=True)
    ),
    "hook": lambda model, texts: model._get_text_embeddings(texts),
    "async hook": lambda model, texts: asyncio.run(model._aget_text_embeddings(texts)),
    "one by one": lambda model, texts: [model.get_text_embedding(text) for text in texts],
    "async one by one": lambda model, texts: [asyncio.run(model.aget_text_embedding(text)) for text in texts],
}
WHOLE = ["batch", "async batch", "hook", "async hook"]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_every_vector_is_the_right_one(way: str, shuffle: bool, expected: list[list[float]]) -> None:
    """Each of 37 texts gets its own vector, by every method, even if the rows arrive out of order."""
    emulator = Emulator(shuffle=shuffle)

    assert expected == WAYS[way](make(emulator), TEXTS)
    assert max(len(request.texts) for request in emulator.requests) <= 10


def test_every_hook_is_overridden() -> None:
    """All hooks are overridden, since the defaults block the loop or send one text per request."""
    hooks = [
        f"{a}_{b}"
        for a in ("_get", "_aget")
        for b in ("query_embedding", "text_embedding", "text_embeddings")
    ]

    assert all(hook in vars(QwenAIMLEmbedding) for hook in hooks)
    assert BaseEmbedding in QwenAIMLEmbedding.__mro__


@pytest.mark.slow
@pytest.mark.parametrize("way", WHOLE)
def test_a_thousand_texts(way: str) -> None:
    """A thousand texts in one call are sent in requests of ten."""
    emulator = Emulator()
    WAYS[way](make(emulator), [f"text {at}" for at in range(1000)])

    assert [len(request.texts) for request in emulator.requests] == [10] * 100


@pytest.mark.slow
@pytest.mark.parametrize("way", [*WHOLE, "batch with progress", "async batch with progress"])
def test_default_settings_send_many_at_once(way: str) -> None:
    """With default settings, 40 batches are sent with more than six in flight, with a progress bar too."""
    emulator = Emulator(latency=0.3)
    WAYS[way](make(emulator), [f"text {at}" for at in range(400)])

    assert emulator.request_count == 40
    assert 6 < emulator.peak_in_flight <= 32


@pytest.mark.parametrize("way", WHOLE)
def test_bad_rows(way: str) -> None:
    """A missing row is always detected."""
    emulator = Emulator()
    emulator.script(Fault(edit=lambda answer: {**answer, "data": answer["data"][1:]}))

    with pytest.raises(ResponseFormatError, match="9 rows for 10 texts"):
        WAYS[way](make(emulator, max_retries=0), TEXTS[:10])


@pytest.mark.parametrize("way", WHOLE)
def test_errors_pass_unchanged(way: str) -> None:
    """The core's errors are raised unchanged, with the indices of the given list."""
    with pytest.raises(AuthenticationError):
        WAYS[way](make(Emulator(api_keys=["another"]), api_key=KEY), TEXTS)

    emulator = Emulator()
    with pytest.raises(InputError) as refused:
        WAYS[way](make(emulator), [*TEXTS, "", None])
    assert refused.value.indices == (37, 38)
    assert emulator.request_count == 0

    emulator.script(None, Fault(status=401))
    with pytest.raises(EmbeddingBatchError) as caught:
        WAYS[way](make(emulator, max_concurrency=1), TEXTS)
    assert [row is None for row in caught.value.embeddings] == [False] * 10 + [True] * 27
    assert list(caught.value.failures) == list(range(10, 20))


@pytest.mark.parametrize("way", WAYS)
def test_nothing(way: str) -> None:
    """An empty list returns no vectors and sends no request."""
    emulator = Emulator()

    assert WAYS[way](make(emulator), []) == []
    assert emulator.request_count == 0


def test_a_string_is_not_a_list() -> None:
    """A string passed as a list is rejected, not embedded letter by letter."""
    with pytest.raises(InputError, match="put the text in a list"):
        make().get_text_embedding_batch("abc")  # type: ignore[arg-type]


def test_queries() -> None:
    """Only queries have the instruction, sync and async."""
    emulator = Emulator()
    model = make(emulator, query_instruction="Find the article")
    first = model.get_query_embedding("rest")
    second = asyncio.run(model.aget_query_embedding("rest"))
    model.get_text_embedding("rest")

    assert first == second
    sent = [request.texts for request in emulator.requests]
    assert sent == [("Instruct: Find the article\nQuery:rest",)] * 2 + [("rest",)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensoins": 512}, "unknown setting dimensoins"),
        ({"dimensions": "512"}, "dimensions: Input should be a valid integer"),
        ({"dimensions": 100}, "dimensions must be one of 2048"),
        ({"embed_batch_size": 100}, "at most 10, not 100"),
        ({"embed_batch_size": 0}, "1 or more"),
        ({"model_name": ""}, "model (model_name) must be a string that is not blank"),
        ({"api_key": " "}, "set the environment variable AIMLAPI_API_KEY"),
        ({"api_key": 5}, "api_key must be a string, or a function that returns one, not int"),
        ({"api_base": "http://a.example"}, "base_url (api_base) would send the key"),
        ({"api_kye": f"{KEY} x"}, "unknown setting api_kye"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    """An invalid option raises one of the project's errors, which shows no value that may be a key."""
    with pytest.raises(ConfigurationError) as caught:
        QwenAIMLEmbedding(**{"api_key": KEY, **options})

    assert message in str(caught.value)
    assert KEY not in str(caught.value)
    assert not isinstance(caught.value, ValidationError)


def test_fields_do_not_change() -> None:
    """A setting can't be changed later, since that would bypass validation; the framework's fields can."""
    model = make()
    with pytest.raises(ConfigurationError, match="use model_copy"):
        model.embed_batch_size = 99999
    model.num_workers = 2

    longer = model.model_copy(update={"dimensions": 128})
    assert len(longer.get_query_embedding("a")) == 128
    assert len(model.get_query_embedding("a")) == 64
    with pytest.raises(ConfigurationError, match="unknown setting base_url"):
        model.model_copy(update={"base_url": "https://elsewhere.example"})


def test_to_dict() -> None:
    """``to_dict`` contains only the settings that affect the vectors."""
    model = make(embed_batch_size=5, timeout=3, num_workers=2, default_headers={"X": "y"}, max_retries=1)
    model = model.model_copy(update={"http_client": None, "http_async_client": None})

    assert model.to_dict() == {
        "class_name": "QwenAIMLEmbedding",
        "model_name": "alibaba/qwen-text-embedding-v4",
        "dimensions": 64,
        "query_instruction": None,
        "on_blank": "raise",
        "blank_replacement": None,
        "on_too_long": "raise",
        "tokenizer": None,
        "api_base": "https://api.aimlapi.com/v1",
    }
    emulated = {**model.to_dict(), "emulator": "emulator"}
    assert json.loads(make(embeddings_cache=SimpleKVStore()).to_json()) == emulated


def test_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deserialised model has the same settings, and the key of the environment."""
    model = make(model_name="text-embedding-v3", dimensions=512)
    monkeypatch.setenv("AIMLAPI_API_KEY", "of-the-environment")

    assert QwenAIMLEmbedding.class_name() == "QwenAIMLEmbedding"
    for loaded in (
        QwenAIMLEmbedding.from_dict(model.to_dict()),
        QwenAIMLEmbedding.from_json(model.to_json()),
        QwenAIMLEmbedding.from_dict(model.to_dict(), api_key="given"),
    ):
        assert {**loaded.to_dict(), "emulator": "emulator"} == model.to_dict()


def test_dump_and_validate() -> None:
    """The result of model_dump recreates the same model; the name of another class is rejected."""
    model = make(query_instruction="Find")
    dumped = {**model.model_dump(), "api_key": KEY}

    assert QwenAIMLEmbedding(**dumped).model_dump() == model.model_dump()
    assert QwenAIMLEmbedding.model_validate(dumped).model_dump() == model.model_dump()
    with pytest.raises(ConfigurationError, match="unknown setting class_name"):
        QwenAIMLEmbedding(**{**dumped, "class_name": "OpenAIEmbedding"})


def test_pipeline_cache_of_another_service() -> None:
    """A pipeline's cache that was filled with one emulator is not used for another."""

    class Toy:
        name = "toy"
        native = 64

        def embed(self, texts: Sequence[str]) -> list[list[float]]:
            return [[0.125] * 64 for _ in texts]

    emulators = [Emulator(), Emulator(vectors=Toy())]
    cache, document = IngestionCache(), Document(text="a", id_="a")
    for emulator in emulators:
        IngestionPipeline(transformations=[make(emulator)], cache=cache).run(documents=[document])

    assert [emulator.request_count for emulator in emulators] == [1, 1]


def test_pipeline_hash() -> None:
    """The key in the pipeline's cache depends only on what affects the vectors."""
    nodes = [TextNode(text="a")]

    def hashed(**options: Any) -> str:
        return get_transformation_hash(nodes, make(**options))

    same = hashed()
    assert same == hashed(api_key="another", timeout=1, max_retries=9, embed_batch_size=2, max_concurrency=1)
    others: list[dict[str, Any]] = [
        {"dimensions": 128},
        {"model_name": "text-embedding-v3"},
        {"query_instruction": "Find"},
    ]
    assert len({same, *[hashed(**options) for options in others]}) == 4


class Limiter:
    """A limiter with the framework's interface, which counts calls."""

    def __init__(self) -> None:
        self.asked = 0
        self.lock = threading.Lock()  # like the framework's limiters, which can't be pickled

    def acquire(self, num_tokens: int = 0) -> None:  # noqa: ARG002 (the framework's signature)
        """Count a sync call."""
        self.asked += 1

    async def async_acquire(self, num_tokens: int = 0) -> None:  # noqa: ARG002
        """Count an async call."""
        self.asked += 1


@pytest.mark.skipif(
    "rate_limiter" not in BaseEmbedding.model_fields, reason="newer than this llama-index-core"
)
@pytest.mark.parametrize("way", ["batch", "async batch", "batch with progress", "one by one"])
def test_rate_limiter(way: str, expected: list[list[float]]) -> None:
    """The framework's limiter is called once per request."""
    emulator, limiter = Emulator(), Limiter()

    assert expected == WAYS[way](make(emulator, rate_limiter=limiter), TEXTS)
    assert limiter.asked == emulator.request_count


@pytest.mark.parametrize("workers", [1, 2])
def test_num_workers(workers: int, expected: list[list[float]]) -> None:
    """``num_workers`` sets the framework's concurrency; requests still have at most ten texts."""
    emulator = Emulator(latency=0.5)
    model = make(emulator, num_workers=workers)

    assert asyncio.run(model.aget_text_embedding_batch(TEXTS)) == expected
    assert emulator.request_count == 4
    assert emulator.peak_in_flight == (2 if workers == 2 else 4)


@pytest.mark.parametrize("way", ["batch", "async batch", "one by one", "async one by one"])
def test_embeddings_cache(way: str, expected: list[list[float]]) -> None:
    """The framework's cache saves the requests of a second call."""
    emulator = Emulator()
    model = make(emulator, embeddings_cache=SimpleKVStore())

    assert expected == WAYS[way](model, TEXTS)
    sent = emulator.request_count
    assert expected == WAYS[way](model, TEXTS)
    assert emulator.request_count == sent


def test_cache_keeps_what_was_finished() -> None:
    """With the framework's cache, a call that fails late loses at most the texts in flight."""
    emulator = Emulator()
    emulator.script(*[None] * 3, Fault(status=401))
    model = make(emulator, embeddings_cache=SimpleKVStore(), max_concurrency=1)
    with pytest.raises(APIStatusError):
        model.get_text_embedding_batch(TEXTS)
    model.get_text_embedding_batch(TEXTS)

    sent = [request.texts for request in emulator.requests]
    assert sent[4] == sent[3]
    assert {text for texts in sent[:3] for text in texts}.isdisjoint(
        text for texts in sent[4:] for text in texts
    )


@pytest.mark.parametrize("instruction", [None, "Find"])
def test_cache_takes_no_query_for_a_text(instruction: str | None) -> None:
    """The framework's cache saves the second request for a query, and never returns a document's vector."""
    emulator = Emulator()
    model = make(emulator, embeddings_cache=SimpleKVStore(), query_instruction=instruction)
    document = model.get_text_embedding("rest")
    query = model.get_query_embedding("rest")

    assert (query == document) is (instruction is None)
    assert query == asyncio.run(model.aget_query_embedding("rest"))
    assert model.get_text_embedding("rest") == document
    assert emulator.request_count == 2


@pytest.mark.parametrize("way", ["batch", "async batch", "one by one", "async one by one"])
def test_models_share_the_cache(way: str) -> None:
    """Models with different vectors share the framework's cache, and each gets its own vectors."""
    emulator, store = Emulator(), SimpleKVStore()
    v4, v3 = "text-embedding-v4", "text-embedding-v3"
    for name, dimensions in [(v4, 512), (v4, 1024), (v3, 512)] * 2:
        options: dict[str, Any] = {"model_name": name, "dimensions": dimensions}
        shared = make(emulator, embeddings_cache=store, **options)
        assert WAYS[way](shared, ["a"]) == WAYS[way](make(**options), ["a"])

    assert emulator.request_count == 3


@pytest.mark.parametrize("way", ["batch with progress", "async batch with progress"])
@pytest.mark.parametrize("fields", [{}, {"num_workers": 2}, {"embeddings_cache": SimpleKVStore()}], ids=list)
def test_progress(way: str, fields: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """One bar shows all texts of a call and their tokens, however the framework splits them."""
    emulator = Emulator()
    model = make(emulator, **fields, max_concurrency=1)
    WAYS[way](model, TEXTS)

    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count(" 0/37 ") == 1
    assert captured.err.count("\n") == 1
    last = captured.err.splitlines()[-1]
    assert "37/37" in last
    assert f"{model.usage.total_tokens} tokens" in last


@pytest.mark.parametrize("way", ["batch with progress", "async batch with progress"])
def test_progress_leaves_the_call_whole(way: str) -> None:
    """A bar does not reduce concurrency, and indices in errors count from the first text of the call."""
    emulator = Emulator(latency=0.3)
    emulator.script(*[None] * 39, Fault(status=401))
    with pytest.raises(EmbeddingBatchError) as caught:
        WAYS[way](make(emulator), [f"text {at}" for at in range(400)])

    assert len(caught.value.embeddings) == 400
    assert emulator.peak_in_flight > 6


@pytest.mark.parametrize("name", ["query", "text"])
def test_what_is_no_text(name: str) -> None:
    """A list passed as a single text is rejected."""
    model = make()
    with pytest.raises(InputError, match=r"texts\[0\] is list, expected str\. What to do: "):
        getattr(model, f"get_{name}_embedding")(["q"])
    with pytest.raises(InputError, match=r"texts\[0\] is list, expected str\. What to do: "):
        asyncio.run(getattr(model, f"aget_{name}_embedding")(["q"]))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("chunk_size", "embed_batch_size"),
        ("model_id", "model_name"),
        ("base_url", "api_base"),
        ("request_timeout", "timeout"),
        ("async_http_client", "http_async_client"),
    ],
)
def test_names_of_another_class(given: str, meant: str) -> None:
    """The error for another class's name of a setting suggests the name in this class."""
    options: dict[str, Any] = {given: 1}
    with pytest.raises(ConfigurationError) as caught:
        make(**options)

    assert f"unknown setting {given} (did you mean {meant}?)" in str(caught.value)


@pytest.mark.parametrize("way", ["batch", "async batch"])
@pytest.mark.parametrize("seen", [False, True, "root"])
def test_events_cost_nothing_unseen(way: str, seen: bool | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events, which copy every number, are only created if there is a handler, of this class or of all."""

    class Handler(BaseEventHandler):
        def handle(self, event: BaseEvent, **_: Any) -> None:
            handled.append(event)

    def make_event(**kept: Any) -> EmbeddingEndEvent:
        created.append(EmbeddingEndEvent(**kept))
        return created[-1]

    handled: list[BaseEvent] = []
    created: list[EmbeddingEndEvent] = []
    monkeypatch.setattr(base, "EmbeddingEndEvent", make_event)
    sender = get_dispatcher("root") if seen == "root" else base.dispatcher
    monkeypatch.setattr(sender, "event_handlers", [Handler()] if seen else [])
    rows = WAYS[way](make(Emulator()), TEXTS)

    assert len(rows) == len(TEXTS)
    assert len(created) == int(bool(seen))
    assert all(event in handled for event in created)


def test_events() -> None:
    """Each call creates one pair of events, which do not contain the key."""
    handler = LlamaDebugHandler(print_trace_on_end=False)
    model = make(callback_manager=CallbackManager([handler]), api_key=KEY)
    model.get_text_embedding_batch(TEXTS)
    model.get_query_embedding("q")

    pairs = handler.get_event_pairs(CBEventType.EMBEDDING)
    assert len(pairs) == 2
    assert KEY not in str([event.payload for pair in pairs for event in pair])


def test_settings_and_index() -> None:
    """An index that uses Settings.embed_model finds the nearest text, sync and async."""
    before = Settings._embed_model
    Settings.embed_model = make()
    try:
        texts = ["the cat sat on the mat", "stocks fell sharply", "rain is expected tomorrow"]
        index = VectorStoreIndex([TextNode(text=text) for text in texts])
        retriever = index.as_retriever(similarity_top_k=1)
        assert [found.text for found in retriever.retrieve("a cat on a mat")] == ["the cat sat on the mat"]
        found = asyncio.run(retriever.aretrieve("tomorrow it rains"))
        assert [node.text for node in found] == ["rain is expected tomorrow"]
        asynchronous = VectorStoreIndex([TextNode(text=text) for text in texts], use_async=True)
        assert (
            asynchronous.as_retriever(similarity_top_k=1).retrieve("sharply")[0].text == "stocks fell sharply"
        )
    finally:
        Settings._embed_model = before


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_index_inside_a_running_loop() -> None:
    """
    Creating an index inside a running event loop, as in a notebook, works more than once.

    The framework closes the loops it creates for this without closing their async generators, so their
    sockets are left to the garbage collector, which warns.
    """

    async def notebook() -> None:
        with serve(Emulator()) as base_url:
            model = QwenAIMLEmbedding(api_key=KEY, api_base=base_url, dimensions=64)
            for _ in range(3):
                nodes = [TextNode(text=text) for text in TEXTS]
                VectorStoreIndex(nodes, embed_model=model, use_async=True)
                assert len(await model.aget_query_embedding("q")) == 64
            await model.aclose()

    asyncio.run(notebook())
    gc.collect()


def test_pipeline(expected: list[list[float]]) -> None:
    """An ingestion pipeline sets the vector of each node, sync and async."""
    ways: list[Callable[[IngestionPipeline, list[TextNode]], Any]] = [
        lambda pipeline, nodes: pipeline.run(nodes=nodes),
        lambda pipeline, nodes: asyncio.run(pipeline.arun(nodes=nodes)),
    ]
    for run in ways:
        nodes = run(IngestionPipeline(transformations=[make()]), [TextNode(text=text) for text in TEXTS])
        assert [node.embedding for node in nodes] == expected


def test_pickle() -> None:
    """A pickle contains the settings and no key; pickling does not change the model."""
    limiter = Limiter()
    model = QwenAIMLEmbedding(
        api_key=KEY, dimensions=64, query_instruction="Find", timeout=3, rate_limiter=limiter
    )
    pickled = pickle.dumps(model)
    assert KEY.encode() not in pickled
    assert model.rate_limiter is limiter
    assert isinstance(model.api_key, SecretStr)

    loaded = pickle.loads(pickled)
    assert (loaded.dimensions, loaded.query_instruction, loaded.timeout) == (64, "Find", 3.0)
    assert (loaded.api_key, loaded.rate_limiter, loaded.embeddings_cache) == (None, None, None)
    with pytest.raises(ConfigurationError, match="pickles never contain the key"):
        loaded.get_query_embedding("a")


def test_own_clients_raise_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Pickling a model with a custom HTTP client raises, and the framework does not warn of removing it."""
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(make())

    assert not caplog.records


def test_own_clients_do_not_travel() -> None:
    """A model with a custom HTTP client can be copied but not pickled."""
    limiter = Limiter()
    model = make(rate_limiter=limiter)

    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(model)
    for copied in (copy.copy(model), copy.deepcopy(model), model.model_copy(deep=True)):
        assert copied.http_client is model.http_client
        assert copied.rate_limiter is limiter
        assert copied.get_query_embedding("a") == model.get_query_embedding("a")


def test_key_is_hidden(caplog: pytest.LogCaptureFixture) -> None:
    """The key appears in no repr, dict, JSON, log or error."""
    model = make(Emulator(api_keys=["another"]), api_key=KEY, default_headers={"X-Token": "hidden-too"})
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AuthenticationError) as caught:
        model.get_text_embedding("a")
    error = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = [repr(model), str(model), str(model.to_dict()), model.to_json(), caplog.text, *error.format()]

    for text in shown:
        assert KEY not in text
    assert "hidden-too" not in repr(model) + str(model.to_dict())


def test_several_event_loops_and_threads(expected: list[list[float]]) -> None:
    """One object works in two event loops in turn, and in eight threads at once."""
    with serve(Emulator()) as base_url:
        with QwenAIMLEmbedding(api_key=KEY, api_base=base_url, dimensions=64) as model:
            for _ in range(2):
                assert asyncio.run(model.aget_text_embedding_batch(TEXTS)) == expected
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(model.get_text_embedding_batch, [TEXTS] * 8)) == [expected] * 8
        assert model.usage.requests == 40


def test_async_context() -> None:
    """The model works as an async context manager, with sync calls inside."""

    async def main() -> Usage:
        async with make() as model:
            await model.aget_text_embedding("Laura is a DJ.")
            model.get_text_embedding("Laura is a DJ.")
            return model.usage

    assert asyncio.run(main()) == Usage(2, 8, 2, usd_spent=0.000001)


def test_address_and_key_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Key and URL are read from the environment, and the URL is part of ``to_dict``."""
    monkeypatch.setenv("AIML_API_KEY", KEY)
    monkeypatch.setenv("AIMLAPI_BASE_URL", "https://gateway.example")
    model = QwenAIMLEmbedding(http_client=httpx.Client(transport=Emulator(api_keys=[KEY]).transport()))

    assert model.to_dict()["api_base"] == "https://gateway.example/v1"
    assert len(model.get_text_embedding("a")) == 1024


def test_model() -> None:
    """``model`` is an alias of ``model_name``; both together are rejected."""
    model: dict[str, Any] = {"model": "text-embedding-v3"}
    embedding = QwenAIMLEmbedding(api_key=KEY, **model)

    assert embedding.model == embedding.model_name == "alibaba/qwen-text-embedding-v3"
    assert QwenAIMLEmbedding.from_dict({**embedding.to_dict(), "api_key": KEY}).model == embedding.model
    with pytest.raises(ConfigurationError, match="model_name and model are the same setting; give one"):
        QwenAIMLEmbedding(model_name="b", api_key=KEY, **model)


def test_json_schema() -> None:
    """The JSON schema has every setting, with its docstring, and so has ``help``."""
    properties = QwenAIMLEmbedding.model_json_schema()["properties"]

    assert properties.keys() >= QwenAIMLEmbedding.model_fields.keys()
    undescribed = {name for name, field in properties.items() if not field.get("description")}
    assert undescribed == {"callback_manager", "class_name"}  # the framework's own
    assert "    embed_batch_size: Texts per request" in (QwenAIMLEmbedding.__doc__ or "")
