"""The README's snippets and tables, and the two reference pages with its details."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import qwen_aiml
from qwen_aiml.emulator import Emulator, serve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = ROOT / "docs" / "reference"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
ROW = r"^\| (`.*?) \| (.*?) \| (.*?) \| .* \|$"


def test_there_are_snippets() -> None:
    """Every Python block of the README is found."""
    assert len(SNIPPETS) == README.count("```python") == 7


def test_length() -> None:
    """The README stays short; longer texts belong in the documentation."""
    assert len(README.splitlines()) <= 150


@pytest.mark.usefixtures("restored_state")
@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet(
    snippet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each snippet runs alone with only the API key set, and prints the output in its comments."""
    monkeypatch.chdir(tmp_path)
    with serve(Emulator()) as base_url:
        monkeypatch.setenv("AIMLAPI_API_KEY", "a-key")
        monkeypatch.setenv("AIMLAPI_BASE_URL", base_url)
        exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 (our own text)

    expected = "".join(re.findall(r"^# (.*\n)", snippet, re.MULTILINE))
    assert capsys.readouterr().out == expected
    assert bool(expected) == ("print(" in snippet.replace("    print(", ""))


@pytest.mark.parametrize("page", [ROOT / "README.md", REFERENCE / "errors.md"], ids=lambda page: page.name)
def test_error_tree(page: Path) -> None:
    """The README and the tree in the reference name every error class."""
    errors = [name for name in qwen_aiml.__all__ if name.endswith("Error")]
    text = page.read_text(encoding="utf-8")
    tree = text.partition("```text\n")[2].partition("```")[0] if page.name == "errors.md" else text

    assert [name for name in errors if name not in tree] == []


def test_settings_table() -> None:
    """The table of settings contains every field of both classes, with its default."""
    from langchain_qwen_aiml import QwenAIMLEmbeddings  # noqa: PLC0415 (only here)
    from llama_index_qwen_aiml import QwenAIMLEmbedding  # noqa: PLC0415

    page = (REFERENCE / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(ROW, page.partition("\n## ")[0], re.MULTILINE)
    named = [set(re.findall(r"`(\w+)`", row[0])) for row in rows]
    named_too = [set(re.findall(r"`(\w+)`", row[1])) for row in rows]
    framework = {"callback_manager", "num_workers", "embeddings_cache", "rate_limiter"}

    for field in QwenAIMLEmbeddings.model_fields:
        assert any(field in names for names in named), field
    for field in QwenAIMLEmbedding.model_fields.keys() - framework:
        assert any(field in names for names in (*named_too, *named)), field
    for (first, _, default), names in zip(rows, named, strict=True):
        assert_defaults(first, names, default)


def test_readme_settings() -> None:
    """The README's settings have the defaults of the class."""
    rows = re.findall(ROW, README, re.MULTILINE)

    assert len(rows) == 8
    for first, _, default in rows:
        assert_defaults(first, set(re.findall(r"`(\w+)`", first)), default)


def assert_defaults(row: str, names: set[str], default: str) -> None:
    from langchain_qwen_aiml import QwenAIMLEmbeddings  # noqa: PLC0415 (only here)

    fields = {field.alias or name: field for name, field in QwenAIMLEmbeddings.model_fields.items()}
    fields |= QwenAIMLEmbeddings.model_fields
    values = [field.default for name, field in fields.items() if name in names]
    assert values, row
    for value in values:
        assert str(value) in default or value is None, row
