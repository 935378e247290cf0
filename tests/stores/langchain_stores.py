"""LangChain's vector stores: how each is created, reopened and filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import scenario
from scenario import NOT_RAISED, Fails

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.vectorstores import VectorStore

    from langchain_qwen_aiml import QwenAIMLEmbeddings


class Place(scenario.Place):
    """Where one store keeps its data, and how it is filtered."""

    fails_standard: ClassVar[dict[str, Fails]] = {}
    """Tests of LangChain's own suite that it is known to fail, without the suffix of async ones."""

    metadata: tuple[str, ...] = ("language",)
    """Metadata keys, for the stores that must know them."""

    def open(self, embeddings: QwenAIMLEmbeddings) -> VectorStore:
        """Open the store: create it the first time, and reopen it afterwards."""
        raise NotImplementedError

    def where(self, key: str, value: str) -> dict[str, Any]:
        """Return the arguments of a search among the texts with this metadata."""
        return {"filter": {key: value}}


class InMemory(Place):
    """In memory, saved to a JSON file."""

    title = "In memory: InMemoryVectorStore"
    package = "langchain-core"
    fails: ClassVar[dict[str, Fails]] = {
        "other_length_is_not_added": Fails(
            NOT_RAISED, "it accepts vectors of any dimension, after which every search raises"
        ),
    }

    def open(self, embeddings: QwenAIMLEmbeddings) -> VectorStore:
        """Load the file if there is one."""
        from langchain_core.vectorstores import InMemoryVectorStore

        path = self.folder / "store.json"
        known = path.exists()
        self.store = (
            InMemoryVectorStore.load(str(path), embeddings) if known else InMemoryVectorStore(embeddings)
        )
        return self.store  # type: ignore[no-any-return]

    def close(self) -> None:
        """Write the file."""
        self.store.dump(str(self.folder / "store.json"))

    def where(self, key: str, value: str) -> dict[str, Any]:
        """Return a predicate on documents."""

        def fits(document: Document) -> bool:
            return bool(document.metadata[key] == value)

        return {"filter": fits}


class Chroma(Place):
    """In a folder."""

    title = "Chroma: Chroma"
    package = "langchain-chroma"

    def open(self, embeddings: QwenAIMLEmbeddings) -> VectorStore:
        """Open the collection."""
        from chromadb.config import Settings
        from langchain_chroma import Chroma as Store

        self.store = Store(
            collection_name=self.name,
            embedding_function=embeddings,
            persist_directory=str(self.folder),
            client_settings=Settings(anonymized_telemetry=False, is_persistent=True),
        )
        return self.store  # type: ignore[no-any-return]


class Qdrant(Place):
    """In a folder, which one process at a time may use."""

    title = "Qdrant: QdrantVectorStore"
    package = "langchain-qdrant"
    fails_standard: ClassVar[dict[str, Fails]] = {
        "add_documents": Fails(
            AssertionError, "found documents have their ID and the collection's name in the metadata"
        ),
        **dict.fromkeys(
            [
                "deleting_documents",
                "deleting_bulk_documents",
                "add_documents_with_ids_is_idempotent",
                "add_documents_by_id_with_mutation",
                "get_by_ids",
                "add_documents_documents",
                "add_documents_with_existing_ids",
            ],
            Fails((ValueError, AssertionError), "IDs must be UUIDs or numbers, and are returned as metadata"),
        ),
    }

    def open(self, embeddings: QwenAIMLEmbeddings) -> VectorStore:
        """Open the collection; create it if necessary."""
        from langchain_qdrant import QdrantVectorStore
        from qdrant_client import QdrantClient
        from qdrant_client.models import Distance, VectorParams

        self.client = QdrantClient(path=str(self.folder))
        if not self.client.collection_exists(self.name):
            size = len(embeddings.embed_query("a"))
            self.client.create_collection(self.name, VectorParams(size=size, distance=Distance.COSINE))
        try:
            return QdrantVectorStore(client=self.client, collection_name=self.name, embedding=embeddings)  # type: ignore[no-any-return]
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder."""
        self.client.close()

    def where(self, key: str, value: str) -> dict[str, Any]:
        """Return a condition on the payload."""
        from qdrant_client.models import FieldCondition, Filter, MatchValue

        return {"filter": Filter(must=[FieldCondition(key=f"metadata.{key}", match=MatchValue(value=value))])}


class Faiss(Place):
    """In memory, saved to a folder."""

    title = "FAISS: FAISS"
    package = "langchain-community"
    fails: ClassVar[dict[str, Fails]] = {
        "replace": Fails(
            ValueError,
            "re-adding an existing ID raises after inserting the vectors; search then raises",
        ),
    }
    fails_standard: ClassVar[dict[str, Fails]] = {
        "delete_missing_content": Fails(ValueError, "deleting an unknown ID raises"),
        "add_documents_with_ids_is_idempotent": Fails(ValueError, "existing IDs are rejected"),
        "add_documents_by_id_with_mutation": Fails(ValueError, "existing IDs are rejected"),
    }

    def open(self, embeddings: QwenAIMLEmbeddings) -> VectorStore:
        """Load the folder unless it is empty."""
        import faiss
        from langchain_community.docstore.in_memory import InMemoryDocstore
        from langchain_community.vectorstores import FAISS

        if (self.folder / "index.faiss").exists():
            self.store = FAISS.load_local(str(self.folder), embeddings, allow_dangerous_deserialization=True)
        else:
            index = faiss.IndexFlatL2(len(embeddings.embed_query("a")))
            self.store = FAISS(embeddings, index, InMemoryDocstore(), {})
        return self.store  # type: ignore[no-any-return]

    def close(self) -> None:
        """Write the folder."""
        self.store.save_local(str(self.folder))


class LanceDB(Place):
    """In a folder."""

    title = "LanceDB: langchain_lancedb.LanceDB"
    package = "langchain-lancedb"
    needs_core = "1.2"
    fails: ClassVar[dict[str, Fails]] = {
        "filter": Fails(AssertionError, "a filter is ignored"),
        "mmr": Fails(NotImplementedError, "it does not support this search"),
        "replace": Fails(AssertionError, "the old document is not replaced; both remain"),
    }
    fails_standard: ClassVar[dict[str, Fails]] = dict.fromkeys(
        [
            "add_documents",
            "deleting_documents",
            "deleting_bulk_documents",
            "add_documents_with_ids_is_idempotent",
            "add_documents_by_id_with_mutation",
            "get_by_ids",
            "get_by_ids_missing",
            "add_documents_documents",
            "add_documents_with_existing_ids",
        ],
        Fails(
            (AssertionError, NotImplementedError),
            "documents are returned without their IDs, and none is replaced",
        ),
    )

    def open(self, embeddings: QwenAIMLEmbeddings) -> VectorStore:
        """Open the table."""
        from langchain_lancedb import LanceDB as Store

        return Store(embeddings, uri=self.folder, table_name=self.name)  # type: ignore[no-any-return]


class LanceDBCommunity(Place):
    """In a folder."""

    title = "LanceDB: langchain_community LanceDB"
    package = "langchain-community"
    fails: ClassVar[dict[str, Fails]] = {
        "replace": Fails(AssertionError, "the old document is not replaced; both remain")
    }
    fails_standard: ClassVar[dict[str, Fails]] = dict.fromkeys(
        [
            "vectorstore_is_empty",
            "add_documents",
            "vectorstore_still_empty",
            "deleting_documents",
            "deleting_bulk_documents",
            "delete_missing_content",
            "add_documents_with_ids_is_idempotent",
            "add_documents_by_id_with_mutation",
            "get_by_ids",
            "get_by_ids_missing",
            "add_documents_documents",
            "add_documents_with_existing_ids",
        ],
        Fails(
            Exception,
            "it cannot be searched while empty; documents are returned without IDs, and none is replaced",
        ),
    )

    def open(self, embeddings: QwenAIMLEmbeddings) -> VectorStore:
        """Open the table."""
        from langchain_community.vectorstores import LanceDB as Store

        return Store(embedding=embeddings, uri=str(self.folder), table_name=self.name, mode="append")  # type: ignore[no-any-return]

    def where(self, key: str, value: str) -> dict[str, Any]:
        """Return a condition in SQL."""
        return {"filter": f"metadata.{key} = '{value}'", "prefilter": True}


class Postgres(Place):
    """On a PostgreSQL server, in a separate table; IDs are strings, while UUID is the default."""

    title = "pgvector: PGVectorStore"
    package = "langchain-postgres"

    def open(self, embeddings: QwenAIMLEmbeddings) -> VectorStore:
        """Open the table; create it if necessary."""
        from langchain_postgres import Column, PGEngine, PGVectorStore

        self.engine = PGEngine.from_connection_string(
            self.postgres().replace("postgresql:", "postgresql+psycopg:")
        )
        if self.store is None:
            size = len(embeddings.embed_query("a"))
            columns = {
                "id_column": Column("id", "TEXT"),
                "metadata_columns": [Column(name, "TEXT") for name in self.metadata],
            }
            self.engine.init_vectorstore_table(self.name, size, **columns)
        self.store = PGVectorStore.create_sync(
            self.engine, embeddings, self.name, id_column="id", metadata_columns=list(self.metadata)
        )
        return self.store  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connections."""
        self.engine._run_as_sync(self.engine.close())


class PostgresOlder(Place):
    """On a PostgreSQL server, in tables that all collections share."""

    title = "pgvector: PGVector"
    package = "langchain-postgres"
    fails: ClassVar[dict[str, Fails]] = {
        "other_length_is_not_added": Fails(
            NOT_RAISED, "without embedding_length it accepts any dimension, after which every search raises"
        ),
    }

    def open(self, embeddings: QwenAIMLEmbeddings) -> VectorStore:
        """Open the collection."""
        from langchain_postgres import PGVector
        from sqlalchemy import NullPool

        self.store = PGVector(
            embeddings,
            connection=self.postgres().replace("postgresql:", "postgresql+psycopg:"),
            collection_name=self.name,
            async_mode=self.asynchronous,
            engine_args={"poolclass": NullPool},  # connections are closed where they were opened
        )
        return self.store  # type: ignore[no-any-return]


STORES: tuple[type[Place], ...] = (
    *(InMemory, Chroma, Qdrant, Faiss, LanceDB, LanceDBCommunity),
    *(Postgres, PostgresOlder),
)
