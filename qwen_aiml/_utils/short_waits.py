"""
Exact short waits: with epoll, event loops round timeouts up to whole milliseconds.

`exact_selector` is for an event loop of our own, `sleep` for any.
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

from .loops import runs_asyncio

# Longer waits need not be exact: a rate limit of hundreds per second leaves 2 ms between requests.
EXACT_SECONDS = 0.05
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
    """Sleep; exactly if that is short, on asyncio on Linux with Python 3.13 or newer."""
    if (
        sys.version_info >= (3, 13)
        and sys.platform == "linux"
        and 0 < seconds < EXACT_SECONDS
        and runs_asyncio()
    ):
        with suppress(OSError):  # no file descriptor is left
            timer = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
            try:
                os.timerfd_settime(timer, initial=seconds)
                await anyio.wait_readable(timer)
            finally:
                os.close(timer)
            return
    await anyio.sleep(seconds)
