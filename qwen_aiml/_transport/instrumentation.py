"""Whether somebody watches httpx or httpx2: instrumentation, recorders and mocks. No I/O here."""

from __future__ import annotations

import os
import sys
from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

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
_PLACES = {
    "httpx": {"httpx": _LIBRARY, "httpcore": _CORE},
    "httpx2": {"httpx2": _LIBRARY, "httpcore2": _CORE},
}


class _Originals:
    """
    The functions of one module, once they were seen to be its own.

    Args:
        module: The module.

        names: Of its classes, their functions and the code of these, with dots.
    """

    def __init__(self, module: Any, names: list[str]) -> None:
        self._module = module
        self._get: Callable[[Any], tuple[Any, ...]] = attrgetter(*names)
        self._objects = self._get(module)
        self._ids = list(map(id, self._objects))

    def are_in_place(self, module: Any) -> bool:
        """Tell whether nothing was replaced; takes a tenth of the time of a close look."""
        try:
            # By identity, as wrappers of wrapt equal what they wrap.
            return module is self._module and list(map(id, self._get(module))) == self._ids
        except AttributeError:
            return False


_originals: dict[str, _Originals] = {}


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
    if known is not None and known.are_in_place(module):
        return False
    folder = os.path.dirname(getattr(module, "__file__", None) or "") + os.sep  # noqa: PTH120 (each request)
    names = []
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
            path = f"{kind_name}.{function_name}"
            names += [kind_name, path, f"{path}.__code__"]
    _originals[name] = _Originals(module, names)
    return False
