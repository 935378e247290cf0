"""
What a cache keeps of each text, and under which name. No I/O here.

An entry is magic and schema version, the count of its numbers, the numbers as little-endian float32, and a
checksum of all that and of the entry's own key: what is damaged, cut off or stored under the wrong key is a
miss, never a wrong vector.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._texts.validation import Role

# Goes up when keys or entries change their meaning or form. What is stored under another one is never found.
SCHEMA = 1

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
    Name what makes vectors of the same text differ: readable, and safe as a file's name.

    Args:
        service: Address of the service.

        model: The id that is sent.

        dimensions: Length of the vectors; None leaves it to the service.

        role: What the texts are embedded as.

        instruction: The task put before each text; None for none.

        policies: What else changes a vector, each as a string of its own.

    Returns:
        Letters, digits, ``_``, ``.`` and ``-``, at most 90, such as
        ``qwen-aiml-1.alibaba-qwen-text-embedding-v4.1024.`` and 16 hexadecimal digits, a hash of all of it.
    """
    # JSON, since joined strings could be read in more than one way.
    everything = json.dumps([SCHEMA, service, model, dimensions, role, instruction, list(policies)])
    digest = hashlib.sha256(everything.encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", model)[:48]
    length = "default" if dimensions is None else dimensions
    return f"qwen-aiml-{SCHEMA}.{readable}.{length}.{digest[:16]}"


def cache_key(namespace: str, text: str, shortened: str = "") -> str:
    """
    Name the entry of one text.

    Args:
        namespace: What `namespace` gives.

        text: As it is sent.

        shortened: How the text was shortened before it was sent; empty for a text embedded whole.
    """
    # The length tells where the label ends and the text begins.
    whole = f"{len(shortened)}:{shortened}{text}".encode("utf-8", "surrogatepass")
    return f"{namespace}.{hashlib.sha256(whole).hexdigest()}"


def float32(embedding: Sequence[float]) -> list[float] | None:
    """Give an embedding as an entry holds it; None if float32 can't: it is not finite then, or all zero."""
    form = struct.Struct(f"<{len(embedding)}f")
    try:
        numbers = form.unpack(form.pack(*embedding))
    except OverflowError:
        return None
    return list(numbers) if _is_sound(numbers) else None


def pack(key: str, numbers: Sequence[float]) -> bytes:
    """
    Write an entry.

    Args:
        key: What it will be stored under.

        numbers: What `float32` gives.
    """
    body = _HEADER.pack(_MAGIC, len(numbers)) + struct.pack(f"<{len(numbers)}f", *numbers)
    return body + _checksum(key, body)


def unpack(key: str, entry: object, dimensions: int | None) -> list[float] | None:
    """
    Read an entry.

    Args:
        key: What it was stored under.

        entry: Whatever the store gave.

        dimensions: Length the embedding must have; None if it is not known.

    Returns:
        The embedding; None for anything but an undamaged entry of this key, this schema and this length.
    """
    if not isinstance(entry, (bytes, bytearray, memoryview)):
        return None
    entry = bytes(entry)
    body, checksum = entry[:-_CHECKSUM_BYTES], entry[-_CHECKSUM_BYTES:]
    if len(body) < _HEADER.size or checksum != _checksum(key, body):
        return None
    magic, count = _HEADER.unpack_from(body)
    if magic != _MAGIC or len(body) != _HEADER.size + 4 * count or dimensions not in (None, count):
        return None
    embedding = struct.unpack_from(f"<{count}f", body, _HEADER.size)
    return list(embedding) if _is_sound(embedding) else None


def _checksum(key: str, body: bytes) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(body)
    return digest.digest()[:_CHECKSUM_BYTES]


def _is_sound(numbers: Sequence[float]) -> bool:
    # A sum of float32 numbers can't overflow, so it is finite just when all of them are.
    return math.isfinite(sum(numbers)) and any(numbers)
