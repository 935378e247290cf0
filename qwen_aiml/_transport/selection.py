"""Selection of the transport, for each request and only here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._keys import KeySource
from .._utils.loops import runs_asyncio
from .base import close_all
from .environment import proxy_for
from .httpx_library import patched_library, service_name
from .key_source import resolve_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._config import EmbeddingConfig
    from .._protocol.response import Response
    from .base import Post, Transport

# Replaces the service in the whole process, such as by the emulator: returns the settings and the HTTP client
# to use instead of the given settings and any client. The second argument is whether to return a `Client` or
# an `AsyncClient`. None if there is no override.
override: Callable[[EmbeddingConfig, bool], tuple[EmbeddingConfig, Any]] | None = None


def resolve(config: EmbeddingConfig, user_client: Any, *, sync: bool) -> tuple[EmbeddingConfig, Any]:
    """Return the settings and client to use: those given, unless an override replaces them."""
    if override is None or service_name(user_client) is not None:
        return config, user_client
    return override(config, sync)


class SelectedTransport:
    """
    Posts through the selected transport, in one event loop.

    The first of these that applies: a process-wide override; the user's HTTP client; httpx or httpx2 if it is
    patched by instrumentation or a mock; httpx on Trio, with ``transport="httpx"``, or with a proxy in the
    environment; asyncio.

    Args:
        config: The settings.

        user_client: The user's HTTP client, of httpx or httpx2; None if there is none.

        sync: Whether callers are sync. *user_client* is then a ``Client``, otherwise an ``AsyncClient``.

    Attributes:
        is_closed: Whether `aclose` was called.
    """

    def __init__(self, config: EmbeddingConfig, user_client: Any = None, *, sync: bool) -> None:
        self._config = config
        self._user_client = user_client
        self._sync = sync
        # The environment is read once, as httpx does.
        self._needs_httpx = config.transport == "httpx" or proxy_for(config.endpoint) is not None
        self._transports: dict[tuple[str, bool], Transport] = {}
        self.is_closed = False

    async def post(self, request: Post) -> Response:
        """
        Post a request and return its response.

        Raises:
            TransportFailure: If no response was received, or a 2xx without a complete body.

            ConfigurationError: If the environment names a proxy or certificates that can't be used, or if the
                ``api_key`` function does not return a key.
        """
        config, client = resolve(self._config, self._user_client, sync=self._sync)
        transport = self._select(config, client)
        if self.is_closed:  # by another task, before this request: its connection is then closed after use
            await transport.aclose()
        is_function = isinstance(config.api_key, KeySource)
        request.secret = await resolve_key(config.api_key) if is_function else config.secret
        return await transport.post(request)

    async def aclose(self) -> None:
        """Close idle connections now, and those in use once their response has arrived."""
        self.is_closed = True
        await close_all(transport.aclose for transport in self._transports.values())

    def _select(self, config: EmbeddingConfig, client: Any) -> Transport:
        if client is not None:
            # Not cached, since the connections belong to the client.
            return _create("httpx", config, client, sync=self._sync)
        # Instrumentation for a sync caller may patch only the sync classes.
        library, sync = patched_library(), self._sync
        if library is None:
            library = "httpx" if self._needs_httpx or not runs_asyncio() else "asyncio"
            sync = False
        if (library, sync) not in self._transports:
            self._transports[library, sync] = _create(library, config, None, sync=sync)
        return self._transports[library, sync]


def _create(library: str, config: EmbeddingConfig, client: Any, *, sync: bool) -> Transport:
    # Imported when needed: httpx, TLS and certificates are slow to load.
    if library == "asyncio":
        from .asyncio_transport import AsyncioTransport  # noqa: PLC0415

        return AsyncioTransport(config)
    from .httpx_transport import HTTPXTransport, ThreadedHTTPXTransport  # noqa: PLC0415

    transport_class = ThreadedHTTPXTransport if sync else HTTPXTransport
    return transport_class(config, client, library=library)
