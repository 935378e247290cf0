"""Sleep for fractions of a millisecond: with epoll, event loops round timeouts up to whole ones."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

import anyio

from .loops import runs_asyncio

# Longer sleeps need not be exact: a rate limit of hundreds per second leaves 2 ms between requests.
EXACT_SECONDS = 0.05


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
