"""Which texts go out, and as what."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from qwen_aiml import ConfigurationError, InputError, InputTypeError, InputValueError, check_texts
from qwen_aiml._texts.validation import check_role, check_text, outgoing

if TYPE_CHECKING:
    from collections.abc import Iterator


class Document:
    """What holds a text in an attribute."""

    def __init__(self, attribute: str) -> None:
        setattr(self, attribute, "abc")


class Table:
    """What is iterated by the names of its columns, as in pandas."""

    columns = ("a",)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


@pytest.mark.parametrize(
    "texts",
    [[], ["a"], ("a", "b"), iter(["a"]), {"a": 1}, [" a\n"], ["\u200b"]],
    ids=["empty", "list", "tuple", "iterator", "dict", "spaces", "zero width"],
)
def test_accepted(texts: Any) -> None:
    """Any iterable of strings is taken, and the strings are left alone."""
    texts = list(texts)

    assert texts == check_texts(iter(texts))


@pytest.mark.parametrize(
    ("texts", "error", "indices", "said"),
    [
        ("abc", InputTypeError, (), "not one str; put it in a list"),
        (b"abc", InputTypeError, (), "not one bytes"),
        (None, InputTypeError, (), "not NoneType"),
        (7, InputTypeError, (), "not int"),
        ({"a": "b"}, InputTypeError, (), "not dict; give its values, or one column"),
        (Table(), InputTypeError, (), "not Table; give its values, or one column"),
        (["a", None, 3, b"x"], InputTypeError, (1, 2, 3), "not a string (NoneType, bytes, int): texts 1-3"),
        (["", "a", " \t\n", "\u3000"], InputValueError, (0, 2, 3), "only white space: texts 0, 2-3"),
        ([[1, 2], "a", ""], InputTypeError, (0, 2), "not a string (list): text 0; empty"),
    ],
)
def test_refused(texts: Any, error: type[InputError], indices: tuple[int, ...], said: str) -> None:
    """What can't be embedded is rejected at once, with every index."""
    with pytest.raises(error) as caught:
        check_texts(texts)

    assert indices == caught.value.indices
    assert said in str(caught.value)


def test_placeholder() -> None:
    """A placeholder replaces blank texts where they stand; what is not a string is still rejected."""
    texts = ["", "a", " \t\n", "raise"]

    assert check_texts(texts, on_blank="(empty)") == ["(empty)", "a", "(empty)", "raise"]
    assert texts[0] == ""
    with pytest.raises(InputTypeError) as caught:
        check_texts(["", None], on_blank="(empty)")  # type: ignore[list-item]
    assert caught.value.indices == (1,)
    assert "white space" not in str(caught.value)


def test_advice() -> None:
    """The error for blank texts, and only that, tells of the placeholder."""
    with pytest.raises(
        InputValueError, match="Leave them out, or set on_blank to a text to embed in place of"
    ):
        check_texts(["a", ""])


@pytest.mark.parametrize(
    ("item", "advice"),
    [
        (None, "Leave out what is missing"),
        (float("nan"), "Leave out what is missing"),
        (1.5, "Leave them out, or make strings of them"),
        (7, "Leave them out, or make strings of them"),
        (b"abc", "Decode them"),
        ({"text": "abc"}, "Give the text that is in each"),
        (["abc"], "Give one flat list of strings"),
        (Document("page_content"), "Give the .page_content of each"),
        (Document("text"), "Give the .text of each"),
    ],
)
def test_advice_for_what_is_no_string(item: Any, advice: str) -> None:
    """It says what to give instead."""
    with pytest.raises(InputTypeError) as caught:
        check_texts(["a", item])

    assert str(caught.value).endswith(f": text 1. {advice}")
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (["abc"], "not list. embed_documents, get_text_embedding_batch take lists"),
        (None, "not NoneType"),
        (Document("text"), "not Document. Give its .text"),
    ],
)
def test_one_text(item: Any, said: str) -> None:
    """Where one text is wanted, a string is, and nothing else."""
    assert check_text("") == ""
    with pytest.raises(InputTypeError) as caught:
        check_text(item)

    assert said in str(caught.value)
    assert caught.value.indices == (0,)


def test_roles() -> None:
    """There are two roles, and a misspelt one is not taken for a document."""
    assert check_role("query") == "query"
    with pytest.raises(ConfigurationError, match="not 'passage'"):
        check_role("passage")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["plain", "two\nlines\r\n\ttab", " padded ", "e\u0301 is not é", "😀 中文 العربية", "\x00"],
    ids=repr,
)
def test_left_alone(text: str) -> None:
    """Text goes out as it came in."""
    assert text == outgoing(text, None)


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
    """Split pairs are joined and lone surrogates replaced, since JSON can't carry them."""
    assert expected == outgoing(text, None)
    assert orjson.dumps(outgoing(text, None))


class Kind(str, Enum):
    """What prints as ``Kind.A``."""

    A = "hello world"


class Folded(str):
    """What compares without regard to case."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self.lower() == str(other).lower()

    def __hash__(self) -> int:
        return hash(self.lower())


def test_subclasses_of_str() -> None:
    """What goes out is the string itself, whatever a subclass makes of it."""
    assert outgoing(Kind.A, "Find") == "Instruct: Find\nQuery:hello world"
    assert {type(outgoing(text, None)) for text in (Kind.A, Folded("A"))} == {str}


def broken() -> Iterator[str]:
    yield "a"
    raise TypeError("a fault of the generator's own")


def test_faults_of_a_generator() -> None:
    """A generator that fails is not taken for a wrong type."""
    with pytest.raises(TypeError, match="of the generator's own"):
        check_texts(broken())


def test_instruction() -> None:
    """A query gets the prefix exactly as the model was trained on it."""
    expected = "Instruct: Find the article\nQuery:right to rest"

    assert expected == outgoing("right to rest", "Find the article")
