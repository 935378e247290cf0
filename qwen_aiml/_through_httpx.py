"""
Connections of httpx, in both colours: for proxies, for the user's own client, and for whoever watches httpx.

The only module of the core that imports httpx, and imported only when it is needed.
"""

from __future__ import annotations

import math
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import anyio
import httpx

from ._errors import ConfigurationError
from ._lines import CONNECT_TIMEOUT, tls_context
from ._route import meets_proxy
from ._steps import LATE, Fault
from ._version import __version__
from ._waits import Run
from ._protocol.response import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from ._config import EmbeddingConfig
    from ._steps import Outcome, Send

_Made = TypeVar("_Made", httpx.Client, httpx.AsyncClient)


def check_http(given: Any, kind: Literal["Client", "AsyncClient"]) -> None:
    """
    Refuse an HTTP client of the other colour or of another library.

    Raises:
        ConfigurationError: If *given* is not of that class of httpx.
    """
    if not isinstance(given, getattr(httpx, kind)):
        name = "http_client" if kind == "Client" else "http_async_client"
        made = f"{type(given).__module__}.{type(given).__qualname__}"
        raise ConfigurationError(f"{name} must be an httpx.{kind}, not {made}")


class HTTPXLine:
    """
    A client of httpx with one connection, which another thread can break off.

    Args:
        config: The settings.

        now: Reads the clock of deadlines.

        given: The user's own client, which is neither broken off nor closed; None makes one.

    Attributes:
        is_broken_off: Whether it was, and so is of no more use.
    """

    through_httpx = True
    is_open = True  # or else httpx finds out

    def __init__(self, config: EmbeddingConfig, now: Callable[[], float], given: Any = None) -> None:
        self.is_broken_off = False
        self._config, self._now, self._given = config, now, given
        self._proxied = given is None and meets_proxy(config)
        self._http = given or _made(httpx.Client, config)
        self._connected: socket.socket | None = None
        # While TLS is negotiated it has taken the socket over, and only a second handle reaches it.
        self._negotiating: socket.socket | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether it can carry another request."""
        return not self.is_broken_off

    def post(self, step: Send, limit: float) -> Generator[Run, Any, Outcome]:
        """Post, with at most *limit* seconds of silence; until the deadline at the latest, if it is ours."""
        post = partial(self._post, step, limit)
        if self._given is not None:
            return cast("Outcome", (yield Run(post)))
        until = math.inf if step.deadline is None else step.deadline
        return cast("Outcome", (yield Run(post, self.break_off, until)))

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Follow what httpcore tells of its connection."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._connected = info["return_value"].get_extra_info("socket")
            self._let_go()
            if self.is_broken_off:
                # It came too late for that, since nobody ends a look-up of a name.
                self.break_off()
        elif event.endswith("start_tls.started") and type(self._connected) is socket.socket:
            # TLS within that of a proxy takes nothing over.
            self._negotiating = self._connected.dup()
        elif event.endswith("start_tls.failed"):
            self._let_go()

    def break_off(self) -> None:
        """End whatever waits for this connection, or would once it is there."""
        self.is_broken_off = True
        for handle in (self._connected, self._negotiating):
            if handle is not None:
                with suppress(OSError):
                    # Not TLS's own way, which is not for two threads.
                    socket.socket.shutdown(handle, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        if self._given is None:
            self._http.close()

    def _post(self, step: Send, limit: float) -> Outcome:
        request = _request(self._http, self._config, step, limit)
        if self._given is None:
            request.extensions["trace"] = self.trace
        body = bytearray()
        try:
            response = self._http.send(request, auth=_Auth(self._config), stream=True, follow_redirects=False)
            try:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > step.most:
                        break
                    if step.is_late(self._now()):
                        return LATE
            finally:
                response.close()
        except httpx.RequestError as error:
            return LATE if step.is_late(self._now()) else fault(error, limit, proxied=self._proxied)
        return Answer(response.status_code, dict(response.headers), bytes(body[: step.most]))

    def _let_go(self) -> None:
        if self._negotiating is not None:
            self._negotiating.close()
            self._negotiating = None


class AsyncHTTPXLine:
    """
    A client of httpx with one connection, awaited.

    Args:
        config: The settings.

        given: The user's own client, which is never closed; None makes one.
    """

    through_httpx = True
    is_reusable = is_open = True  # or else httpx finds out

    def __init__(self, config: EmbeddingConfig, given: Any = None) -> None:
        self._config, self._given = config, given
        self._proxied = given is None and meets_proxy(config)
        self._http = given or _made(httpx.AsyncClient, config)

    async def post(self, step: Send, limit: float) -> Outcome:
        """Post, with at most *limit* seconds of silence."""
        request = _request(self._http, self._config, step, limit)
        body = bytearray()
        try:
            response = await self._http.send(
                request, auth=_Auth(self._config), stream=True, follow_redirects=False
            )
            try:
                with anyio.CancelScope() as enough:
                    async for chunk in response.aiter_bytes():
                        body += chunk[: step.most + 1 - len(body)]
                        if len(body) > step.most:
                            # Not a break, which would leave generators of httpx behind: Trio warns of those.
                            enough.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except httpx.RequestError as error:
            return fault(error, limit, proxied=self._proxied)
        return Answer(response.status_code, dict(response.headers), bytes(body[: step.most]))

    async def aclose(self) -> None:
        """Close the connection."""
        if self._given is None:
            await self._http.aclose()


class _Auth(httpx.Auth):
    """Puts the key into the request, and into no local variable that a traceback could show."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self._config = config

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._config.secret.reveal()}"
        yield request


def fault(error: httpx.RequestError, limit: float, *, proxied: bool = False) -> Fault:
    """Say why there is no answer, after at most *limit* seconds of silence, *proxied* or not."""
    kind = type(error).__name__
    if isinstance(error, httpx.ProxyError):
        # What the proxy answered; it begins with the status.
        return Fault("refused" if str(error).startswith("4") else "proxy", f"{kind}: {error}")
    broken: Literal["proxy", "connection"] = "proxy" if proxied else "connection"
    if isinstance(error, httpx.ConnectTimeout):
        return Fault(broken, f"no connection within {min(limit, CONNECT_TIMEOUT):.3g} s ({kind})")
    if isinstance(error, httpx.TimeoutException):
        return Fault("timeout", f"silence for {limit:.3g} s ({kind})")
    if isinstance(error, httpx.LocalProtocolError):
        return Fault("local", kind)  # its text may hold a header
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Fault("certificate", f"its certificate can't be verified ({error})")
    below = error.__cause__ if isinstance(error, httpx.ConnectError) else None
    # Why there is no connection is what httpcore hides.
    cause = first_cause((below.__cause__ or below.__context__ if below else None) or error)
    said = str(cause) or type(cause).__name__
    return Fault(broken, said if said == kind else f"{kind}: {said}")


def first_cause(error: BaseException) -> BaseException:
    """Give what the system said, which httpcore and anyio put into words of their own."""
    while True:
        # Of a host's several addresses the first.
        cause = next(iter(getattr(error, "exceptions", ())), error.__cause__)
        if cause is None:
            return error
        error = cause


def _made(kind: Callable[..., _Made], config: EmbeddingConfig) -> _Made:
    """
    Make a client of httpx for one connection, with the proxies and certificates of the environment.

    What goes to this machine goes to no proxy, which would see the key in the clear.

    Raises:
        OSError: If the environment names certificates that can't be read.

        ConfigurationError: If it names a proxy that can't be used.
    """
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    # Without TLS nothing needs the certificates, which take a while to read.
    plain = config.is_local and config.endpoint.startswith("http:")
    try:
        return kind(verify=False if plain else tls_context(), limits=limits, trust_env=not config.is_local)
    except ImportError:
        message = "a SOCKS proxy in the environment needs another package: pip install 'httpx[socks]'"
    except ValueError:
        # Not the error's text: a proxy's address may hold a password.
        message = (
            "a proxy in the environment can't be used; look at HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, which "
            "have the form http://proxy.example:3128"
        )
    raise ConfigurationError(message)


def _request(http: Any, config: EmbeddingConfig, step: Send, limit: float) -> Any:
    headers = httpx.Headers(
        {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": f"qwen-aiml/{__version__}",
        }
    )
    headers.update(config.default_headers)
    timeout = httpx.Timeout(limit, connect=min(limit, CONNECT_TIMEOUT), pool=None)
    return http.build_request("POST", config.endpoint, content=step.body, headers=headers, timeout=timeout)
