"""Which library a client comes from, httpx or httpx2; imports neither."""

from __future__ import annotations

import sys
from typing import Any

from .._errors import ConfigurationError

_LIBRARIES = ("httpx", "httpx2")


def library_of(client: Any, kind: str) -> Any:
    """Give the module, httpx or httpx2, whose class *kind* an object is an instance of; None if neither's."""
    for base in type(client).__mro__:
        name = base.__module__.partition(".")[0]
        if name in _LIBRARIES and base.__name__ == kind:
            return sys.modules.get(name)
    return None


def check_client(given: Any, *, sync: bool) -> None:
    """
    Accept an HTTP client of httpx or httpx2, or None.

    Raises:
        ConfigurationError: If it is anything else, or of the wrong kind.
    """
    kind, name = ("Client", "http_client") if sync else ("AsyncClient", "http_async_client")
    if given is not None and library_of(given, kind) is None:
        made = f"{type(given).__module__}.{type(given).__qualname__}"
        raise ConfigurationError(f"{name} must be an httpx.{kind} or httpx2.{kind}, not {made}")
