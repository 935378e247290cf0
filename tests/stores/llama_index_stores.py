"""LlamaIndex's vector stores: how an index on each is created and reopened."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage

import scenario
from scenario import NOT_RAISED, Fails

if TYPE_CHECKING:
    from llama_index.core.vector_stores.types import BasePydanticVectorStore

    from llama_index_qwen_aiml import QwenAIMLEmbedding


class Place(scenario.Place):
    """Where one store keeps its data, and an index on it."""

    def connect(self, dimensions: int) -> BasePydanticVectorStore:
        """Open the vector store: create it the first time, and reopen it afterwards."""
        raise NotImplementedError

    def open(self, embedding: QwenAIMLEmbedding, dimensions: int) -> VectorStoreIndex:
        """Open an index on the vector store."""
        self.store = self.connect(dimensions)
        return VectorStoreIndex.from_vector_store(self.store, embed_model=embedding)


class _InFiles(Place):
    """A store in memory, which an index saves to a folder with its texts."""

    index: VectorStoreIndex | None = None

    def open(self, embedding: QwenAIMLEmbedding, dimensions: int) -> VectorStoreIndex:
        """Load the folder unless it is empty."""
        known = (self.folder / "docstore.json").exists()
        self.store = self.load() if known else self.connect(dimensions)
        if known:
            context = StorageContext.from_defaults(vector_store=self.store, persist_dir=str(self.folder))
            self.index = load_index_from_storage(context, embed_model=embedding)  # type: ignore[assignment]
        else:
            context = StorageContext.from_defaults(vector_store=self.store)
            self.index = VectorStoreIndex([], storage_context=context, embed_model=embedding)
        assert self.index is not None
        return self.index

    def load(self) -> BasePydanticVectorStore:
        """Read the vector store's part of the folder."""
        raise NotImplementedError

    def close(self) -> None:
        """Write the folder."""
        assert self.index is not None
        self.index.storage_context.persist(str(self.folder))


class InMemory(_InFiles):
    """LlamaIndex's default."""

    title = "In memory: SimpleVectorStore"
    package = "llama-index-core"
    fails: ClassVar[dict[str, Fails]] = {
        "other_length_is_not_added": Fails(
            NOT_RAISED, "it accepts vectors of any dimension, after which every search raises"
        ),
    }

    def connect(self, dimensions: int) -> BasePydanticVectorStore:
        """Create a store, which accepts any dimensions."""
        from llama_index.core.vector_stores import SimpleVectorStore

        del dimensions
        return SimpleVectorStore()

    def load(self) -> BasePydanticVectorStore:
        """Read its JSON."""
        from llama_index.core.vector_stores import SimpleVectorStore

        return SimpleVectorStore.from_persist_dir(str(self.folder))


class Chroma(Place):
    """In a folder."""

    title = "Chroma: ChromaVectorStore"
    package = "llama-index-vector-stores-chroma"

    def connect(self, dimensions: int) -> BasePydanticVectorStore:
        """Open the collection."""
        import chromadb
        from llama_index.vector_stores.chroma import ChromaVectorStore

        del dimensions
        client = chromadb.PersistentClient(str(self.folder), chromadb.Settings(anonymized_telemetry=False))
        return ChromaVectorStore(chroma_collection=client.get_or_create_collection(self.name))  # type: ignore[no-any-return]


class Qdrant(Place):
    """In a folder, which one process at a time may use."""

    title = "Qdrant: QdrantVectorStore"
    package = "llama-index-vector-stores-qdrant"

    def connect(self, dimensions: int) -> BasePydanticVectorStore:
        """Open the collection; the store creates it with the dimensions of the first vector."""
        from llama_index.vector_stores.qdrant import QdrantVectorStore
        from qdrant_client import AsyncQdrantClient, QdrantClient

        del dimensions
        if self.asynchronous:
            self.client = AsyncQdrantClient(path=str(self.folder))
            return QdrantVectorStore(self.name, aclient=self.client)  # type: ignore[no-any-return]
        self.client = QdrantClient(path=str(self.folder))
        return QdrantVectorStore(self.name, client=self.client)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Release the folder."""
        closing = self.client.close()
        if self.asynchronous:
            asyncio.run(closing)


class Faiss(_InFiles):
    """In memory; the texts are in the index's own store."""

    title = "FAISS: FaissVectorStore"
    package = "llama-index-vector-stores-faiss"
    fails: ClassVar[dict[str, Fails]] = {
        "filter": Fails(ValueError, "FAISS holds no metadata"),
        **dict.fromkeys(
            ["delete", "delete_document", "replace", "async"],
            Fails(NotImplementedError, "nothing can be deleted"),
        ),
    }

    def connect(self, dimensions: int) -> BasePydanticVectorStore:
        """Create a store for the inner product, which is the cosine of unit vectors."""
        import faiss
        from llama_index.vector_stores.faiss import FaissVectorStore

        return FaissVectorStore(faiss.IndexFlatIP(dimensions))  # type: ignore[no-any-return]

    def load(self) -> BasePydanticVectorStore:
        """Read the file, which is not JSON, despite its name."""
        from llama_index.vector_stores.faiss import FaissVectorStore

        return FaissVectorStore.from_persist_dir(str(self.folder))  # type: ignore[no-any-return]


class FaissMap(_InFiles):
    """FAISS with a map from IDs, so that texts can be deleted."""

    title = "FAISS: FaissMapVectorStore"
    package = "llama-index-vector-stores-faiss"
    fails: ClassVar[dict[str, Fails]] = {
        "filter": Fails(ValueError, "FAISS holds no metadata"),
        "delete_document": Fails(
            KeyError,
            "only the texts are deleted, after which every search that matches them raises",
            since="0.14",
        ),
        "replace": Fails(AssertionError, "an ID deleted and inserted again is no longer found"),
    }

    def connect(self, dimensions: int) -> BasePydanticVectorStore:
        """Create a store for the inner product."""
        import faiss
        from llama_index.vector_stores.faiss import FaissMapVectorStore

        return FaissMapVectorStore(faiss.IndexIDMap2(faiss.IndexFlatIP(dimensions)))  # type: ignore[no-any-return]

    def load(self) -> BasePydanticVectorStore:
        """Read the file."""
        from llama_index.vector_stores.faiss import FaissMapVectorStore

        return FaissMapVectorStore.from_persist_dir(str(self.folder))  # type: ignore[no-any-return]


class LanceDB(Place):
    """In a folder."""

    title = "LanceDB: LanceDBVectorStore"
    package = "llama-index-vector-stores-lancedb"
    fails: ClassVar[dict[str, Fails]] = {
        **dict.fromkeys(
            ["delete", "delete_document", "replace"], Fails(ValueError, "its SQL for deletion is invalid")
        ),
        "async": Fails(TypeError, "adelete_nodes raises"),
    }

    def connect(self, dimensions: int) -> BasePydanticVectorStore:
        """Open the table; the first texts create it."""
        from llama_index.vector_stores.lancedb import LanceDBVectorStore

        del dimensions
        return LanceDBVectorStore(str(self.folder), self.name, mode="create")  # type: ignore[no-any-return]


class Postgres(Place):
    """On a PostgreSQL server, in a separate table."""

    title = "pgvector: PGVectorStore"
    package = "llama-index-vector-stores-postgres"

    def connect(self, dimensions: int) -> BasePydanticVectorStore:
        """Open the table; create it if necessary."""
        from llama_index.vector_stores.postgres import PGVectorStore
        from sqlalchemy import NullPool

        return PGVectorStore.from_params(  # type: ignore[no-any-return]
            connection_string=self.postgres().replace("postgresql:", "postgresql+psycopg2:"),
            async_connection_string=self.postgres().replace("postgresql:", "postgresql+asyncpg:"),
            table_name=self.name,
            embed_dim=dimensions,
            create_engine_kwargs={"poolclass": NullPool},  # connections are closed where they were opened
        )

    def close(self) -> None:
        """Close the connections."""
        asyncio.run(self.store.close())


STORES: tuple[type[Place], ...] = (InMemory, Chroma, Qdrant, Faiss, FaissMap, LanceDB, Postgres)
