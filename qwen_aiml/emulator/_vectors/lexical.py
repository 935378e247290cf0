"""
Texts to vectors that know which words they share, and nothing else.

Lexical, not semantic: a text is hashed by its words and by the two and three
letter pieces of them, so a question finds the sentence that uses its words in
any script, but "car" does not find "automobile". The same text gives the same
vector on every platform and Python: sums are whole numbers, so no order of
adding shows in them. Only characters newer than Unicode 13 may differ between
Python versions, which disagree on what those are.

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
# Where each block of positions begins: at every documented length, so that each prefix is whole blocks.
_BLOCKS = (0, 64, 128, 256, 512, 768, 1024, 1536, LONGEST)
_WIDTHS = [end - start for start, end in pairwise(_BLOCKS)]
# A feature touches two positions of every block: one 32-byte digest, two bytes a position.
_TOUCHES = 2
_DIGEST = struct.Struct(f"<{_TOUCHES * len(_WIDTHS)}H")
# About the square root of each block's width, so that every position carries the same energy on average.
_SCALES = [isqrt(width * 25 // 64) for width in _WIDTHS]
# Weights of features are multiples of 16; the base all texts share is odd and below that, so that no value of
# a vector is ever zero, as none is in the published answer.
_WORD = 2  # a whole word weighs as much as two of its pieces


class _Folding(dict[int, str | None]):
    """What `str.translate` does with each character, worked out when it is first met."""

    def __missing__(self, code: int) -> str | None:
        category = unicodedata.category(chr(code))
        kept: str | None = chr(code)
        if category == "Cf":  # joiners and marks of direction, inside words
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
    """Say which positions *feature* touches, block after block; those it lowers are counted from the end."""
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
    """Give *dimensions* small odd numbers that all vectors of a model have in common, and as many zeros."""
    numbers = shake_256(space).digest(dimensions)
    return [(number % 8 | 1) - (number & 1) * 8 for number in numbers] + [0] * dimensions


def _features(text: str) -> Counter[str]:
    """Count the words of *text*, a space on either side of each, and the pieces of two and three letters."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_FOLDING)
    words = folded.split()
    line = f" {' '.join(words)} "
    pairs = list(map(add, line, line[1:]))
    triples = map(add, pairs, line[2:])
    return Counter(chain(map(" {} ".format, words), pairs, triples))


def embed(text: str, dimensions: int, space: str) -> array[float]:
    """
    Give the vector of *text*: *dimensions* float32 numbers, of length one.

    A shorter vector is the start of the longer one, scaled to length one. It
    is never zero, whatever the text.

    Args:
        text: Any text that UTF-8 can hold, blank ones too.

        dimensions: One of the lengths v4 knows, 64 to 2,048.

        space: The name of the model's space, at most 16 bytes. Vectors of
            different spaces have nothing to do with each other.
    """
    seed = space.encode()
    blocks = _BLOCKS.index(dimensions)
    # What is added fills the first half, what is taken away the second, from its end.
    sums = _base(seed, dimensions).copy()
    for feature, count in _features(text).items():
        weight = 16 * isqrt(count * 16) * (_WORD if len(feature) > 3 else 1)  # noqa: PLR2004 - longer than a piece
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
