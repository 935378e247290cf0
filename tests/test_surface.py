"""The structure of the packages: their exports, their imports, the size of adapters and modules."""

from __future__ import annotations

import ast
import importlib
import io
import os
import subprocess
import sys
import tokenize
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import daft_qwen_aiml
import langchain_qwen_aiml
import llama_index_qwen_aiml
import qwen_aiml
import qwen_aiml.emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

ADAPTERS = [daft_qwen_aiml, langchain_qwen_aiml, llama_index_qwen_aiml]
PACKAGES = [qwen_aiml, qwen_aiml.emulator, *ADAPTERS]


def sources(package: ModuleType, pattern: str = "*.py") -> list[Path]:
    """Return the paths of a package's modules."""
    assert package.__file__ is not None
    return sorted(Path(package.__file__).parent.glob(pattern))


def imports(path: Path) -> Iterator[str]:
    """Yield the names of all modules that a module imports; relative imports begin with a dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def roots(path: Path) -> set[str]:
    """Return the top-level packages that a module imports."""
    return {name.split(".")[0] for name in imports(path) if not name.startswith(".")}


def code_lines(path: Path) -> int:
    """Return the number of lines of code, without blank lines, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    documentation = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    layout |= {tokenize.ENCODING, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {token.start[0] for token in tokens if token.type not in layout}
    return len(code - documentation)


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a separate process that can import the packages under test."""
    return subprocess.run(  # noqa: S603 (our own program)
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_all_is_true(package: ModuleType) -> None:
    """__all__ contains exactly the public names, without duplicates."""
    public = {
        name
        for name in dir(package)
        if not name.startswith("_") and not isinstance(getattr(package, name), ModuleType)
    }
    public -= {"annotations"}

    assert public | ({"__version__"} & set(package.__all__)) == set(package.__all__)
    assert len(package.__all__) == len(set(package.__all__))


def test_no_such_name() -> None:
    """A name that is not in the core raises the usual AttributeError."""
    with pytest.raises(AttributeError, match="module 'qwen_aiml' has no attribute 'EmbedingClient'"):
        getattr(qwen_aiml, "Embeding" + "Client")


@pytest.mark.parametrize("package", ADAPTERS, ids=lambda package: package.__name__)
def test_adapters_are_thin(package: ModuleType) -> None:
    """An adapter's modules have at most 150 lines of code each: they only declare, map and forward."""
    assert max(map(code_lines, sources(package))) <= 150


@pytest.mark.parametrize("package", ADAPTERS, ids=lambda package: package.__name__)
def test_adapters_use_the_surface(package: ModuleType) -> None:
    """Adapters use only exported names of the core, and do no HTTP."""
    for path in sources(package):
        assert not [name for name in imports(path) if name.startswith("qwen_aiml.")]
        assert not {"httpx", "anyio", "asyncio", "threading", "time"} & roots(path)


@pytest.mark.parametrize("package", ADAPTERS[1:], ids=lambda package: package.__name__)
def test_fields_are_documented(package: ModuleType) -> None:
    """Every field of an adapter has a docstring, where editors look for it."""
    fields = 0
    for path in sources(package):
        for kind in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(kind, ast.ClassDef):
                continue
            for field, following in zip(kind.body, [*kind.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and not ast.unparse(field.target).startswith("_"):
                    fields += 1
                    assert isinstance(following, ast.Expr), ast.unparse(field)
                    assert isinstance(following.value, ast.Constant), ast.unparse(field)
    assert fields >= 20


# The rooms of the core, from the top down: a module imports from its own room and from those below.
ROOMS = (
    *(
        "_cli",
        "emulator",
        "_client",
        "_engine",
        "_observe",
        "_transport",
        "_cache",
        "_protocol",
        "_config",
        "_texts",
    ),
    "",
)
# The modules of a room that are not I/O's: they import neither HTTP nor an event loop, a clock or chance.
PURE = ("_protocol", "_texts", "_cache/entries.py", "_engine/limiter.py", "_engine/retry.py", "_errors.py")
CORE = Path(qwen_aiml.__file__).parent


def room(path: Path) -> str:
    """Return the room of a module; empty for the shared vocabulary and helpers."""
    first, *rest = path.relative_to(CORE).with_suffix("").parts
    return first if (rest and first != "_utils") or first in ("_client", "_config") else ""


def core_imports(path: Path) -> Iterator[Path]:
    """Yield the modules of the core that a module imports, including those for type checkers only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)]
            yield from (name for name in names if name.is_file())


def test_imports_run_downwards() -> None:
    """Modules import from their room and those below, without circular imports, even for types."""
    above = {CORE / name for name in ("__init__.py", "__main__.py", "_adapter.py")}
    paths = sorted(set(CORE.rglob("*.py")) - above)
    found = {path: set(core_imports(path)) for path in paths}
    for path, imported in found.items():
        below = ROOMS[ROOMS.index(room(path)) :]
        assert set(map(room, imported)) <= set(below), path
    done: set[Path] = set()
    while len(done) < len(found):
        ready = {path for path, imported in found.items() if path not in done and imported <= done}
        assert ready, f"circle among {sorted(set(found) - done)}"
        done |= ready


@pytest.mark.slow
def test_nobody_imports_a_framework() -> None:
    """The core does not import a framework, and imports httpx and uvicorn only where they are used."""
    frameworks = {"daft", "langchain_core", "llama_index", "pyarrow", "pydantic"}
    frameworks |= {package.__name__ for package in ADAPTERS}
    for path in CORE.rglob("*.py"):
        assert not frameworks & roots(path)
        assert "httpx" not in roots(path) or path.name in ("_emulator.py", "transports.py", "check.py"), path
        assert "uvicorn" not in roots(path) or path.name == "asgi.py"


def test_pure_modules() -> None:
    """Pure modules do no I/O: they import neither an HTTP library nor an event loop."""
    paths = [path for name in PURE for path in (CORE / name).rglob("*.py")]
    paths += [CORE / name for name in PURE if name.endswith(".py")]

    assert len(paths) >= 12
    for path in paths:
        assert not {"httpx", "anyio", "asyncio", "socket", "time", "random", "os"} & roots(path)


def test_modules_are_small() -> None:
    """A module has at most 400 lines, a class at most 250, a room at most ten modules."""
    for path in CORE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                assert (node.end_lineno or 0) - node.lineno < 250, f"{node.name} in {path}"
    asyncio_transport = CORE / "_transport" / "asyncio_transport.py"
    assert len(asyncio_transport.read_text(encoding="utf-8").splitlines()) <= 300
    for folder in {path.parent for path in CORE.rglob("*.py")}:
        assert len([path for path in folder.glob("*.py") if not path.stem.startswith("__")]) <= 10, folder


@pytest.mark.parametrize(
    ("module", "framework", "extra"),
    [
        ("daft_qwen_aiml", "daft", "daft"),
        ("langchain_qwen_aiml", "langchain_core", "langchain"),
        ("llama_index_qwen_aiml", "llama_index", "llama-index"),
    ],
)
def test_missing_framework(module: str, framework: str, extra: str) -> None:
    """Without its framework, importing an adapter raises an error that names the extra to install."""
    done = run(f"import sys; sys.modules[{framework!r}] = None; import {module}")

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: {module} needs ")
    assert last.endswith(
        f'pip install "qwen-aiml[{extra}]" (in a clone of the repository: pip install ".[{extra}]")'
    )


@pytest.mark.parametrize("module", ["langchain_qwen_aiml", "llama_index_qwen_aiml"])
def test_framework_that_lacks_something(module: str) -> None:
    """If a framework is installed but lacks a dependency, the error names that dependency."""
    done = run(f"import sys; sys.modules['pydantic'] = None; import {module}")

    assert done.returncode == 1
    assert "qwen-aiml[" not in done.stderr
    assert "pydantic" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "name", ["qwen_aiml", "daft_qwen_aiml", "langchain_qwen_aiml", "llama_index_qwen_aiml"]
)
def test_typed(name: str) -> None:
    """Each package has a py.typed file."""
    package = importlib.import_module(name)

    assert sources(package, "py.typed")
