"""
Lexical vectors: texts are similar if they have words in common.

A text's words and character bigrams and trigrams are hashed, so a question
finds the sentence that uses its words, in any script, but "car" does not find
"automobile". The same text has the same vector on every platform and Python
version: sums are integers, so they do not depend on the order of addition.
Only for characters newer than Unicode 13 may Python versions differ, as their
Unicode data does.

No I/O here.
"""

from __future__ import annotations

import struct
import unicodedata
from array import array
from collections import Counter
from functools import lru_cache
from hashlib import blake2b, shake_256
from itertools import chain, islice, pairwise, repeat
from math import isqrt, sqrt
from operator import add, mul, sub

LONGEST = 2048
# Block boundaries: every documented number of dimensions, so that each prefix consists of whole blocks.
_BLOCKS = (0, 64, 128, 256, 512, 768, 1024, 1536, LONGEST)
_WIDTHS = [end - start for start, end in pairwise(_BLOCKS)]
# A feature changes two positions of every block, two bytes of one 32-byte digest for each.
_TOUCHES = 2
_DIGEST = struct.Struct(f"<{_TOUCHES * len(_WIDTHS)}H")
# Roughly proportional to the square root of each block's width, so that all positions have similar energy.
_SCALES = [isqrt(width * 25 // 64) for width in _WIDTHS]
# Weights of features are multiples of 16. The base that all texts share is odd and below 16, so that no value
# is ever zero, as in the published response.
_WORD = 2  # a whole word weighs as much as two of its n-grams


class _Folding(dict[int, str | None]):
    """A table for `str.translate` that computes the replacement of a character on first use."""

    def __missing__(self, code: int) -> str | None:
        category = unicodedata.category(chr(code))
        kept: str | None = chr(code)
        if category == "Cf":  # joiners and direction marks, inside words
            kept = None
        elif category[0] in "PZ" or category == "Cc":
            kept = " "
        elif 0x3400 <= code <= 0x9FFF or code >= 0x20000:  # noqa: PLR2004 - ideographs: each is a word
            kept = f" {kept} "
        self[code] = kept
        return kept


_FOLDING = _Folding()


@lru_cache(maxsize=2**15)
def _positions(space: bytes, feature: str) -> tuple[int, ...]:
    """Return the positions that *feature* changes, by block; those counted from the end are decremented."""
    digest = blake2b(feature.encode(), digest_size=_DIGEST.size, person=space).digest()
    numbers = iter(_DIGEST.unpack(digest))
    touched = (
        (start + number % width, number)
        for start, width in zip(_BLOCKS, _WIDTHS, strict=False)
        for number in islice(numbers, _TOUCHES)
    )
    return tuple(~position if number & 0x8000 else position for position, number in touched)


@lru_cache(maxsize=32)
def _base(space: bytes, dimensions: int) -> list[int]:
    """Return *dimensions* small odd numbers, the base of all vectors of a model, and as many zeros."""
    numbers = shake_256(space).digest(dimensions)
    return [(number % 8 | 1) - (number & 1) * 8 for number in numbers] + [0] * dimensions


def _features(text: str) -> Counter[str]:
    """Count the words of *text*, with a space on both sides, and its character bigrams and trigrams."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_FOLDING)
    words = folded.split()
    line = f" {' '.join(words)} "
    pairs = list(map(add, line, line[1:]))
    triples = map(add, pairs, line[2:])
    return Counter(chain(map(" {} ".format, words), pairs, triples))


def embed(text: str, dimensions: int, space: str) -> array[float]:
    """
    Return the vector of *text*: *dimensions* float32 numbers, normalised.

    A vector with fewer dimensions is a prefix of a longer one, normalised. No
    text has a zero vector.

    Args:
        text: Any text that UTF-8 can encode, including a blank one.

        dimensions: Dimensions that v4 supports, 64 to 2,048.

        space: The name of the model's space, at most 16 bytes. Vectors of
            different spaces are unrelated.
    """
    seed = space.encode()
    blocks = _BLOCKS.index(dimensions)
    # The first half contains increments, the second half decrements in reverse order.
    sums = _base(seed, dimensions).copy()
    for feature, count in _features(text).items():
        weight = 16 * isqrt(count * 16) * (_WORD if len(feature) > 3 else 1)  # noqa: PLR2004 - longer than a trigram
        for position in _positions(seed, feature)[: blocks * _TOUCHES]:
            sums[position] += weight
    values = list(map(sub, sums, sums[: dimensions - 1 : -1]))
    energy = 0
    for start, width, scale in zip(_BLOCKS, _WIDTHS[:blocks], _SCALES, strict=False):
        block = values[start : start + width]
        energy += scale * scale * sum(map(mul, block, block))
    length = sqrt(energy)
    factors = (repeat(scale / length, width) for width, scale in zip(_WIDTHS, _SCALES, strict=True))
    return array("f", list(map(mul, values, chain.from_iterable(factors))))
