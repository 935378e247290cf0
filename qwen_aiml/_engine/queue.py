"""The queue in which requests of one event loop wait to start; it serves calls round robin."""

from __future__ import annotations

from collections import OrderedDict, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .limiter import Start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .limiter import Limiter


class Ticket:
    """
    The place of one attempt in the queue.

    Args:
        owner: The call that the request is part of.

        on_wait: Called with the seconds that the limiter makes it wait, whenever it does; None for nothing.

    Attributes:
        start: What the limiter gave when the attempt started; None before.
    """

    __slots__ = ("came", "on_wait", "owner", "start")

    def __init__(self, owner: object, on_wait: Callable[[float], object] | None = None) -> None:
        self.owner = owner
        self.on_wait = on_wait
        self.start: Start | None = None
        self.came: anyio.Event | None = None


class Queue:
    """
    Which request starts next, and which are in flight.

    One ticket at a time is next and waits for the limiter; all others stay in the queue. Calls are served
    round robin, so that a query does not wait for a whole ingestion. For one event loop.

    Args:
        limiter: How many requests may be in flight, and when the next may start.

        now: The clock.
    """

    def __init__(self, limiter: Limiter, now: Callable[[], float]) -> None:
        self._limiter = limiter
        self._now = now
        self._in_flight: set[Ticket] = set()
        self._storing = 0
        self._next: Ticket | None = None
        self._waiting: OrderedDict[object, deque[Ticket]] = OrderedDict()

    @property
    def in_flight(self) -> int:
        """How many requests have started and not ended."""
        return len(self._in_flight)

    @property
    def _is_full(self) -> bool:
        in_flight = len(self._in_flight)
        return in_flight >= self._limiter.window or in_flight + self._storing >= self._limiter.most

    @contextmanager
    def storing(self) -> Iterator[None]:
        """Count a batch as in flight while it is stored: it is billed, and lost if the process ends."""
        self._storing += 1
        try:
            yield
        finally:
            self._storing -= 1
            self._serve()

    def start_now(self, ticket: Ticket, tokens: float) -> bool:
        """Start a request if it need not wait, and tell whether it did."""
        if self._next is not None or self._waiting or self._is_full:
            return False
        return self._start(ticket, tokens) is None

    async def start(self, ticket: Ticket, tokens: float, seconds_left: Callable[[], float]) -> bool:
        """
        Wait for the ticket's turn, then for the limiter, and start.

        Args:
            ticket: To be handed to `leave` in the end, whatever happens.

            tokens: Expected in the request.

            seconds_left: How long the call may still take.

        Returns:
            Whether it started; False if the limiter makes it wait for longer than the call may take.
        """
        self._waiting.setdefault(ticket.owner, deque()).append(ticket)
        self._serve()
        if self._next is not ticket:
            ticket.came = anyio.Event()
            await ticket.came.wait()
            # What made room may have stopped the call as well.
            await anyio.lowlevel.checkpoint_if_cancelled()
        while (seconds := self._start(ticket, tokens)) is not None:
            if seconds_left() <= seconds:
                return False
            if ticket.on_wait is not None:
                ticket.on_wait(seconds)
            await anyio.sleep(seconds)
        return True

    def leave(self, ticket: Ticket) -> None:
        """End a ticket, in whatever state it is."""
        self._in_flight.discard(ticket)
        if self._next is ticket:
            self._next = None
        waiting = self._waiting.get(ticket.owner)
        if waiting is not None and ticket in waiting:
            waiting.remove(ticket)
            if not waiting:
                del self._waiting[ticket.owner]
        self._serve()

    def _start(self, ticket: Ticket, tokens: float) -> float | None:
        """Start, or give the seconds to wait first."""
        start = self._limiter.take(self._now(), tokens)
        if not isinstance(start, Start):
            return start
        ticket.start = start
        self._in_flight.add(ticket)
        if self._next is ticket:
            self._next = None
            self._serve()
        return None

    def _serve(self) -> None:
        if self._next is not None or not self._waiting or self._is_full:
            return
        owner, waiting = self._waiting.popitem(last=False)
        self._next = ticket = waiting.popleft()
        if waiting:
            self._waiting[owner] = waiting
        if ticket.came is not None:
            ticket.came.set()
