"""What the classes of both frameworks have in common."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import ConfigurationError
from qwen_aiml._engine.limiter import Start

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk-test-0123456789abcdef"

both = pytest.mark.parametrize("kind", [QwenAIMLEmbeddings, QwenAIMLEmbedding])


@both
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_have_one_limiter(kind: Any, copied: Callable[[Any], Any]) -> None:
    """In a copy, sync and async calls share one rate limiter, with the limits of the settings."""
    model = copied(kind(api_key=KEY, max_concurrency=3, requests_per_minute=60))
    limiter = model._client.limiter

    assert model._async_client.limiter is limiter
    assert model.limits.in_flight == 3
    assert isinstance(limiter.take(0.0, 0), Start)
    assert limiter.take(0.0, 0) == 1.0


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *[(kind, {"my_kee": KEY}) for kind in (QwenAIMLEmbeddings, QwenAIMLEmbedding)],
        (QwenAIMLEmbeddings, {"base_url": KEY}),
        (QwenAIMLEmbedding, {"api_base": KEY}),
        *[
            (kind, {"default_headers": {"Authorization": KEY}})
            for kind in (QwenAIMLEmbeddings, QwenAIMLEmbedding)
        ],
    ],
)
def test_misplaced_key(kind: Any, options: dict[str, Any]) -> None:
    """A key in the wrong place is in no local variable of the traceback."""
    with pytest.raises(ConfigurationError) as caught:
        kind(**options)

    frames = [entry.frame for entry in caught.traceback[1:] if "qwen_aiml" in str(entry.path)]
    assert frames
    assert KEY not in str([{**frame.f_locals, "caught": None} for frame in frames])
