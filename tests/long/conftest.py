"""Fixtures for the long tests: real waits, and all ways to embed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import pytest

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient, EmbeddingConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwen_aiml import Usage

    Way: TypeAlias = Callable[..., tuple[list[list[float]], Usage]]


def client(texts: list[str], url: str, **settings: Any) -> tuple[list[list[float]], Usage]:
    config = EmbeddingConfig(base_url=url, api_key="k", dimensions=64, **settings)
    with EmbeddingClient(config) as embeddings:
        result = embeddings.embed(texts)
    return result.embeddings, result.usage


def async_client(texts: list[str], url: str, **settings: Any) -> tuple[list[list[float]], Usage]:
    async def run() -> tuple[list[list[float]], Usage]:
        config = EmbeddingConfig(base_url=url, api_key="k", dimensions=64, **settings)
        async with AsyncEmbeddingClient(config) as embeddings:
            result = await embeddings.embed(texts)
        return result.embeddings, result.usage

    return anyio.run(run, backend="trio")


def langchain(texts: list[str], url: str, **settings: Any) -> tuple[list[list[float]], Usage]:
    with QwenAIMLEmbeddings(base_url=url, api_key="k", dimensions=64, **settings) as embeddings:
        return embeddings.embed_documents(texts), embeddings.usage


def langchain_async(texts: list[str], url: str, **settings: Any) -> tuple[list[list[float]], Usage]:
    async def run() -> tuple[list[list[float]], Usage]:
        async with QwenAIMLEmbeddings(base_url=url, api_key="k", dimensions=64, **settings) as embeddings:
            return await embeddings.aembed_documents(texts), embeddings.usage

    return anyio.run(run)


def llama_index(texts: list[str], url: str, **settings: Any) -> tuple[list[list[float]], Usage]:
    with QwenAIMLEmbedding(api_base=url, api_key="k", dimensions=64, **settings) as embeddings:
        return embeddings.get_text_embedding_batch(texts), embeddings.usage


def llama_index_async(texts: list[str], url: str, **settings: Any) -> tuple[list[list[float]], Usage]:
    async def run() -> tuple[list[list[float]], Usage]:
        async with QwenAIMLEmbedding(api_base=url, api_key="k", dimensions=64, **settings) as embeddings:
            return await embeddings.aget_text_embedding_batch(texts), embeddings.usage

    return anyio.run(run)


WAYS: list[Way] = [client, async_client, langchain, langchain_async, llama_index, llama_index_async]


@pytest.fixture(params=WAYS, ids=[way.__name__ for way in WAYS])
def way(request: pytest.FixtureRequest) -> Way:
    """Return each way to embed: the core's clients and both adapters, sync and async."""
    chosen: Way = request.param
    return chosen


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Override the fixture that disables waits."""
