"""
Posting a request body and bringing back plain data, in both colours; nothing is decided here.

The only module of the core that imports httpx.
"""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
import httpx

from ._errors import ConfigurationError
from ._flow import Fault
from ._version import __version__
from ._wire import Answer

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Generator

    from ._config import EmbeddingConfig
    from ._flow import Clock, Outcome, Send

CONNECT_TIMEOUT = 10.0

_Made = TypeVar("_Made", httpx.Client, httpx.AsyncClient)


def check_http_client(given: Any, kind: Literal["Client", "AsyncClient"]) -> None:
    """
    Refuse an HTTP client of the other colour, or of another library.

    Raises:
        ConfigurationError: If *given* is neither None nor of that class of httpx.
    """
    if given is not None and not isinstance(given, getattr(httpx, kind)):
        name = "http_client" if kind == "Client" else "http_async_client"
        made = f"{type(given).__module__}.{type(given).__qualname__}"
        raise ConfigurationError(f"{name} must be an httpx.{kind}, not {made}")


class Sender:
    """
    The connections of one process, and the bound on requests in flight.

    Args:
        config: The settings.

        clock: What deadlines are read from.

        given: The user's own ``httpx.Client``; None makes one when it is needed.
    """

    def __init__(self, config: EmbeddingConfig, clock: Clock, given: Any) -> None:
        self._config = config
        self._clock = clock
        self._given = given
        self._own: httpx.Client | None = None
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(config.max_concurrency)

    def send(self, step: Send) -> Outcome:
        """Post, in the turn of the caller; None if the deadline passes or the call is stopped before that."""
        remaining = _remaining(step, self._clock)
        if not self._free.acquire(timeout=None if remaining is None else max(0.0, remaining)):
            return None
        try:
            return self._post(step)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.close()

    def _post(self, step: Send) -> Outcome:
        http = self._http()
        remaining = _remaining(step, self._clock)
        if step.is_stopped() or (remaining is not None and remaining <= 0):
            return None
        request = _request(http, self._config, step.body, remaining)
        try:
            response = http.send(request, auth=_Auth(self._config), stream=True, follow_redirects=False)
            try:
                body = []
                for chunk in response.iter_bytes():
                    body.append(chunk)
                    # A timeout bounds each read; only this bounds a body that comes in drops.
                    if step.deadline is not None and self._clock.now() >= step.deadline:
                        return _LATE
            finally:
                response.close()
        except httpx.RequestError as error:
            return _fault(error, self._config)
        return Answer(response.status_code, dict(response.headers), b"".join(body))

    def _http(self) -> Any:
        if self._given is not None:
            return self._given
        with self._lock:
            if self._own is None:
                limits = httpx.Limits(
                    max_connections=None, max_keepalive_connections=self._config.max_concurrency
                )
                self._own = _made(httpx.Client, self._config, limits)
                # Few people close an embeddings object; its sockets end with it all the same.
                weakref.finalize(self, self._own.close)
            return self._own


class AsyncSender:
    """
    The connections of one event loop, and the bound on requests in flight.

    Each request in flight has an ``httpx.AsyncClient`` with a single connection: a pool shared by all costs
    httpx 0.28 work that grows with connections x waiting requests.

    Args:
        config: The settings.

        clock: What deadlines are read from.

        given: The user's own ``httpx.AsyncClient``; None makes what is needed.
    """

    def __init__(self, config: EmbeddingConfig, clock: Clock, given: Any) -> None:
        self._config = config
        self._clock = clock
        self._given = given
        self._idle: list[httpx.AsyncClient] = []
        self.closed = False
        self._free = anyio.Semaphore(config.max_concurrency)

    async def send(self, step: Send) -> Outcome:
        """Post, in the turn of the caller; None if the deadline passes or the call is stopped before that."""
        outcome: Outcome = None
        with anyio.move_on_after(_remaining(step, self._clock)):
            async with self._http() as http:
                if not step.is_stopped():
                    outcome = _LATE
                    outcome = await self._post(http, step)
        return outcome

    async def aclose(self) -> None:
        """Close the connections, those in use as soon as they are free."""
        self.closed = True
        interruption: BaseException | None = None
        while self._idle:
            try:
                await self._idle.pop().aclose()
            except BaseException as error:  # noqa: BLE001 (raised below)
                # An event loop that ends cancels what it still runs, and would leave the other sockets open.
                interruption = error
        if interruption is not None:
            raise interruption

    async def _post(self, http: Any, step: Send) -> Outcome:
        request = _request(http, self._config, step.body, _remaining(step, self._clock))
        try:
            response = await http.send(request, auth=_Auth(self._config), follow_redirects=False)
        except httpx.RequestError as error:
            return _fault(error, self._config)
        return Answer(response.status_code, dict(response.headers), response.content)

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[Any]:
        async with self._free:
            if self._given is not None:
                yield self._given
                return
            http = self._idle.pop() if self._idle else self._open()
            try:
                yield http
            except BaseException:
                # Cancelled in the middle of a request, so the connection is of no more use.
                with anyio.CancelScope(shield=True):
                    await http.aclose()
                raise
            if self.closed:
                await http.aclose()
            else:
                self._idle.append(http)

    def _open(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return _made(httpx.AsyncClient, self._config, limits)


_LATE = Fault("timeout", "the answer was still to come when the deadline passed")


def _made(kind: Callable[..., _Made], config: EmbeddingConfig, limits: httpx.Limits) -> _Made:
    """
    Make a client of httpx, with the proxies and certificates of the environment.

    What goes to this machine goes to no proxy, which would see the key in the clear.

    Raises:
        ConfigurationError: If the environment names what can't be used.
    """
    try:
        return kind(verify=_tls(), limits=limits, trust_env=not config.is_local)
    except OSError as error:
        message = f"SSL_CERT_FILE or SSL_CERT_DIR in the environment can't be used: {error}"
    except ImportError:
        message = "a SOCKS proxy in the environment needs another package: pip install 'httpx[socks]'"
    except ValueError:
        # Not the error's text: a proxy's address may hold a password.
        message = "a proxy in the environment can't be used; look at HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
    raise ConfigurationError(message)


class _Auth(httpx.Auth):
    """Puts the key into the request, and into no local variable that a traceback could show."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self._config = config

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._config.secret.reveal()}"
        yield request


def _remaining(step: Send, clock: Clock) -> float | None:
    return None if step.deadline is None else step.deadline - clock.now()


def _request(http: Any, config: EmbeddingConfig, body: bytes, remaining: float | None) -> Any:
    limit = config.silence if remaining is None else max(0.001, min(config.silence, remaining))
    headers = httpx.Headers(
        {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": f"qwen-aiml/{__version__}",
        }
    )
    headers.update(config.default_headers)
    timeout = httpx.Timeout(limit, connect=min(limit, CONNECT_TIMEOUT), pool=None)
    return http.build_request("POST", config.endpoint, content=body, headers=headers, timeout=timeout)


def _fault(error: httpx.RequestError, config: EmbeddingConfig) -> Fault:
    kind = type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return Fault("timeout", f"no connection within {min(config.silence, CONNECT_TIMEOUT):g} s ({kind})")
    if isinstance(error, httpx.TimeoutException):
        return Fault("timeout", f"silence for {config.silence:g} s ({kind})")
    if isinstance(error, httpx.LocalProtocolError):
        return Fault("connection", kind)  # its text may hold a header
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Fault("certificate", f"its certificate can't be verified ({error})")
    return Fault("connection", f"{kind}: {error}" if str(error) else kind)


def _tls() -> ssl.SSLContext:
    return _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _tls_context(*_: str | None) -> ssl.SSLContext:
    # Reading the CA certificates takes some 25 ms, so all connections share one context.
    return httpx.create_ssl_context()
