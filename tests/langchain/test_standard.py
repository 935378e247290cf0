"""LangChain's own suites, unmodified, against the emulator in-process and over a socket."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.embeddings import Embeddings


class TestUnit(EmbeddingsUnitTests):
    """The unit suite."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        """Return the class under test."""
        return QwenAIMLEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        """Return the arguments that it needs."""
        return {"model": "text-embedding-v4", "api_key": "test"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        """Return an environment, and the resulting attributes."""
        return (
            {"AIMLAPI_API_KEY": "from-env", "AIMLAPI_API_BASE": "https://example.com/v1"},
            {"model": "text-embedding-v4"},
            {"aimlapi_api_key": "from-env", "aimlapi_api_base": "https://example.com/v1"},
        )


@pytest.mark.anyio
class TestInProcess(EmbeddingsIntegrationTests):
    """The integration suite without a socket."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        """Return the class under test."""
        return QwenAIMLEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        """Return the options of a new emulator."""
        return {"model": "text-embedding-v4", **Emulator().client_options()}


@pytest.mark.anyio
class TestServer(EmbeddingsIntegrationTests):
    """The integration suite over a socket."""

    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
        with serve(Emulator()) as self.base_url:
            yield

    @property
    def embeddings_class(self) -> type[Embeddings]:
        """Return the class under test."""
        return QwenAIMLEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        """Return the options for the server."""
        return {"model": "text-embedding-v3", "api_key": "test", "base_url": self.base_url}


def test_suites_are_whole() -> None:
    """The suites have at least the known number of tests; none is overridden."""
    for suite, least in ((TestUnit, 3), (TestInProcess, 5), (TestServer, 5)):
        names = [name for name, _ in inspect.getmembers(suite, inspect.isfunction)]
        assert sum(name.startswith("test_") for name in names) >= least
        assert not [name for name in vars(suite) if name.startswith("test_")]
