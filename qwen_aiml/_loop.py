"""Waiting for many things at once in one thread, as event loops do: what a synchronous call runs in."""

from __future__ import annotations

import math
import selectors
import socket
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ._waits import Called, LookUp, Pause, Ready, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from ._waits import AnyWait

Task: TypeAlias = "Generator[AnyWait, Any, None]"

_START = Pause(0.0)


class Loop:
    """
    Takes generators to their ends, side by side. It is also the flag that ends pauses.

    What blocks is done in threads of its own, or where it runs itself if nothing else is to be done there.

    Args:
        now: Reads the clock that waits go by.

        threads: As many as there may be of those.
    """

    def __init__(self, now: Callable[[], float], threads: int) -> None:
        self._now = now
        self._threads = threads
        self._waits: dict[Task, AnyWait] = {}
        self._came: deque[tuple[Task, AnyWait, Any]] = deque()
        self._next_until = math.inf
        self._is_set = self._is_interrupted = self._has_news = False
        self._ident: int | None = None
        self._selector: selectors.BaseSelector | None = None
        self._wakers: tuple[socket.socket, ...] = ()
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def run(self, tasks: Iterable[Task]) -> None:
        """
        Take tasks to their ends, in the thread of the caller; one such call at a time.

        What one of them raises is raised, once the others are closed and no thread is left.
        """
        self._ident = threading.get_ident()
        for task in tasks:
            self._waits[task] = _START
            self._came.append((task, _START, None))
        try:
            while self._waits:
                if self._came:
                    self._go_on(*self._came.popleft())
                elif self._has_news:
                    self._end_waits()
                else:
                    self._wait()
        finally:
            self._end()

    def set(self) -> None:
        """End all pauses, also those to come; from any thread."""
        self._is_set = self._has_news = True
        self._wake()

    def is_set(self) -> bool:
        """Tell whether that was asked for."""
        return self._is_set

    def interrupt(self) -> None:
        """End whatever can be ended of what is waited for, also of what is to come; from any thread."""
        self._is_interrupted = True
        self.set()

    def _go_on(self, task: Task, wait: AnyWait, outcome: Any) -> None:
        if self._waits.get(task) is not wait:
            return  # another outcome came first
        if isinstance(wait, Ready):
            self._selecting().unregister(wait.socket)
        try:
            wait = task.throw(outcome) if isinstance(outcome, BaseException) else task.send(outcome)
        except BaseException as end:
            del self._waits[task]
            if isinstance(end, StopIteration):
                return
            raise
        self._waits[task] = wait
        self._has_news = self._has_news or self._is_set
        self._begin(wait, partial(self._tell, task, wait))

    def _begin(self, wait: AnyWait, tell: Callable[[Any], None]) -> None:
        if isinstance(wait, Ready):
            event = selectors.EVENT_WRITE if wait.to_write else selectors.EVENT_READ
            self._selecting().register(wait.socket, event, tell)
        elif isinstance(wait, Called):
            wait.by(partial(tell, None))
        elif isinstance(wait, LookUp):
            self._run(partial(socket.getaddrinfo, wait.host, wait.port, type=socket.SOCK_STREAM), tell)
        elif isinstance(wait, Run):
            self._run(wait.function, tell, must_end=wait.break_off is not None)
        self._next_until = min(self._next_until, wait.until)

    def _run(
        self, function: Callable[[], Any], tell: Callable[[Any], None], *, must_end: bool = False
    ) -> None:
        if len(self._waits) == 1 and not must_end:
            try:
                tell(function())
            except Exception as error:  # noqa: BLE001 (raised in the task)
                tell(error)
            return
        self._pool = self._pool or ThreadPoolExecutor(self._threads, thread_name_prefix="qwen_aiml")
        # The function sees the caller's context variables, which tracing rests on.
        self._pool.submit(copy_context().run, _tell_outcome, function, tell)

    def _tell(self, task: Task, wait: AnyWait, outcome: Any) -> None:
        self._came.append((task, wait, outcome))
        self._wake()

    def _wait(self) -> None:
        selector = self._selecting()
        if self._came or self._has_news:
            return  # from another thread, which found nothing to wake yet
        seconds = None if self._next_until == math.inf else max(0.0, self._next_until - self._now())
        for key, _ in selector.select(seconds):
            if key.data is None:
                self._wakers[0].recv(4096)
            else:
                key.data(outcome=True)
        if self._now() >= self._next_until:
            self._end_waits()

    def _end_waits(self) -> None:
        """End those whose time is up, and those that a flag ends."""
        now = self._now()
        self._has_news = False
        self._next_until = math.inf
        for task, wait in self._waits.items():
            over = self._is_interrupted or (self._is_set and isinstance(wait, Pause))
            if not over and wait.until > now:
                self._next_until = min(self._next_until, wait.until)
            elif isinstance(wait, Run):
                if wait.break_off is not None:
                    wait.break_off()
            elif not isinstance(wait, LookUp):
                broken_off = self._is_interrupted and isinstance(wait, Ready)
                self._tell(task, wait, ConnectionAbortedError("interrupted") if broken_off else False)

    def _end(self) -> None:
        for wait in self._waits.values():
            if isinstance(wait, Run) and wait.break_off is not None:
                wait.break_off()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        left, self._waits = self._waits, {}
        self._came.clear()
        for task in left:
            task.close()
        with self._lock:
            if self._selector is not None:
                self._selector.close()
            self._selector = None
            for each in self._wakers:
                each.close()
            self._wakers = ()
        self._next_until = math.inf

    def _selecting(self) -> selectors.BaseSelector:
        with self._lock:
            if self._selector is None:
                self._selector = selectors.DefaultSelector()
                self._wakers = socket.socketpair()
                for each in self._wakers:
                    each.settimeout(0.0)
                self._selector.register(self._wakers[0], selectors.EVENT_READ)
            return self._selector

    def _wake(self) -> None:
        if threading.get_ident() == self._ident:
            return
        with self._lock, suppress(BlockingIOError):
            if self._wakers:
                self._wakers[1].send(b"\0")


def _tell_outcome(function: Callable[[], Any], tell: Callable[[Any], None]) -> None:
    try:
        outcome = function()
    except BaseException as error:  # noqa: BLE001 (raised in the task)
        outcome = error
    tell(outcome)
