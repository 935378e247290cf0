"""Validation of texts, and the form in which they are sent."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from qwen_aiml import ConfigurationError, InputError, InputTypeError, InputValueError, check_texts
from qwen_aiml._texts.validation import check_role, prepare_text

if TYPE_CHECKING:
    from collections.abc import Iterator


class AsyncTexts:
    """Texts that only ``async for`` goes through."""

    def __aiter__(self) -> None:
        """Is never called."""


class Table:
    """An object that is iterated by column names, as in pandas."""

    columns = ("a",)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


@pytest.mark.parametrize(
    "texts",
    [[], ["a"], ("a", "b"), iter(["a"]), {"a": 1}, [" a\n"], ["\u200b"]],
    ids=["empty", "list", "tuple", "iterator", "dict", "spaces", "zero width"],
)
def test_accepted(texts: Any) -> None:
    """Any iterable of strings is accepted, and the strings are unchanged."""
    texts = list(texts)

    assert texts == check_texts(iter(texts))


@pytest.mark.parametrize(
    ("texts", "error", "indices", "message"),
    [
        ("abc", InputTypeError, (), "texts is one str, expected a list of str. What to do: put the text in"),
        (
            b"abc",
            InputTypeError,
            (),
            "texts is one bytes, expected a list of str. What to do: put the text in",
        ),
        (AsyncTexts(), InputTypeError, (), "texts is AsyncTexts, expected a list of str. What to do: put"),
        (
            None,
            InputTypeError,
            (),
            "texts is NoneType, expected a list of str. What to do: put",
        ),
        (7, InputTypeError, (), "texts is int, expected a list"),
        (
            {"a": "b"},
            InputTypeError,
            (),
            "texts is dict, expected a list of str. What to do: give its",
        ),
        (Table(), InputTypeError, (), "texts is Table, expected a list of str. What to do: give its values"),
        (
            ["a", None],
            InputTypeError,
            (1,),
            "nothing was sent: texts[1] is NoneType, expected str. What to",
        ),
        (
            ["a", None, 3, 4, b"x"],
            InputTypeError,
            (1, 2, 3, 4),
            "texts[1] is NoneType, texts[2-3] are int, texts[4] is bytes, expected str. What to do:",
        ),
        (
            ["", "a", " \t\n", "\u3000"],
            InputValueError,
            (0, 2, 3),
            "texts[0] is blank, texts[2-3] are blank.",
        ),
        (
            [[1, 2], "a", ""],
            InputTypeError,
            (0, 2),
            "texts[0] is list, expected str; texts[2] is blank. What to do: remove missing values, and",
        ),
        (
            ["", "a"] * 20,
            InputValueError,
            tuple(range(0, 40, 2)),
            "texts[12] is blank, texts[14] is blank and more, 20 in all. What to do",
        ),
    ],
)
def test_refused(texts: Any, error: type[InputError], indices: tuple[int, ...], message: str) -> None:
    """Texts that can't be embedded are rejected immediately, with all their indices."""
    with pytest.raises(error) as caught:
        check_texts(texts)

    assert indices == caught.value.indices
    assert message in str(caught.value)


def test_later_texts() -> None:
    """In a stream, the error names the text from which on nothing was sent."""
    with pytest.raises(InputValueError, match=r"^nothing was sent from text 30 on: texts\[31\] is blank"):
        check_texts(["a", ""], first=30)


def test_placeholder() -> None:
    """A placeholder replaces blank texts in their positions; other types are still rejected."""
    texts = ["", "a", " \t\n", "raise"]

    assert check_texts(texts, blank_replacement="(empty)") == ["(empty)", "a", "(empty)", "raise"]
    assert texts[0] == ""
    with pytest.raises(InputTypeError) as caught:
        check_texts(["", None], blank_replacement="(empty)")  # type: ignore[list-item]
    assert caught.value.indices == (1,)
    assert "blank" not in str(caught.value)


def test_advice() -> None:
    """The error for blank texts recommends the placeholder."""
    with pytest.raises(
        InputValueError, match="remove the blank texts, or set on_blank='replace' and blank_replacement to"
    ):
        check_texts(["a", ""])


@pytest.mark.parametrize("item", [None, 1.5, b"abc", {"text": "abc"}, ["abc"]], ids=repr)
def test_advice_for_what_is_no_string(item: Any) -> None:
    """The error says what to pass instead, without quoting the item."""
    with pytest.raises(InputTypeError) as caught:
        check_texts(["a", item])

    advice = "remove missing values, and give the text of any other object"
    assert str(caught.value).endswith(f", expected str. What to do: {advice}")
    assert "abc" not in str(caught.value)


def test_roles() -> None:
    """There are two roles, and an unknown one is rejected."""
    assert check_role("query") == "query"
    with pytest.raises(ConfigurationError, match="not 'passage'"):
        check_role("passage")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["plain", "two\nlines\r\n\ttab", " padded ", "e\u0301 is not é", "😀 中文 العربية", "\x00"],
    ids=repr,
)
def test_left_alone(text: str) -> None:
    """Valid text is sent unchanged."""
    assert text == prepare_text(text, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\ud83d\ude00b", "a😀b"),
        ("a\ud800b", "a\ufffdb"),
        ("\udfff", "\ufffd"),
        ("\ude00\ud83d😀", "\ufffd\ufffd😀"),
    ],
)
def test_surrogates(text: str, expected: str) -> None:
    """Split surrogate pairs are joined and lone surrogates replaced, since JSON can't contain them."""
    assert expected == prepare_text(text, None)
    assert orjson.dumps(prepare_text(text, None))


class Kind(str, Enum):
    """An enum whose member prints as ``Kind.A``."""

    A = "hello world"


class Folded(str):
    """A case-insensitive string."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self.lower() == str(other).lower()

    def __hash__(self) -> int:
        return hash(self.lower())


def test_subclasses_of_str() -> None:
    """Subclasses are sent as plain strings."""
    assert prepare_text(Kind.A, "Find") == "Instruct: Find\nQuery:hello world"
    assert {type(prepare_text(text, None)) for text in (Kind.A, Folded("A"))} == {str}


def broken() -> Iterator[str]:
    yield "a"
    raise TypeError("a fault of the generator's own")


def test_faults_of_a_generator() -> None:
    """An exception from a generator is raised unchanged."""
    with pytest.raises(TypeError, match="of the generator's own"):
        check_texts(broken())


def test_instruction() -> None:
    """A query gets the prefix exactly as the model was trained on it."""
    expected = "Instruct: Find the article\nQuery:right to rest"

    assert expected == prepare_text("right to rest", "Find the article")
