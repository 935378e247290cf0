"""Unusual texts and collections of texts: they are sent unchanged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient, EmbeddingConfig
from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXTS = {
    "zero-width": "\u200b\u200d\ufeff",
    "NUL": "\x00",
    "NUL within": "a\x00b",
    "right-to-left": "\u202eمرحبا \u200fשלום\u202c",
    "one letter": "a",
    "one ideograph": "字",
    "one emoji": "🙂",
    "one combining mark": "\u0301",
    "NumPy": np.str_("from an array"),
}


class Series:
    """A substitute for a pandas Series: iterates over its values, has an index, and no columns."""

    def __init__(self, values: list[str]) -> None:
        self.index = range(100, 100 + len(values))
        self.values = values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")


def generator(texts: list[str]) -> Iterator[str]:
    yield from texts


COLLECTIONS: dict[str, Callable[[list[str]], Any]] = {
    "generator": generator,
    "Series": Series,
    "array of str": np.array,
    "array of objects": lambda texts: np.array(texts, dtype=object),
    "tuple": tuple,
    "dict keys": lambda texts: dict.fromkeys(texts).keys(),
}


def embed(way: str, emulator: Emulator, texts: Any) -> list[list[float]]:
    options = emulator.client_options()
    config = EmbeddingConfig(api_key=options["api_key"], dimensions=64)
    if way == "core":
        return EmbeddingClient(config, http_client=options["http_client"]).embed(texts).embeddings
    if way == "core, async":
        client = AsyncEmbeddingClient(config, http_client=options["http_async_client"])
        return asyncio.run(client.embed(texts)).embeddings
    if way == "LangChain":
        return QwenAIMLEmbeddings(dimensions=64, **options).embed_documents(texts)
    return QwenAIMLEmbedding(dimensions=64, **options).get_text_embedding_batch(texts)


@pytest.mark.parametrize("way", ["core", "core, async", "LangChain", "LlamaIndex"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_texts(text: str, way: str) -> None:
    """Each text is sent unchanged, and gets its embedding."""
    emulator = Emulator()
    rows = embed(way, emulator, [text, "another"])

    assert emulator.requests[0].texts == (text, "another")
    assert [len(row) for row in rows] == [64, 64]
    assert rows[0] != rows[1]


@pytest.mark.parametrize("way", ["core", "core, async", "LangChain", "LlamaIndex"])
@pytest.mark.parametrize("collect", COLLECTIONS.values(), ids=COLLECTIONS)
def test_collections(collect: Callable[[list[str]], Any], way: str) -> None:
    """Any iterable of texts gives the same result as a list."""
    texts = [f"text {at}" for at in range(12)]

    assert embed(way, Emulator(), collect(texts)) == embed(way, Emulator(), texts)


def test_pandas() -> None:
    """A real pandas Series is read by its values, not by its index."""
    pandas = pytest.importorskip("pandas")
    texts = pandas.Series(["a", "b"], index=[7, 3])

    assert embed("core", Emulator(), texts) == embed("core", Emulator(), ["a", "b"])
