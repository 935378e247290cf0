"""Beyond LangChain's own suites: correct vectors, names, secrets, copies, stores."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import Any

import anyio
import httpx
import pytest
from langchain_core.load import dumpd
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import SecretStr, ValidationError

from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml import (
    AuthenticationError,
    ConfigurationError,
    EmbeddingBatchError,
    InputError,
    ResponseFormatError,
    Usage,
)
from qwen_aiml.emulator import Emulator, Fault, serve

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text number {at}" for at in range(37)]


def make(emulator: Emulator | None = None, **options: Any) -> QwenAIMLEmbeddings:
    """Create an object connected to an emulator, with short vectors."""
    return QwenAIMLEmbeddings(**{"dimensions": 64, **(emulator or Emulator()).client_options(), **options})


@pytest.fixture(scope="module")
def expected() -> list[list[float]]:
    """Embed each text in a separate request."""
    return make(chunk_size=1).embed_documents(TEXTS)


@pytest.fixture(params=["sync", "async"])
def documents(request: pytest.FixtureRequest) -> Any:
    """Return each way to embed documents."""
    if request.param == "sync":
        return lambda model, texts: model.embed_documents(texts)
    return lambda model, texts: asyncio.run(model.aembed_documents(texts))


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_vector_is_the_right_one(documents: Any, shuffle: bool, expected: list[list[float]]) -> None:
    """Each of 37 texts gets its own vector, even if the rows arrive out of order."""
    emulator = Emulator(shuffle=shuffle)

    assert expected == documents(make(emulator), TEXTS)
    assert sorted(len(request.texts) for request in emulator.requests) == [7, 10, 10, 10]


def test_bad_rows(documents: Any) -> None:
    """A missing row is always detected."""
    emulator = Emulator()
    emulator.script(Fault(edit=lambda answer: {**answer, "data": answer["data"][1:]}))

    with pytest.raises(ResponseFormatError, match="9 rows for 10 texts"):
        documents(make(emulator, max_retries=0), TEXTS[:10])


def test_errors_pass_unchanged(documents: Any) -> None:
    """The core's errors are raised unchanged."""
    emulator = Emulator(api_keys=["another"])
    with pytest.raises(AuthenticationError):
        documents(make(emulator, api_key=KEY), TEXTS)
    with pytest.raises(InputError):
        documents(make(), ["a", " "])

    emulator = Emulator()
    emulator.script(None, Fault(status=401))
    with pytest.raises(EmbeddingBatchError) as caught:
        documents(make(emulator, max_concurrency=1), TEXTS)
    assert caught.value.embeddings[9] is not None
    assert caught.value.embeddings[10] is None


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bar(documents: Any, shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The progress bar counts the documents of a call, and is not shown for queries."""
    model = make(show_progress_bar=shown)
    model.embed_query("q")
    assert not capsys.readouterr().err
    documents(model, TEXTS)

    captured = capsys.readouterr()
    assert not captured.out
    assert ("37/37" in captured.err and "tokens" in captured.err) is shown


def test_query_that_is_none() -> None:
    """A list passed as a query is rejected."""
    query: Any = ["q"]
    with pytest.raises(InputError, match=r"texts\[0\] is list, expected str\. What to do: "):
        make().embed_query(query)
    with pytest.raises(InputError, match=r"texts\[0\] is list, expected str\. What to do: "):
        asyncio.run(make().aembed_query(query))


def test_blank_query() -> None:
    """A blank query is rejected, or replaced."""
    with pytest.raises(InputError, match=r"texts\[0\] is blank"):
        make().embed_query(" ")
    emulator = Emulator()
    make(emulator, on_blank="replace", blank_replacement="-").embed_query(" ")

    assert emulator.requests[0].texts == ("-",)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("embed_batch_size", "chunk_size"), ("api_base", "base_url"), ("dimension", "dimensions")],
)
def test_names_of_another_class(given: str, meant: str) -> None:
    """The error for another class's name of a setting suggests the name in this class."""
    options: dict[str, Any] = {given: 1}
    with pytest.raises(ConfigurationError) as caught:
        make(**options)

    assert f"unknown setting {given} (did you mean {meant}?)" in str(caught.value)


def test_progress_bar_without_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package raises an error when the object is created."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    make(show_progress_bar=False)

    with pytest.raises(ConfigurationError, match=r'pip install "qwen-aiml\[progress\]"'):
        make(show_progress_bar=True)


def test_default_settings_send_many_at_once(documents: Any) -> None:
    """With default settings, 40 batches are sent with more than six in flight."""
    emulator = Emulator(latency=0.3)
    documents(make(emulator), [f"text {at}" for at in range(400)])

    assert emulator.request_count == 40
    assert 6 < emulator.peak_in_flight <= 32


def test_queries() -> None:
    """Only queries have the instruction, sync and async; keyword names are those of the interface."""
    emulator = Emulator()
    model = make(emulator, query_instruction="Find the article")
    first = model.embed_query(text="rest")
    second = asyncio.run(model.aembed_query(text="rest"))
    model.embed_documents(texts=["rest"])

    assert first == second
    sent = [request.texts for request in emulator.requests]
    assert sent == [("Instruct: Find the article\nQuery:rest",)] * 2 + [("rest",)]


def test_plain_lists() -> None:
    """Results are lists of lists of floats, which frameworks serialise as JSON."""
    assert json.loads(json.dumps(make().embed_documents(["a"]))) == make().embed_documents(["a"])


@pytest.mark.parametrize(
    ("options", "attribute", "expected"),
    [
        ({}, "model", "alibaba/qwen-text-embedding-v4"),
        ({"model": "text-embedding-v3"}, "model", "alibaba/qwen-text-embedding-v3"),
        ({}, "chunk_size", 10),
        ({"chunk_size": 3}, "chunk_size", 3),
        ({"batch_size": 3}, "chunk_size", 3),
        ({"timeout": 5}, "timeout", 5.0),
        ({"request_timeout": 5}, "timeout", 5.0),
        ({}, "timeout", 60.0),
        ({"base_url": "https://a.example"}, "aimlapi_api_base", "https://a.example/v1"),
        ({"aimlapi_api_base": "https://a.example"}, "aimlapi_api_base", "https://a.example/v1"),
        ({}, "aimlapi_api_base", "https://api.aimlapi.com/v1"),
        ({"api_key": SecretStr("other")}, "aimlapi_api_key", SecretStr("other")),
        ({"aimlapi_api_key": "other"}, "aimlapi_api_key", SecretStr("other")),
        ({"skip_empty": False, "check_embedding_ctx_length": False, "model_kwargs": {}}, "dimensions", None),
    ],
    ids=str,
)
def test_names(options: dict[str, Any], attribute: str, expected: object) -> None:
    """Fields accept LangChain's names and those of the classes that users migrate from."""
    given = options if {"api_key", "aimlapi_api_key"} & options.keys() else {"api_key": KEY, **options}

    assert expected == getattr(QwenAIMLEmbeddings(**given), attribute)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimension": 512}, "unknown setting dimension"),
        ({"dimensions": "512"}, "dimensions: Input should be a valid integer"),
        ({"dimensions": 100}, "dimensions must be one of 2048"),
        ({"base_url": 5}, "base_url: Input should be a valid string"),
        ({"chunk_size": 1000}, "at most 10, not 1000"),
        ({"chunk_size": 3, "batch_size": 4}, "chunk_size and batch_size are the same setting"),
        ({"skip_empty": True}, "would shift the embeddings of the others"),
        ({"check_embedding_ctx_length": True}, "sends token ids"),
        ({"model_kwargs": {"encoding_format": "float"}}, "pass its entries as arguments"),
        ({"api_key": ""}, "set the environment variable AIMLAPI_API_KEY"),
        ({"api_key": 5}, "api_key must be a string, or a function that returns one, not int"),
        ({"api_kye": f"{KEY} x"}, "unknown setting api_kye"),
        ({"api_key": f"{KEY} x"}, "api_key holds a space"),
        ({"default_headers": {"Authorization": f"Bearer {KEY}"}}, "give the key as api_key"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    """An invalid option raises one of the project's errors, which shows no value that may be a key."""
    with pytest.raises(ConfigurationError) as caught:
        QwenAIMLEmbeddings(**{"api_key": KEY, **options})

    assert message in str(caught.value)
    assert KEY not in str(caught.value)
    assert not isinstance(caught.value, ValidationError)


def test_fields_do_not_change() -> None:
    """A field can't be changed later, since that would bypass validation; a changed copy can be created."""
    model = make()
    with pytest.raises(ConfigurationError, match=r"use model_copy") as caught:
        model.aimlapi_api_key = KEY
    assert KEY not in str(caught.value)

    longer = model.model_copy(update={"dimensions": 128})
    assert len(longer.embed_query("a")) == 128
    assert len(model.embed_query("a")) == 64
    with pytest.raises(ConfigurationError):
        model.model_copy(update={"dimensions": 100})
    for name in ("api_key", "base_url", "dimension"):
        with pytest.raises(ConfigurationError, match=f"unknown setting {name}"):
            model.model_copy(update={name: KEY})
    with pytest.raises(ConfigurationError, match=r"did you mean aimlapi_api_base\?"):
        model.model_copy(update={"base_url": KEY})


def test_key_of_a_copy() -> None:
    """A key given to a copy is used, and hidden like the original one."""
    model = QwenAIMLEmbeddings(api_key="first").model_copy(update={"aimlapi_api_key": KEY})

    assert model.aimlapi_api_key == SecretStr(KEY)
    assert KEY not in repr(vars(model))
    assert KEY.encode() not in pickle.dumps(model)


def test_key_is_hidden(caplog: pytest.LogCaptureFixture) -> None:
    """The key appears in no repr, dict, JSON, LangChain trace, log or error."""
    emulator = Emulator(api_keys=["another"])
    model = make(emulator, api_key=KEY, default_headers={"X-Proxy-Token": "hidden-too"})
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AuthenticationError) as caught:
        model.embed_query("a")
    error = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = [repr(model), str(model), str(model.model_dump()), model.model_dump_json(), str(dumpd(model))]
    shown += [caplog.text, *error.format(), str(vars(model.model_copy()))]

    for text in shown:
        assert KEY not in text
    assert "hidden-too" not in repr(model) + str(model.model_dump())


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY), KEY.encode()], ids=repr)
@pytest.mark.parametrize(
    "options", [{"dimensions": 3}, {"dimension": 3}, {"chunk_size": 0}, {"skip_empty": True}], ids=str
)
def test_key_is_hidden_when_refused(key: Any, options: dict[str, Any]) -> None:
    """A traceback of a failed construction does not show the key in this project's local variables."""
    with pytest.raises(ConfigurationError) as caught:
        QwenAIMLEmbeddings(api_key=key, **options)

    assert caught.value.__traceback__ is not None
    frames = traceback.walk_tb(caught.value.__traceback__.tb_next)
    assert KEY not in repr([dict(frame.f_locals) for frame, _ in frames])


def test_older_copy() -> None:
    """Pydantic's deprecated ``copy`` does the same as ``model_copy``."""
    assert len(make().copy(update={"dimensions": 128}).embed_query("a")) == 128


def test_subclasses() -> None:
    """A subclass can add fields, and change them."""

    class Tagged(QwenAIMLEmbeddings):
        tag: str = "a"

    model = Tagged(api_key=KEY, tag="b")
    model.tag = "c"

    assert model.tag == "c"


def test_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle contains the settings and no key; the copy reads the key from its environment."""
    pickled = pickle.dumps(
        QwenAIMLEmbeddings(api_key=KEY, dimensions=64, query_instruction="Find", timeout=3)
    )
    assert KEY.encode() not in pickled

    keyless = pickle.loads(pickled)
    assert (keyless.dimensions, keyless.query_instruction, keyless.timeout) == (64, "Find", 3.0)
    assert keyless.aimlapi_api_key is None
    with pytest.raises(ConfigurationError, match="pickles never contain the key"):
        keyless.embed_query("a")

    emulator = Emulator(api_keys=["of-the-child"])
    monkeypatch.setenv("AIMLAPI_API_KEY", "of-the-child")
    with serve(emulator) as base_url:
        pickled = pickle.dumps(QwenAIMLEmbeddings(api_key=KEY, dimensions=64, base_url=base_url))
        with pickle.loads(pickled) as loaded:
            assert loaded.embed_documents(TEXTS) == make().embed_documents(TEXTS)


def test_own_clients_do_not_travel() -> None:
    """A model with a custom HTTP client can be copied but not pickled."""
    model = make()

    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(model)
    for copied in (copy.copy(model), copy.deepcopy(model), model.model_copy(deep=True)):
        assert copied.http_client is model.http_client
        assert copied.embed_query("a") == model.embed_query("a")
        assert asyncio.run(copied.aembed_query("a")) == model.embed_query("a")


def test_several_event_loops_and_threads(expected: list[list[float]]) -> None:
    """One object works in two event loops in turn, and in eight threads at once."""
    with (
        serve(Emulator()) as base_url,
        QwenAIMLEmbeddings(api_key=KEY, base_url=base_url, dimensions=64) as model,
    ):
        for _ in range(2):
            assert asyncio.run(model.aembed_documents(TEXTS)) == expected
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(model.embed_documents, [TEXTS] * 8)) == [expected] * 8
        assert model.usage.requests == 40


@pytest.mark.anyio
async def test_async_context(expected: list[list[float]]) -> None:
    """The async methods work on asyncio and Trio, with one limit for all calls together."""
    with serve(Emulator()) as base_url:
        async with QwenAIMLEmbeddings(api_key=KEY, base_url=base_url, dimensions=64) as model:
            assert await model.aembed_documents(TEXTS) == expected

    emulator = Emulator(latency=0.1)
    model = make(emulator, max_concurrency=3)
    async with anyio.create_task_group() as group:
        for at in range(12):
            group.start_soon(partial(model.aembed_query, f"query {at}"))
    assert (emulator.request_count, emulator.peak_in_flight) == (12, 3)


def test_usage() -> None:
    """Usage is the sum of sync and async calls, which share their limits."""
    model = make()
    model.embed_query("Laura is a DJ.")
    asyncio.run(model.aembed_query("Laura is a DJ."))

    assert model.usage == Usage(requests=2, total_tokens=8, credits_used=2, usd_spent=1e-06)
    assert model.limits.requests_per_second is None
    assert model.limits.texts_per_request == 10


def test_vector_store() -> None:
    """LangChain's in-memory store finds the nearest text, sync and async."""
    store = InMemoryVectorStore(make())
    store.add_texts(["the cat sat on the mat", "stocks fell sharply", "rain is expected tomorrow"])
    asyncio.run(store.aadd_texts(["a dog barked at night"]))

    assert [found.page_content for found in store.similarity_search("a cat on a mat", k=1)] == [
        "the cat sat on the mat"
    ]
    found = asyncio.run(store.asimilarity_search("dogs bark at night", k=1))
    assert [document.page_content for document in found] == ["a dog barked at night"]


def test_headers_and_encoding() -> None:
    """Custom headers and encoding_format are sent; nothing is sent by default."""
    bodies = []

    def service(request: httpx.Request) -> httpx.Response:
        bodies.append((json.loads(request.content), request.headers.get("x-title")))
        return httpx.Response(200, json={"data": [{"index": 0, "embedding": [0.5] * 64}]})

    http_client = httpx.Client(transport=httpx.MockTransport(service))
    plain = QwenAIMLEmbeddings(api_key=KEY, dimensions=64, http_client=http_client)
    plain.embed_query("a")
    plain.model_copy(update={"encoding_format": "float", "default_headers": {"X-Title": "app"}}).embed_query(
        "a"
    )

    body = {"model": "alibaba/qwen-text-embedding-v4", "input": ["a"], "dimensions": 64}
    assert bodies == [(body, None), ({**body, "encoding_format": "float"}, "app")]


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ("chunk_size", "batch_size", 5),
        ("timeout", "request_timeout", 5),
        ("base_url", "aimlapi_api_base", "https://gateway.example"),
        ("api_key", "aimlapi_api_key", KEY),
    ],
)
def test_two_names(first: str, second: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names of one setting can't be combined, unless one of them is None."""
    with pytest.raises(ConfigurationError) as caught:
        QwenAIMLEmbeddings(**{first: value, second: value})

    message = f"QwenAIMLEmbeddings: {first} and {second} are the same setting; give one"
    assert str(caught.value) == message
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)
    for unset in ([first], [second], [first, second]):
        QwenAIMLEmbeddings(**{first: value, second: value, **dict.fromkeys(unset)})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "dimensions",
            "64",
            "dimensions: Input should be a valid integer, not '64' (str). It is a string; give",
        ),
        ("timeout", "2.5", "not '2.5' (str). It is a string; give float('2.5')"),
        ("show_progress_bar", "true", "not 'true' (str). It is a string; give True"),
        ("max_retries", KEY, "max_retries: Input should be a valid integer, not str"),
        ("dimensions", 64.0, "dimensions: Input should be a valid integer, not float"),
        ("max_retries", Decimal(3), "not Decimal('3') (Decimal). Convert it with int()"),
    ],
)
def test_numbers_as_strings(name: str, value: object, message: str) -> None:
    """A number or flag given as a string is shown, with advice; of other values, only the type is."""
    options: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError) as caught:
        QwenAIMLEmbeddings(api_key=KEY, **options)

    assert message in str(caught.value)
    assert KEY not in str(caught.value)


def test_chunk_size_of_a_call() -> None:
    """``embed_documents`` has the argument of OpenAIEmbeddings, validated like the setting."""
    emulator = Emulator()
    model = make(emulator)
    model.embed_documents(TEXTS[:10], chunk_size=5)
    asyncio.run(model.aembed_documents(TEXTS[:10], 5))
    model.embed_documents(TEXTS[:10], None)

    assert [len(request.texts) for request in emulator.requests] == [5, 5, 5, 5, 10]
    with pytest.raises(ConfigurationError, match="at most 10, not 1000"):
        model.embed_documents(TEXTS, chunk_size=1000)


def test_http_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment allows HTTP to a service in a container network, without a change of the program."""
    monkeypatch.setenv("AIMLAPI_BASE_URL", "http://emulator:8765/v1")
    with pytest.raises(ConfigurationError, match="AIMLAPI_ALLOW_HTTP=1"):
        QwenAIMLEmbeddings(api_key=KEY)

    monkeypatch.setenv("AIMLAPI_ALLOW_HTTP", "1")
    assert QwenAIMLEmbeddings(api_key=KEY).aimlapi_api_base == "http://emulator:8765/v1"


def test_second_names() -> None:
    """A setting given under a second name can be read under it, but not changed."""
    second: dict[str, Any] = {"base_url": "https://gateway.example", "batch_size": 3, "request_timeout": 7}
    model = QwenAIMLEmbeddings(api_key=KEY, **second)

    assert isinstance(model.api_key, SecretStr)
    assert model.api_key.get_secret_value() == KEY
    assert (model.base_url, model.batch_size, model.request_timeout) == ("https://gateway.example/v1", 3, 7)
    with pytest.raises(AttributeError):
        setattr(model, "batch_size", 5)  # noqa: B010 (type checkers know that it is read-only)
    assert KEY not in repr(model)


@pytest.mark.parametrize("by_alias", [True, False])
def test_json_schema(by_alias: bool) -> None:
    """The JSON schema has every setting, with its docstring."""
    schema = QwenAIMLEmbeddings.model_json_schema(by_alias=by_alias)

    properties = schema["properties"]
    assert len(properties) == len(QwenAIMLEmbeddings.model_fields)
    assert [name for name, field in properties.items() if not field.get("description")] == []
    assert properties["max_retries"]["description"].startswith("Maximum number of retries")
    assert "Settings:" not in schema["description"]
    assert json.dumps(schema)


def test_help() -> None:
    """``help`` describes each setting, also for subclasses."""

    class Own(QwenAIMLEmbeddings):
        """A user's own."""

        label: str = "x"
        """What it is called."""

    class Bare(QwenAIMLEmbeddings):
        pass

    for name in QwenAIMLEmbeddings.model_fields:
        assert f"    {name}: " in (QwenAIMLEmbeddings.__doc__ or "")
        assert f"    {name}: " in (Own.__doc__ or "")
    assert (Own.__doc__ or "").startswith("A user's own.\n\nSettings:\n\n    model: Model id")
    assert "    label: What it is called." in (Own.__doc__ or "")
    assert max(map(len, (Own.__doc__ or "").splitlines())) <= 110
    assert Bare.__doc__ is None
    assert Own.model_json_schema()["properties"]["label"]["description"] == "What it is called."
    assert "description" not in Bare.model_json_schema()


def test_help_without_source() -> None:
    """A class without source, as in frozen programs, has only its own docstring."""
    found: dict[str, Any] = {"QwenAIMLEmbeddings": QwenAIMLEmbeddings, "__name__": "nowhere"}
    exec("class Own(QwenAIMLEmbeddings):\n    'Mine.'\n    label: str = 'x'\n    'Lost.'", found)  # noqa: S102 (our own)

    assert found["Own"].__doc__.startswith("Mine.\n\nSettings:\n\n    model: ")
    assert "Lost" not in found["Own"].__doc__
    assert "description" not in found["Own"].model_json_schema()["properties"]["label"]


def test_leaving_a_block() -> None:
    """Leaving a ``with`` block closes the sync client, leaving an ``async with`` block both."""
    model = make()
    clients = (model._client, model._async_client)

    def are_closed() -> list[bool]:
        return [at.transport.is_closed for each in clients for at in each._engine._sessions.values()]

    with model:
        model.embed_query("a")
    assert are_closed() == [True]

    async def main() -> None:
        async with model:
            await model.aembed_query("a")
            model.embed_query("a")
            assert are_closed() == [False, False]
        assert are_closed() == [True, True]

    asyncio.run(main())
