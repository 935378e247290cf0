"""Estimates of requests, tokens and cost before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    ConfigurationError,
    EmbeddingClient,
    EmbeddingConfig,
    Estimate,
    InputError,
    ModelFacts,
    register_model,
)
from qwen_aiml.emulator import Emulator

DECLARATION = [
    "All human beings are born free and equal in dignity and rights.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "人人生而自由，在尊严和权利上一律平等。",
]


def client(**settings: Any) -> EmbeddingClient:
    return EmbeddingClient(EmbeddingConfig(api_key="k", **settings))


def test_estimate() -> None:
    """Identical texts count once, requests have ten texts, and without a tokenizer tokens are a range."""
    texts = [f"{at % 25:04}" for at in range(40)]

    assert client().estimate(texts) == Estimate(40, 25, 3, 25, 100, None, None)
    assert client(batch_size=5).estimate(iter(texts)).requests == 5
    assert client().estimate([]) == Estimate(0, 0, 0, 0, 0, None, None)


def test_estimate_of_money() -> None:
    """With a price, the cost is a range."""
    found = client().estimate(["a" * 8_000_000], usd_per_million_tokens=0.07)

    assert (found.min_tokens, found.max_tokens) == (1_000_000, 4_000_002)
    assert found.min_cost_usd == pytest.approx(0.07)
    assert found.max_cost_usd == pytest.approx(0.28, rel=1e-3)
    with pytest.raises(ConfigurationError, match="usd_per_million_tokens must be a number above 0"):
        client().estimate(["a"], usd_per_million_tokens=0)


def test_estimate_with_tokenizer() -> None:
    """With the tokenizer, token counts are exact, and within the range estimated without it."""
    exact, rough = client(tokenizer="qwen").estimate(DECLARATION), client().estimate(DECLARATION)

    assert exact.min_tokens == exact.max_tokens == sum(map(client().count_tokens, DECLARATION))
    assert rough.min_tokens <= exact.min_tokens <= rough.max_tokens
    for text in DECLARATION:
        alone = client().estimate([text])
        assert alone.min_tokens <= client().count_tokens(text) <= alone.max_tokens


def test_queries() -> None:
    """The instruction of queries counts; documents have none."""
    asking = client(query_instruction="Find the article")

    assert asking.count_tokens("a", role="query") > asking.count_tokens("a") == client().count_tokens("a")
    assert asking.estimate(["a"], role="query").max_tokens > asking.estimate(["a"]).max_tokens


def test_blank_texts() -> None:
    """Texts are validated as for embedding."""
    with pytest.raises(InputError, match=r"texts\[1\] is blank"):
        client().estimate(["a", " "])
    assert client(on_blank="replace", blank_replacement="-").estimate([" ", "\n"]).distinct == 1


@pytest.mark.usefixtures("restored_state")
def test_max_input_tokens() -> None:
    """The maximum of tokens per text is that of the model's facts, and None if it is unknown."""
    register_model(ModelFacts(name="own", max_tokens=100))

    assert [client(model=name).max_input_tokens for name in ("text-embedding-v4", "own", "other")] == [
        *(8192, 100),
        None,
    ]


@pytest.mark.parametrize("kind", [QwenAIMLEmbeddings, QwenAIMLEmbedding])
def test_frameworks(kind: Any) -> None:
    """The classes of both frameworks give the same estimates, and send nothing."""
    emulator = Emulator()
    model = kind(**emulator.client_options())

    assert model.estimate(DECLARATION, usd_per_million_tokens=1) == client().estimate(
        DECLARATION, usd_per_million_tokens=1
    )
    assert model.count_tokens("a text") == client().count_tokens("a text")
    assert model.max_input_tokens == 8192
    assert emulator.request_count == 0
