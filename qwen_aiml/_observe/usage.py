"""Usage per block of code: `track_usage` counts the calls made in it. No I/O here."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from .._config import check_integer, check_positive
from .._results import Usage
from .budget import Budget, usage_lock

if TYPE_CHECKING:
    from collections.abc import Iterator


class TrackedUsage:
    """
    Usage so far of the calls made in a `track_usage` block.

    It may be read from any thread, also after the block: requests still in flight at its end are counted when
    they complete.

    Attributes:
        budget: Limits on the usage of the calls; None means no limit.

        is_dropped: Whether the block was left in another context than it was entered in, as with a generator
            that is dropped. It then stays open in the first one, but calls made from now on do not count.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget
        self.is_dropped = False
        self._total = Usage()

    @property
    def total(self) -> Usage:
        """All totals so far, as an immutable snapshot."""
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
        while True:
            before = self._total
            after = before + usage
            with usage_lock:  # too short for garbage collection, which may end requests and wait for others
                if self._total is before:
                    self._total = after
                    return

    def __repr__(self) -> str:
        return f"Tracked{self._total!r}"


_open: ContextVar[tuple[TrackedUsage, ...]] = ContextVar("qwen_aiml_tracked", default=())


def current_blocks() -> tuple[TrackedUsage, ...]:
    """Return the blocks in which a call made here counts, outermost first."""
    return tuple(block for block in _open.get() if not block.is_dropped)


@contextmanager
def track_usage(
    *,
    max_tokens: int | None = None,
    max_cost_usd: float | None = None,
    usd_per_million_tokens: float | None = None,
) -> Iterator[TrackedUsage]:
    """
    Count, and optionally limit, the usage of calls made in a ``with`` block, by all clients and frameworks.

    The block is stored in a context variable. Calls in asyncio and Trio tasks that are started in it are
    counted; those in other tasks and threads are not. Those in a thread started in it are, if the thread is
    given the context: with ``contextvars.copy_context().run`` as its target, or by ``asyncio.to_thread``.
    Nested blocks all count a call. ``embed_iter`` is counted in the blocks in which it is called, wherever
    its rows are read.

    A request starts if the usage, plus the expected usage of requests in flight, is below the limits, or if
    the usage is and its event loop has no request in flight. So the last requests may exceed the limits
    slightly. After that, calls raise a `BudgetError` with the completed embeddings.

    Args:
        max_tokens: Maximum number of tokens billed; None means no limit. If a response does not report them,
            they are estimated from its request.

        max_cost_usd: Maximum cost in US dollars; None means no limit. The cost is computed from
            *usd_per_million_tokens* if given. Otherwise it is the one that responses report; after a response
            that reports none, calls raise a `BudgetError`.

        usd_per_million_tokens: The price; None if it is not known.

    Yields:
        The usage so far, updated with each request.

    Raises:
        ConfigurationError: If a limit or the price is not a number above 0.
    """
    if max_tokens is not None:
        check_integer("max_tokens", max_tokens, least=1)
    check_positive("max_cost_usd", max_cost_usd)
    check_positive("usd_per_million_tokens", usd_per_million_tokens)
    has_bound = max_tokens is not None or max_cost_usd is not None
    budget = Budget(max_tokens, max_cost_usd, usd_per_million_tokens) if has_bound else None
    tracked = TrackedUsage(budget)
    token = _open.set((*current_blocks(), tracked))
    try:
        yield tracked
    finally:
        # Blocks in generators may end in another order than they began, or in another context.
        others = tuple(block for block in _open.get() if block is not tracked)
        try:
            _open.reset(token)
        except ValueError:
            tracked.is_dropped = True
        _open.set(others)
