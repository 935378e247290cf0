"""Usage by block of code: `track_usage` counts the calls that are made in it. No I/O here."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from .._results import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Lock:
    """One lock for all blocks, held for an addition; replaced after a fork, where it may have been held."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def after_fork(self) -> None:
        self.lock = threading.Lock()


class TrackedUsage:
    """
    Usage of the calls made in a `track_usage` block, up to now.

    It may be read from any thread, also after the block: requests that are still in flight then count as
    soon as they end.
    """

    def __init__(self) -> None:
        self._total = Usage()

    @property
    def total(self) -> Usage:
        """All of it, as a value that does not change any more."""
        return self._total

    @property
    def requests(self) -> int:
        """HTTP requests sent, retries included."""
        return self._total.requests

    @property
    def total_tokens(self) -> int | None:
        """Tokens billed; None if a response did not report them."""
        return self._total.total_tokens

    @property
    def credits_used(self) -> int | None:
        """AI/ML API credits charged; None if a response did not report them."""
        return self._total.credits_used

    @property
    def cached(self) -> int:
        """Distinct texts of each call that came from the cache."""
        return self._total.cached

    @property
    def usd_spent(self) -> float | None:
        """US dollars charged; None if a response did not report them."""
        return self._total.usd_spent

    def add(self, usage: Usage) -> None:
        """Add the usage of one request, or of one cache look-up."""
        with _lock.lock:
            self._total += usage

    def __repr__(self) -> str:
        return f"Tracked{self._total!r}"


_lock = _Lock()
if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_lock.after_fork)

_open: ContextVar[tuple[TrackedUsage, ...]] = ContextVar("qwen_aiml_tracked", default=())


def open_blocks() -> tuple[TrackedUsage, ...]:
    """Give the blocks that a call made here counts in, outermost first."""
    return _open.get()


@contextmanager
def track_usage() -> Iterator[TrackedUsage]:
    """
    Count what the calls made in a ``with`` block use, of all clients and of the classes of both frameworks.

    The block is kept in a context variable: asyncio and Trio tasks that are started in it count, other tasks
    and threads do not. A thread started in it counts if it is given the context:
    ``contextvars.copy_context().run`` as its target, or ``asyncio.to_thread``. In nested blocks, each counts.
    ``embed_iter`` counts in the blocks in which it is called, wherever its rows are read.

    Yields:
        The usage up to now, which grows with each request.
    """
    tracked = TrackedUsage()
    token = _open.set((*_open.get(), tracked))
    try:
        yield tracked
    finally:
        _open.reset(token)
