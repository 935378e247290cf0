"""LangChain's own suite for vector stores, with our embeddings in place of its fake ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from langchain_tests.integration_tests import VectorStoreIntegrationTests

import langchain_stores
from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml.emulator import Emulator
from scenario import expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore


@pytest.mark.anyio
class Suite(VectorStoreIntegrationTests):
    """The suite, on an empty store for each test."""

    kind: type[langchain_stores.Place]

    @staticmethod
    def get_embeddings() -> Embeddings:
        """Return the embeddings under test."""
        return QwenAIMLEmbeddings(dimensions=64, **Emulator().client_options())

    @pytest.fixture
    def vectorstore(
        self, request: pytest.FixtureRequest, tmp_path: Path, postgres: Callable[[], str]
    ) -> Iterator[VectorStore]:
        """Open an empty store."""
        test = request.function.__name__.removeprefix("test_").removesuffix("_async")
        expect(request, self.kind, test, self.kind.fails_standard, "langchain-core")
        place = self.kind(tmp_path, postgres)
        place.metadata = ()
        place.asynchronous = request.function.__name__.endswith("_async")
        yield place.open(self.get_embeddings())  # type: ignore[arg-type]
        place.close()


for kind in langchain_stores.STORES:
    globals()[f"Test{kind.__name__}"] = type(
        f"Test{kind.__name__}", (Suite,), {"kind": kind, "__doc__": kind.title}
    )
