"""Which transport posts a request; decided here and nowhere else, for each request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .._keys import KeySource
from .base import close_all
from .environment import proxy_for
from .httpx_library import watched_library
from .key_source import ask
from .override import meant

if TYPE_CHECKING:
    from .._config import EmbeddingConfig
    from .._protocol.response import Response
    from .base import Post, Transport


class SelectedTransport:
    """
    Posts through the transport that is meant, in one event loop.

    The first of these that applies: an override of the whole process; the user's own client; httpx or httpx2
    where it is watched; httpx on Trio, where the setting ``transport`` says so, or where the environment
    names a proxy; asyncio.

    Args:
        config: The settings.

        given: The user's own client, of httpx or httpx2; None if there is none.

        sync: Whether synchronous callers are served: *given* is then a ``Client``, else an ``AsyncClient``.

    Attributes:
        is_closed: Whether `aclose` was called.
    """

    def __init__(self, config: EmbeddingConfig, given: Any = None, *, sync: bool) -> None:
        self._config = config
        self._given = given
        self._sync = sync
        # As httpx does, the environment is read once.
        self._needs_httpx = config.transport == "httpx" or proxy_for(config.endpoint) is not None
        self._transports: dict[tuple[str, bool], Transport] = {}
        self.is_closed = False

    async def post(self, request: Post) -> Response:
        """
        Post, and read the response.

        Raises:
            TransportFailure: If no response came, or a 2xx without a whole body.

            ConfigurationError: If the environment names a proxy or certificates that can't be used, or if the
                function that is to give the key does not.
        """
        config, client = meant(self._config, self._given, sync=self._sync)
        transport = self._select(config, client)
        request.secret = await ask(config.api_key) if isinstance(config.api_key, KeySource) else config.secret
        return await transport.post(request)

    async def aclose(self) -> None:
        """Close the connections, those in use as soon as their response is there; keep none any more."""
        self.is_closed = True
        await close_all(self._transports.values())

    def _select(self, config: EmbeddingConfig, client: Any) -> Transport:
        if client is not None:
            # Not kept, since its connections are the client's.
            return _made("", config, client, sync=self._sync)
        # What watches a synchronous caller may watch no more than the synchronous classes.
        library, sync = watched_library(), self._sync
        if library is None:
            library = "httpx" if self._needs_httpx or not _runs_asyncio() else "asyncio"
            sync = False
        if (library, sync) not in self._transports:
            self._transports[library, sync] = _made(library, config, None, sync=sync)
        return self._transports[library, sync]


def _made(library: str, config: EmbeddingConfig, client: Any, *, sync: bool) -> Transport:
    # Imported when it is needed: httpx, TLS and certificates take a while.
    if library == "asyncio":
        from .asyncio_transport import AsyncioTransport  # noqa: PLC0415

        return AsyncioTransport(config)
    from .httpx_transport import HTTPXTransport, ThreadedHTTPXTransport  # noqa: PLC0415

    made = ThreadedHTTPXTransport if sync else HTTPXTransport
    return made(config, client, library=library)


def _runs_asyncio() -> bool:
    """Tell whether a task of asyncio runs here; Trio may be a guest of its event loop."""
    return asyncio._get_running_loop() is not None and asyncio.current_task() is not None  # noqa: SLF001 (documented)
