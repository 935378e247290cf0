"""
The clients: workers, in both colours, that drive a job's flows.

What is sent, whether to try again and when to end is decided in `_job`, `_batch` and `_flow`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import anyio

from ._cache import namespace
from ._config import EmbeddingConfig
from ._drivers import AsyncDriver, Driver
from ._errors import ConfigurationError
from ._flow import Call, Clock
from ._job import Job
from ._learned import Learned
from ._loops import close_with_loop, current_loop, is_closed
from ._result import EmbeddingResult, Usage
from ._sender import AsyncSender, Sender, check_given
from ._sqlite import SQLiteCache, open_cache
from ._watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from typing_extensions import Self

    from ._cache import Cache
    from ._flow import Flag
    from ._texts import Role
    from ._turns import Turns


class _BaseClient:
    """What both clients share: settings, running totals, copying."""

    _kind: Literal["Client", "AsyncClient"]

    def __init__(
        self,
        config: EmbeddingConfig | None = None,
        *,
        http_client: Any = None,
        cache: Cache | str | os.PathLike[str] | None = None,
        learned: Learned | None = None,
    ) -> None:
        if config is not None and not isinstance(config, EmbeddingConfig):
            made = type(config).__name__
            raise ConfigurationError(
                f"config must be an EmbeddingConfig, not {made}; write EmbeddingConfig(...)"
            )
        self.config = config or EmbeddingConfig()
        check_given(http_client, self._kind)
        self._http_client = http_client
        self.cache = open_cache(cache)
        self._opened_cache = self.cache if isinstance(cache, (str, os.PathLike)) else None
        self.learned = learned or Learned(self.config)
        self._clock = Clock(time.monotonic, lambda: datetime.now(timezone.utc), random.random)
        self._totals = Usage()
        self._totals_lock = threading.Lock()
        self._forked = False
        self._open()
        _alive.add(self)

    def _open(self) -> None:
        """Make what holds the connections."""

    def _job(
        self, texts: Iterable[str], role: Role, turns: Turns, stopped: Flag, *, has_limiter: bool
    ) -> tuple[Job, Call]:
        self._check_fork()
        total = self.config.total_timeout
        call = Call(
            self.config,
            self._clock,
            self.learned,
            turns,
            stopped,
            has_limiter=has_limiter,
            deadline=None if total is None else self._clock.now() + total,
        )
        return Job(texts, role, call, None if self.cache is None else self._service), call

    @property
    def _service(self) -> str:
        # A stand-in for the service says so, lest its vectors be taken for the service's.
        return getattr(self._http_client, "qwen_aiml_service", None) or str(self.config.base_url)

    def cache_namespace(self, role: Role = "document") -> str:
        """
        Name what makes embeddings of the same text differ, as a prefix for caches that go by text alone.

        Args:
            role: What the texts are embedded as; ``query_instruction`` counts for queries only.
        """
        config = self.config
        return namespace(
            self._service,
            config.model,
            config.length,
            role=role,
            instruction=config.instruction(role),
            policies=(config.on_blank, config.on_too_long, config.tokenizer or ""),
        )

    def _close_cache(self) -> None:
        # What was opened here, from a path; a later call opens it again.
        if isinstance(self._opened_cache, SQLiteCache):
            self._opened_cache.close()

    def _after_fork(self) -> None:
        """Leave the parent's connections and locks alone; other threads may have held them."""
        self._totals_lock = threading.Lock()
        self.learned.pace.after_fork()
        self._forked = self._http_client is not None

    def _check_fork(self) -> None:
        if self._forked:
            message = (
                "a client of your own (http_client, http_async_client) can't be used after a fork, when both "
                "processes would read from its connections. Make another object in this process"
            )
            raise ConfigurationError(message)

    @property
    def usage(self) -> Usage:
        """What all calls of this client have cost so far."""
        return self._totals

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"

    def __copy__(self) -> Self:
        return type(self)(self.config, http_client=self._http_client, cache=self.cache)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._http_client is not None:
            message = (
                "a client of your own (http_client, http_async_client) can't be pickled, and a copy without "
                "it would connect in another way. Set proxies and certificates in the environment instead "
                "(HTTPS_PROXY, SSL_CERT_FILE): the default clients read them in every process"
            )
            raise TypeError(message)
        return partial(type(self), cache=self.cache), (self.config,)

    def _count(self, usage: Usage) -> None:
        with self._totals_lock:
            self._totals += usage


class EmbeddingClient(_BaseClient):
    """
    Embed texts, waiting for the answers.

    Safe to use from several threads at once, and after a fork, unless it was given a client. Copies and
    pickles take the settings along, not the connections; a pickle does not take the key either, an unpickled
    copy reads it from its environment. ``close`` frees the connections; a later call opens new ones.

    Args:
        config: The settings; None takes the defaults and the environment.

        http_client: An ``httpx.Client`` to send with; None makes what is needed. It is used as it is, but
            for authorisation, timeouts and redirects, and never closed.

        cache: Where embeddings are looked up first, and stored as soon as they are there: a `SQLiteCache`, or
            the path of its file, or anything with the methods of `Cache`. None keeps nothing.

        learned: What another client of the same account has found out of the service's limits, to share it
            and the fixed rates with that client; None starts anew.

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.
    """

    _kind = "Client"

    def _open(self) -> None:
        self._sender = Sender(self.config, self._clock, self.learned.pace, self._http_client)

    def embed(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], object] | None = None,
    ) -> EmbeddingResult:
        """
        Embed texts.

        Args:
            texts: Any number of strings, none blank. Identical ones are sent once.

            role: ``query`` puts the configured ``query_instruction`` before each text.

            admit: A rate limiter of your own, called before each request, repeated ones included, with the
                tokens expected in it; the request is sent when it returns. One call is made at a time. None
                for none.

        Returns:
            Embeddings of shape (texts, dimensions), row i for text i, and what they cost.

        Raises:
            InputError: If some of the texts can't be embedded; nothing is sent then.

            CacheError: If the cache can't be read; nothing is sent then.

            EmbeddingBatchError: If some texts were embedded and some were not.

            QwenAIMLError: What went wrong first, if no text was embedded.
        """
        stopped = threading.Event()
        job, call = self._job(texts, role, self._sender.turns, stopped, has_limiter=admit is not None)
        with Watch(None if call.deadline is None else call.seconds_left()) as watch:
            driver = Driver(self._sender, self._clock, stopped, watch, self.cache, admit)
            driver.drive(job.look_up())
            workers = min(self.config.concurrency, job.batches)
            try:
                if workers > 1:
                    _work_in_threads(driver, job, call, workers)
                else:
                    _work(driver, job)
            finally:
                self._count(call.usage)
        return job.result()

    def close(self) -> None:
        """Close the connections, those in use as soon as they are free, and a cache given by its path."""
        self._sender.close()
        self._close_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._sender.abandon()
        self._open()


class AsyncEmbeddingClient(_BaseClient):
    """
    Embed texts, awaiting the answers, on asyncio or Trio.

    The same as `EmbeddingClient`, awaited. One object serves any number of event loops, one after the other
    or at once in several threads: each has connections of its own, which are closed when the loop ends, or
    with ``aclose``. On Trio, close an object that is dropped before that, or Trio warns.

    Args:
        config: The settings; None takes the defaults and the environment.

        http_client: An ``httpx.AsyncClient`` to send with, in every event loop; None makes what is needed. It
            is used as it is, but for authorisation, timeouts and redirects, and never closed.

        cache: As in `EmbeddingClient`.

        learned: As in `EmbeddingClient`, also between the two.

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.
    """

    _kind = "AsyncClient"

    def _open(self) -> None:
        # By event loop, each with what closes it when the loop ends.
        self._senders: WeakKeyDictionary[Any, tuple[AsyncSender, AsyncGenerator[None, None]]]
        self._senders = WeakKeyDictionary()

    async def embed(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], Awaitable[object]] | None = None,
    ) -> EmbeddingResult:
        """Embed as `EmbeddingClient.embed` does, awaited, *admit* too. Cancelling it ends its requests."""
        stopped = anyio.Event()
        sender = await self._sender()
        job, call = self._job(texts, role, sender.turns, stopped, has_limiter=admit is not None)
        driver = AsyncDriver(sender, self._clock, stopped, self.cache, admit)
        await driver.drive(job.look_up())
        try:
            # Also for one worker alone: asyncio's own cancellation ends what is shielded, but not in a child.
            async with anyio.create_task_group() as group:
                for _ in range(min(self.config.concurrency, job.batches)):
                    group.start_soon(_awork, driver, job)
        finally:
            self._count(call.usage)
        return job.result()

    async def aclose(self) -> None:
        """Close the connections of this event loop, and a cache given by its path."""
        self._close_cache()
        _, closing = self._senders.pop(current_loop(), (None, None))
        if closing is not None:
            await closing.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _sender(self) -> AsyncSender:
        loop = current_loop()
        if loop in self._senders:
            return self._senders[loop][0]
        # Loops that have ended, with or without closing their asynchronous generators first.
        for other in self._senders.keyrefs():
            if (ended := other()) is None:
                continue
            left, _ = self._senders.get(ended, (None, None))
            if left is not None and (left.closed or is_closed(ended)):
                self._senders.pop(ended, None)
        sender = AsyncSender(self.config, self._clock, self.learned.pace, self._http_client)
        closing = close_with_loop(sender)
        self._senders[loop] = (sender, closing)
        if self._http_client is None:
            await anext(closing)
        return sender

    def _after_fork(self) -> None:
        super()._after_fork()
        self._open()


def _work_in_threads(driver: Driver, job: Job, call: Call, workers: int) -> None:
    with ThreadPoolExecutor(workers, thread_name_prefix="qwen_aiml") as pool:
        try:
            # Each thread sees the caller's context variables, which tracing rests on.
            for done in [pool.submit(copy_context().run, _work, driver, job) for _ in range(workers)]:
                done.result()
        except BaseException:
            # Interrupted, so that nobody waits for the answers; on the way out all threads are waited for.
            call.stop()
            driver.watch.break_off()
            raise


def _work(driver: Driver, job: Job) -> None:
    while (flow := job.next_flow()) is not None:
        driver.drive(flow)


async def _awork(driver: AsyncDriver, job: Job) -> None:
    while (flow := job.next_flow()) is not None:
        await driver.drive(flow)


_alive: WeakSet[_BaseClient] = WeakSet()


def _after_fork() -> None:
    for client in list(_alive):
        client._after_fork()  # noqa: SLF001 (of this module)


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_after_fork)
