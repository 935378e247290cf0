"""The cookbook's pages, their notebooks and their index, without running any: `make cookbook` does that."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import runpy
from pathlib import Path
from typing import Any

import jupytext
import pytest

from qwen_aiml import EmbeddingClient, EmbeddingConfig

pytestmark = pytest.mark.once

COOKBOOK = Path(__file__).parent.parent / "cookbook"
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(COOKBOOK.glob("*.py"))}
PAGES = {name: source for name, source in SOURCES.items() if re.search("^# %%", source, re.MULTILINE)}
NOTEBOOKS = sorted(path.stem for path in (COOKBOOK / "notebooks").glob("*.ipynb"))
LINE = re.compile(r"^- \[.+\]\(notebooks/(\w+)\.ipynb\) \(\[source\]\((\w+)\.py\)\): \S", re.MULTILINE)
INDEX = (COOKBOOK / "README.md").read_text(encoding="utf-8")
CONNECTION = runpy.run_path(str(COOKBOOK / "connection.py"))
connection, run = CONNECTION["connection"], CONNECTION["run"]
each_page = pytest.mark.parametrize("name", PAGES)


def cells(notebook: Any) -> list[tuple[str, str]]:
    """Read the kind and the source of each cell."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def test_every_page_is_shown() -> None:
    """Each page has a notebook and a line in the index, and nothing else has."""
    listed = LINE.findall(INDEX)

    assert sorted(listed) == [(name, name) for name in sorted(PAGES)]
    assert sorted(PAGES) == NOTEBOOKS


@each_page
def test_notebook_is_of_this_page(name: str) -> None:
    """A notebook has its page's cells, and one that finds the page's files: `make notebooks` sees to it."""
    path = COOKBOOK / "notebooks" / f"{name}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    page = cells(jupytext.reads(PAGES[name], fmt="py:percent"))
    (added,) = [cell for cell in notebook["cells"] if "notebook-only" in cell["metadata"].get("tags", [])]
    notebook["cells"].remove(added)

    assert 'os.chdir("..")' in "".join(added["source"])
    assert cells(notebook) == page
    assert all(cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code")


@each_page
def test_page_runs_as_a_script(name: str) -> None:
    """A page is plain Python, begins with a title, and says what to install."""
    first = PAGES[name].partition("# %%\n")[0]

    ast.parse(PAGES[name])  # no magic, and no await outside a function
    assert re.match(r"# %% \[markdown\]\n# # \S", first)
    assert "pip install" in first


@pytest.mark.parametrize("name", ["AIMLAPI_API_KEY", "AIML_API_KEY", "AIMLAPI_KEY"])
def test_connection_with_a_key(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a key in any of its variables a page gets the service, whatever it asked of the emulator."""
    monkeypatch.setenv(name, "a-key")

    assert connection(latency=1.0) == {}
    assert capsys.readouterr().out == "Using https://api.aimlapi.com/v1\n"


def test_connection_without_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    """Without one it gets an emulator with the settings it asks for, and is told whose vectors these are."""
    options = connection(vectors="lexical", api_keys=["one"])

    assert "not Qwen's" in capsys.readouterr().out
    assert options["api_key"] == "one"
    config = EmbeddingConfig(api_key=options["api_key"])
    with EmbeddingClient(config, http_client=options["http_client"]) as client:
        assert len(client.embed(["a"]).embeddings) == 1


def test_run() -> None:
    """A coroutine is run where no loop runs, and where one does."""

    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    async def in_a_notebook() -> int:
        result: int = run(answer())
        return result

    assert run(answer()) == 42
    assert asyncio.run(in_a_notebook()) == 42
