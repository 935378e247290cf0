"""LlamaIndex's stores as caches of embeddings, and a namespace for the framework's own cache."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any

from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE, DEFAULT_COLLECTION, BaseKVStore

from qwen_aiml import CacheError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_COLLECTION = "qwen_aiml_embeddings"
_FIELD = "entry"


class KVStoreCache:
    """
    A cache of embeddings in a LlamaIndex key-value store, for the setting ``cache``.

    ```python
    from llama_index.core.storage.kvstore import SimpleKVStore
    from llama_index_qwen_aiml import KVStoreCache, QwenAIMLEmbedding

    embedding = QwenAIMLEmbedding(cache=KVStoreCache(SimpleKVStore()))
    ```

    Entries are in the collection ``qwen_aiml_embeddings``; each is read and written separately. It is as safe
    to use from several threads and event loops, and as durable, as the store, whose errors are raised
    unchanged.

    Args:
        store: Any key-value store.
    """

    def __init__(self, store: BaseKVStore) -> None:
        self._store = store

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the entry of each key, in order; None if there is none that can be read."""
        return [_read(self._store.get(key, collection=_COLLECTION)) for key in keys]

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store entries by key, replacing existing ones."""
        for key, entry in entries.items():
            self._store.put(key, _write(entry), collection=_COLLECTION)

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Async version of `get_many`."""
        return [_read(await self._store.aget(key, collection=_COLLECTION)) for key in keys]

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Async version of `set_many`."""
        for key, entry in entries.items():
            await self._store.aput(key, _write(entry), collection=_COLLECTION)


def _write(entry: bytes) -> dict[str, Any]:
    # Most stores write JSON.
    return {_FIELD: base64.b64encode(entry).decode()}


def _read(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        # Otherwise every look-up would be a miss, and every text billed again.
        message = f"the store returned {type(value).__name__}, expected dict or None"
        raise CacheError(f"{message}. What to do: return values exactly as they were stored")
    text = value.get(_FIELD)
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        return None


class NamespacedKVStore(BaseKVStore):
    """
    A separate part of a key-value store, for one kind of embeddings.

    The framework's ``embeddings_cache`` uses only the text as a key, so models that share a store would get
    each other's vectors. Here every key begins with the namespace. Any store supports that, while many
    restrict the names of collections.

    Args:
        store: The store to share.

        namespace: Letters, digits, ``_``, ``.`` and ``-``. Use a different one for embeddings that differ in
            any way, such as ``cache_namespace`` of the embedding object.

    Raises:
        ConfigurationError: If the namespace is empty or contains another character.
    """

    def __init__(self, store: BaseKVStore, namespace: str) -> None:
        if not re.fullmatch("[A-Za-z0-9_.-]+", namespace):
            raise ConfigurationError("namespace must be made of letters, digits, '_', '.' and '-'")
        self._store = store
        # No namespace contains a colon, so no key begins with the prefix of another namespace.
        self._prefix = f"{namespace}:"

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value."""
        self._store.put(self._prefix + key, val, collection=collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value."""
        await self._store.aput(self._prefix + key, val, collection=collection)

    def put_all(
        self,
        kv_pairs: list[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """Store values, as many at once as the store can."""
        self._store.put_all(self._prefixed(kv_pairs), collection=collection, batch_size=batch_size)

    async def aput_all(
        self,
        kv_pairs: list[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """Store values, as many at once as the store can."""
        await self._store.aput_all(self._prefixed(kv_pairs), collection=collection, batch_size=batch_size)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return a value; None if there is none."""
        return self._store.get(self._prefix + key, collection=collection)

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return a value; None if there is none."""
        return await self._store.aget(self._prefix + key, collection=collection)

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return all values of this namespace; the store reads those of the others as well."""
        return self._own(self._store.get_all(collection=collection))

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return all values of this namespace; the store reads those of the others as well."""
        return self._own(await self._store.aget_all(collection=collection))

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete a value, and return whether there was one."""
        return self._store.delete(self._prefix + key, collection=collection)

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete a value, and return whether there was one."""
        return await self._store.adelete(self._prefix + key, collection=collection)

    def _prefixed(self, pairs: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
        return [(self._prefix + key, value) for key, value in pairs]

    def _own(self, values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        own = self._prefix
        return {key.removeprefix(own): value for key, value in values.items() if key.startswith(own)}
