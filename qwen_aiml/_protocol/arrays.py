"""Embeddings as float32 arrays: a row of 1,024 numbers takes 4 KB instead of 33 KB. No I/O here."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any

from .._errors import ResponseFormatError
from .._utils.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


def packed(embedding: Sequence[float]) -> array[float]:
    """
    Convert an embedding to a float32 array.

    Args:
        embedding: Finite numbers, not all zero. An array is returned unchanged.

    Raises:
        ResponseFormatError: If a number is beyond the range of float32, or all of them would become zero.
    """
    if isinstance(embedding, array):
        return embedding
    numbers = array("f", embedding)
    # A sum of float32 numbers can't overflow, so it is finite exactly when all of them are.
    if not math.isfinite(sum(numbers)) or not any(numbers):
        raise ResponseFormatError(
            "the service responded with success, but a row holds numbers beyond float32"
        )
    return numbers


def load_numpy() -> Any:
    """
    Import NumPy, which is an optional dependency.

    Raises:
        ConfigurationError: If it is not installed.
    """
    return import_extra("numpy", "numpy", "embed_array")


def matrix(rows: Sequence[Any], dimensions: int, numpy: Any) -> NDArray[np.float32]:
    """
    Copy packed rows into one array.

    Args:
        rows: Packed rows of equal length.

        dimensions: Numbers per row; used only if there are no rows.

        numpy: The NumPy module.

    Returns:
        Shape (rows, dimensions), C-contiguous, writable.
    """
    numbers: NDArray[np.float32] = numpy.frombuffer(bytearray().join(rows), numpy.float32)
    return numbers.reshape(len(rows), len(rows[0]) if rows else dimensions)
