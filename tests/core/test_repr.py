"""Neither reprs nor the frames of a traceback show texts, responses or keys."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import orjson
import pytest
from pydantic import SecretStr, ValidationError, create_model
from rich.pretty import pretty_repr

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    AsyncEmbeddingClient,
    AuthenticationError,
    ConfigurationError,
    DeadlineError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    EmbeddingResult,
    InputError,
    ResponseFormatError,
    TransportError,
    Usage,
)
from qwen_aiml._protocol.response import Response, Rows
from qwen_aiml._protocol.schema import Row, Success
from qwen_aiml._transport.base import Post
from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    "held",
    [
        Post(b"secret", 10),
        Response(200, {"x": "secret"}, b"secret"),
        Rows([[0.5]], "secret", "secret"),
        Success([Row([0.5])], model="secret"),
        EmbeddingResult([[0.5]], Usage(), request_ids=("secret",)),
    ],
    ids=lambda held: type(held).__name__,
)
def test_nothing_of_a_text(held: object) -> None:
    """Reprs contain neither texts nor responses, which may repeat them."""
    assert type(held).__name__ in repr(held)
    assert "secret" not in repr(held)
    shown = pretty_repr(held)
    assert type(held).__name__ in shown
    assert "secret" not in shown
    assert "0.5" not in repr(held) + shown


class Frames:
    """Searches the frames of a traceback for a key: their variables and the values in these."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._seen: set[int] = set()

    def hold(self, error: BaseException) -> bool:
        """Return whether a frame below the test's own contains the key."""
        assert error.__traceback__ is not None
        frames = traceback.walk_tb(error.__traceback__.tb_next)
        return any(self._holds(dict(frame.f_locals), 6) for frame, _ in frames)

    def _holds(self, value: object, depth: int) -> bool:
        if isinstance(value, str):
            return self._key in value
        if id(value) in self._seen or not depth:
            return False
        self._seen.add(id(value))
        if isinstance(value, dict):
            return any(self._holds(each, depth - 1) for pair in value.items() for each in pair)
        if isinstance(value, (list, tuple, set)):
            return any(self._holds(each, depth - 1) for each in value)
        try:
            return self._key in repr(value)
        except AttributeError:  # of an object that was only partly created
            return False


KEY = "sk-test-0123456789abcdef"


@pytest.mark.parametrize("make", [QwenAIMLEmbeddings, QwenAIMLEmbedding, EmbeddingConfig, EmbeddingClient])
@pytest.mark.parametrize(
    "options",
    [
        {"openai_api_key": KEY},
        {"apikey": KEY, "dimensions": 3},
        {"dashscope_api_key": SecretStr(KEY)},
        {"api_secret": KEY},
        {"auth_token": KEY},
        {"api_key": KEY, "dimensions": KEY},
        {"api_key": KEY, "timeout": KEY},
        {"api_key": KEY, "on_too_long": KEY},
        {"api_key": KEY, "on_blank": KEY},
        {"api_key": KEY, "tokenizer": KEY},
        {"api_key": KEY, "allow_http": KEY},
        {"api_key": KEY, "max_retries": KEY},
        {"api_key": KEY, "query_instruction": [KEY]},
        {"api_key": KEY, "model": "text-embedding-v3", "query_instruction": KEY},
        {"api_key": KEY, "base_url": KEY},
        {"api_key": KEY, "api_base": KEY},
        {"api_key": KEY, "default_headers": {"Authorization": KEY}},
        {"api_key": KEY, "cache": f"redis://:{KEY}@localhost"},
        {"api_key": KEY, "http_client": KEY},
    ],
    ids=lambda options: next(reversed(options)),
)
def test_misplaced_key(make: Any, options: dict[str, Any]) -> None:
    """A key passed by another name, or as another setting, appears in no message and no frame."""
    with pytest.raises((ConfigurationError, TypeError)) as caught:
        make(**options)

    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert not Frames(KEY).hold(caught.value)


@pytest.mark.parametrize("make", [QwenAIMLEmbeddings, QwenAIMLEmbedding])
@pytest.mark.parametrize(
    "given",
    [
        {"openai_api_key": KEY},
        {"api_key": KEY, "dimensions": "many"},
        {"api_key": KEY, "dimensions": KEY},
        {"api_key": f"Bearer {KEY}"},
        {"api_key": KEY, "default_headers": {"Authorization": KEY, "x": 1}},
        KEY,
    ],
    ids=str,
)
def test_key_in_another_model(make: Any, given: Any) -> None:
    """A model that contains ours shows neither the key nor other settings in its validation errors."""
    outer: Any = create_model("Outer", embeddings=(make, ...))
    settings = {"embeddings": given}
    as_json = orjson.dumps(settings)
    for validate, data in ((outer.model_validate, settings), (outer.model_validate_json, as_json)):
        with pytest.raises(ValidationError, match="1 validation error for Outer") as caught:
            validate(data)

        assert KEY not in f"{caught.value} {caught.value.errors()} {caught.value.json()}"


@pytest.mark.parametrize("make", [QwenAIMLEmbeddings, QwenAIMLEmbedding])
def test_object_in_another_model(make: Any) -> None:
    """A model that contains ours uses an object as it is, creates one from settings, and describes it."""
    outer: Any = create_model("Outer", embeddings=(make, ...))
    model = make(api_key=KEY)

    assert outer(embeddings=model).embeddings is model
    assert outer(embeddings={"api_key": KEY}).embeddings.api_key.get_secret_value() == KEY
    assert KEY not in repr(outer(embeddings=model)) + outer(embeddings=model).model_dump_json()
    assert list(outer.model_json_schema()["$defs"]) == [make.__name__]


@pytest.mark.parametrize("settings", [{"config": KEY}, {"cache": f"redis://:{KEY}@h"}, {"http_client": KEY}])
def test_key_for_settings(settings: dict[str, Any]) -> None:
    """A key passed in place of the settings, or as an argument, appears in no frame."""
    config = EmbeddingConfig(api_key=KEY)
    with pytest.raises(ConfigurationError, match="must be") as caught:
        EmbeddingClient(**{"config": config, **settings})

    assert not Frames(KEY).hold(caught.value)


@pytest.mark.parametrize("make", [QwenAIMLEmbeddings, QwenAIMLEmbedding])
@pytest.mark.parametrize(
    "update",
    [{"openai_api_key": KEY}, {"api_key": f"Bearer {KEY}"}, {"default_headers": {"Authorization": KEY}}],
    ids=str,
)
def test_misplaced_key_in_a_copy(make: Any, update: dict[str, Any]) -> None:
    """A misplaced or invalid key in `model_copy` appears in no frame."""
    model = make(api_key=KEY[:12])
    with pytest.raises(ConfigurationError) as caught:
        model.model_copy(update=update)

    assert not Frames(KEY).hold(caught.value)


TEXT = "The patient's name is not to be seen"
TEXTS = [TEXT, *(f"{TEXT} {at}" for at in range(12))]


def stream(client: EmbeddingClient, texts: list[str], **options: Any) -> list[Any]:
    return list(client.embed_iter(texts, **options))


async def stream_async(client: AsyncEmbeddingClient, texts: list[str], **options: Any) -> list[Any]:
    async with client.embed_iter(texts, **options) as rows:
        return [row async for row in rows]


CORE: dict[str, tuple[Any, Callable[..., Any]]] = {
    "embed": (EmbeddingClient, EmbeddingClient.embed),
    "embed_array": (EmbeddingClient, EmbeddingClient.embed_array),
    "embed_iter": (EmbeddingClient, stream),
    "async embed": (AsyncEmbeddingClient, AsyncEmbeddingClient.embed),
    "async embed_array": (AsyncEmbeddingClient, AsyncEmbeddingClient.embed_array),
    "async embed_iter": (AsyncEmbeddingClient, stream_async),
}
ADAPTERS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "embed_documents": (QwenAIMLEmbeddings, QwenAIMLEmbeddings.embed_documents),
    "aembed_documents": (QwenAIMLEmbeddings, QwenAIMLEmbeddings.aembed_documents),
    "embed_query": (QwenAIMLEmbeddings, lambda model, texts: model.embed_query(texts[-1])),
    "get_text_embedding_batch": (QwenAIMLEmbedding, QwenAIMLEmbedding.get_text_embedding_batch),
    "aget_text_embedding_batch": (QwenAIMLEmbedding, QwenAIMLEmbedding.aget_text_embedding_batch),
    "get_query_embedding": (QwenAIMLEmbedding, lambda model, texts: model.get_query_embedding(texts[-1])),
}


def embed(way: str, settings: dict[str, Any], texts: list[str], **options: Any) -> Any:
    kind, function = {**CORE, **ADAPTERS}[way]
    model = kind(EmbeddingConfig(**settings)) if way in CORE else kind(**settings)
    outcome = function(model, texts, **options)
    return asyncio.run(outcome) if inspect.iscoroutine(outcome) else outcome


def shown(error: BaseException) -> str:
    """Format the variables of this project's frames, in the tracebacks of an error and its causes."""
    errors, frames = [error, *getattr(error, "failures", {}).values()], []
    for each in errors:
        errors += [cause for cause in (each.__cause__, each.__context__) if cause and cause not in errors]
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if "qwen_aiml" in frame.f_globals["__name__"]:
                frames.append(pretty_repr(dict(frame.f_locals), max_depth=6))
    assert frames
    return "".join([*frames, *map(str, errors)])


@pytest.mark.slow
@pytest.mark.parametrize("way", [*CORE, *ADAPTERS])
@pytest.mark.parametrize(
    ("fault", "settings", "text", "expected"),
    [
        pytest.param(None, {}, " ", InputError, id="blank"),
        pytest.param(Fault(status=401), {}, TEXT, AuthenticationError, id="key"),
        pytest.param(Fault(cut=100), {"max_retries": 0}, TEXT, TransportError, id="cut"),
        pytest.param(
            Fault(status=200, body=b"{}"), {"max_retries": 0}, TEXT, ResponseFormatError, id="malformed"
        ),
        pytest.param(Fault(hang=True), {"total_timeout": 0.3}, TEXT, DeadlineError, id="deadline"),
    ],
)
def test_texts_in_frames(
    way: str,
    fault: Fault | None,
    settings: dict[str, Any],
    text: str,
    expected: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No frame of this project in the traceback of an error shows a text."""
    emulator = Emulator()
    emulator.script(*[fault] * 4)
    with serve(emulator) as address:
        monkeypatch.setenv("AIMLAPI_BASE_URL", address)
        with pytest.raises(expected) as caught:
            embed(way, {"api_key": KEY, **settings}, [*TEXTS, text])

    assert TEXT not in shown(caught.value)


@pytest.mark.parametrize("way", [way for way in (*CORE, *ADAPTERS) if "query" not in way])
def test_texts_in_frames_of_part(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame of this project shows a text if a call fails in part."""
    emulator = Emulator()
    emulator.script(None, Fault(status=401))
    with serve(emulator) as address:
        monkeypatch.setenv("AIMLAPI_BASE_URL", address)
        with pytest.raises(EmbeddingBatchError) as caught:
            embed(way, {"api_key": KEY, "max_concurrency": 1}, TEXTS)

    assert TEXT not in shown(caught.value)


@pytest.mark.parametrize("way", [way for way in (*CORE, *ADAPTERS) if way.startswith("a")])
def test_texts_in_frames_of_a_cancelled_call(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame of this project shows a text if a call is cancelled, which `wait_for` reports as a timeout."""
    kind, function = {**CORE, **ADAPTERS}[way]
    emulator = Emulator()
    emulator.script(*[Fault(hang=True)] * 4)

    async def run() -> None:
        model = kind(EmbeddingConfig(api_key=KEY)) if way in CORE else kind(api_key=KEY)
        await asyncio.wait_for(function(model, [*TEXTS, TEXT]), 0.3)

    with serve(emulator) as address:
        monkeypatch.setenv("AIMLAPI_BASE_URL", address)
        with pytest.raises(asyncio.TimeoutError) as caught:
            asyncio.run(run())

    assert TEXT not in shown(caught.value)


def test_texts_in_frames_of_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame of this project shows a text if a sync call is interrupted."""

    def interrupt(_: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("qwen_aiml._engine.runner.wait_for", interrupt)
    with serve(Emulator()) as address, pytest.raises(KeyboardInterrupt) as caught:
        embed("embed", {"api_key": KEY, "base_url": address}, TEXTS)

    assert TEXT not in shown(caught.value)


@pytest.mark.parametrize("method", [EmbeddingClient.estimate, EmbeddingClient.count_tokens])
def test_texts_in_frames_of_an_estimate(method: Callable[..., object]) -> None:
    """No frame of this project shows a text if the texts can't be counted."""
    with pytest.raises(InputError, match="expected str") as caught:
        method(EmbeddingClient(EmbeddingConfig(api_key=KEY)), [*TEXTS, 5])

    assert TEXT not in shown(caught.value)


@pytest.mark.parametrize("way", CORE)
def test_texts_in_frames_of_a_crash(way: str) -> None:
    """If user code raises, its frames stay unchanged, and this project's show no text."""

    def admit(_: int) -> NoReturn:
        kept = "of the user's"
        raise LookupError(kept)

    with serve(Emulator()) as address, pytest.raises(LookupError) as caught:
        embed(way, {"api_key": KEY, "base_url": address}, TEXTS, admit=admit)

    (*_, (own, _)) = traceback.walk_tb(caught.value.__traceback__)
    assert own.f_locals["kept"] == "of the user's"
    assert TEXT not in shown(caught.value)
