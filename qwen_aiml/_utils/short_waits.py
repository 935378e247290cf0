"""
Exact short waits: with epoll, event loops round timeouts up to whole milliseconds.

`exact_selector` is for an event loop of our own, `sleep` for one of the caller's.
"""

from __future__ import annotations

import os
import select
import selectors
import sys
import time
from contextlib import suppress
from typing import Any

import anyio

from .loops import current_loop, runs_asyncio

# Longer waits need not be exact: a rate limit of hundreds per second leaves 2 ms between requests.
EXACT_SECONDS = 0.05
SHORTEST_TIMER = 1e-6  # seconds; a timer that is set to less than a nanosecond never ends
MAX_DESCRIPTOR = 1023  # of `select.select`


def exact_selector() -> selectors.BaseSelector:
    """Create the default selector; if that is epoll's, short timeouts are not rounded up to a millisecond."""
    default = selectors.DefaultSelector  # this and `wait` are looked up here, since gevent replaces them
    if default is not getattr(selectors, "EpollSelector", None):
        return default()

    wait = select.select

    class Exact(default):  # type: ignore[misc, valid-type]
        def select(self, timeout: float | None = None) -> Any:
            if timeout is not None and 0 < timeout < EXACT_SECONDS and self.fileno() <= MAX_DESCRIPTOR:
                wait([self], [], [], timeout)
                timeout = 0
            return super().select(timeout)

    return Exact()


async def sleep(seconds: float) -> None:
    """Sleep; exactly if that is short, on asyncio on Linux."""
    if sys.platform == "linux" and SHORTEST_TIMER <= seconds < EXACT_SECONDS and _has_coarse_timers():
        with suppress(OSError, ImportError):  # no file descriptor is left, or this Python lacks ctypes
            timer = _start_timer(seconds)
            try:
                await anyio.wait_readable(timer)
            finally:
                os.close(timer)
            return
    await anyio.sleep(seconds)


def _has_coarse_timers() -> bool:
    # On Trio, a test's clock may not be the system's.
    return runs_asyncio() and not getattr(current_loop(), "has_exact_timers", False)


def _start_timer(seconds: float) -> int:
    """Return a file descriptor that becomes readable after *seconds*, less than one."""
    flags = os.O_NONBLOCK | os.O_CLOEXEC  # the same as TFD_NONBLOCK and TFD_CLOEXEC
    if hasattr(os, "timerfd_create"):
        timer: int = os.timerfd_create(time.CLOCK_MONOTONIC, flags=flags)
        os.timerfd_settime(timer, initial=seconds)  # type: ignore[attr-defined,unused-ignore]
        return timer

    # Python older than 3.13.
    import ctypes  # noqa: PLC0415 (optional when Python is built)

    library = ctypes.pythonapi  # has the functions of the C library, too
    timer = library.timerfd_create(time.CLOCK_MONOTONIC, flags)
    if timer < 0:
        message = "no timer can be created"
        raise OSError(message)
    interval_and_seconds = (ctypes.c_long * 4)(0, 0, 0, int(seconds * 1e9))
    library.timerfd_settime(timer, 0, interval_and_seconds, None)
    return timer
