"""LangChain's stores as caches of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.stores import ByteStore


class ByteStoreCache:
    """
    A cache of embeddings in a ``ByteStore``, for the setting ``cache``.

    ```python
    from langchain_classic.storage import LocalFileStore
    from langchain_qwen_aiml import ByteStoreCache, QwenAIMLEmbeddings

    embeddings = QwenAIMLEmbeddings(cache=ByteStoreCache(LocalFileStore("./embeddings")))
    ```

    It is as safe to use from several threads and event loops as the store, whose errors are raised unchanged.
    Stores without native async methods work on asyncio only, since LangChain runs them in its own threads.

    Args:
        store: Any ``ByteStore``. Keys consist of letters, digits, ``_``, ``.`` and ``-``.
    """

    def __init__(self, store: ByteStore) -> None:
        self._store = store

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the entry of each key, in order; None if there is none."""
        return self._store.mget(keys)

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store entries by key, replacing existing ones."""
        self._store.mset(list(entries.items()))

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Async version of `get_many`."""
        return await self._store.amget(keys)

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Async version of `set_many`."""
        await self._store.amset(list(entries.items()))
