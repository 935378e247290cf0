"""
Transports over httpx or httpx2, whose classes have the same names; the library is imported when needed.

Used for the user's HTTP clients, proxies, Trio, and instrumentation and mocks of httpx.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from .._errors import ConfigurationError
from .._protocol.response import Response
from .._utils.threads import run_in_thread
from .base import CONNECT_TIMEOUT, KEEP_ALIVE, close_all, request_headers
from .body import Body
from .environment import proxy_for, proxy_variable, tls_context
from .failures import UNWRAPPED, class_names, httpx_failure
from .httpx_library import library_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._config import EmbeddingConfig
    from .base import Post, TransportFailure


class HTTPXTransport:
    """
    Posts through async clients, on asyncio and Trio.

    Args:
        config: The settings.

        user_client: The user's HTTP client, which is never closed; None to create clients as needed.

        library: The library of the clients to create.
    """

    _kind = "AsyncClient"  # name of the clients' class
    _is_kept = False  # whether a client is used again after a failure

    def __init__(self, config: EmbeddingConfig, user_client: Any = None, *, library: str = "httpx") -> None:
        self._config = config
        self._user_client = user_client
        self._library = library_of(user_client, self._kind) or importlib.import_module(library)
        self._proxy = None if user_client is not None else proxy_for(config.endpoint)
        self._headers = request_headers(config)
        connect = min(config.operation_timeout, CONNECT_TIMEOUT)
        self._timeout = self._library.Timeout(config.operation_timeout, connect=connect, pool=None)
        # One client per connection: httpx takes quadratic time for many requests in one pool.
        self._idle: list[Any] = []
        self._is_closed = False

    async def post(self, request: Post) -> Response:
        """
        Post a request and return its response.

        Raises:
            TransportFailure: If no response was received, or a 2xx without a complete body.
        """
        client = self._user_client or (self._idle.pop() if self._idle else self._create_client())
        is_usable = self._is_kept
        try:
            response = await self._exchange(client, request)
            is_usable = True
        finally:
            if self._user_client is None:
                if is_usable and not self._is_closed:
                    self._idle.append(client)
                else:
                    with anyio.CancelScope(shield=True):
                        await self._close(client)
        return response

    async def aclose(self) -> None:
        """Close idle connections now, and those in use once their response has arrived."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        await close_all(partial(self._close, client) for client in idle)

    async def _close(self, client: Any) -> None:
        await client.aclose()

    async def _exchange(self, client: Any, request: Post) -> Response:
        sent = self._request(client, request)
        connecting = _Connecting()
        sent.extensions["trace"] = connecting.trace
        try:
            response = await client.send(sent, auth=None, stream=True, follow_redirects=False)
        except Exception as error:  # noqa: BLE001 (re-raised unless it is known)
            response = self._failed(error)
        finally:
            await connecting.aclose()
        if isinstance(response, Exception):
            # Raised here, so that no traceback leads into httpx, whose variables contain the headers.
            raise response
        return _read_before(response, request) or await self._read(response, request)

    async def _read(self, response: Any, request: Post) -> Response:
        problem, body = None, Body(response.status_code, dict(response.headers), request.max_bytes)
        try:
            with anyio.CancelScope() as enough:
                # Not a `break`, which would leave unfinished generators of httpx; Trio warns about them.
                async for chunk in response.aiter_raw():
                    if body.feed(chunk):
                        enough.cancel()
        except Exception as error:  # noqa: BLE001 (re-raised unless it is known)
            problem = self._failed(error, body.size)
        finally:
            with anyio.CancelScope(shield=True), suppress(*UNWRAPPED):
                await response.aclose()
        return body.response(problem)

    def _create_client(self) -> Any:
        """Create a client for one connection."""
        # Without TLS, skip the certificates, which are slow to load.
        verify = tls_context() if self._config.endpoint.startswith("https:") else False
        limits = self._library.Limits(keepalive_expiry=KEEP_ALIVE)
        variable, host = proxy_variable(self._config.endpoint), urlsplit(self._config.endpoint).hostname
        try:
            _ = urlsplit(self._proxy or "").port  # which httpx does not validate
            # Without the environment, which was read already: httpx 0.28 fails on some of its values.
            return getattr(self._library, self._kind)(
                verify=verify, limits=limits, proxy=self._proxy, trust_env=False
            )
        except ImportError:
            message = f"a SOCKS proxy ({variable}) needs another package: pip install 'httpx[socks]'"
        except (ValueError, self._library.InvalidURL):
            # Not the exception's message, since the URL of a proxy may contain a password.
            message = f"{variable} in the environment can't be used; write it like http://proxy.example:3128"
        raise ConfigurationError(f"{message}. To bypass the proxy, add {host} to NO_PROXY")

    def _request(self, client: Any, request: Post) -> Any:
        if client.is_closed:  # never one of ours
            raise ConfigurationError("the HTTP client given (http_client or http_async_client) is closed")
        sent = client.build_request(
            "POST", self._config.endpoint, content=request.body, headers=self._headers, timeout=self._timeout
        )
        # The key is not in a local variable, which a traceback could show.
        sent.headers["Authorization"] = f"Bearer {request.secret.reveal()}"
        return sent

    def _failed(self, error: Exception, size: int | None = None) -> TransportFailure | Any:
        """Convert an exception to a failure, or to the response if a user's hook raised for its status."""
        response = getattr(error, "response", None)
        if response is not None and size is None and "HTTPStatusError" in class_names(error):
            return response
        timeout, proxied = self._config.operation_timeout, self._proxy is not None
        return httpx_failure(error, timeout, proxied=proxied, size=size)


class _Connecting:
    """A connection before its first request: httpcore leaks it if the TLS handshake is cancelled."""

    def __init__(self) -> None:
        self._stream: Any = None

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Track the connection through trace events of httpcore."""
        if event.endswith("connect_tcp.complete"):
            self._stream = info["return_value"]
        elif event.startswith(("http11.", "http2.")):
            self._stream = None

    async def aclose(self) -> None:
        """Close the connection unless its first request has begun."""
        if self._stream is not None:
            with anyio.CancelScope(shield=True), suppress(Exception):
                await self._stream.aclose()


class ThreadedHTTPXTransport(HTTPXTransport):
    """Posts through sync clients, in worker threads that are abandoned on cancellation."""

    _kind = "Client"
    _is_kept = True  # an abandoned thread may still use it

    async def _close(self, client: Any) -> None:
        client.close()

    async def _exchange(self, client: Any, request: Post) -> Response:
        return await run_in_thread(partial(self._send, client, request))

    def _send(self, client: Any, request: Post) -> Response:
        sent = self._request(client, request)
        try:
            response = client.send(sent, auth=None, stream=True, follow_redirects=False)
        except Exception as error:  # noqa: BLE001 (re-raised unless it is known)
            response = self._failed(error)
        if isinstance(response, Exception):
            raise response
        return _read_before(response, request) or self._receive(response, request)

    def _receive(self, response: Any, request: Post) -> Response:
        problem, body = None, Body(response.status_code, dict(response.headers), request.max_bytes)
        try:
            for chunk in response.iter_raw():
                if body.feed(chunk):
                    break
        except Exception as error:  # noqa: BLE001 (re-raised unless it is known)
            problem = self._failed(error, body.size)
        finally:
            with suppress(*UNWRAPPED):
                response.close()
        return body.response(problem)


def _read_before(response: Any, request: Post) -> Response | None:
    """Return a response that a user's event hook has read, or a mock returned complete; otherwise None."""
    if not response.is_stream_consumed and not response.is_closed:
        return None
    try:
        body: bytes = response.content
    except RuntimeError:  # read in parts, or closed, by a hook
        body = b""
    return Response(response.status_code, dict(response.headers), body[: request.max_bytes])
