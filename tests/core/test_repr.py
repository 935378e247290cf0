"""What a traceback that prints local variables may show of what passes through."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from pydantic import SecretStr
from rich.pretty import pretty_repr

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import ConfigurationError, EmbeddingClient, EmbeddingConfig, EmbeddingResult, Usage
from qwen_aiml._engine.stream import Block
from qwen_aiml._protocol.response import Response, Rows
from qwen_aiml._protocol.schema import Row, Success
from qwen_aiml._transport.base import Post


@pytest.mark.parametrize(
    "held",
    [
        Post(b"secret", 1.0, 10),
        Response(200, {"x": "secret"}, b"secret"),
        Block(0, ["secret"], []),
        Rows([[0.5]], "secret", "secret"),
        Success([Row([0.5])], model="secret"),
        EmbeddingResult([[0.5]], Usage(), request_ids=("secret",)),
    ],
    ids=lambda held: type(held).__name__,
)
def test_nothing_of_a_text(held: object) -> None:
    """Neither a text nor a response, which may repeat it."""
    assert type(held).__name__ in repr(held)
    assert "secret" not in repr(held)
    shown = pretty_repr(held)
    assert type(held).__name__ in shown
    assert "secret" not in shown
    assert "0.5" not in repr(held) + shown


class Frames:
    """Looks for a key in the variables of the frames of a traceback, and in what they hold."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._seen: set[int] = set()

    def hold(self, error: BaseException) -> bool:
        """Tell whether a frame of ours has the key."""
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
        except AttributeError:  # of an object that was not made
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
    ],
    ids=lambda options: next(reversed(options)),
)
def test_misplaced_key(make: Any, options: dict[str, Any]) -> None:
    """A key that is given by another name, or as another setting, is in no message and in no frame."""
    with pytest.raises((ConfigurationError, TypeError)) as caught:
        make(**options)

    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert not Frames(KEY).hold(caught.value)


def test_key_for_settings() -> None:
    """Nor is one that is given in the place of the settings."""
    with pytest.raises(ConfigurationError, match="must be an EmbeddingConfig, not str") as caught:
        EmbeddingClient(KEY)  # type: ignore[arg-type]

    assert not Frames(KEY).hold(caught.value)


@pytest.mark.parametrize("make", [QwenAIMLEmbeddings, QwenAIMLEmbedding])
@pytest.mark.parametrize("update", [{"openai_api_key": KEY}, {"api_key": f"Bearer {KEY}"}], ids=str)
def test_misplaced_key_in_a_copy(make: Any, update: dict[str, Any]) -> None:
    """Nor is one that a copy was to have."""
    model = make(api_key=KEY[:12])
    with pytest.raises(ConfigurationError) as caught:
        model.model_copy(update=update)

    assert not Frames(KEY).hold(caught.value)
