"""
Format of cache keys and entries. No I/O here.

An entry consists of magic bytes with the schema version, the dimensions, the embedding as little-endian
float32, and a checksum of all that and of the key. An entry that is damaged, truncated or stored under the
wrong key is therefore a miss, never a wrong vector.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._texts.validation import Role

# Incremented when the meaning or format of keys or entries changes. Entries of other schemas are never found.
SCHEMA = 1

BINARY = (bytes, bytearray, memoryview)  # types of an entry that a store may return

_HEADER = struct.Struct("<4sI")
_MAGIC = b"qwe" + bytes([SCHEMA])
_CHECKSUM_BYTES = 8


def namespace(
    service: str,
    model: str,
    dimensions: int | None,
    *,
    role: Role = "document",
    instruction: str | None = None,
    policies: Sequence[str] = (),
) -> str:
    """
    Return the key prefix for all settings that affect vectors: readable, and safe as a file name.

    Args:
        service: URL of the service.

        model: The model ID as sent.

        dimensions: Dimensions of the vectors; None means the service's default.

        role: Role in which the texts are embedded.

        instruction: The task that precedes each text; None if there is none.

        policies: Other settings that affect vectors, one string each.

    Returns:
        At most 90 letters, digits, ``_``, ``.`` and ``-``, such as
        ``qwen-aiml-1.alibaba-qwen-text-embedding-v4.1024.`` and 16 hexadecimal digits, a hash of everything.
    """
    # JSON, since joined strings would be ambiguous.
    everything = json.dumps([SCHEMA, service, model, dimensions, role, instruction, list(policies)])
    digest = hashlib.sha256(everything.encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", model)[:48]
    length = "default" if dimensions is None else dimensions
    return f"qwen-aiml-{SCHEMA}.{readable}.{length}.{digest[:16]}"


def cache_key(namespace: str, text: str, shortened: str = "") -> str:
    """
    Return the key of one text's entry.

    Args:
        namespace: The key prefix; see `namespace`.

        text: The text as sent.

        shortened: How the text was shortened before it was sent; empty for a text embedded whole.
    """
    # The length shows where the label ends and the text begins.
    whole = f"{len(shortened)}:{shortened}{text}".encode("utf-8", "surrogatepass")
    return f"{namespace}.{hashlib.sha256(whole).hexdigest()}"


def float32(embedding: Sequence[float]) -> list[float] | None:
    """Round an embedding to float32; return None if the result is not finite, or all zero."""
    numbers = array("f", embedding).tolist()
    return numbers if _is_valid(numbers) else None


def pack(key: str, numbers: Sequence[float]) -> bytes:
    """
    Encode an entry.

    Args:
        key: The key under which it will be stored.

        numbers: The embedding, rounded by `float32`.
    """
    return _entry(key, struct.pack(f"<{len(numbers)}f", *numbers))


def unpack(key: str, entry: object, dimensions: int | None) -> list[float] | None:
    """
    Decode an entry.

    Args:
        key: The key under which it was stored.

        entry: The value from the store, of any type.

        dimensions: Required dimensions; None if unknown.

    Returns:
        The embedding; None unless the entry is intact, and of this key, schema and number of dimensions.
    """
    if not isinstance(entry, BINARY):
        return None
    entry = bytes(entry)
    numbers = entry[_HEADER.size : -_CHECKSUM_BYTES]
    if len(numbers) % 4 or entry != _entry(key, numbers):
        return None
    embedding = struct.unpack_from(f"<{len(numbers) // 4}f", numbers)
    is_found = dimensions in (None, len(embedding)) and _is_valid(embedding)
    return list(embedding) if is_found else None


def _entry(key: str, numbers: bytes) -> bytes:
    """Return the entry of a key and an encoded embedding."""
    body = _HEADER.pack(_MAGIC, len(numbers) // 4) + numbers
    return body + hashlib.sha256(key.encode() + body).digest()[:_CHECKSUM_BYTES]


def _is_valid(numbers: Sequence[float]) -> bool:
    # A sum of float32 numbers can't overflow, so it is finite exactly when all of them are.
    return math.isfinite(sum(numbers)) and any(numbers)
