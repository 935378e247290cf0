"""
The clients: the I/O that a job asks for, in both colours. The only module of the core that imports httpx.

What is sent, whether to try again and when to end is decided in `_job` and `_flow`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from datetime import datetime, timezone
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import httpx

from ._config import DEFAULT_TIMEOUT, EmbeddingConfig
from ._flow import Clock, Fault, Send
from ._job import Job
from ._result import EmbeddingResult, Usage
from ._version import __version__
from ._wire import Answer

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator

    from typing_extensions import Self

    from ._flow import Outcome, Step
    from ._texts import Role

CONNECT_TIMEOUT = 10.0


class _BaseClient:
    """What both clients share: settings, running totals, copying."""

    def __init__(self, config: EmbeddingConfig | None = None, *, http_client: Any = None) -> None:
        self.config = EmbeddingConfig() if config is None else config
        self._http_client = http_client
        self._auth = _Auth(self.config)
        self._clock = Clock(time.monotonic, lambda: datetime.now(timezone.utc), random.random)
        self._totals = Usage()
        self._totals_lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        """What all calls of this client have cost so far."""
        return self._totals

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"

    def __copy__(self) -> Self:
        return type(self)(self.config, http_client=self._http_client)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[type[Self], tuple[EmbeddingConfig]]:
        if self._http_client is not None:
            message = (
                "a client of your own (http_client, http_async_client) can't be pickled, and a copy without "
                "it would connect in another way. Set proxies and certificates in the environment instead "
                "(HTTPS_PROXY, SSL_CERT_FILE): the default clients read them in every process"
            )
            raise TypeError(message)
        return type(self), (self.config,)

    def _count(self, usage: Usage) -> None:
        with self._totals_lock:
            self._totals += usage


class EmbeddingClient(_BaseClient):
    """
    Embed texts, waiting for the answers.

    Safe to use from several threads at once, and after a fork. Copies and pickles take the settings along,
    not the connections; a pickle does not take the key either, an unpickled copy reads it from its
    environment. ``close`` frees the connections; a later call opens new ones.

    Args:
        config: The settings; None takes the defaults and the environment.

        http_client: An ``httpx.Client`` to send with; None makes one when it is needed. It is used as it is,
            but for authorisation, timeouts and redirects, and never closed.

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.
    """

    def __init__(self, config: EmbeddingConfig | None = None, *, http_client: Any = None) -> None:
        super().__init__(config, http_client=http_client)
        self._lines: dict[int, _Lines] = {}

    def embed(self, texts: Iterable[str], *, role: Role = "document") -> EmbeddingResult:
        """
        Embed texts.

        Args:
            texts: Any number of strings, none blank. Identical ones are sent once.

            role: ``query`` puts the configured ``query_instruction`` before each text.

        Returns:
            Embeddings of shape (texts, dimensions), row i for text i, and what they cost.

        Raises:
            InputError: If some of the texts can't be embedded; nothing is sent then.

            EmbeddingBatchError: If some texts were embedded and some were not.

            QwenAIMLError: What went wrong first, if no text was embedded.
        """
        stopped = threading.Event()
        job = Job(texts, role, self.config, self._clock, stopped)
        workers = min(self.config.max_concurrency, job.batches)
        try:
            if workers > 1:
                self._work_in_threads(job, stopped, workers)
            else:
                self._work(job, stopped)
        finally:
            self._count(job.usage)
        return job.result()

    def close(self) -> None:
        """Close the idle connections of this process."""
        lines = self._lines.pop(os.getpid(), None)
        if lines is not None:
            lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work_in_threads(self, job: Job, stopped: threading.Event, workers: int) -> None:
        with ThreadPoolExecutor(workers, thread_name_prefix="qwen_aiml") as pool:
            try:
                # Each thread sees the caller's context variables, which tracing rests on.
                for done in [
                    pool.submit(copy_context().run, self._work, job, stopped) for _ in range(workers)
                ]:
                    done.result()
            except BaseException:
                job.stop()
                raise

    def _work(self, job: Job, stopped: threading.Event) -> None:
        try:
            while (flow := job.next_flow()) is not None:
                self._drive(flow, stopped)
        except Exception as crash:  # noqa: BLE001 (raised by job.result(), once the others are done)
            job.stop(crash)

    def _drive(self, flow: Generator[Step, Outcome, None], stopped: threading.Event) -> None:
        outcome: Outcome = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration:
                return
            if isinstance(step, Send):
                outcome = self._send(step)
            else:
                outcome = None
                stopped.wait(step.seconds)

    def _send(self, step: Send) -> Outcome:
        with self._line(step.deadline) as http:
            remaining = _remaining(step.deadline, self._clock)
            if http is None or (remaining is not None and remaining <= 0):
                return None
            request = _request(http, self.config, step.body, remaining)
            try:
                response = http.send(request, auth=self._auth, stream=True, follow_redirects=False)
                try:
                    body = []
                    for chunk in response.iter_bytes():
                        body.append(chunk)
                        # Each read has a timeout; only this bounds a body that comes in drops.
                        if step.deadline is not None and self._clock.now() >= step.deadline:
                            return Fault("timeout", "the answer was still coming")
                finally:
                    response.close()
            except httpx.RequestError as error:
                return _fault(error, self.config)
            return _answer(response, b"".join(body))

    @contextmanager
    def _line(self, deadline: float | None) -> Iterator[Any]:
        """Hold one of the ``max_concurrency`` lines; None if the deadline passes first."""
        pid = os.getpid()
        lines = self._lines.get(pid)
        if lines is None:
            # After a fork the parent's sockets are let go of, not closed: closing would speak to their peers.
            self._lines = {pid: self._lines.setdefault(pid, _Lines(self.config, self._http_client))}
            lines = self._lines[pid]
        remaining = _remaining(deadline, self._clock)
        if not lines.free.acquire(timeout=remaining and max(0.0, remaining)):
            yield None
            return
        try:
            yield lines.http
        finally:
            lines.free.release()


class _Lines:
    """The connections of one process and their bound."""

    def __init__(self, config: EmbeddingConfig, given: Any) -> None:
        self.free = threading.BoundedSemaphore(config.max_concurrency)
        self._config = config
        self._given = given
        self._own: httpx.Client | None = None
        self._lock = threading.Lock()

    @property
    def http(self) -> Any:
        if self._given is not None:
            return self._given
        with self._lock:
            if self._own is None:
                limits = httpx.Limits(max_keepalive_connections=self._config.max_concurrency)
                self._own = httpx.Client(verify=_tls(), limits=limits)
            return self._own

    def close(self) -> None:
        with self._lock:
            if self._own is not None:
                self._own.close()
                self._own = None


class AsyncEmbeddingClient(_BaseClient):
    """
    Embed texts, awaiting the answers, on asyncio or Trio.

    The same as `EmbeddingClient`, awaited. One object serves any number of event loops, one after the other
    or at once in several threads: each has connections of its own, which are closed when the loop ends.

    Args:
        config: The settings; None takes the defaults and the environment.

        http_client: An ``httpx.AsyncClient`` to send with, in every event loop; None makes what is needed. It
            is used as it is, but for authorisation, timeouts and redirects, and never closed.

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.
    """

    def __init__(self, config: EmbeddingConfig | None = None, *, http_client: Any = None) -> None:
        super().__init__(config, http_client=http_client)
        # By event loop, each with what closes the pool when the loop ends.
        self._pools: WeakKeyDictionary[Any, tuple[_Pool, AsyncGenerator[None, None]]] = WeakKeyDictionary()

    async def embed(self, texts: Iterable[str], *, role: Role = "document") -> EmbeddingResult:
        """Embed as `EmbeddingClient.embed` does, awaited. Cancelling it ends its requests."""
        stopped = anyio.Event()
        job = Job(texts, role, self.config, self._clock, stopped)
        workers = min(self.config.max_concurrency, job.batches)
        try:
            if workers > 1:
                async with anyio.create_task_group() as group:
                    for _ in range(workers):
                        group.start_soon(self._work, job, stopped)
            else:
                await self._work(job, stopped)
        finally:
            self._count(job.usage)
        return job.result()

    async def aclose(self) -> None:
        """Close the idle connections of this event loop."""
        _, closing = self._pools.pop(_current_loop(), (None, None))
        if closing is not None:
            await closing.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _work(self, job: Job, stopped: anyio.Event) -> None:
        try:
            while (flow := job.next_flow()) is not None:
                await self._drive(flow, stopped)
        except Exception as crash:  # noqa: BLE001 (raised by job.result(), once the others are done)
            job.stop(crash)

    async def _drive(self, flow: Generator[Step, Outcome, None], stopped: anyio.Event) -> None:
        outcome: Outcome = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration:
                return
            if isinstance(step, Send):
                outcome = await self._send(step)
            else:
                outcome = None
                with anyio.move_on_after(step.seconds):
                    await stopped.wait()

    async def _send(self, step: Send) -> Outcome:
        sent = False
        remaining = _remaining(step.deadline, self._clock)
        with anyio.move_on_after(remaining):
            pool = await self._pool()
            async with pool.line() as http:
                sent = True
                request = _request(http, self.config, step.body, remaining)
                try:
                    response = await http.send(request, auth=self._auth, follow_redirects=False)
                except httpx.RequestError as error:
                    return _fault(error, self.config)
                return _answer(response, response.content)
        return Fault("timeout", "the answer was still coming") if sent else None

    async def _pool(self) -> _Pool:
        loop = _current_loop()
        if loop in self._pools:
            return self._pools[loop][0]
        # A loop that ended without closing its asynchronous generators left its pool behind.
        for other in self._pools.keyrefs():
            if (ended := other()) is not None and getattr(ended, "is_closed", bool)():
                self._pools.pop(ended, None)
        pool = _Pool(self.config, self._http_client)
        closing = _close_with_loop(pool)
        self._pools[loop] = (pool, closing)
        await anext(closing)
        return pool


class _Pool:
    """
    The connections of one event loop and their bound.

    Each line has a connection pool of its own: one pool shared by all costs httpx 0.28 work that grows with
    connections x waiting requests.
    """

    def __init__(self, config: EmbeddingConfig, given: Any) -> None:
        self._free = anyio.Semaphore(config.max_concurrency)
        self._given = given
        self._idle: list[httpx.AsyncClient] = []
        self._closed = False

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Any]:
        """Hold one of the ``max_concurrency`` lines."""
        async with self._free:
            if self._given is not None:
                yield self._given
                return
            http = self._idle.pop() if self._idle else self._open()
            try:
                yield http
            except BaseException:
                # Cancelled in the middle of a request, so its connection is of no more use.
                with anyio.CancelScope(shield=True):
                    await http.aclose()
                raise
            if self._closed:
                await http.aclose()
            else:
                self._idle.append(http)

    async def aclose(self) -> None:
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()

    def _open(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return httpx.AsyncClient(verify=_tls(), limits=limits)


async def _close_with_loop(pool: _Pool) -> AsyncGenerator[None, None]:
    """
    Close *pool* when the event loop ends.

    An event loop closes the asynchronous generators that were begun in it before it ends, which is the one
    moment at which connections that belong to it can still be closed.
    """
    try:
        yield
    finally:
        await pool.aclose()


class _Auth(httpx.Auth):
    """Puts the key into the request, and into no local variable that a traceback could show."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self._config = config

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._config.secret.reveal()}"
        yield request


def _current_loop() -> Any:
    token = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)


def _remaining(deadline: float | None, clock: Clock) -> float | None:
    return None if deadline is None else deadline - clock.now()


def _request(http: Any, config: EmbeddingConfig, body: bytes, remaining: float | None) -> Any:
    limit = config.timeout or DEFAULT_TIMEOUT
    if remaining is not None:
        limit = max(0.001, min(limit, remaining))
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


def _answer(response: httpx.Response, body: bytes) -> Answer:
    return Answer(response.status_code, dict(response.headers), body)


def _fault(error: httpx.RequestError, config: EmbeddingConfig) -> Fault:
    kind = type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return Fault("timeout", f"no connection within {CONNECT_TIMEOUT:g} s ({kind})")
    if isinstance(error, httpx.TimeoutException):
        return Fault("timeout", f"silence for {config.timeout:g} s ({kind})")
    if isinstance(error, httpx.LocalProtocolError):
        return Fault("connection", kind)  # its text may hold a header
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Fault(
            "certificate",
            f"its certificate can't be verified ({error}). Behind a proxy that inspects TLS, set "
            "SSL_CERT_FILE to your organisation's CA bundle",
        )
    return Fault("connection", f"{kind}: {error}" if str(error) else kind)


def _tls() -> ssl.SSLContext:
    return _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _tls_context(*_: str | None) -> ssl.SSLContext:
    # Reading the CA certificates takes some 25 ms, so all connections share one context.
    return httpx.create_ssl_context()
