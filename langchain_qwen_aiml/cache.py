"""LangChain's stores as caches of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.stores import ByteStore


class ByteStoreCache:
    """
    Keep embeddings in a ``ByteStore``, for the setting ``cache``.

    ```python
    from langchain_classic.storage import LocalFileStore
    from langchain_qwen_aiml import ByteStoreCache, QwenAIMLEmbeddings

    embeddings = QwenAIMLEmbeddings(cache=ByteStoreCache(LocalFileStore("./embeddings")))
    ```

    As safe in threads and event loops as the store is; its errors come out as they are. Stores that have no
    asynchronous methods of their own work on asyncio only, since LangChain lends them its threads.

    Args:
        store: Any store of bytes by strings. Keys are letters, digits, ``_``, ``.`` and ``-``.
    """

    def __init__(self, store: ByteStore) -> None:
        self._store = store

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give what is stored under each key, in their order, None where there is nothing."""
        return self._store.mget(keys)

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store entries by key, over those that are there."""
        self._store.mset(list(entries.items()))

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give what `get_many` gives, awaited."""
        return await self._store.amget(keys)

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Store as `set_many` does, awaited."""
        await self._store.amset(list(entries.items()))
