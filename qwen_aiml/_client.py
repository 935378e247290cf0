"""
The clients: workers, in both colours, that do what a job's flows ask for.

What is sent, whether to try again and when to end is decided in `_job` and `_flow`.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import anyio
import anyio.lowlevel

from ._config import EmbeddingConfig
from ._errors import ConfigurationError
from ._flow import Clock, Send
from ._job import Job
from ._result import EmbeddingResult, Usage
from ._sender import AsyncSender, Sender, check_http

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable

    from typing_extensions import Self

    from ._flow import Outcome, Step
    from ._texts import Role


class _BaseClient:
    """What both clients share: settings, running totals, copying."""

    _kind: Literal["Client", "AsyncClient"]

    def __init__(self, config: EmbeddingConfig | None = None, *, http_client: Any = None) -> None:
        if config is not None and not isinstance(config, EmbeddingConfig):
            made = type(config).__name__
            raise ConfigurationError(
                f"config must be an EmbeddingConfig, not {made}; write EmbeddingConfig(...)"
            )
        self.config = config or EmbeddingConfig()
        check_http(http_client, self._kind, self.config.endpoint)
        self._http_client = http_client
        self._clock = Clock(time.monotonic, lambda: datetime.now(timezone.utc), random.random)
        self._totals = Usage()
        self._totals_lock = threading.Lock()
        self._forked = False
        _alive.add(self)

    def _after_fork(self) -> None:
        """Leave the parent's connections and locks alone; other threads may have held them."""
        self._totals_lock = threading.Lock()
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

    Safe to use from several threads at once, and after a fork, unless it was given a client. Copies and
    pickles take the settings along, not the connections; a pickle does not take the key either, an unpickled
    copy reads it from its environment. ``close`` frees the connections; a later call opens new ones.

    Args:
        config: The settings; None takes the defaults and the environment.

        http_client: An ``httpx.Client`` to send with; None makes one when it is needed. It is used as it is,
            but for authorisation, timeouts and redirects, and never closed.

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.
    """

    _kind = "Client"

    def __init__(self, config: EmbeddingConfig | None = None, *, http_client: Any = None) -> None:
        super().__init__(config, http_client=http_client)
        self._sender = Sender(self.config, self._clock, self._http_client)

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
        self._check_fork()
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
        """Close the connections, those in use as soon as they are free."""
        self._sender.close()

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
        while (flow := job.next_flow()) is not None:
            self._drive(flow, stopped)

    def _drive(self, flow: Generator[Step, Outcome, None], stopped: threading.Event) -> None:
        outcome: Outcome = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration:
                return
            outcome = None
            if isinstance(step, Send):
                try:
                    outcome = self._sender.send(step)
                except Exception as crash:  # noqa: BLE001 (the flow decides what comes of it)
                    outcome = crash
            else:
                stopped.wait(step.seconds)

    def _after_fork(self) -> None:
        super()._after_fork()
        self._sender.abandon()
        self._sender = Sender(self.config, self._clock, self._http_client)


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

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.
    """

    _kind = "AsyncClient"

    def __init__(self, config: EmbeddingConfig | None = None, *, http_client: Any = None) -> None:
        super().__init__(config, http_client=http_client)
        # By event loop, each with what closes it when the loop ends.
        self._senders: WeakKeyDictionary[Any, tuple[AsyncSender, AsyncGenerator[None, None]]]
        self._senders = WeakKeyDictionary()

    async def embed(self, texts: Iterable[str], *, role: Role = "document") -> EmbeddingResult:
        """Embed as `EmbeddingClient.embed` does, awaited. Cancelling it ends its requests."""
        self._check_fork()
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
        """Close the connections of this event loop."""
        _, closing = self._senders.pop(_current_loop(), (None, None))
        if closing is not None:
            await closing.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _work(self, job: Job, stopped: anyio.Event) -> None:
        while (flow := job.next_flow()) is not None:
            await self._drive(flow, stopped)

    async def _drive(self, flow: Generator[Step, Outcome, None], stopped: anyio.Event) -> None:
        outcome: Outcome = None
        while True:
            try:
                step = flow.send(outcome)
            except StopIteration:
                return
            outcome = None
            if isinstance(step, Send):
                try:
                    outcome = await (await self._sender()).send(step)
                except Exception as crash:  # noqa: BLE001 (the flow decides what comes of it)
                    outcome = crash
            else:
                with anyio.move_on_after(step.seconds):
                    await stopped.wait()

    async def _sender(self) -> AsyncSender:
        loop = _current_loop()
        if loop in self._senders:
            return self._senders[loop][0]
        # Loops that have ended, with or without closing their asynchronous generators first.
        for other in self._senders.keyrefs():
            if (ended := other()) is None:
                continue
            left, _ = self._senders.get(ended, (None, None))
            if left is not None and (left.closed or _is_closed(ended)):
                self._senders.pop(ended, None)
        sender = AsyncSender(self.config, self._clock, self._http_client)
        closing = _close_with_loop(sender)
        self._senders[loop] = (sender, closing)
        if self._http_client is None:
            await anext(closing)
        return sender

    def _after_fork(self) -> None:
        super()._after_fork()
        self._senders = WeakKeyDictionary()


_alive: WeakSet[_BaseClient] = WeakSet()


def _after_fork() -> None:
    for client in list(_alive):
        client._after_fork()  # noqa: SLF001 (of this module)


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_after_fork)


async def _close_with_loop(sender: AsyncSender) -> AsyncGenerator[None, None]:
    """
    Close *sender* when the event loop ends.

    An event loop closes the asynchronous generators that were begun in it before it ends, which is the one
    moment at which connections that belong to it can still be closed.
    """
    try:
        yield
    finally:
        await sender.aclose()


def _is_closed(loop: Any) -> bool:
    # What stands for a loop of Trio does not tell.
    return isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()


def _current_loop() -> Any:
    token = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)
