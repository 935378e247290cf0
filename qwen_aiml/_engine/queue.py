"""A line in which requests wait to start, fair to calls that come later. No I/O, and no waiting here."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Turn:
    """
    One place in the line.

    Args:
        owner: The call that the request is part of.

    Attributes:
        has_come: Whether this is the request that may start next.
    """

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.has_come = False
        self.call: Callable[[], None] = _nobody_waits


class Turns:
    """
    Who may start next, and how many have started and not ended. Safe in several threads.

    One turn at a time comes, so that its holder can wait for the right moment while all others stay in line.
    Calls are served round robin: a query gets its turn in the midst of an ingestion.

    Args:
        limit: Tells how many may have started at once, the next one included.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        self._started: set[Turn] = set()
        self._next: Turn | None = None
        self._waiting: OrderedDict[object, deque[Turn]] = OrderedDict()
        self._lock = threading.Lock()

    def enter(self, turn: Turn) -> None:
        """Go to the end of the line of the turn's owner, the call that the request is part of."""
        with self._lock:
            self._waiting.setdefault(turn.owner, deque()).append(turn)
        self._serve()

    def when_it_comes(self, turn: Turn, call: Callable[[], None]) -> None:
        """
        Have *call* called as soon as the turn has come or was withdrawn, which may be now.

        Args:
            turn: One that was entered.

            call: Must neither wait nor raise; it comes from any thread.
        """
        with self._lock:
            turn.call = call
            settled = turn.has_come or turn not in self._waiting.get(turn.owner, ())
        if settled:
            call()

    def start(self, turn: Turn) -> None:
        """Count the turn, which has come, as started; the next one may come."""
        with self._lock:
            self._started.add(turn)
            self._next = None
        self._serve()

    def leave(self, turn: Turn) -> None:
        """End the turn, wherever it is."""
        with self._lock:
            self._started.discard(turn)
            if turn is self._next:
                self._next = None
            line = self._waiting.get(turn.owner, deque())
            if turn in line:
                line.remove(turn)
                if not line:
                    del self._waiting[turn.owner]
        self._serve()

    def dismiss(self, owner: object) -> None:
        """Withdraw all turns of *owner* that have not come, and call those who wait for them."""
        with self._lock:
            dismissed = self._waiting.pop(owner, deque())
        for turn in dismissed:
            turn.call()

    def _serve(self) -> None:
        with self._lock:
            if self._next is not None or not self._waiting or len(self._started) >= self._limit():
                return
            owner, line = self._waiting.popitem(last=False)
            self._next = turn = line.popleft()
            turn.has_come = True
            if line:
                self._waiting[owner] = line
        turn.call()


def _nobody_waits() -> None:
    pass
