"""The exceptions: class hierarchy, pickling and messages."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

import pytest

import qwen_aiml
from qwen_aiml import (
    APIStatusError,
    AuthenticationError,
    BudgetError,
    CacheError,
    ConfigurationError,
    DeadlineError,
    EmbeddingBatchError,
    InputTypeError,
    InputValueError,
    InsufficientCreditsError,
    QwenAIMLError,
    RateLimitError,
    ResponseFormatError,
    TransportError,
    Usage,
)
from qwen_aiml._errors import SpentError, advised, name_texts, note_none_embedded

RATE_LIMIT = RateLimitError("slow down", status_code=429, request_id="r-1", indices=(3, 4), attempts=6)

ALL = [
    QwenAIMLError("base"),
    ConfigurationError("setting"),
    InputTypeError("not a string", indices=(1,)),
    InputValueError("blank", indices=(0, 2)),
    CacheError("no space"),
    TransportError("no response", transient=False, timed_out=True, indices=(0,), attempts=2),
    DeadlineError("too late", attempts=1),
    APIStatusError("HTTP 400", status_code=400, reason="rows", max_rows=5),
    AuthenticationError("HTTP 401", status_code=401, request_id="r-0"),
    InsufficientCreditsError("HTTP 403", status_code=403),
    RATE_LIMIT,
    ResponseFormatError("short row"),
    BudgetError([None], {0: SpentError("nothing more is sent")}, Usage()),
    EmbeddingBatchError([[0.5], None, None], {1: RATE_LIMIT}, Usage(3, 20, None)),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_pickle(error: QwenAIMLError) -> None:
    """Every error survives pickling with its message and attributes."""
    copy = pickle.loads(pickle.dumps(error))

    assert type(error) is type(copy)
    assert str(error) == str(copy)
    assert repr(vars(error)) == repr(vars(copy))


def test_tree() -> None:
    """All public errors have one base, and none is a RuntimeError, which LlamaIndex replaces."""
    public = [getattr(qwen_aiml, name) for name in qwen_aiml.__all__ if name.endswith("Error")]

    assert {type(error) for error in ALL} | {qwen_aiml.InputError} == set(public)
    assert all(issubclass(error, QwenAIMLError) for error in public)
    assert not any(issubclass(error, RuntimeError) for error in public)


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (ConfigurationError, ValueError),
        (InputTypeError, TypeError),
        (InputValueError, ValueError),
        (DeadlineError, TimeoutError),
    ],
)
def test_builtin_bases(error: type[Exception], base: type[Exception]) -> None:
    """Errors can be caught as the matching built-in exception."""
    assert issubclass(error, base)


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ([3], "text 3"),
        ([3, 4], "texts 3-4"),
        ([0, 1, 2, 7], "texts 0-2, 7"),
        (list(range(0, 40, 2)), "texts 0, 2, 4, 6, 8, 10, 12, 14 and more, 20 in all"),
    ],
)
def test_name_texts(indices: list[int], expected: str) -> None:
    """Indices are shown as at most eight ranges."""
    assert expected == name_texts(indices)


def test_message_of_a_failed_request() -> None:
    """The message of a failed request names its texts and the number of attempts."""
    assert str(RATE_LIMIT) == "slow down (texts 3-4, 6 attempts)"
    assert str(RateLimitError("no", status_code=429, indices=(0,), attempts=1)) == "no (text 0)"


def test_message_of_an_error_without_a_request() -> None:
    """An error that is about no text, or before any request, is shown with its message alone."""
    assert str(InputValueError("texts 0 and 2 are blank", indices=(0, 2))) == "texts 0 and 2 are blank"
    assert str(DeadlineError("too late", attempts=1)) == "too late"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("It failed", "It failed. What to do: wait"),
        ("It failed. ", "It failed. What to do: wait"),
        ("It failed...\n", "It failed... What to do: wait"),
        ("Why?", "Why? What to do: wait"),
    ],
)
def test_advice(message: str, expected: str) -> None:
    """Advice follows a message, which may come from the service, with one full stop between them."""
    assert advised(message, "wait") == expected
    assert advised(message, "") == message


def test_message_of_a_call_without_any_embedding() -> None:
    """If a call embedded no text, its message says so and names the first failure."""
    error = RateLimitError("no", status_code=429, indices=(3, 4), attempts=2)
    note_none_embedded(error, 20)
    assert str(error) == "no (none of 20 texts embedded; first failure: texts 3-4, 2 attempts)"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)

    note_none_embedded(error, 2)
    assert str(error) == "no (texts 3-4, 2 attempts)"


@pytest.mark.parametrize("reason", ["account", "request"])
def test_message_that_is_not_about_texts(reason: Any) -> None:
    """An error that does not depend on the texts names none."""
    error = AuthenticationError("no", status_code=401, reason=reason, indices=(0,), attempts=1)

    assert str(error) == "no"
    assert error.indices == (0,)


def test_names() -> None:
    """Errors show the module they are imported from; subclasses of users keep their own."""

    class OwnError(TransportError):
        """A user's subclass."""

    for error in ALL:
        assert type(error).__module__ == "qwen_aiml"
    assert OwnError.__module__ == __name__
    assert traceback.format_exception_only(TransportError("gone")) == ["qwen_aiml.TransportError: gone\n"]


def test_message_of_a_partial_failure() -> None:
    """The message of a partial failure says what is missing, what failed first, and where the rest is."""
    message = str(ALL[-1])

    assert "2 of 3 texts not embedded: texts 1-2." in message
    assert "RateLimitError: slow down" in message
    assert ".embeddings" in message
    assert "The other 1 is in" not in message
    assert "The other embedding is in `.embeddings`, the errors are in `.failures`" in message
    spent = BudgetError([None], {0: SpentError("max_tokens=1 is reached: 2 tokens")}, Usage())
    assert "First error: max_tokens=1 is reached" in str(spent)
