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
_WATCHED = {
    "httpx": (
        ("Client", "send"),
        ("HTTPTransport", "handle_request"),
        ("AsyncClient", "send"),
        ("AsyncHTTPTransport", "handle_async_request"),
    ),
    "httpcore": (
        ("ConnectionPool", "handle_request"),
        ("AsyncConnectionPool", "handle_async_request"),
    ),
}


def has_proxy(config: EmbeddingConfig) -> bool:
    """Tell whether the environment names a proxy that may be meant; httpx looks at the exceptions."""
    if config.is_local:
        return False
    from urllib.request import getproxies  # noqa: PLC0415 (slow to import)

    proxies = getproxies()
    return urlsplit(config.endpoint).scheme in proxies or "all" in proxies


def meets_proxy(config: EmbeddingConfig) -> bool:
    """Tell whether that proxy is in the way, as far as that can be told without httpx."""
    from urllib.request import proxy_bypass  # noqa: PLC0415 (slow to import)

    return has_proxy(config) and not proxy_bypass(urlsplit(config.endpoint).hostname or "")


def is_watched() -> bool:
    """Tell whether somebody has replaced a function of httpx, and would miss what does not call it."""
    for library, functions in _WATCHED.items():
        module = sys.modules.get(library)
        if module is None:
            continue
        folder = module.__path__[0]
        for kind, name in functions:
            function = getattr(getattr(module, kind), name)
            # The file tells, since those who replace a function like to copy its name and its module.
            own = isinstance(function, FunctionType)
            if not own or not function.__code__.co_filename.startswith(folder):
                return True
    return False
