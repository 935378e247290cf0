"""The shape of the packages: what they export, what they import, how thin the adapters are."""

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

import langchain_qwen_aiml
import llama_index_qwen_aiml
import qwen_aiml
import qwen_aiml.emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = [qwen_aiml, qwen_aiml.emulator, langchain_qwen_aiml, llama_index_qwen_aiml]
ADAPTERS = [langchain_qwen_aiml, llama_index_qwen_aiml]


def sources(package: ModuleType, pattern: str = "*.py") -> list[Path]:
    """List the modules of a package where it is installed."""
    assert package.__file__ is not None
    return sorted(Path(package.__file__).parent.glob(pattern))


def imports(path: Path) -> Iterator[str]:
    """Name what a module imports, wherever in it; relative imports begin with a dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def roots(path: Path) -> set[str]:
    """Name the top-level packages that a module imports."""
    return {name.split(".")[0] for name in imports(path) if not name.startswith(".")}


def code_lines(path: Path) -> int:
    """Count the lines that hold code: no blank ones, no comments, no docstrings."""
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
    """Run a program in a process of its own, where the packages under test are found."""
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
    """__all__ names exactly the public names, sorted, and they are strings."""
    public = {
        name
        for name in dir(package)
        if not name.startswith("_") and not isinstance(getattr(package, name), ModuleType)
    }
    public -= {"annotations"}

    assert public | ({"__version__"} & set(package.__all__)) == set(package.__all__)
    assert len(package.__all__) == len(set(package.__all__))


def test_no_such_name() -> None:
    """A name that the core does not have is missed as in any other module."""
    with pytest.raises(AttributeError, match="module 'qwen_aiml' has no attribute 'EmbedingClient'"):
        getattr(qwen_aiml, "Embeding" + "Client")


@pytest.mark.parametrize("package", ADAPTERS, ids=lambda package: package.__name__)
def test_adapters_are_thin(package: ModuleType) -> None:
    """An adapter's modules declare, map, forward and document, each in less than 150 lines of code."""
    assert max(map(code_lines, sources(package))) < 150


@pytest.mark.parametrize("package", ADAPTERS, ids=lambda package: package.__name__)
def test_adapters_use_the_surface(package: ModuleType) -> None:
    """Adapters use exported names of the core only, and do no HTTP."""
    for path in sources(package):
        assert not [name for name in imports(path) if name.startswith("qwen_aiml.")]
        assert not {"httpx", "anyio", "asyncio", "threading", "time"} & roots(path)


@pytest.mark.parametrize("package", ADAPTERS, ids=lambda package: package.__name__)
def test_fields_are_documented(package: ModuleType) -> None:
    """Every field of an adapter says what it means, where editors look for it."""
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


def test_imports_run_one_way() -> None:
    """The core knows no framework, and one module of it imports httpx; the same holds for the emulator."""
    frameworks = {"langchain_core", "llama_index", "langchain_qwen_aiml", "llama_index_qwen_aiml", "pydantic"}
    core, emulator = sources(qwen_aiml), sources(qwen_aiml.emulator)

    for path in [*core, *emulator]:
        assert not frameworks & roots(path)
    assert [path.name for path in core if "httpx" in roots(path)] == ["_through_httpx.py"]
    assert not [path.name for path in core if any("emulator" in name for name in imports(path))]
    assert [path.name for path in emulator if "uvicorn" in roots(path)] == ["_asgi.py"]
    # The one other is for type checkers only.
    assert [path.name for path in emulator if "httpx" in roots(path)] == ["_emulator.py", "_transports.py"]


def test_pure_modules() -> None:
    """What decides does no I/O: it imports neither HTTP nor an event loop."""
    pure = {
        "_arrays",
        "_batch",
        "_blocks",
        "_cache",
        "_errors",
        "_flow",
        "_learned",
        "_long",
        "_models",
        "_pace",
        "_result",
        "_retry",
        "_secret",
        "_shorten",
        "_status",
        "_steps",
        "_texts",
        "_turns",
        "_wire",
        "_job",
    }
    paths = [path for path in sources(qwen_aiml) if path.stem in pure]

    assert len(paths) == len(pure)
    for path in paths:
        assert not {"httpx", "anyio", "asyncio", "socket", "time", "random", "os"} & roots(path)


@pytest.mark.parametrize(
    ("module", "framework", "extra"),
    [
        ("langchain_qwen_aiml", "langchain_core", "langchain"),
        ("llama_index_qwen_aiml", "llama_index", "llama-index"),
    ],
)
def test_missing_framework(module: str, framework: str, extra: str) -> None:
    """Without its framework, an adapter says which extra to install."""
    done = run(f"import sys; sys.modules[{framework!r}] = None; import {module}")

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: {module} needs ")
    assert last.endswith(f'pip install "qwen-aiml[{extra}]"')


@pytest.mark.parametrize("module", ["langchain_qwen_aiml", "llama_index_qwen_aiml"])
def test_framework_that_lacks_something(module: str) -> None:
    """If a framework is there and lacks a package of its own, that is what is said."""
    done = run(f"import sys; sys.modules['pydantic'] = None; import {module}")

    assert done.returncode == 1
    assert "qwen-aiml[" not in done.stderr
    assert "pydantic" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["qwen_aiml", "langchain_qwen_aiml", "llama_index_qwen_aiml"])
def test_typed(name: str) -> None:
    """Each package says that it is typed."""
    package = importlib.import_module(name)

    assert sources(package, "py.typed")
