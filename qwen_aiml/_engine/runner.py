"""The background event loop of synchronous calls: one per process, in a daemon thread, started on demand."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import sys
import threading
import time
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from .._errors import ConfigurationError
from .._utils.short_waits import exact_selector
from .._utils.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_Result = TypeVar("_Result")

# Interval at which a waiting thread checks for signals: on Windows, Ctrl-C does not end a wait on a lock.
SIGNAL_SECONDS = 0.5

# Seconds to wait for the end of something cancelled or closed. Garbage collection may do either, in a thread
# that holds a lock for which the event loop waits.
END_SECONDS = 5.0


class BackgroundCall:
    """
    A coroutine function that runs in the background event loop, on behalf of one thread.

    Args:
        function: The coroutine function.

        on_end: Called in the event loop once the function has ended.

    Attributes:
        error: The exception that the function raised; None if there is none.
    """

    def __init__(
        self, function: Callable[[], Awaitable[object]], on_end: Callable[[], object] = lambda: None
    ) -> None:
        self._function = function
        self._task: asyncio.Task[None] | None = None
        self._scope: anyio.CancelScope | None = None
        self._is_cancelled = False
        self._has_ended = False
        # Functions for the waiting thread to call; None once the coroutine function has ended. Not a `Queue`:
        # an interrupt can leave its lock locked, and the event loop would hang.
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._on_end = on_end
        self.error: BaseException | None = None
        self._loop: _BackgroundLoop | None = None

    def start(self) -> None:
        """
        Start the function, with the context variables of this thread.

        Raises:
            ConfigurationError: If the background event loop can't be started, or at interpreter shutdown.
        """
        _check_interpreter()
        context = copy_context()
        context.run(_forget_async_library)
        self._loop = background_loop()
        if self._loop is None:
            _run_here(self._main)
        else:
            self._loop.call_soon_threadsafe(self._begin, context=context)

    def run(self) -> None:
        """
        Start the function and wait for its end; meanwhile, call the functions passed to `call`.

        An interrupt, or an exception of such a call, cancels the function and is raised once it has ended, or
        after `END_SECONDS`.

        Raises:
            BaseException: The exception that the function raised.
        """
        try:
            self.start()
            while (function := wait_for(self._calls)) is not None:
                function()
                self.check_not_forked()
        except BaseException:
            self.cancel()
            self.join()
            raise
        if self.error is not None:
            raise self.error

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the waiting thread, or here if there is no background event loop."""
        if self._loop is None:
            function()
        else:
            self._calls.put(function)

    @property
    def _is_of_parent(self) -> bool:
        return self._loop in _background.parents

    def check_not_forked(self) -> None:
        """
        Check that this process runs the function.

        Raises:
            ConfigurationError: If its parent process does: the function was started before a fork.
        """
        if self._is_of_parent:
            message = (
                "a call or embed_iter that was started before a fork continues only in the parent process. "
                "Start another one in this process"
            )
            raise ConfigurationError(message)

    def cancel(self) -> None:
        """Cancel the function, from any thread; it ends soon, after its clean-up."""
        if self._loop is not None and not self._is_of_parent:
            self._loop.call_soon_threadsafe(self._cancel)

    def join(self, seconds: float = END_SECONDS) -> None:
        """Wait for the end, at most some seconds; return at once in the event loop's thread."""
        is_here = self._loop is None or threading.get_ident() == self._loop.thread.ident
        if is_here or self._is_of_parent or sys.is_finalizing():
            return
        until = RealTime.now() + seconds
        while not self._has_ended and RealTime.now() < until:
            with suppress(queue.Empty):
                self._calls.get(timeout=SIGNAL_SECONDS)

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._main())

    async def _main(self) -> None:
        try:
            with anyio.CancelScope() as self._scope:
                if self._is_cancelled:
                    self._scope.cancel()
                await self._function()
        except BaseException as error:  # noqa: BLE001 (raised in the thread that waits)
            self.error = error
        finally:
            self._note_end()
            self._on_end()

    def _note_end(self) -> None:
        self._has_ended = True
        self._calls.put(None)

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._task is None:
            # Interrupted before the function was handed to the event loop.
            self._note_end()
        elif self._scope is not None:
            self._scope.cancel()


def wait_for(inbox: queue.SimpleQueue[_Result]) -> _Result:
    """Wait for the next item; an interrupt ends the wait."""
    while True:
        try:
            return inbox.get(timeout=SIGNAL_SECONDS)
        except queue.Empty:
            _check_interpreter()


def _check_interpreter() -> None:
    """Raise `ConfigurationError` at interpreter shutdown, when daemon threads no longer run."""
    if sys.is_finalizing():
        message = (
            "a synchronous call can't be made any more: the interpreter is shutting down. What to do: make "
            "it before, such as in a with block or in a function registered with atexit, not in __del__"
        )
        raise ConfigurationError(message)


class RealTime:
    """
    The system's clock, even if a test has replaced ``time.monotonic``.

    It is a class attribute, since tools that freeze time replace the function in all modules.
    """

    now = staticmethod(time.monotonic)


class _BackgroundLoop(asyncio.SelectorEventLoop):
    """The event loop of the background thread."""

    time = RealTime.now
    has_exact_timers = True  # see `short_waits.sleep`

    def __init__(self) -> None:
        super().__init__(exact_selector())
        self.thread = threading.Thread(target=self._run, name="qwen_aiml", daemon=True)

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        # asyncio's executor rejects work once the main thread has ended.
        return await run_in_thread(partial(socket.getaddrinfo, host, port, **options))

    def _run(self) -> None:
        while True:
            # A task that a user's function has created may end the loop in these ways, or stop it; without
            # it, this call and all later ones would wait forever.
            with suppress(SystemExit, KeyboardInterrupt):
                self.run_forever()


class _Background:
    """The background event loop of this process; None until it is needed, and after a fork."""

    def __init__(self) -> None:
        self.loop: _BackgroundLoop | None = None
        self.parents: list[_BackgroundLoop] = []

    @property
    def lock(self) -> threading.Lock:
        """Held while the loop starts; created when needed, since gevent may replace the class until then."""
        lock: threading.Lock = self.__dict__.setdefault("_lock", threading.Lock())
        return lock

    def after_fork(self) -> None:
        """Abandon the parent's loop, but do not free it: that would affect sockets that both share."""
        self.__dict__.pop("_lock", None)
        if self.loop is not None:
            self.parents.append(self.loop)
        self.loop = None


_background = _Background()
if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_background.after_fork)


def background_loop() -> _BackgroundLoop | None:
    """
    Return the event loop, started if needed; None if no thread can be started (shutdown, or a limit).

    Raises:
        ConfigurationError: If sockets are blocked, or if this is called in the event loop's own thread.
    """
    with _background.lock:
        if _background.loop is None:
            try:
                # Checked first, since a partly created loop would warn when it is collected.
                for end in socket.socketpair():
                    end.close()
                loop = _BackgroundLoop()
            except Exception as error:
                reason = getattr(error, "strerror", None) or type(error).__name__
                message = (
                    f"the event loop of synchronous calls can't be created ({reason}): it needs a pair of "
                    "sockets. What to do: with pytest-socket, add --allow-unix-socket; if too many files are "
                    "open, close some or raise the limit (ulimit -n)"
                )
                raise ConfigurationError(message) from error
            try:
                loop.thread.start()
            except RuntimeError:
                loop.close()
                return None
            _background.loop = loop
        loop = _background.loop
    if threading.get_ident() == loop.thread.ident:
        message = "a synchronous call can't be made in the thread that runs synchronous calls"
        raise ConfigurationError(message)
    return loop


def _run_here(function: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function in this thread, to completion."""
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 (documented, and there is no other way)
        message = (
            "a synchronous call inside a running event loop needs a thread, and none can be started: the "
            "interpreter is shutting down, or the limit of threads is reached"
        )
        raise ConfigurationError(message)
    loop = _BackgroundLoop()
    try:
        loop.run_until_complete(function())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _forget_async_library() -> None:
    # A caller on Trio has its name in a context variable, which the new task would inherit.
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set(None)
