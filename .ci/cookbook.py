"""
Run the cookbook's pages as notebooks, without a key and without a network.

Two at a time, each in a kernel of its own, in the folder of the notebooks, as
somebody who opens the notebook would. A page passes if no cell fails, nothing
is written to stderr, no host but this one is asked for anything, and what it
shows has nothing of this machine in it. `--write` keeps what it shows.

Runs in the environment that matrix.py makes from the group `cookbook`.
"""

import argparse
import asyncio
import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
COOKBOOK = ROOT / "cookbook"
NOTEBOOKS = COOKBOOK / "notebooks"
SECONDS = 240  # for one page, which should take a tenth of that
AT_ONCE = 2

# The one cell that only the notebook has.
HOME_CELL = """import os

if os.path.basename(os.getcwd()) == "notebooks":
    os.chdir("..")  # what the page reads is in the folder above"""

# What differs from machine to machine, or from run to run.
NOT_TO_SHOW = [str(ROOT), str(Path.home()), tempfile.gettempdir(), sys.prefix, r"0x[0-9a-f]{9,}"]
NOT_TO_SHOW[:4] = [re.escape(path) + r"\b" for path in NOT_TO_SHOW[:4]]


class PageError(Exception):
    """
    A page that ran, but should not be shown to a reader.
    """


def pages(names: list[str]) -> list[Path]:
    """
    Find pages.

    Args:
        names: Their names without the suffix; all if it is empty.

    Returns:
        Their files: those with a cell's mark.
    """
    found = {path.stem: path for path in sorted(COOKBOOK.glob("*.py")) if "\n# %%" in f"\n{read(path)}"}
    if unknown := set(names) - set(found):
        sys.exit(f"There is no page {', '.join(sorted(unknown))}; there are {', '.join(found)}")
    return [found[name] for name in names or found]


def read(path: Path) -> str:
    """
    Read a text file.
    """
    return path.read_text(encoding="utf-8")


def notebook_of(page: Path) -> NotebookNode:
    """
    Make a notebook of a page: its cells, and before its first code the one that finds the page's files.
    """
    notebook = jupytext.reads(read(page), fmt="py:percent")
    first = next(index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells.insert(first, new_code_cell(HOME_CELL, metadata={"tags": ["notebook-only"]}))
    for index, cell in enumerate(notebook.cells):
        twins = sum(other.source == cell.source for other in notebook.cells[:index])
        cell.id = hashlib.sha256(f"{twins} {cell.source}".encode()).hexdigest()[:12]
    return notebook


def environment(folder: Path) -> dict[str, str]:
    """
    Say what a page's kernel gets of this one's environment: no key, nothing of the user's, and the guard.

    Args:
        folder: An empty one.
    """
    private = re.compile("KEY|TOKEN|^AIML|_PROXY$")
    kept = {name: value for name, value in os.environ.items() if not private.search(name.upper())}
    path = (str(ROOT / ".ci" / "offline"), os.environ.get("PYTHONPATH"))
    return kept | {
        "OMP_NUM_THREADS": "1",  # pages share the machine, and the same order of sums draws the same pictures
        "OPENBLAS_NUM_THREADS": "1",
        "IPYTHONDIR": str(folder),
        "MPLCONFIGDIR": str(Path(sys.prefix) / "matplotlib"),  # holds its list of fonts
        "OFFLINE_LOG": str(folder / "asked"),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }


async def execute(notebook: NotebookNode, seconds: float) -> None:
    """
    Run a notebook's cells, and keep what they show in it.

    Raises:
        CellExecutionError: If a cell fails.

        PageError: If the page reaches out, or shows what it should not.

        TimeoutError, DeadKernelError: If it takes longer than *seconds*.
    """
    with tempfile.TemporaryDirectory() as folder:
        manager = AsyncKernelManager(
            kernel_name="python3",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # none but that of this environment
            transport="ipc",
            ip=str(Path(folder) / "kernel"),
        )
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=None,
            coalesce_streams=True,
            record_timing=False,
            resources={"metadata": {"path": str(NOTEBOOKS)}},
        )
        env = environment(Path(folder))
        try:
            await asyncio.wait_for(client.async_execute(env=env, cleanup_kc=True), seconds)
        finally:
            if (asked := Path(env["OFFLINE_LOG"])).exists():
                msg = f"reached out:\n{read(asked)}"
                raise PageError(msg)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in shown:
        text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        if output.get("name") == "stderr":
            msg = f"wrote to stderr:\n{text}"
            raise PageError(msg)
        if found := re.search("|".join(NOT_TO_SHOW), text):
            msg = f"shows {found[0]!r}, which differs on another machine or in another run:\n{text}"
            raise PageError(msg)


def write(notebook: NotebookNode, path: Path) -> None:
    """
    Write a notebook so that it changes only if what a reader sees does, with small pictures.
    """
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


def smaller(png: str) -> str:
    """
    Give a picture no more than 256 colours, which plots hardly exceed, and no metadata.

    Args:
        png: In base64, as is the result.
    """
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        opaque = Image.new("RGB", picture.size, "white")
        opaque.paste(picture, mask=picture.getchannel("A") if "A" in picture.getbands() else None)
    packed = io.BytesIO()
    opaque.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


async def attempt(page: Path, seconds: float, turns: asyncio.Semaphore, *, keep: bool) -> bool:
    """
    Run one page when it is its turn, and tell how that went.

    Returns:
        Whether it passed.
    """
    async with turns:
        start, why = time.monotonic(), ""
        notebook = notebook_of(page)
        try:
            await execute(notebook, seconds)
        except (CellExecutionError, PageError) as error:
            why = re.sub(r"\x1b\[[\d;]*m", "", str(error))
        except Exception as error:  # noqa: BLE001 - a dead kernel, for one: the other pages run all the same
            late = time.monotonic() - start >= seconds
            why = f"took more than {seconds:g} s" if late else repr(error)
        if keep and not why:
            write(notebook, NOTEBOOKS / f"{page.stem}.ipynb")
        outcome = f"FAILED, {why.rstrip()}" if why else "ok"
        print(f"{page.stem:20}{time.monotonic() - start:6.1f} s  {outcome}", flush=True)
        return not why


async def attempts(chosen: list[Path], seconds: float, *, keep: bool) -> list[bool]:
    """
    Run pages, and say which passed.
    """
    turns = asyncio.Semaphore(AT_ONCE)
    return await asyncio.gather(*(attempt(page, seconds, turns, keep=keep) for page in chosen))


def main() -> int:
    """
    Run the pages named on the command line, or all.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description="Run the cookbook's pages as notebooks, offline.")
    parser.add_argument("--write", action="store_true", help="keep what they show in cookbook/notebooks")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for one page (default: %(default)s)")
    parser.add_argument("pages", nargs="*", help="such as search; all, if none is named")
    arguments = parser.parse_args()
    chosen = pages(arguments.pages)
    NOTEBOOKS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:  # a page would wait, and say so, while fonts are listed
        command = [sys.executable, "-c", "import matplotlib.font_manager"]
        subprocess.run(command, check=True, env=environment(Path(folder)), stderr=subprocess.DEVNULL)
    start = time.monotonic()
    results = asyncio.run(attempts(chosen, arguments.seconds, keep=arguments.write))
    passed, failed = sum(results), len(results) - sum(results)
    print(f"{passed} passed, {failed} failed in {time.monotonic() - start:.1f}s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
