"""The protocol for custom caches, and the conversion of ``cache`` arguments."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@runtime_checkable
class Cache(Protocol):
    """
    A store of embeddings whose keys cover everything that affects a vector.

    Keys are at most 150 characters of ``A-Z a-z 0-9 _ . -``. Entries are opaque, about four bytes per
    dimension. Methods may be called concurrently, from several threads and event loops. A partially
    stored entry is detected by its checksum when it is read.
    """

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return the entry of each key, in order; None if there is none."""
        ...

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store entries by key, replacing existing ones; return only when they are stored."""
        ...

    async def aget_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Async version of `get_many`."""
        ...

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Async version of `set_many`."""
        ...


def open_cache(given: Any) -> Cache | None:
    """
    Return the cache for a user's ``cache`` argument.

    Args:
        given: The path of a file, an object with the methods of `Cache`, or None for no cache.

    Raises:
        ConfigurationError: If it is something else.
    """
    if given is None or (isinstance(given, Cache) and not isinstance(given, type)):
        return given
    if isinstance(given, (str, os.PathLike)) and os.fspath(given):
        from .sqlite import SQLiteCache  # noqa: PLC0415 (slow to import)

        return SQLiteCache(given)
    raise ConfigurationError(
        "cache must be the path of a file, a SQLiteCache, or another object with get_many, set_many, "
        f"aget_many and aset_many, not {type(given).__name__}"
    )
