"""Locks of objects that forked processes also use."""

from __future__ import annotations

import os
from threading import RLock
from weakref import WeakSet


class ForkSafeLock:
    """
    A lock that is free in a forked process, where a thread that held it would never release it.

    Reentrant, since garbage collection may end a request in a thread that holds it.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Replace the lock."""
        self._lock = RLock()


_locks: WeakSet[ForkSafeLock] = WeakSet()


def _after_fork() -> None:
    for lock in list(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_after_fork)
