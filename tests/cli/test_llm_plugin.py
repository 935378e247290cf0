"""The plugin for ``llm``: its entry point, full batches, and no repeated requests."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml.emulator import Emulator, intercept

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that runs a command of ``llm`` and returns its output."""
    cli = pytest.importorskip("llm.cli")  # here, since it takes a second
    testing = pytest.importorskip("click.testing")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    (tmp_path / "llm").mkdir()

    def run(*arguments: str) -> str:
        done = testing.CliRunner().invoke(cli.cli, list(arguments))
        assert done.exit_code == 0, done.output
        output: str = done.output
        return output

    return run


def test_entry_point() -> None:
    """The plugin is found in the entry point group of ``llm``."""
    pytest.importorskip("llm")
    [found] = [each for each in entry_points(group="llm") if each.value.startswith("qwen_aiml")]

    assert found.load().QwenModel("m").model_id == "m"


@pytest.mark.parametrize("version", ["v4", "v3"])
@pytest.mark.parametrize("prefix", ["alibaba/qwen-", "qwen-", ""])
def test_names(run: Any, prefix: str, version: str) -> None:
    """A model has the same names as in Python."""
    with intercept(Emulator()) as emulator:
        run("embed", "-c", "a text", "-m", f"{prefix}text-embedding-{version}")

    assert [each.model for each in emulator.requests] == [f"alibaba/qwen-text-embedding-{version}"]


def test_embed_multi(run: Any, tmp_path: Path) -> None:
    """A file of 2,000 lines takes 200 requests the first time, and none the second time."""
    lines = tmp_path / "lines.csv"
    lines.write_text("id,text\n" + "".join(f"{at},line number {at}\n" for at in range(2_000)))
    command = ("embed-multi", "lines", str(lines), "-m", "qwen-text-embedding-v4")
    with intercept(Emulator()) as emulator:
        run(*command)
        assert emulator.request_count == 200
        run(*command)
        assert emulator.request_count == 200
        assert len(emulator.texts_billed) == 2_000
        found = run("similar", "lines", "-c", "line number 1234", "-n", "1")

    assert '"id": "1234"' in found
