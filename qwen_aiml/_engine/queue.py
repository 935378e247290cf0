"""The queue in which requests of one event loop wait to start."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .._utils.short_waits import sleep
from .limiter import Start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .limiter import Limiter


class Queue:
    """
    Decides which request starts next, and counts those in flight. For one event loop.

    One request at a time waits for a free slot and for the limiter; all others wait until it has started,
    first come, first served. Each call has only one request in the queue (`Call.starting` holds back the
    rest), so that calls are served round robin, and a query does not wait for a whole ingestion. The queues
    of several event loops take turns in the limiter.

    Args:
        limiter: Decides how many requests may be in flight, and when the next may start.

        now: The clock.

    Attributes:
        in_flight: Number of requests that have started and not ended.
    """

    def __init__(self, limiter: Limiter, now: Callable[[], float]) -> None:
        self._limiter = limiter
        self._now = now
        self._storing = 0
        self._starting = anyio.Lock(fast_acquire=True)
        self._ended = anyio.Event()
        self.in_flight = 0

    @property
    def _is_full(self) -> bool:
        return self.in_flight >= min(self._limiter.window, self._limiter.most - self._storing)

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Count a batch as in flight while it is being stored: it is billed, but lost if the process ends."""
        self._storing += 1
        try:
            yield
        finally:
            self._storing -= 1
            self._ended.set()

    async def start(
        self, tokens: float, seconds_left: Callable[[], float], on_wait: Callable[[float], object]
    ) -> Start | None:
        """
        Wait for the request's turn, for a free slot and for the limiter, then start it.

        Args:
            tokens: Expected tokens of the request.

            seconds_left: Returns the seconds left for the call.

            on_wait: Called before each wait for the limiter, with its seconds.

        Returns:
            The limiter's start, to be followed by one `end`; None if the wait for the limiter would exceed
            the time left.
        """
        async with self._starting:
            while self._is_full:
                self._ended = anyio.Event()
                await self._ended.wait()
            while True:
                # The event that ended the wait may have stopped the call as well.
                await anyio.lowlevel.checkpoint_if_cancelled()
                start = self._limiter.take(self._now(), tokens, self)
                if isinstance(start, Start):
                    self.in_flight += 1
                    return start
                if seconds_left() <= start:
                    return None
                on_wait(start)
                # An exact sleep takes more processor time, and only at a limit does a late start cost a slot.
                at_limit = self._limiter.limits.requests_per_second is not None
                await (sleep(start) if at_limit else anyio.sleep(start))

    def end(self) -> None:
        """Record that a request is no longer in flight."""
        self.in_flight -= 1
        self._ended.set()
