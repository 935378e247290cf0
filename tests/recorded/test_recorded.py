"""Recorded traffic, replayed through both adapters, sync and async. See conftest.py for the origin."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Any

import pytest

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    APIStatusError,
    AuthenticationError,
    InsufficientCreditsError,
    RateLimitError,
)
from qwen_aiml.emulator import Emulator, Fault

pytestmark = pytest.mark.vcr

emulator_only = pytest.mark.skipif(
    "QWEN_AIML_RECORD_LIVE" in os.environ, reason="the service can't be made to answer so"
)


@pytest.fixture(params=["langchain", "llama_index"])
def ways(request: pytest.FixtureRequest, options: Any) -> Any:
    """Return a function that creates, from settings, a sync and an async function to embed texts."""

    def make(emulator: Emulator | None = None, model: str = "text-embedding-v4", **settings: Any) -> Any:
        given = {**options(emulator), **settings}
        if request.param == "langchain":
            embeddings = QwenAIMLEmbeddings(model=model, **given)
            request.addfinalizer(embeddings.close)
            return embeddings.embed_documents, lambda texts: asyncio.run(embeddings.aembed_documents(texts))
        embedding = QwenAIMLEmbedding(model_name=model, **given)
        request.addfinalizer(embedding.close)
        return (
            embedding.get_text_embedding_batch,
            lambda texts: asyncio.run(embedding.aget_text_embedding_batch(texts)),
        )

    return make


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@pytest.mark.parametrize(
    ("model", "dimensions"),
    [("text-embedding-v4", 64), ("text-embedding-v4", 128), ("text-embedding-v3", 512)],
)
def test_dimensions(ways: Any, model: str, dimensions: int) -> None:
    """Both models return unit vectors of the requested dimensions, sync and async."""
    for way in ways(model=model, dimensions=dimensions):
        [embedding] = way(["Laura is a DJ."])
        assert len(embedding) == dimensions
        assert math.isclose(math.hypot(*embedding), 1.0, abs_tol=1e-3)


def test_default_dimensions(ways: Any) -> None:
    """Without dimensions none are requested, and the embedding has 1024."""
    way, _ = ways()
    [embedding] = way(["Laura is a DJ."])

    assert len(embedding) == 1024


def test_batches(ways: Any) -> None:
    """Twelve texts take two requests, and each gets the same embedding as alone."""
    texts = [f"{animal} number {at}" for at, animal in enumerate(["cat", "dog", "owl"] * 4)]
    for way in ways(dimensions=64):
        together = way(texts)
        [alone] = way(texts[11:])
        assert len(together) == 12
        assert cosine(together[11], alone) > 0.999
        assert all(cosine(row, alone) < 0.999 for row in together[:11])


def test_scripts(ways: Any) -> None:
    """Texts in many scripts, with line breaks and emoji, are sent unchanged."""
    texts = [
        "人人生而自由",
        "يولد جميع الناس أحرارا",
        "Все люди\nрождаются свободными",
        "ทุกคน 😀",
        '"quoted" \\ \t',
    ]
    for way in ways(dimensions=64):
        assert len(way(texts)) == 5


@emulator_only
def test_bad_request(ways: Any) -> None:
    """400: the error for dimensions not offered in this region has the upstream's message and our advice."""
    for way in ways(model="text-embedding-v3", dimensions=64):
        with pytest.raises(APIStatusError, match=r"v3 is invalid, .* in some regions only") as caught:
            way(["a"])
        assert caught.value.status_code == 400


def test_unknown_key(ways: Any) -> None:
    """401: the key is not accepted."""
    for way in ways(Emulator(api_keys=["another"]), api_key="unknown"):
        with pytest.raises(AuthenticationError, match="check the key") as caught:
            way(["a"])
        assert caught.value.status_code == 401


@emulator_only
def test_no_credits(ways: Any) -> None:
    """403: an empty balance is distinguished from other 403s, and not retried."""
    for way in ways(Emulator(credits=0)):
        with pytest.raises(InsufficientCreditsError, match="top up") as caught:
            way(["a"])
        assert caught.value.status_code == 403


@emulator_only
def test_throttled(ways: Any) -> None:
    """429: retried as often as configured, then raised."""
    emulator = Emulator()
    emulator.script(*[Fault(status=429, headers={"retry-after": "0"})] * 4)
    for way in ways(emulator, max_retries=1):
        with pytest.raises(RateLimitError) as caught:
            way(["a"])
        assert (caught.value.status_code, caught.value.attempts) == (429, 2)


@emulator_only
def test_recovered(ways: Any) -> None:
    """A rate limit and server errors are retried."""
    emulator = Emulator()
    emulator.script(Fault(status=429), Fault(status=503), None, Fault(status=500))
    for way in ways(emulator, dimensions=64):
        assert len(way(["a"])[0]) == 64
