"""Fixtures of the store tests, and the report of their results."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from postgres import postgres_url
from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

# The stores are installed in a separate environment: `make compatibility`.
OF_STORES = ["test_langchain.py", "test_llama_index.py", "test_standard.py"]
collect_ignore = [] if find_spec("chromadb") else OF_STORES

# Warnings of the stores' packages about themselves, about each other, and about Qdrant in a folder.
WARNINGS = [
    r"ignore:`langchain-community` is being sunset:DeprecationWarning",
    r"ignore:table_names\(\) is deprecated:DeprecationWarning",  # by llama-index-vector-stores-lancedb
    r"ignore:unclosed database in <sqlite3:ResourceWarning",  # by qdrant-client, one in memory
    r"ignore:Payload indexes have no effect in the local Qdrant:UserWarning",
]


# The variable with the path of the report, which is written if it is set; page.py renders such reports.
RESULTS = "QWEN_AIML_STORES_RESULTS"
PACKAGES = [
    *("langchain-core", "langchain-chroma", "langchain-community", "langchain-lancedb", "langchain-postgres"),
    *("langchain-qdrant", "langchain-tests", "llama-index-core"),
    *(f"llama-index-vector-stores-{store}" for store in ("chroma", "faiss", "lancedb", "postgres", "qdrant")),
    *("chromadb", "faiss-cpu", "lancedb", "qdrant-client"),
]
results: list[dict[str, Any]] = []
servers: dict[str, str] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore these warnings, in this folder only."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for warning in WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record the result of each check of a store; a fixture that fails counts as the check."""
    report = yield
    if item.path.name in {"test_page.py", "test_postgres.py"} or (
        report.when != "call" and report.outcome == "passed"
    ):
        return report
    reason = getattr(report, "wasxfail", "") or (
        report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    )
    result = {
        "suite": item.path.stem.removeprefix("test_"),
        "store": _store(item),
        "check": getattr(item, "originalname", item.name).removeprefix("test_"),
        "outcome": "known" if hasattr(report, "wasxfail") and report.skipped else report.outcome,
        "reason": reason.removeprefix("reason: ").removeprefix("Skipped: "),
        **dict(item.user_properties),
    }
    results.append(result)
    return report


def _store(item: pytest.Item) -> str:
    kind = item.cls.kind if getattr(item, "cls", None) else item.callspec.params["place"]  # type: ignore[attr-defined]
    title: str = kind.title
    return title


def pytest_sessionfinish() -> None:
    """Write the results, with the versions that they apply to."""
    if not (path := os.environ.get(RESULTS)) or not results:
        return
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    found = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {**versions, **servers},
        "results": results,
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio only, which the stores are designed for."""
    return "asyncio"


@pytest.fixture
def postgres() -> Iterator[Callable[[], str]]:
    """Return a function that returns the URL of a server, which is started by the first call."""
    asked = []

    def url() -> str:
        asked.append(postgres_url())
        return asked[0]

    yield url
    if asked:
        import psycopg  # noqa: PLC0415 (not installed where no store is tried)

        with psycopg.connect(asked[0]) as connection:
            # The tables in which PGVector keeps the texts of all collections.
            connection.execute("DROP TABLE IF EXISTS langchain_pg_embedding, langchain_pg_collection")
            rows = connection.execute(
                "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
            ).fetchall()
            servers["PostgreSQL"] = f"{connection.info.server_version // 10000}"
            servers["pgvector"] = rows[0][0]


@pytest.fixture
def emulator() -> Emulator:
    """Return an emulator that records its requests."""
    return Emulator()
