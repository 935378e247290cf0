"""The request body, written as JSON; and how large its response may be. No I/O here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._config import EmbeddingConfig


def encode(texts: Sequence[str], config: EmbeddingConfig) -> bytes:
    """
    Write a request body: exactly ``model``, ``input`` as strings, and what the user set.

    Source: AI/ML API's OpenAPI of the endpoint. It refuses null for an option that is not set, and token ids.
    """
    body: dict[str, Any] = {"model": config.model, "input": list(texts)}
    if config.dimensions is not None:
        body["dimensions"] = config.dimensions
    if config.encoding_format is not None:
        body["encoding_format"] = config.encoding_format
    return msgspec.json.encode(body)


def max_response_bytes(rows: int) -> int:
    """
    Give how large the body of a response may be: 1 MiB for each of the *rows*, 16 MiB at least.

    A row of 2,048 numbers takes 45 kB, so what is larger is no response of the service.
    """
    return max(16, rows) * 2**20
