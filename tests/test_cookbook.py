"""The cookbook's pages, their notebooks and their index, without running them; `make cookbook` does that."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import jupytext
import pytest

pytestmark = pytest.mark.once

COOKBOOK = Path(__file__).parent.parent / "cookbook"
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(COOKBOOK.glob("*.py"))}
PAGES = {name: source for name, source in SOURCES.items() if re.search("^# %%", source, re.MULTILINE)}
NOTEBOOKS = sorted(path.stem for path in (COOKBOOK / "notebooks").glob("*.ipynb"))
LINE = re.compile(r"^- \[.+\]\(notebooks/(\w+)\.ipynb\) \(\[source\]\((\w+)\.py\)\): \S", re.MULTILINE)
INDEX = (COOKBOOK / "README.md").read_text(encoding="utf-8")
INSTALL = re.compile(
    r"""^# %pip install -q (?P<packages>"qwen-aiml\[[\w,-]+\]"(?:.*\\\n#    )*.*)\n"""
    r"# Until the first release, install qwen-aiml from a clone: pip install \.\n",
)
each_page = pytest.mark.parametrize("name", PAGES)


def cells(notebook: Any) -> list[tuple[str, str]]:
    """Return the type and the source of each cell."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def test_every_page_is_shown() -> None:
    """Each page has a notebook and a line in the index, and there are no others."""
    listed = LINE.findall(INDEX)

    assert sorted(listed) == [(name, name) for name in sorted(PAGES)]
    assert sorted(PAGES) == NOTEBOOKS


@each_page
def test_notebook_is_of_this_page(name: str) -> None:
    """A notebook has its page's cells, plus one that locates the page's files: run `make notebooks`."""
    path = COOKBOOK / "notebooks" / f"{name}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    page = cells(jupytext.reads(PAGES[name], fmt="py:percent"))
    (added,) = [cell for cell in notebook["cells"] if "notebook-only" in cell["metadata"].get("tags", [])]
    notebook["cells"].remove(added)

    assert 'os.chdir("..")' in "".join(added["source"])
    assert cells(notebook) == page
    assert all(cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code")


@each_page
def test_page_can_be_copied(name: str) -> None:
    """A page is plain Python, does not import neighbouring files, and begins with its install line."""
    title, setup = PAGES[name].split("\n# %%\n", 2)[:2]
    tree = ast.parse(PAGES[name])  # no magic, and no await outside a function
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}

    assert re.match(r"# %% \[markdown\]\n# # \S", title)
    assert INSTALL.match(setup)
    assert not {name.partition(".")[0] for name in names if name} & SOURCES.keys()
    assert "pip install" not in title


@each_page
def test_page_names_its_data(name: str) -> None:
    """A page that reads a file in the folder data names it in its first cell."""
    title = PAGES[name].partition("\n# %%\n")[0]
    read = {file.name for file in (COOKBOOK / "data").glob("*.json") if f'{file.name}"' in PAGES[name]}

    assert {f"data/{file}" for file in read} == set(re.findall(r"data/\w+\.json", title))


@each_page
def test_page_links_to_notebooks(name: str) -> None:
    """A page links to others; a link to a file leads from the page's notebook to another notebook."""
    page = cells(jupytext.reads(PAGES[name], fmt="py:percent"))
    prose = "\n".join(source for kind, source in page if kind == "markdown")
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", prose)

    assert targets
    assert set(targets) <= {f"{other}.ipynb" for other in PAGES if other != name}


@each_page
def test_page_says_whose_vectors(name: str) -> None:
    """The title of each picture says whether the vectors are Qwen's."""
    pictures = PAGES[name].count("plt.show()")

    assert len(re.findall(r"_title\(\s*f\".*\(\{VECTORS\}\)\"", PAGES[name])) >= pictures


READS_KEY = re.compile(r"""(?<!bool\()os\.environ(\.get\("AIMLAPI_API_KEY"|\["AIMLAPI_API_KEY"\](?! =))""")


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if READS_KEY.search(page)])
def test_key_goes_to_its_url(name: str) -> None:
    """A page that gives the key to another client also gives it the URL of the environment."""
    assert 'os.environ.get("AIMLAPI_BASE_URL", "https://api.aimlapi.com/v1")' in PAGES[name]
