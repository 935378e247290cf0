"""Errors raised if the package of an extra is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from qwen_aiml import ConfigurationError, refer_to_extra
from qwen_aiml._utils.extras import import_extra

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_there() -> None:
    """An installed package is imported."""
    assert import_extra("json", "json", "this test") is sys.modules["json"]


def test_what_is_missing() -> None:
    """For a missing package, one error names the feature that needs it and the command to install it."""
    with pytest.raises(ConfigurationError) as caught:
        import_extra("no_such_package", "none", "this test")

    assert str(caught.value) == (
        'this test needs no-such-package: pip install "qwen-aiml[none]" '
        '(in a clone of the repository: pip install ".[none]")'
    )
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("source", "error"),
    [("import no_such_package", ModuleNotFoundError), ("raise ImportError('broken')", ImportError)],
)
def test_what_is_broken(
    source: str, error: type[ImportError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is installed but can't be imported is not reported as missing."""
    (tmp_path / "broken_package.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"no_such_package|broken") as caught:
        import_extra("broken_package", "none", "this test")

    assert type(caught.value) is error


@pytest.mark.parametrize("missing", ["parent", "parent.package", "parent.package.newer"])
def test_what_an_import_lacks(missing: str) -> None:
    """If a package, its parent, or a module of a newer version is missing, the error names the extra."""
    error = ModuleNotFoundError(name=missing)
    with pytest.raises(ModuleNotFoundError, match=r"this test needs parent-package: pip install ") as caught:
        refer_to_extra(error, "parent.package", "none", "this test")

    assert caught.value.__cause__ is error
    assert caught.value.name == missing


@pytest.mark.parametrize("missing", [None, "other", "parent.other", "parent.packages", "par"])
def test_what_another_package_lacks(missing: str | None) -> None:
    """If another package is missing, the error is raised unchanged."""
    error = ModuleNotFoundError(name=missing)
    with pytest.raises(ModuleNotFoundError) as caught:
        refer_to_extra(error, "parent.package", "none", "this test")

    assert caught.value is error
