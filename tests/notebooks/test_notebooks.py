"""
The cookbook's pages, run as notebooks without an API key and without a network.

Each page runs in its own kernel, in the folder of the notebooks, as if a user
had opened it there. If QWEN_AIML_WRITE_NOTEBOOKS is set, the notebook with its
output is written to cookbook/notebooks.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import re
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from PIL import Image

import postgres

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "cookbook" / "notebooks"
SECONDS = 240  # per page, ten times as long as most pages take
WRITE = "QWEN_AIML_WRITE_NOTEBOOKS"

SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "cookbook").glob("*.py")}
PAGES = {name: SOURCES[name] for name in sorted(SOURCES) if re.search("^# %%", SOURCES[name], re.MULTILINE)}

# Pages that need the group cookbook-heavy, each with one of its packages.
HEAVY = {"crewai_knowledge": "crewai", "parallel": "pyspark"}

# The one cell that is only in the notebook.
HOME_CELL = """import os

if os.path.basename(os.getcwd()) == "notebooks":
    os.chdir("..")  # what the page reads is in the folder above"""

# A page's install line, not needed in this environment; `make cookbook-installs` tests it.
INSTALL = re.compile(r"^%pip (?:.*\\\n)*.*\n", re.MULTILINE)

# Text that varies between machines or runs.
PATHS = (str(ROOT), str(Path.home()), tempfile.gettempdir(), sys.prefix)
NOT_TO_SHOW = "|".join([*(re.escape(path) + r"\b" for path in PATHS), "0x[0-9a-f]{9,}"])


def notebook_of(source: str) -> NotebookNode:
    """Convert a page to a notebook, with stable cell ids and the cell that locates the page's files."""
    notebook = jupytext.reads(source, fmt="py:percent")
    first = next(index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells.insert(first, new_code_cell(HOME_CELL, metadata={"tags": ["notebook-only"]}))
    for index, cell in enumerate(notebook.cells):
        twins = sum(other.source == cell.source for other in notebook.cells[:index])
        cell.id = hashlib.sha256(f"{twins} {cell.source}".encode()).hexdigest()[:12]
    return notebook


def smaller(png: str) -> str:
    """Reduce a base64-encoded picture to 256 colours, which is enough for plots, without metadata."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        opaque = Image.new("RGB", picture.size, "white")
        opaque.paste(picture, mask=picture.getchannel("A") if "A" in picture.getbands() else None)
    packed = io.BytesIO()
    opaque.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook so that the file changes only if its visible content does."""
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = NotebookNode()
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """Return the URL of a server that stops after the tests."""
    url: str = postgres.postgres_url()
    return url


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, postgres_url: str) -> Path:
    """Set the kernel's environment: no API key, no user configuration, no network; return the network log."""
    monkeypatch.setenv("POSTGRES_URL", postgres_url)
    for name in os.environ:
        if re.search("KEY|TOKEN|^AIML|_PROXY$", name.upper()):
            monkeypatch.delenv(name)
    log = tmp_path / "blocked"
    monkeypatch.setenv("OFFLINE_LOG", str(log))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "offline"), prepend=os.pathsep)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    for library in ("OMP", "OPENBLAS"):  # a fixed order of sums makes pictures reproducible
        monkeypatch.setenv(f"{library}_NUM_THREADS", "1")
    return log


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str, blocked: Path) -> None:
    """No cell fails, no other host is contacted, stderr stays empty, no output is specific to a machine."""
    if find_spec(HEAVY.get(name, "pytest")) is None:
        pytest.skip(f"needs {HEAVY[name]}, of the group cookbook-heavy")
    notebook = notebook_of(PAGES[name])
    setup = notebook.cells[2]  # after the title and the cell that locates the page's files
    whole, setup.source = setup.source, INSTALL.sub("", setup.source)
    assert setup.source != whole
    client = NotebookClient(
        notebook, coalesce_streams=True, record_timing=False, resources={"metadata": {"path": str(NOTEBOOKS)}}
    )
    asyncio.run(asyncio.wait_for(client.async_execute(cleanup_kc=True), SECONDS))
    setup.source = whole

    assert not blocked.exists(), blocked.read_text(encoding="utf-8")
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        assert output.get("name") != "stderr", text
        assert not re.search(NOT_TO_SHOW, text), text
    if os.environ.get(WRITE):
        write(notebook, NOTEBOOKS / f"{name}.ipynb")
