"""Models for ``llm`` (https://llm.datasette.io), which loads this module by its entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import llm
from llm.models import EmbeddingModel

from .._client import EmbeddingClient
from .._config import EmbeddingConfig
from .._keys import KEY_VARIABLES
from .._models import known_models, model_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class QwenModel(EmbeddingModel):
    """
    An embedding model for ``llm embed`` and ``llm embed-multi``.

    The key is that of ``llm keys set aimlapi``, otherwise of AIMLAPI_API_KEY. ``llm`` splits lists into
    blocks of 100 texts, each of which is sent as ten concurrent requests.
    """

    needs_key = "aimlapi"
    key_env_var = KEY_VARIABLES[0]

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """Embed texts; ``llm`` itself rejects binary items."""
        with EmbeddingClient(EmbeddingConfig(model=self.model_id, api_key=self.get_key(key))) as client:
            yield from client.embed(map(str, items)).embeddings


@llm.hookimpl
def register_embedding_models(register: Callable[..., object]) -> None:
    """Register all known models, with their short names."""
    for name in known_models():
        register(QwenModel(name), aliases=model_facts(name).aliases)
