"""Whether somebody watches httpx or httpx2: instrumentation, recorders and mocks. No I/O here."""

from __future__ import annotations

import os
import sys
from types import FunctionType
from typing import Any

# Where they put themselves between a program and the network: Sentry, ddtrace and Elastic APM at `send`, New
# Relic at `_send_single_request`, respx and pook at `_transport_for_url` or in httpcore, OpenTelemetry, Logfire,
# vcrpy and pytest-httpx at the transports.
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
_PLACES = {"httpx": {"httpx": _LIBRARY, "httpcore": _CORE}, "httpx2": {"httpx2": _LIBRARY, "httpcore2": _CORE}}


class _Original:
    """
    The functions of one module, once they were seen to be its own.

    To find them unchanged takes a comparison each, where to look closely takes ten times as long.
    """

    def __init__(self, module: Any, functions: list[tuple[type, str, FunctionType, Any]]) -> None:
        self.module = module
        self.functions = functions
        self.classes = [(kind.__name__, kind) for kind, *_ in functions]

    def is_unchanged(self) -> bool:
        """Tell whether they are what they were."""
        contents = vars(self.module)
        for name, kind in self.classes:
            if contents.get(name) is not kind:
                return False
        for kind, name, function, code in self.functions:
            if vars(kind).get(name) is not function or function.__code__ is not code:
                return False
        return True


_originals: dict[str, _Original] = {}


def watched_library() -> str | None:
    """
    Name the library that somebody watches, and would miss what does not pass through; None if nobody does.

    httpx goes before httpx2 if both are watched; neither is imported.
    """
    for library, modules in _PLACES.items():
        for name, places in modules.items():
            module = sys.modules.get(name)
            if module is not None and _is_watched(name, module, places):
                return library
    return None


def is_watched() -> bool:
    """Tell whether somebody watches either library."""
    return watched_library() is not None


def _is_watched(name: str, module: Any, places: tuple[tuple[str, tuple[str, ...]], ...]) -> bool:
    known = _originals.get(name)
    if known is not None and known.module is module and known.is_unchanged():
        return False
    folder = os.path.dirname(getattr(module, "__file__", None) or "") + os.sep  # noqa: PTH120 (each request)
    functions = []
    for kind_name, function_names in places:
        kind = getattr(module, kind_name, None)
        if kind is None:
            # Another thread is importing it just now.
            return False
        for function_name in function_names:
            function = getattr(kind, function_name, None)
            # The exact type and the file of the code: wrappers copy the name and the module of what they wrap,
            # and those of wrapt pass for functions with `isinstance`.
            if type(function) is not FunctionType or not function.__code__.co_filename.startswith(folder):
                return True
            functions.append((kind, function_name, function, function.__code__))
    _originals[name] = _Original(module, functions)
    return False
