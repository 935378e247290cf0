"""Whether requests go over connections of our own or through httpx. Reads the environment; no other I/O."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ._config import EmbeddingConfig

# Where recorders, mocks and tracers put themselves between a program and the network: vcrpy and pytest-httpx
# at the transports, respx below them, Sentry at the clients.
_WATCHED = (
    ("httpx", "Client", "send"),
    ("httpx", "HTTPTransport", "handle_request"),
    ("httpx", "AsyncClient", "send"),
    ("httpx", "AsyncHTTPTransport", "handle_async_request"),
    ("httpcore", "ConnectionPool", "handle_request"),
    ("httpcore", "AsyncConnectionPool", "handle_async_request"),
)


def needs_httpx(config: EmbeddingConfig) -> bool:
    """Tell whether requests are to go through httpx: for a proxy, or since somebody watches it."""
    return is_watched() or (not config.is_local and has_proxy(config))


def has_proxy(config: EmbeddingConfig) -> bool:
    """Tell whether the environment names a proxy that may be meant; httpx looks at the exceptions."""
    from urllib.request import getproxies  # noqa: PLC0415 (slow to import)

    proxies = getproxies()
    return urlsplit(config.endpoint).scheme in proxies or "all" in proxies


def is_watched() -> bool:
    """Tell whether somebody has replaced a function of httpx, and would miss what does not call it."""
    return any(not _is_own(library, *names) for library, *names in _WATCHED)


def _is_own(library: str, kind: str, name: str) -> bool:
    module = sys.modules.get(library)
    if module is None:
        return True
    function = getattr(getattr(module, kind), name)
    # The file tells, since those who replace a function like to copy its name and its module.
    return type(function) is FunctionType and function.__code__.co_filename.startswith(module.__path__[0])
