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
from ._steps import Fault
from ._turns import Turns
from ._version import __version__
from ._watch import Line
from ._wire import Answer

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Generator

    from ._config import EmbeddingConfig
    from ._flow import Clock
    from ._pace import Pace
    from ._steps import Outcome, Send
    from ._watch import Watch

CONNECT_TIMEOUT = 10.0

_Made = TypeVar("_Made", httpx.Client, httpx.AsyncClient)


def check_http(given: Any, kind: Literal["Client", "AsyncClient"], address: str) -> None:
    """
    Refuse an HTTP client of the other colour or of another library, and an address that httpx does not take.

    Raises:
        ConfigurationError: If *given* is neither None nor of that class of httpx, or *address* is none.
    """
    try:
        httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"base_url (api_base) is not an address: {error}") from None
    if given is not None and not isinstance(given, getattr(httpx, kind)):
        name = "http_client" if kind == "Client" else "http_async_client"
        made = f"{type(given).__module__}.{type(given).__qualname__}"
        raise ConfigurationError(f"{name} must be an httpx.{kind}, not {made}")


class _Idle:
    """Connections that are open and not in use; `generation` goes up when all are closed."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.generation = 0

    def close(self) -> None:
        """Close them, and those in use as soon as they come back."""
        self.generation += 1
        lines, self.lines = self.lines, []
        for line in lines:
            line.close()


class Sender:
    """
    The connections of one process.

    Each request in flight has an ``httpx.Client`` with a single connection, as in `AsyncSender`.

    Args:
        config: The settings.

        clock: What deadlines are read from.

        pace: Tells how many requests may be in flight.

        given: The user's own ``httpx.Client``; None makes what is needed.

    Attributes:
        turns: The line in which requests wait.
    """

    def __init__(self, config: EmbeddingConfig, clock: Clock, pace: Pace, given: Any) -> None:
        self._config = config
        self._clock = clock
        self._given = given
        self._idle = _Idle()
        # Few people close an embeddings object; its sockets end with it all the same.
        self._end = weakref.finalize(self, self._idle.close)
        self._lock = threading.Lock()
        self.turns = Turns(lambda: pace.window)

    def prepare(self) -> None:
        """Open a first connection, so that threads do not all read the certificates at once."""
        if self._given is None and not self._idle.lines:
            line = self._open()
            with self._lock:
                self._idle.lines.append(line)

    def send(self, step: Send, watch: Watch) -> Outcome:
        """Post, and be broken off by *watch*; a client of the user's is only looked after between reads."""
        if self._given is not None:
            return self._post(self._given, step, None)
        with self._lock:
            generation = self._idle.generation
            line = self._idle.lines.pop() if self._idle.lines else None
        line = line or self._open()
        keep = False
        try:
            with watch.over(line):
                outcome = self._post(line.http, step, line)
            with self._lock:
                keep = generation == self._idle.generation and not line.is_broken_off
                if keep:
                    self._idle.lines.append(line)
        finally:
            if not keep:
                line.close()
        return outcome

    def close(self) -> None:
        """Close the connections, those in use as soon as they are free; the next request opens new ones."""
        with self._lock:
            self._idle.close()

    def abandon(self) -> None:
        """Leave the connections to the parent, in a forked process; their locks may be held for ever."""
        self._end.detach()

    def _post(self, http: Any, step: Send, line: Line | None) -> Outcome:
        request, limit = _request(http, self._config, step, self._clock)
        if line is not None:
            request.extensions["trace"] = line.trace
        body = bytearray()
        try:
            response = http.send(request, auth=_Auth(self._config), stream=True, follow_redirects=False)
            try:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > step.most:
                        break
                    if _is_late(step, self._clock):
                        return _LATE
            finally:
                response.close()
        except httpx.RequestError as error:
            return _LATE if _is_late(step, self._clock) else _fault(error, limit)
        return Answer(response.status_code, dict(response.headers), bytes(body[: step.most]))

    def _open(self) -> Line:
        return Line(_made(httpx.Client, self._config))


class AsyncSender:
    """
    The connections of one event loop.

    Each request in flight has an ``httpx.AsyncClient`` with a single connection: a pool shared by all costs
    httpx 0.28 work that grows with connections x waiting requests.

    Args:
        config: The settings.

        clock: What deadlines are read from.

        pace: Tells how many requests may be in flight.

        given: The user's own ``httpx.AsyncClient``; None makes what is needed.

    Attributes:
        turns: The line in which requests wait.
    """

    def __init__(self, config: EmbeddingConfig, clock: Clock, pace: Pace, given: Any) -> None:
        self._config = config
        self._clock = clock
        self._given = given
        self._idle: list[httpx.AsyncClient] = []
        self.closed = False
        self.turns = Turns(lambda: pace.window)

    async def send(self, step: Send) -> Outcome:
        """Post, until the deadline."""
        outcome: Outcome = _LATE
        with anyio.move_on_after(None if step.deadline is None else step.deadline - self._clock.now()):
            async with self._http() as http:
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
        request, limit = _request(http, self._config, step, self._clock)
        body = bytearray()
        try:
            response = await http.send(request, auth=_Auth(self._config), stream=True, follow_redirects=False)
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
            return _fault(error, limit)
        return Answer(response.status_code, dict(response.headers), bytes(body[: step.most]))

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[Any]:
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
        return _made(httpx.AsyncClient, self._config)


_LATE = Fault("timeout", "the answer was still to come when the deadline passed")


def _made(kind: Callable[..., _Made], config: EmbeddingConfig) -> _Made:
    """
    Make a client of httpx for one connection, with the proxies and certificates of the environment.

    What goes to this machine goes to no proxy, which would see the key in the clear.

    Raises:
        ConfigurationError: If the environment names what can't be used.
    """
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    # Without TLS nothing needs the certificates, which take a while to read.
    plain = config.is_local and config.endpoint.startswith("http:")
    try:
        return kind(verify=False if plain else _tls(), limits=limits, trust_env=not config.is_local)
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


def _is_late(step: Send, clock: Clock) -> bool:
    return step.deadline is not None and step.deadline <= clock.now()


def _request(http: Any, config: EmbeddingConfig, step: Send, clock: Clock) -> tuple[Any, float]:
    """Build a request, and say how many seconds of silence it allows."""
    limit = config.silence
    if step.deadline is not None:
        limit = max(0.001, min(limit, step.deadline - clock.now()))
    headers = httpx.Headers(
        {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": f"qwen-aiml/{__version__}",
        }
    )
    headers.update(config.default_headers)
    timeout = httpx.Timeout(limit, connect=min(limit, CONNECT_TIMEOUT), pool=None)
    request = http.build_request("POST", config.endpoint, content=step.body, headers=headers, timeout=timeout)
    return request, limit


def _fault(error: httpx.RequestError, limit: float) -> Fault:
    kind = type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return Fault("connection", f"no connection within {min(limit, CONNECT_TIMEOUT):.3g} s ({kind})")
    if isinstance(error, httpx.TimeoutException):
        return Fault("timeout", f"silence for {limit:.3g} s ({kind})")
    if isinstance(error, httpx.LocalProtocolError):
        return Fault("local", kind)  # its text may hold a header
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Fault("certificate", f"its certificate can't be verified ({error})")
    return Fault("connection", f"{kind}: {error}" if str(error) else kind)


def _tls() -> ssl.SSLContext:
    return _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _tls_context(*_: str | None) -> ssl.SSLContext:
    # Reading the CA certificates takes some 25 ms, so all connections share one context.
    return httpx.create_ssl_context()
