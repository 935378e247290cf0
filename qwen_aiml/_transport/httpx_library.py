"""
httpx and httpx2, neither of which is imported here: which of them a client comes from, and which is watched.

Instrumentation, recorders and mocks replace functions of theirs, and would miss what does not call these.
"""

from __future__ import annotations

import os
import sys
from types import FunctionType
from typing import Any

from .._errors import ConfigurationError

_CORES = {"httpx": "httpcore", "httpx2": "httpcore2"}  # by library, what it connects with

# Where they put themselves between a program and the network: Sentry, ddtrace and Elastic APM at `send`, New
# Relic at `_send_single_request`, respx and pook at `_transport_for_url` or in httpcore, OpenTelemetry,
# Logfire, vcrpy and pytest-httpx at the transports.
_CLIENT = ("send", "_send_single_request", "_transport_for_url")
_LIBRARY = (
    ("Client", _CLIENT),
    ("AsyncClient", _CLIENT),
    ("HTTPTransport", ("handle_request",)),
    ("AsyncHTTPTransport", ("handle_async_request",)),
)
_CORE = (
    ("ConnectionPool", ("handle_request",)),
    ("AsyncConnectionPool", ("handle_async_request",)),
    ("HTTPConnection", ("handle_request",)),
    ("AsyncHTTPConnection", ("handle_async_request",)),
)


def library_of(client: Any, kind: str) -> Any:
    """Give the module, httpx or httpx2, whose class *kind* an object is an instance of; None if neither's."""
    for base in type(client).__mro__:
        name = base.__module__.partition(".")[0]
        if name in _CORES and base.__name__ == kind:
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


def watched_library() -> str | None:
    """
    Name the library that somebody watches, and would miss what does not pass through; None if nobody does.

    httpx goes before httpx2 if both are watched; neither is imported.
    """
    for library, core in _CORES.items():
        if _is_watched(library, _LIBRARY) or _is_watched(core, _CORE):
            return library
    return None


def _is_watched(name: str, places: tuple[tuple[str, tuple[str, ...]], ...]) -> bool:
    module = sys.modules.get(name)
    if module is None:
        return False
    folder = os.path.dirname(getattr(module, "__file__", None) or "") + os.sep  # noqa: PTH120 (each request)
    for kind_name, function_names in places:
        kind = getattr(module, kind_name, None)
        if kind is None:
            # Another thread is importing it just now.
            return False
        for function_name in function_names:
            function = getattr(kind, function_name, None)
            # The exact type and the file of the code: wrappers copy the name and the module of what they
            # wrap, and those of wrapt pass for functions with `isinstance`.
            if type(function) is not FunctionType or not function.__code__.co_filename.startswith(folder):
                return True
    return False
