"""The request body as JSON, and the maximum size of its response. No I/O here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._config import EmbeddingConfig


def encode(texts: Sequence[str], config: EmbeddingConfig) -> bytes:
    """
    Encode a request body: exactly ``model``, ``input`` as strings, and the options that the user set.

    Source: AI/ML API's OpenAPI of the endpoint. It rejects null for an unset option, and token IDs.
    """
    body: dict[str, Any] = {"model": config.model, "input": list(texts)}
    if config.dimensions is not None:
        body["dimensions"] = config.dimensions
    if config.encoding_format is not None:
        body["encoding_format"] = config.encoding_format
    return msgspec.json.encode(body)


def max_response_bytes(rows: int) -> int:
    """
    Return the maximum size of a response body in bytes: 1 MiB per row, at least 16 MiB.

    A row of 2,048 numbers takes 45 kB, so a larger body is not from the service.
    """
    return max(16, rows) * 2**20
