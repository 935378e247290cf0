"""
Detection of httpx and httpx2, without importing them: the library of a client, and whether one is patched.

Instrumentation, recorders and mocks patch functions of these libraries, and would miss other requests.
"""

from __future__ import annotations

import os
import sys
from types import FunctionType
from typing import Any

from .._errors import ConfigurationError

_CORES = {"httpx": "httpcore", "httpx2": "httpcore2"}  # each library and its connection layer

# What they patch: Sentry, ddtrace and Elastic APM `send`, New Relic `_send_single_request`, respx and pook
# `_transport_for_url` or httpcore, OpenTelemetry, Logfire, vcrpy and pytest-httpx the transports.
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
    """Return the module (httpx or httpx2) of which an object is a *kind* instance; None if neither."""
    for base in type(client).__mro__:
        name = base.__module__.partition(".")[0]
        if name in _CORES and base.__name__ == kind:
            return sys.modules.get(name)
    return None


def service_name(client: Any) -> str | None:
    """Return the name of the stand-in for the service that an HTTP client uses; None if there is none."""
    name: str | None = getattr(client, "qwen_aiml_service", None)
    return name


def check_client(user_client: Any, *, sync: bool) -> None:
    """
    Check that an object is an HTTP client of httpx or httpx2, or None.

    Raises:
        ConfigurationError: If it is anything else, or of the wrong kind.
    """
    kind, name = "Client", "http_client"
    if not sync:
        kind, name = "AsyncClient", "http_client of an async client or http_async_client"
    if user_client is not None and library_of(user_client, kind) is None:
        actual = f"{type(user_client).__module__}.{type(user_client).__qualname__}"
        raise ConfigurationError(f"{name} must be an httpx.{kind} or httpx2.{kind}, not {actual}")


def check_picklable(user_client: Any) -> None:
    """
    Check that an object can be pickled: only if it has no HTTP client of the user.

    Raises:
        TypeError: If it has one.
    """
    if user_client is None:
        return
    if service_name(user_client) is not None:
        message = (
            "an object with the HTTP clients of an emulator can't be pickled: the emulator runs in this "
            "process only. For other processes, serve it (qwen_aiml.emulator.serve, or python -m "
            "qwen_aiml.emulator)"
        )
    else:
        message = (
            "a client of your own (http_client, http_async_client) can't be pickled, and a copy without it "
            "would connect in another way. Set proxies and certificates in the environment instead "
            "(HTTPS_PROXY, SSL_CERT_FILE): the default clients read them in every process"
        )
    raise TypeError(message)


def patched_library() -> str | None:
    """
    Return the name of the library that is patched; None if neither is.

    httpx takes precedence over httpx2 if both are patched. Neither is imported.
    """
    for library, core in _CORES.items():
        if _is_patched(library, _LIBRARY) or _is_patched(core, _CORE):
            return library
    return None


def _is_patched(name: str, places: tuple[tuple[str, tuple[str, ...]], ...]) -> bool:
    module = sys.modules.get(name)
    if module is None:
        return False
    folder = os.path.dirname(getattr(module, "__file__", None) or "") + os.sep  # noqa: PTH120 (each request)
    for kind_name, function_names in places:
        kind = getattr(module, kind_name, None)
        if kind is None:
            # Another thread is still importing it.
            return False
        for function_name in function_names:
            function = getattr(kind, function_name, None)
            # The exact type and the file of the code: wrappers copy the name and module of the original,
            # and those of wrapt pass `isinstance` checks for functions.
            if type(function) is not FunctionType or not function.__code__.co_filename.startswith(folder):
                return True
    return False
