"""Usage by block of code: `track_usage` counts the calls that are made in it. No I/O here."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from .._config import above_zero, whole
from .._results import Usage
from .budget import Budget, shared

if TYPE_CHECKING:
    from collections.abc import Iterator


class TrackedUsage:
    """
    Usage of the calls made in a `track_usage` block, up to now.

    It may be read from any thread, also after the block: requests that are still in flight then count as
    soon as they end.

    Attributes:
        budget: What the calls may use; None for any amount.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget
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
        with shared:
            self._total += usage

    def __repr__(self) -> str:
        return f"Tracked{self._total!r}"


# The blocks that a call made here counts in, outermost first.
open_blocks: ContextVar[tuple[TrackedUsage, ...]] = ContextVar("qwen_aiml_tracked", default=())


@contextmanager
def track_usage(
    *,
    max_tokens: int | None = None,
    max_cost_usd: float | None = None,
    usd_per_million_tokens: float | None = None,
) -> Iterator[TrackedUsage]:
    """
    Count, and bound, what the calls made in a ``with`` block use, of all clients and both frameworks.

    The block is kept in a context variable: asyncio and Trio tasks that are started in it count, other tasks
    and threads do not. A thread started in it counts if it is given the context:
    ``contextvars.copy_context().run`` as its target, or ``asyncio.to_thread``. In nested blocks, each counts.
    ``embed_iter`` counts in the blocks in which it is called, wherever its rows are read.

    A request starts as long as something is left of the bounds, less what those in flight are expected to
    use. So the last ones may use a little more. Then calls raise a `BudgetError` with what was embedded.

    Args:
        max_tokens: Tokens that may be billed; None for no bound. Where a response does not report them, they
            are estimated from its request.

        max_cost_usd: US dollars that may be charged; None for no bound. By *usd_per_million_tokens*, else by
            what responses report.

        usd_per_million_tokens: The price; None if it is not known.

    Yields:
        The usage up to now, which grows with each request.

    Raises:
        ConfigurationError: If a bound or the price is no number above 0.
    """
    if max_tokens is not None:
        whole("max_tokens", max_tokens, least=1)
    above_zero("max_cost_usd", max_cost_usd)
    above_zero("usd_per_million_tokens", usd_per_million_tokens)
    has_bound = max_tokens is not None or max_cost_usd is not None
    budget = Budget(max_tokens, max_cost_usd, usd_per_million_tokens) if has_bound else None
    tracked = TrackedUsage(budget)
    token = open_blocks.set((*open_blocks.get(), tracked))
    try:
        yield tracked
    finally:
        open_blocks.reset(token)
