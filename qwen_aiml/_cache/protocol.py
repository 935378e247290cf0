"""What a cache is: the protocol for users' own stores, and what they may give in place of one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from .._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@runtime_checkable
class Cache(Protocol):
    """
    A store of embeddings, by keys that cover everything that affects a vector.

    Keys are ASCII of ``A-Z a-z 0-9 _ . -``, at most 150 characters; entries are opaque bytes, about
    four for each dimension. Methods may be called concurrently, from several threads and event loops. An
    entry that is stored only in part is detected by its checksum when it is read.
    """

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return the entry of each key, in their order; None where there is none."""
        ...

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store entries by key, replacing existing ones; return only when they are stored."""
        ...

    async def aget_many(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Do as `get_many`, async."""
        ...

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Do as `set_many`, async."""
        ...


def open_cache(given: Any) -> Cache | None:
    """
    Take what users give as a cache.

    Args:
        given: The path of a file, anything that has the methods of `Cache`, or None.

    Raises:
        ConfigurationError: If it is something else.
    """
    if given is None or isinstance(given, Cache):
        return given
    if isinstance(given, (str, os.PathLike)) and os.fspath(given):
        from .sqlite import SQLiteCache  # noqa: PLC0415 (slow to import)

        return SQLiteCache(given)
    raise ConfigurationError(
        "cache must be the path of a file, a SQLiteCache, or another object with get_many, set_many, "
        f"aget_many and aset_many, not {type(given).__name__}"
    )
