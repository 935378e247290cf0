"""What the stores are tried with, and what is written down of how that went."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The stores are installed in an environment of their own: `python .ci/matrix.py stores`.
collect_ignore_glob = [] if find_spec("chromadb") else ["test_*.py"]

COOKBOOK = Path(__file__).parents[2] / "cookbook"

# What the stores' packages say of themselves, of each other and of Qdrant in a folder.
WARNINGS = [
    r"ignore:`langchain-community` is being sunset:DeprecationWarning",
    r"ignore:table_names\(\) is deprecated:DeprecationWarning",  # by llama-index-vector-stores-lancedb
    r"ignore:Payload indexes have no effect in the local Qdrant:UserWarning",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those warnings pass, here only."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for warning in WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio alone, which the stores are made for."""
    return "asyncio"


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Give what gives the address of a server, which is started when first asked for and ends with this process."""
    monkeypatch.syspath_prepend(COOKBOOK)
    from postgres import postgres_url

    asked = []

    def url() -> str:
        asked.append(postgres_url())
        return asked[0]

    yield url
    if asked:
        import psycopg

        with psycopg.connect(asked[0]) as connection:  # what PGVector keeps the texts of all collections in
            connection.execute("DROP TABLE IF EXISTS langchain_pg_embedding, langchain_pg_collection")


@pytest.fixture
def emulator() -> Emulator:
    """Give an emulator that tells what it was asked."""
    return Emulator()
