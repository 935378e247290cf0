"""LangChain's ``CacheBackedEmbeddings``, with safe keys and entries."""

from __future__ import annotations

import json
import math
from functools import partial
from hashlib import sha256
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_core.stores import ByteStore

    from .embeddings import QwenAIMLEmbeddings


def cache_backed_embeddings(
    underlying_embeddings: QwenAIMLEmbeddings,
    document_embedding_cache: ByteStore,
    *,
    batch_size: int | None = None,
    query_embedding_cache: bool | ByteStore = False,
) -> CacheBackedEmbeddings:
    """
    Create LangChain's ``CacheBackedEmbeddings`` as ``from_bytes_store`` does, with safe keys and entries.

    Keys of documents begin with ``cache_namespace`` and those of queries with ``query_cache_namespace``, so
    one store can serve any number of models, dimensions and instructions, and both kinds of text. Texts are
    hashed with SHA-256; an unreadable entry is a miss. The setting ``cache`` does the same without another
    object, and stores embeddings after each request.

    Args:
        underlying_embeddings: Model that embeds the texts that are not in the store.

        document_embedding_cache: Store for embeddings of documents.

        batch_size: Documents to embed between two updates of the store; None means the maximum number of
            texts in flight.

        query_embedding_cache: Store for embeddings of queries; True means the same store, False none.

    Raises:
        ModuleNotFoundError: If neither langchain-classic nor langchain 0.3 is installed.
    """
    framework = _framework()

    def store(byte_store: ByteStore, namespace: str) -> Any:
        return framework.EncoderBackedStore(byte_store, partial(_key, namespace), _write, _read)

    model, documents, queries = underlying_embeddings, document_embedding_cache, query_embedding_cache
    if queries is True:
        queries = documents
    # Compared by identity, since an empty store may be falsy.
    query_store = None if queries is False else store(queries, model.query_cache_namespace)
    cached: CacheBackedEmbeddings = framework.CacheBackedEmbeddings(
        model,
        store(documents, model.cache_namespace),
        batch_size=batch_size or model.texts_in_flight,
        query_embedding_store=query_store,
    )
    return cached


def _framework() -> Any:
    # The module moved in langchain 1.0; in both places it also contains EncoderBackedStore.
    for package in ("langchain_classic", "langchain"):
        try:
            return import_module(f"{package}.embeddings.cache")
        except ModuleNotFoundError as error:
            if not f"{error.name}.".startswith(f"{package}."):
                raise
    message = "CacheBackedEmbeddings is in langchain-classic: pip install langchain-classic"
    raise ModuleNotFoundError(message, name="langchain_classic")


def _key(namespace: str, text: str) -> str:
    # The same as from the framework's own encoder, but lone surrogates are accepted.
    return namespace + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _write(embedding: Sequence[float]) -> bytes:
    return json.dumps(embedding).encode()


def _read(entry: bytes) -> list[float] | None:
    """Parse an entry from `_write` or the framework; None, a miss, if it is truncated or damaged."""
    try:
        embedding = json.loads(entry)
    except ValueError:
        return None
    if not isinstance(embedding, list) or not set(map(type, embedding)) <= {float, int} or not any(embedding):
        return None
    return embedding if all(map(math.isfinite, embedding)) else None
