"""Replacements for texts that exceed the token limit."""

from __future__ import annotations

import math
import re
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qwen_aiml import ResponseFormatError
from qwen_aiml._texts.shortening import (
    MAX_BYTES,
    MIN_BYTES,
    SAFE_BYTES,
    cut_at,
    mean,
    pieces,
    splits,
    truncations,
)
from qwen_aiml._texts.validation import prepare_text

if TYPE_CHECKING:
    from random import Random

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f3fd"

# Repeatable, and without a deadline: the machine may be slow.
repeatable = settings(max_examples=60, deadline=None, derandomize=True, database=None)

fragments = st.one_of(
    st.sampled_from(
        [
            "word",
            " ",
            "\n\n",
            "One sentence. ",
            "中文。",
            "한국어",
            "e\u0301",
            FAMILY,
            "\ud83d",
            "\ude00",
            "\U0001d160",
        ]
    ),
    st.text(st.characters(), max_size=20),
)
texts = st.lists(st.tuples(fragments, st.integers(1, 400)), min_size=1, max_size=12).map(
    lambda parts: prepare_text("".join(fragment * times for fragment, times in parts), None)
)
checked = texts.filter(str.strip)


def size(text: str) -> int:
    return len(text.encode())


def words(text: str) -> str:
    return "".join(text.split())


@given(checked, st.integers(0, SAFE_BYTES + 100))
@example("a" * 10_000_000, 0)
@example(" " * 100_000 + "a", 0)
@example("a" * 100_000, SAFE_BYTES)
@repeatable
def test_truncations(text: str, prefix_bytes: int) -> None:
    """Beginnings get ever shorter, can be sent, are not blank, and are limited in number."""
    tries = list(truncations(text, prefix_bytes=prefix_bytes))

    assert all(tried.strip() and text.lstrip().startswith(tried) for tried in tries)
    sizes = [size(text), *map(size, tries)]
    assert all(longer > shorter for longer, shorter in pairwise(sizes))
    assert all(tried <= MAX_BYTES for tried in sizes[1:])
    assert len(tries) <= (15 if prefix_bytes == 0 else 25)
    assert bool(tries) == (size(text) >= 2 * MIN_BYTES)


@pytest.mark.parametrize("prefix", [0, 50])
@pytest.mark.parametrize("length", [SAFE_BYTES + 1, 9_000, 50_000, 1_000_000])
def test_safe_stop(length: int, prefix: int) -> None:
    """However long the text is, the length that fits except for rare characters is among the attempts."""
    sizes = [size(text) for text in truncations("x" * length, prefix_bytes=prefix)]

    assert SAFE_BYTES - prefix in sizes
    assert sizes[-1] < 2 * MIN_BYTES


def test_first_cut() -> None:
    """A text of megabytes is cut immediately to what could fit; a shorter one loses a quarter."""
    assert size(next(truncations("x" * 10_000_000))) == MAX_BYTES
    assert size(next(truncations("x" * 40_000))) == 30_000
    assert size(next(truncations("x" * 8_000))) == 4_000


def test_white_space_first() -> None:
    """White space at the start is dropped, so that the text after it is not cut."""
    assert next(truncations("\n" * 100_000 + "the text")) == "the text"


@pytest.mark.parametrize(
    ("text", "at", "kept"),
    [
        ("a" * 50 + " " + "b" * 50, 52, "a" * 50),
        ("a" * 50 + " " + "b" * 50, 70, "a" * 50 + " " + "b" * 19),
        ("a" * 50, 49, "a" * 49),
        ("a" * 50, 50, "a" * 50),
        ("a" * 50, 99, "a" * 50),
        ("\u0301" * 50, 20, "\u0301" * 20),
        ("ab", 0, ""),
    ],
    ids=ascii,
)
def test_cut(text: str, at: int, kept: str) -> None:
    """Cuts are at white space if it is near, otherwise exactly at the limit."""
    assert kept == text[: cut_at(text, at)]


@given(texts, st.integers(1, 3000))
@example("a" + "\U0001f600" * 3, 4)
@example("\U0001f600", 1)
@example("a " * 3000, 2999)
@repeatable
def test_pieces(text: str, limit: int) -> None:
    """No piece is too long or blank; together they are the text, except for long white space."""
    found = pieces(text, limit)

    assert all(piece.strip() for piece in found)
    assert all(size(piece) <= limit or len(piece) == 1 for piece in found)
    assert words("".join(found)) == words(text)
    runs = re.findall(r"\s+", text)
    if text.strip() and max(map(size, runs), default=0) < limit * 2 / 5 - 4:
        assert "".join(found) == text


@given(checked, st.integers(64, 3000))
@repeatable
def test_even(text: str, limit: int) -> None:
    """Each piece has at least two fifths of the limit, minus the tolerance of a cut between characters."""
    found = pieces(text, limit)
    if "".join(found) == text and len(found) > 1:
        assert min(map(size, found)) >= limit * 2 // 5 - 4 * 12


def test_between_words() -> None:
    """A piece ends with a word if one ends near."""
    text = "word" * 10 + "wor end " + "word" * 13
    first, second = pieces(text, size(text) * 2 // 3)

    assert first.endswith(" end")
    assert first + second == text


def test_long_white_space() -> None:
    """White space that fills a piece is left out, since it can't be embedded."""
    text = "a" + " " * 1000 + "b"
    first, last = pieces(text, 100)

    assert text.startswith(first)
    assert text.endswith(last)


@pytest.mark.slow
@given(checked, st.integers(0, SAFE_BYTES + 100))
@example("a" * 300_000, 0)
@repeatable
def test_splits(text: str, prefix_bytes: int) -> None:
    """The whole text is split into ever smaller pieces, a limited number of times."""
    tries = list(splits(text, prefix_bytes=prefix_bytes))

    assert len(tries) <= 7
    assert all(words("".join(tried)) == words(text) for tried in tries)
    largest = [max(map(size, tried)) for tried in tries]
    assert all(longest <= (SAFE_BYTES - prefix_bytes) / 2**at for at, longest in enumerate(largest))
    assert all(longest < size(text) for longest in largest)


def test_splits_of_rare_characters() -> None:
    """A short text that is rejected is split too, until each piece fits."""
    first, second, third, *_ = splits("\U0001d160" * 2047)

    assert size(first[0]) > size(second[0]) > SAFE_BYTES / 6
    assert all(size(piece) <= SAFE_BYTES / 3 for piece in third)


def test_no_room() -> None:
    """Very short texts are not shortened, and nothing is split if the prefix leaves no room."""
    assert not list(truncations("a" * 127))
    assert not list(splits("a" * 127))
    assert list(splits("a" * 100_000, prefix_bytes=SAFE_BYTES)) == []


@pytest.mark.slow
def test_expansion() -> None:
    """NFC expands no character more than threefold, which the safe length for rare ones depends on."""
    characters = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)

    assert max(size(unicodedata.normalize("NFC", one)) / size(one) for one in characters) == 3


weighted = st.integers(1, 5).flatmap(
    lambda dimensions: st.lists(
        st.tuples(
            st.lists(st.floats(0.01, 1), min_size=dimensions, max_size=dimensions), st.integers(1, 100_000)
        ),
        min_size=1,
        max_size=8,
    )
)


@given(weighted, st.randoms(use_true_random=False))
@repeatable
def test_mean(pairs: list[tuple[list[float], int]], random: Random) -> None:
    """The mean has length 1 and the right direction, whatever the order of the pieces."""
    found = mean(*zip(*pairs, strict=True))
    total = sum(weight for _, weight in pairs)
    plain = [sum(embedding[at] * weight for embedding, weight in pairs) / total for at in range(len(found))]
    length = math.sqrt(sum(number**2 for number in plain))

    assert math.hypot(*found) == pytest.approx(1)
    assert found == pytest.approx([number / length for number in plain])
    shuffled = random.sample(pairs, len(pairs))
    assert found == mean(*zip(*shuffled, strict=True))


@given(st.lists(st.floats(-1e300, 1e300), min_size=1).filter(lambda row: math.hypot(*row) > 1e-300))
@repeatable
def test_mean_of_one(embedding: list[float]) -> None:
    """The mean of one embedding is that embedding at length 1, whatever its weight."""
    length = math.hypot(*embedding)

    assert mean([embedding], [7]) == pytest.approx([number / length for number in embedding])


def test_weights() -> None:
    """Pieces contribute in proportion to their weights."""
    assert mean([[1.0, 0.0], [0.0, 1.0]], [3, 4]) == pytest.approx([0.6, 0.8])
    assert mean([[2.0, 0.0], [0.0, 2.0]], [30, 40]) == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ([[1.0, 0.0], [-1.0, 0.0]], "zero or not finite"),
        ([[5e-324, 0.0]], "zero or not finite"),
        ([[1e308] * 9], "zero or not finite"),
        ([[math.nan, 1.0]], "zero or not finite"),
    ],
    ids=str,
)
def test_no_direction(embeddings: list[list[float]], message: str) -> None:
    """A mean without a direction is an error, never an embedding."""
    with pytest.raises(ResponseFormatError, match=message):
        mean(embeddings, [1] * len(embeddings))
