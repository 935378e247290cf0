"""The README, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import qwen_aiml
from qwen_aiml.emulator import Emulator, serve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_there_are_snippets() -> None:
    """Every Python fence of the README is found."""
    assert len(SNIPPETS) == README.count("```python") == 9


@pytest.mark.usefixtures("restored_state")
@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet(
    snippet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each snippet runs by itself, with nothing set but the key, and finds what it looks for."""
    monkeypatch.chdir(tmp_path)
    with serve(Emulator()) as base_url:
        monkeypatch.setenv("AIMLAPI_API_KEY", "a-key")
        monkeypatch.setenv("AIMLAPI_BASE_URL", base_url)
        exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 (our own text)

    printed = capsys.readouterr().out
    if "Where did the cat sit?" in snippet:
        assert printed.startswith("The cat sat on the mat.\nUsage(requests=2, ")
    if "el gato" in snippet:
        assert printed == "0\n"


def test_error_tree() -> None:
    """The README's tree names every error."""
    errors = [name for name in qwen_aiml.__all__ if name.endswith("Error")]

    assert [name for name in errors if name not in README] == []


def test_settings_table() -> None:
    """The README's table has every field of both classes, with its default."""
    from langchain_qwen_aiml import QwenAIMLEmbeddings  # noqa: PLC0415 (only here)
    from llama_index_qwen_aiml import QwenAIMLEmbedding  # noqa: PLC0415

    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \| .* \|$", README, re.MULTILINE)
    named = [set(re.findall(r"`(\w+)`", row[0])) for row in rows]
    named_too = [set(re.findall(r"`(\w+)`", row[1])) for row in rows]
    framework = {"callback_manager", "num_workers", "embeddings_cache", "rate_limiter"}

    for field in QwenAIMLEmbeddings.model_fields:
        assert any(field in names for names in named), field
    for field in QwenAIMLEmbedding.model_fields.keys() - framework:
        assert any(field in names for names in (*named_too, *named)), field
    for (first, _, default), names in zip(rows, named, strict=True):
        values = {
            name: field.default for name, field in QwenAIMLEmbeddings.model_fields.items() if name in names
        }
        for value in values.values():
            assert str(value) in default or value is None, first
