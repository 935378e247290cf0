"""What is said where a package is missing that only an extra installs."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NoReturn

from .._errors import ConfigurationError


def import_extra(package: str, extra: str, what: str) -> Any:
    """
    Import a package that only some calls need.

    Args:
        package: Its name in Python.

        extra: What installs it.

        what: What needs it, for the message.

    Raises:
        ConfigurationError: If it is not installed. If it is and can't be imported, that is raised as it is.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if not _is_of(package, error):
            raise
        raise ConfigurationError(_advice(package, extra, what)) from None


def refer_to_extra(error: ModuleNotFoundError, package: str, extra: str, what: str) -> NoReturn:
    """
    Say which extra to install if it is its package that is missing, or so old that it lacks a module.

    Args:
        error: What an import raised; if it is about another module, it is raised as it is.

        package: The package's name in Python.

        extra: What installs it.

        what: What needs it, for the message.

    Raises:
        ModuleNotFoundError: In any case.
    """
    if _is_of(package, error):
        raise ModuleNotFoundError(_advice(package, extra, what), name=error.name) from error
    raise error


def _is_of(package: str, error: ModuleNotFoundError) -> bool:
    missing = f"{error.name}."
    return missing.startswith(f"{package}.") or f"{package}.".startswith(missing)


def _advice(package: str, extra: str, what: str) -> str:
    distribution = package.replace("_", "-").replace(".", "-")
    return f"{what} needs {distribution}: {install(extra)}"


def install(extra: str) -> str:
    """Say how to install an extra, from a package index or from the source tree."""
    return f'pip install "qwen-aiml[{extra}]" (in a clone of the repository: pip install ".[{extra}]")'
