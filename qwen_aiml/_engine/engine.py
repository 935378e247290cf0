"""State that a client keeps between calls: settings, limiter, cache, usage, a session per event loop."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime, timezone
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary, WeakSet

from msgspec import Struct

from .._cache.access import CacheAccess
from .._cache.entries import namespace
from .._cache.protocol import open_cache
from .._config import check_integer
from .._errors import ConfigurationError
from .._observe.tracing import call_span, is_traced, traced
from .._observe.usage import TrackedUsage
from .._texts.validation import check_role, nothing_sent
from .._transport.httpx_library import check_client, service_name
from .._transport.selection import SelectedTransport, resolve
from .._utils.loops import current_loop, is_closed
from .._utils.threads import run_in_thread
from .job import Job
from .limiter import FIRST_WINDOW, Limiter
from .queue import Queue
from .request import Call, Clock
from .runner import BackgroundCall, RealTime
from .stream import Blocks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

    from .._cache.protocol import Cache
    from .._cache.sqlite import SQLiteCache
    from .._config import EmbeddingConfig
    from .._texts.validation import Role

# Texts to read ahead, as a multiple of the maximum in flight. Each of three blocks then has four requests per
# worker, so that the end of a block, when workers run out of requests, takes a small part of the time.
ROUNDS_AHEAD = 12

SOON = 0.05  # seconds; a loop that is about to stop does so sooner
NEVER = 1e6  # seconds; Qt's event loop counts milliseconds in 32 bits


class Session(Struct, eq=False):
    """
    State shared by the calls of one event loop.

    Attributes:
        transport: Posts their requests.

        queue: The queue in which requests wait to start.

        closer: Once started, it closes the transport when the event loop ends. A loop that ends closes the
            async generators started in it, and this is the last chance to close its connections.
    """

    transport: SelectedTransport
    queue: Queue
    closer: AsyncGenerator[None, None]


async def _close_with_loop(transport: SelectedTransport) -> AsyncGenerator[None, None]:
    # A loop that ends closes the async generators started in it; it has no other hook. A timer that never
    # fires keeps the transport alive. Otherwise it could be collected earlier, together with its client, and
    # each of its sockets would warn.
    loop = asyncio._get_running_loop()  # noqa: SLF001 (documented)
    timer = None if loop is None else loop.call_later(NEVER, id, transport)
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
        await transport.aclose()


async def _start(closer: AsyncGenerator[None, None], loop: Any) -> None:
    """Start an async generator that is closed with the event loop, or once it is collected."""
    hooks = sys.get_asyncgen_hooks()
    if hooks.finalizer is None:  # nest_asyncio: one that its loops don't close ends in a traceback
        return
    sys.set_asyncgen_hooks(finalizer=partial(_finalize, hooks, loop))
    try:
        started = anext(closer)  # remembers the hook
    finally:
        sys.set_asyncgen_hooks(finalizer=hooks.finalizer)
    await started


def _finalize(hooks: Any, loop: Any, closer: AsyncGenerator[None, None]) -> None:
    # At interpreter shutdown, the modules of asyncio, and this one, may be cleared already.
    if sys is None or sys.is_finalizing():
        return
    if not hasattr(loop, "call_soon_threadsafe"):  # Trio's token
        hooks.finalizer(closer)
        return
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(_close_soon, hooks, loop, closer)


def _close_soon(hooks: Any, loop: Any, closer: AsyncGenerator[None, None]) -> None:
    # Not at once: asyncio would begin a task, and if the loop is about to stop, log that it never ended.
    # `asyncio.run` closes the generators that are registered, and waits for their end.
    hooks.firstiter(closer)
    loop.call_later(SOON, hooks.finalizer, closer)


class Engine:
    """
    Embeds texts in any event loop, with the state shared by all calls of one client.

    Args:
        config: The settings.

        http_client: The user's httpx or httpx2 client; None creates connections as needed.

        cache: The cache of embeddings; see `open_cache`.

        limiter: That of another client of the same account, to share its estimates; None creates one.

        sync: Whether the client is synchronous; *http_client*, the cache's sync methods and custom rate
            limiters are then called in worker threads.

    Raises:
        ConfigurationError: If *http_client*, *cache* or *limiter* can't be used.
    """

    def __init__(
        self,
        config: EmbeddingConfig,
        *,
        http_client: Any,
        cache: Any,
        limiter: Limiter | None,
        sync: bool,
    ) -> None:
        check_client(http_client, sync=sync)
        self.config = config
        self.http_client = http_client
        self.cache: Cache | None = open_cache(cache)
        is_path = isinstance(cache, (str, os.PathLike))
        self._close_cache = cast("SQLiteCache", self.cache).close if is_path else lambda: None
        if not isinstance(limiter, Limiter | None):
            kind = type(limiter).__name__
            message = f"limiter must be that of another client (client.limiter) or None, not {kind}"
            raise ConfigurationError(message)
        self.limiter = limiter or make_limiter(config)
        self.usage = TrackedUsage()
        self._sync = sync
        self._clock = Clock(RealTime.now, lambda: datetime.now(timezone.utc), random.random)
        self._is_forked = False
        self._sessions: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()
        _engines.add(self)

    def job(
        self,
        texts: Iterable[str],
        first: int = 0,
        *,
        role: Role,
        admit: Callable[[int], Any] | None,
        packed: bool,
        batch_size: int | None = None,
    ) -> Job:
        """
        Prepare a call; nothing is sent yet.

        Raises:
            InputError: If some of the texts are invalid.

            ConfigurationError: If *batch_size* is not valid for the model, if *admit* is not a function, or
                after a fork if *http_client* was given.
        """
        if self._is_forked:
            message = (
                "a client of your own (http_client, http_async_client) can't be used after a fork: both "
                "processes would read from its connections. Create another object in this process"
            )
            raise ConfigurationError(message)
        if admit is not None:
            admit = _async_admit(admit, sync=self._sync)
        call = Call(self.config, self._clock, self.limiter, admit=admit, packed=packed, batch_size=batch_size)
        call.blocks = (self.usage, *call.blocks)
        cache = None if self.cache is None else self._cache_access(self.cache, role, call, first)
        return Job(texts, role, call, cache, first=first)

    async def run(self, job: Job) -> None:
        """
        Run a job; its result or error is stored in the job.

        Raises:
            CacheError: If the cache can't be read.

            DeadlineError: If the deadline passed while the cache was read.
        """
        session = await self._session()
        job.call.begin(session.queue, session.transport.post)
        if not is_traced():
            await job.run()
            return
        with call_span(self.config, len(job.items), lambda: (job.call.usage, job.model, job.error())):
            job.call.post = traced(job.call.post, self.config)
            await job.run()

    def blocks(
        self,
        role: Role,
        admit: Callable[[int], Any] | None,
        look_ahead: int | None,
        *,
        in_order: bool,
    ) -> Blocks:
        """Prepare a stream; its jobs count in the `track_usage` blocks that are open now."""
        check_role(role)
        if look_ahead is None:
            look_ahead = ROUNDS_AHEAD * self.config.rows * self.config.concurrency
        check_integer("look_ahead", look_ahead, least=1)
        make = partial(copy_context().run, partial(self.job, role=role, admit=admit, packed=True))
        cached = self.cache is not None
        return Blocks(make, look_ahead, in_order=in_order, overlap=self._sync, cached=cached)

    @property
    def emulator(self) -> str | None:
        """The name of the emulator that responds in place of the service; None if the service does."""
        return service_name(resolve(self.config, self.http_client, sync=self._sync)[1])

    def cache_namespace(self, role: Role) -> str:
        """Return a prefix that identifies everything that affects embeddings, for caches keyed by text."""
        config = self.config
        policies: list[str] = [config.on_blank, config.on_too_long, config.tokenizer or ""]
        if config.blank_replacement is not None:
            policies.append(config.blank_replacement)
        return self._namespace(role, policies)

    def close(self) -> None:
        """Close the connections of synchronous calls, and a cache that was given as a path."""
        self._close_cache()
        # At interpreter shutdown, connections are closed with the process.
        if self._sessions and not sys.is_finalizing():
            closing = BackgroundCall(self.aclose)
            closing.start()
            closing.join()  # not `run`, which waits without limit
            if closing.error is not None:
                raise closing.error

    async def aclose(self) -> None:
        """Close the connections of this event loop, and a cache that was given as a path."""
        self._close_cache()
        # The session is kept, since calls may still be running: one queue must limit them and later calls.
        session = self._sessions.get(current_loop())
        if session is not None and not session.transport.is_closed:
            await session.closer.aclose()
            if not session.transport.is_closed:  # the generator was not started
                await session.transport.aclose()

    def after_fork(self) -> None:
        """Abandon the parent's connections and locks, which other threads may have held."""
        self.limiter.after_fork()
        self._is_forked = self.http_client is not None
        # Kept referenced, since collecting them would close sockets that both processes share.
        _parent_sessions.append(list(self._sessions.items()))
        self._sessions = WeakKeyDictionary()

    def _namespace(self, role: Role, policies: Sequence[str] = ()) -> str:
        config = self.config
        return namespace(
            self.emulator or str(config.base_url),
            config.model,
            config.length,
            role=role,
            instruction=config.instruction(role),
            policies=policies,
        )

    def _cache_access(self, cache: Cache, role: Role, call: Call, first: int) -> CacheAccess:
        load = _threaded(cache.get_many) if self._sync else cache.aget_many
        store = _threaded(cache.set_many) if self._sync else cache.aset_many
        return CacheAccess(load, store, self._namespace(role), call.seconds_left, nothing_sent(first))

    async def _session(self) -> Session:
        loop = current_loop()
        session = self._sessions.get(loop)
        if session is not None and not session.transport.is_closed:
            return session
        self._forget_ended_loops()
        transport = SelectedTransport(self.config, self.http_client, sync=self._sync)
        queue = session.queue if session is not None else Queue(self.limiter, self._clock.now)
        self._sessions[loop] = session = Session(transport, queue, _close_with_loop(transport))
        if self.http_client is None:
            await _start(session.closer, loop)
        return session

    def _forget_ended_loops(self) -> None:
        for reference in self._sessions.keyrefs():
            loop = reference()
            session = None if loop is None else self._sessions.get(loop)
            if session is not None and (
                is_closed(loop) or (session.transport.is_closed and not session.queue.in_flight)
            ):
                self._sessions.pop(loop, None)


def make_limiter(config: EmbeddingConfig) -> Limiter:
    """Create a limiter within the bounds of the settings."""
    return Limiter(
        config.concurrency,
        rows=config.rows,
        first=config.max_concurrency or FIRST_WINDOW,
        requests_per_minute=config.requests_per_minute,
        tokens_per_minute=config.tokens_per_minute,
    )


def _threaded(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """Convert a function, blocking or async, to an async one that calls it in a worker thread."""

    async def call(*arguments: Any) -> Any:
        result = await run_in_thread(partial(function, *arguments))
        return await result if isawaitable(result) else result

    return call


def _async_admit(admit: Callable[[int], Any], *, sync: bool) -> Callable[[int], Awaitable[Any]]:
    """Convert a custom rate limiter to an async function."""
    if not callable(admit):
        message = f"admit must be a function that takes a number of tokens, not {type(admit).__name__}"
        raise ConfigurationError(message)

    async def call(tokens: int) -> None:
        result = admit(tokens)
        if not isawaitable(result):
            raise ConfigurationError(
                f"admit (rate_limiter) must be async for async calls: it returned {type(result).__name__}, "
                "which can't be awaited"
            )
        await result

    return _threaded(admit) if sync else call


_engines: WeakSet[Engine] = WeakSet()
_parent_sessions: list[Any] = []


def _after_fork() -> None:
    for engine in list(_engines):
        engine.after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_after_fork)
