"""A bound on what happens at once that serves threads in the order they came. No I/O here."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """
    A semaphore that is fair.

    With the standard library's, the thread that gives a turn back takes it again at once, so that a query
    waits until a whole ingestion in other threads is done.

    Args:
        count: Turns that may be held at once.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    def take(self, seconds: float | None) -> bool:
        """
        Wait for a turn.

        Args:
            seconds: How long; None for as long as it takes.

        Returns:
            Whether there was one in time. If so, `give_back` is to be called.
        """
        mine = threading.Lock()
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            mine.acquire()
            self._waiting.append(mine)
        try:
            called = mine.acquire(timeout=-1 if seconds is None else seconds)
        except BaseException:
            # Interrupted, perhaps after the turn was handed over.
            if not self._withdraw(mine):
                self.give_back()
            raise
        return called or not self._withdraw(mine)

    def give_back(self) -> None:
        """Hand a turn to whoever has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1

    def _withdraw(self, mine: threading.Lock) -> bool:
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return True
            return False
