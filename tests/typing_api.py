"""The public API as users write it: checked by mypy --strict, never run."""

from __future__ import annotations

from array import array

import httpx
import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from numpy.typing import NDArray
from pydantic import SecretStr

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    AsyncEmbeddingClient,
    BudgetError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    EmbeddingResult,
    Estimate,
    ModelFacts,
    QwenAIMLError,
    TrackedUsage,
    Usage,
    register_model,
    track_usage,
)
from qwen_aiml.emulator import Emulator, Fault, serve


def core() -> None:
    """Use the sync client."""
    config = EmbeddingConfig(model="text-embedding-v4", dimensions=512, api_key="sk", total_timeout=30)
    with EmbeddingClient(config, http_client=httpx.Client()) as client:
        result: EmbeddingResult = client.embed(("a", "b"), role="query")
        matrix: NDArray[np.float32] = client.embed_array(["a", "b"])
        for index, embedding in client.embed_iter(iter(["a"]), in_order=False, look_ahead=100):
            row: array[float] = embedding
            print(index + 1, row, matrix)
    estimate: Estimate = client.estimate(["a"], usd_per_million_tokens=0.07)
    longest: int | None = client.max_input_tokens
    print(estimate.requests, client.count_tokens("a", role="query"), longest)
    tracked: TrackedUsage
    with track_usage() as tracked:
        spent: float | None = tracked.usd_spent
        print(spent, tracked.total.requests, tracked.requests, tracked.total_tokens, tracked.credits_used)
    rows: list[list[float]] = result.embeddings
    usage: Usage = client.usage + result.usage
    tokens: int | None = usage.total_tokens
    print(rows, tokens, result.model, result.request_ids)
    register_model(ModelFacts(name="new", dimensions=(8,), max_rows=20))


async def asynchronous() -> list[float]:
    """Use the async client."""
    async with AsyncEmbeddingClient() as client:
        result = await client.embed(text for text in ["a"])
        print((await client.embed_array(["a"])).shape)
        async with client.embed_iter(["a"]) as rows:
            async for index, embedding in rows:
                print(index + 1, embedding[0])
    return result.embeddings[0]


def errors() -> dict[int, QwenAIMLError]:
    """Read the attributes of errors."""
    try:
        with track_usage(max_tokens=1000, max_cost_usd=0.5, usd_per_million_tokens=0.07):
            EmbeddingClient().embed(["a"])
    except BudgetError as error:
        print(error.embeddings)
    except EmbeddingBatchError as error:
        kept: list[list[float] | None] = error.embeddings
        print(kept, error.indices, error.usage.requests)
        return error.failures
    return {}


def langchain() -> Embeddings:
    """Use the LangChain class."""
    embeddings = QwenAIMLEmbeddings(
        model="text-embedding-v4",
        dimensions=1024,
        api_key="sk",
        base_url="https://api.aimlapi.com/v1",
        chunk_size=10,
        max_concurrency=8,
        max_retries=5,
        timeout=60,
        total_timeout=None,
        query_instruction="Find the article",
        default_headers={"X-Title": "app"},
    )
    QwenAIMLEmbeddings(api_key=SecretStr("sk"))
    rows: list[list[float]] = embeddings.embed_documents(["a"])
    row: list[float] = embeddings.embed_query("a")
    print(rows, row, embeddings.usage.requests)
    InMemoryVectorStore(embeddings)
    return embeddings


def llama_index() -> BaseEmbedding:
    """Use the LlamaIndex class."""
    embedding = QwenAIMLEmbedding(
        model_name="text-embedding-v4",
        dimensions=1024,
        api_key="sk",
        api_base="https://api.aimlapi.com/v1",
        embed_batch_size=10,
        num_workers=None,
    )
    Settings.embed_model = embedding
    VectorStoreIndex([TextNode(text="a")], embed_model=embedding)
    row: list[float] = embedding.get_query_embedding("a")
    print(row, embedding.usage)
    return embedding


def emulator() -> None:
    """Use the emulator."""
    service = Emulator(latency=0.1, rate_limit=50)
    service.script(Fault(status=503), None, Fault(cut=10))
    QwenAIMLEmbeddings(**service.client_options())
    with serve(service) as base_url:
        QwenAIMLEmbedding(api_base=base_url, api_key="any")
    print(service.request_count, service.peak_in_flight, service.requests[0].texts)
