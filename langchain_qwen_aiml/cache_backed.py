"""LangChain's own cache of embeddings, put together so that it is safe."""

from __future__ import annotations

import json
from functools import partial
from hashlib import sha256
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_classic.embeddings import CacheBackedEmbeddings
    from langchain_core.stores import BaseStore, ByteStore

    from .embeddings import QwenAIMLEmbeddings


def cache_backed_embeddings(
    underlying_embeddings: QwenAIMLEmbeddings,
    document_embedding_cache: ByteStore,
    *,
    batch_size: int | None = None,
    query_embedding_cache: bool | ByteStore = False,
) -> CacheBackedEmbeddings:
    """
    Make LangChain's ``CacheBackedEmbeddings``, as its ``from_bytes_store`` does, but safe.

    Documents go by ``cache_namespace`` and queries by ``query_cache_namespace``, so that one store may serve
    any number of models, lengths and instructions, and both kinds of text. Keys are SHA-256; an entry that
    can't be read is a miss. The setting ``cache`` does the same without another object, and keeps what is
    done after each request.

    Args:
        underlying_embeddings: What embeds the texts that are not in the store.

        document_embedding_cache: Where embeddings of documents are kept.

        batch_size: Documents to embed between two updates of the store; None takes as many as are sent at
            once, in all requests together.

        query_embedding_cache: Where embeddings of queries are kept: True for the same store, False for
            nowhere.

    Raises:
        ModuleNotFoundError: If neither langchain-classic nor langchain 0.3 is installed.
    """
    framework = _framework()

    def store(kept: ByteStore, namespace: str) -> BaseStore[str, list[float]]:
        keys = partial(_key, namespace)
        made: BaseStore[str, list[float]] = framework.EncoderBackedStore(kept, keys, _write, _read)
        return made

    model, documents, queries = underlying_embeddings, document_embedding_cache, query_embedding_cache
    if queries is True:
        queries = documents
    # By identity, since a store that is empty may be false.
    query_store = None
    if queries is not False:
        query_store = store(queries, model.query_cache_namespace)
    made: CacheBackedEmbeddings = framework.CacheBackedEmbeddings(
        model,
        store(documents, model.cache_namespace),
        batch_size=batch_size or model.texts_in_flight,
        query_embedding_store=query_store,
    )
    return made


def _framework() -> Any:
    # The module moved with langchain 1.0; what it is made of can be had from it in both places.
    for package in ("langchain_classic", "langchain"):
        try:
            return import_module(f"{package}.embeddings.cache")
        except ModuleNotFoundError as error:
            if not f"{error.name}.".startswith(f"{package}."):
                raise
    message = "CacheBackedEmbeddings is in langchain-classic: pip install langchain-classic"
    raise ModuleNotFoundError(message, name="langchain_classic")


def _key(namespace: str, text: str) -> str:
    # As the framework's own encoder writes it, but that also takes what UTF-8 can't carry.
    return namespace + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _write(embedding: Sequence[float]) -> bytes:
    return json.dumps(embedding).encode()


def _read(entry: bytes) -> list[float] | None:
    """Read what `_write` or the framework has written; None, a miss, for what was cut off or damaged."""
    try:
        embedding = json.loads(entry)
    except ValueError:
        return None
    if not isinstance(embedding, list) or not set(map(type, embedding)) <= {float, int} or not any(embedding):
        return None
    return embedding
