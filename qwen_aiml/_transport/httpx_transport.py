"""
Posting through httpx or httpx2, whose classes have the same names: this module imports neither by itself.

For the user's own clients, for proxies, for Trio, and for whoever watches httpx.
"""

from __future__ import annotations

import importlib
import math
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from .._errors import ConfigurationError
from .._protocol.response import Response
from .._version import __version__
from .base import CONNECT_TIMEOUT
from .body import Body, conclude
from .httpx_failures import RAW, failure, names_of
from .httpx_library import library_of
from .proxies import proxy_for, proxy_variable
from .tls import tls_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._config import EmbeddingConfig
    from .base import Post, TransportFailure

KEEP_ALIVE = 4.0  # seconds that a connection is kept unused; after five many servers close it


class _Connections:
    """
    What the transports for clients of both kinds share: the clients, and what is sent with them.

    Args:
        config: The settings.

        given: The user's own client, which is used as it is and never closed; None makes what is needed.

        library: The library of clients to make.

        kind: Their class.
    """

    def __init__(self, config: EmbeddingConfig, given: Any, library: str, kind: str) -> None:
        self._config = config
        self._given = given
        self._kind = kind
        self._library = importlib.import_module(library) if given is None else library_of(given, kind)
        self._proxy = None if given is not None else proxy_for(config.endpoint)
        self._auth = _KeyAuth(config)
        # One client for each connection: many requests in the pool of one take quadratic time in httpx.
        self._idle: list[_Client] = []
        self._is_closed = False

    def _take(self) -> _Client:
        if self._given is not None:
            if self._given.is_closed:
                raise ConfigurationError("the HTTP client given (http_client or http_async_client) is closed")
            return _Client(self._given)
        return self._idle.pop() if self._idle else _Client(self._made())

    def _made(self) -> Any:
        # Without TLS nothing needs the certificates, which take a while to read.
        plain = self._config.endpoint.startswith("http:") and self._proxy is None
        limits = self._library.Limits(
            max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE
        )
        verify = False if plain else tls_context()
        try:
            # Not with what the environment says, which was read before: httpx 0.28 fails on parts of it.
            return getattr(self._library, self._kind)(
                verify=verify, limits=limits, proxy=self._proxy, trust_env=False
            )
        except ImportError:
            message = (
                f"a SOCKS proxy ({proxy_variable(self._config.endpoint)}) needs another package: "
                "pip install 'httpx[socks]'"
            )
        except Exception as error:
            if not isinstance(error, ValueError) and "InvalidURL" not in names_of(error):
                raise
            # Not the error's text: the URL of a proxy may hold a password.
            message = (
                f"{proxy_variable(self._config.endpoint)} in the environment can't be used; look at "
                "HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, which have the form http://proxy.example:3128"
            )
        raise ConfigurationError(message)

    def _request(self, client: Any, request: Post) -> Any:
        headers = self._library.Headers(
            {
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "Content-Type": "application/json",
                "User-Agent": f"qwen-aiml/{__version__}",
            }
        )
        headers.update(self._config.default_headers)
        connect = min(request.timeout, CONNECT_TIMEOUT)
        timeout = self._library.Timeout(request.timeout, connect=connect, pool=None)
        return client.build_request(
            "POST", self._config.endpoint, content=request.body, headers=headers, timeout=timeout
        )

    def _failure(self, error: Exception, request: Post, size: int | None = None) -> TransportFailure | None:
        return failure(error, request.timeout, proxied=self._proxy is not None, size=size)


class HTTPXTransport(_Connections):
    """
    Posts through asynchronous clients, on asyncio and Trio.

    Args:
        config: The settings.

        given: The user's own ``AsyncClient``, of either library; None makes what is needed.

        library: The library to use where none is given.
    """

    def __init__(self, config: EmbeddingConfig, given: Any = None, *, library: str = "httpx") -> None:
        super().__init__(config, given, library, "AsyncClient")

    async def post(self, request: Post) -> Response:
        """
        Post, and read the response.

        Raises:
            TransportFailure: If no response came, or a 2xx without a whole body.
        """
        client = self._take()
        try:
            sent = await self._send(client, request)
            response = await self._read(sent, request)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._drop(client)
            raise
        if self._given is None:
            if self._is_closed:
                await self._drop(client)
            else:
                self._idle.append(client)
        return response

    async def aclose(self) -> None:
        """Close the connections, those in use as soon as their response is there; keep none any more."""
        self._is_closed = True
        interruption: BaseException | None = None
        while self._idle:
            try:
                await self._idle.pop().http.aclose()
            except BaseException as error:  # noqa: BLE001 (raised below)
                # An event loop that ends cancels what it still runs, and would leave the other sockets open.
                interruption = error
        if interruption is not None:
            raise interruption

    async def _drop(self, client: _Client) -> None:
        if self._given is None:
            await client.http.aclose()
        if client.connecting is not None:
            # httpcore forgets a connection that is cancelled in the TLS handshake.
            with suppress(Exception):
                await client.connecting.aclose()

    async def _send(self, client: _Client, request: Post) -> Any:
        problem = None
        sent = self._request(client.http, request)
        sent.extensions["trace"] = client.atrace
        try:
            return await client.http.send(sent, auth=self._auth, stream=True, follow_redirects=False)
        except Exception as error:
            if (response := _raised_by_hook(error)) is not None:
                return response
            problem = self._failure(error, request)
            if problem is None:
                raise
        # Raised out here, where no traceback leads into httpx, whose variables hold the headers.
        raise problem

    async def _read(self, response: Any, request: Post) -> Response:
        if response.is_stream_consumed or response.is_closed:
            return _read_before(response, request)
        problem, body = None, Body(request.max_bytes, headers := dict(response.headers))
        try:
            with anyio.CancelScope() as enough:
                if not body.is_enough:
                    # Not left by a break, which would leave generators of httpx behind: Trio warns of those.
                    async for chunk in response.aiter_raw():
                        if body.feed(chunk):
                            enough.cancel()
        except Exception as error:
            problem = self._failure(error, request, body.size)
            if problem is None:
                raise
        finally:
            with anyio.CancelScope(shield=True), suppress(*RAW):
                await response.aclose()
        return conclude(response.status_code, headers, body, problem)


class ThreadedHTTPXTransport(_Connections):
    """
    Posts through synchronous clients, in worker threads, which cancellation abandons.

    Args:
        config: The settings.

        given: The user's own ``Client``, of either library; None makes what is needed.

        library: The library to use where none is given.
    """

    def __init__(self, config: EmbeddingConfig, given: Any = None, *, library: str = "httpx") -> None:
        super().__init__(config, given, library, "Client")
        self._limiter: anyio.CapacityLimiter | None = None

    async def post(self, request: Post) -> Response:
        """
        Post, and read the response.

        Raises:
            TransportFailure: If no response came, or a 2xx without a whole body.
        """
        if self._limiter is None:
            # The engine bounds the requests; an abandoned thread must not take the place of another.
            self._limiter = anyio.CapacityLimiter(math.inf)
        client = self._take()
        try:
            response: Response = await anyio.to_thread.run_sync(
                self._exchange, client, request, abandon_on_cancel=True, limiter=self._limiter
            )
        except BaseException:
            client.abandon(owned=self._given is None)
            raise
        if self._given is None:
            if self._is_closed:
                client.abandon(owned=True)
            else:
                self._idle.append(client)
        return response

    async def aclose(self) -> None:
        """Close the connections, those in use as soon as their response is there; keep none any more."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().abandon(owned=True)

    def _exchange(self, client: _Client, request: Post) -> Response:
        client.is_busy = True
        try:
            return self._read(self._send(client, request), client, request)
        finally:
            client.is_busy = False
            if client.is_abandoned and self._given is None:
                client.close()

    def _send(self, client: _Client, request: Post) -> Any:
        problem = None
        sent = self._request(client.http, request)
        if self._given is None:
            sent.extensions["trace"] = client.trace
        try:
            return client.http.send(sent, auth=self._auth, stream=True, follow_redirects=False)
        except Exception as error:
            if (response := _raised_by_hook(error)) is not None:
                return response
            problem = self._failure(error, request)
            if problem is None:
                raise
        raise problem

    def _read(self, response: Any, client: _Client, request: Post) -> Response:
        if response.is_stream_consumed or response.is_closed:
            return _read_before(response, request)
        problem, body = None, Body(request.max_bytes, headers := dict(response.headers))
        try:
            if not body.is_enough:
                for chunk in response.iter_raw():
                    if body.feed(chunk) or client.is_abandoned:
                        break
        except Exception as error:
            problem = self._failure(error, request, body.size)
            if problem is None:
                raise
        finally:
            with suppress(*RAW):
                response.close()
        return conclude(response.status_code, headers, body, problem)


class _Client:
    """
    A client of httpx while it carries a request.

    Attributes:
        http: The client.

        connecting: The asynchronous connection that it made last.

        is_busy: Whether a thread is using it.

        is_abandoned: Whether nobody waits for that thread.
    """

    def __init__(self, http: Any) -> None:
        self.http = http
        self.connecting: Any = None
        self.is_busy = self.is_abandoned = False
        # A second handle, since TLS takes the first one over and is not for two threads.
        self._handle: socket.socket | None = None

    async def atrace(self, event: str, info: Mapping[str, Any]) -> None:
        """Follow what httpcore tells of its connection."""
        if event.endswith("connect_tcp.complete"):
            self.connecting = info["return_value"]
        elif event.startswith("http2."):
            # Others may be using it.
            self.connecting = None

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Follow it in a worker thread."""
        if event.endswith("connect_tcp.complete"):
            self._drop_handle()
            self._handle = info["return_value"].get_extra_info("socket").dup()
            if self.is_abandoned:
                self._shut_down()

    def abandon(self, *, owned: bool) -> None:
        """Have nobody wait for it any more; where it is *owned* by us, end and close it."""
        self.is_abandoned = True
        if owned:
            self._shut_down()
            if not self.is_busy:
                self.close()

    def close(self) -> None:
        """Close it."""
        self.http.close()
        self._drop_handle()

    def _shut_down(self) -> None:
        # A thread that reads from it returns, and does not hold up the end of the process.
        if self._handle is not None:
            with suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)

    def _drop_handle(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


class _KeyAuth:
    """Puts the key into a request, and into no local variable that a traceback could show."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self._config = config

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._config.secret.reveal()}"
        return request


def _read_before(response: Any, request: Post) -> Response:
    """Give a response that an event hook of the user's has read, or a mock has given whole."""
    try:
        body: bytes = response.content
    except RuntimeError:  # read in parts, or closed, by a hook
        body = b""
    return Response(response.status_code, dict(response.headers), body[: request.max_bytes])


def _raised_by_hook(error: Exception) -> Any:
    """Give the response for whose status an event hook has raised, as `raise_for_status` does."""
    return getattr(error, "response", None) if "HTTPStatusError" in names_of(error) else None
