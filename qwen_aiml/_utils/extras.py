"""Importing optional packages, and naming the extra that installs a missing one."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NoReturn

from .._errors import ConfigurationError


def import_extra(package: str, extra: str, what: str) -> Any:
    """
    Import an optional package.

    Args:
        package: Import name of the package.

        extra: Extra that installs it.

        what: Feature that needs it, for the message.

    Raises:
        ConfigurationError: If it is not installed. Errors of an installed package are raised unchanged.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if not _is_of(package, error):
            raise
        raise ConfigurationError(_advice(package, extra, what)) from None


def refer_to_extra(error: ModuleNotFoundError, package: str, extra: str, what: str) -> NoReturn:
    """
    Raise an error that names the extra to install if its package is missing or too old.

    Args:
        error: Exception from an import; it is raised unchanged if it is about another module.

        package: Import name of the package.

        extra: Extra that installs it.

        what: Feature that needs it, for the message.

    Raises:
        ModuleNotFoundError: Always.
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
    """Return the command to install an extra, from a package index or from the source tree."""
    return f'pip install "qwen-aiml[{extra}]" (in a clone of the repository: pip install ".[{extra}]")'
