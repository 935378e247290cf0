"""Budgets of tokens and dollars: near the limit requests wait, at the limit they are not sent."""

from __future__ import annotations

import math
import os
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeAlias

from .._errors import SpentError, advised
from .._results import Usage
from .._utils.loops import current_loop, is_closed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from .._protocol.response import Response

    Place: TypeAlias = tuple[int, Any]  # the process and the event loop of a request

# Seconds between checks of requests in flight, which may be in other threads and event loops.
POLL = 0.05

CREDITS_PER_USD = 2_000_000  # Source: AI/ML API docs, FAQ "How can I track my funds"

MILLION = 1_000_000


class Budget:
    """
    Limits on tokens and cost, the usage so far, and the expected usage of requests in flight.

    Callers hold the lock `usage_lock`, since requests in several threads use the same budget.

    Args:
        max_tokens: Maximum number of tokens billed; None means no limit.

        max_cost_usd: Maximum cost in US dollars; None means no limit.

        usd_per_million_tokens: The price; None means the cost that responses report.
    """

    def __init__(
        self, max_tokens: int | None, max_cost_usd: float | None, usd_per_million_tokens: float | None
    ) -> None:
        self._max_tokens = math.inf if max_tokens is None else max_tokens
        self._max_usd = math.inf if max_cost_usd is None else max_cost_usd
        self._price = usd_per_million_tokens
        self._tokens = self._usd = 0.0
        # A forked child inherits its parent's reservations, but never gets those responses; neither does an
        # event loop that was closed. Whole numbers, so that they add up to 0 again.
        self._reserved: defaultdict[Place, int] = defaultdict(int)
        self._is_cost_unknown = False

    def has_room(self, here: Place) -> bool:
        """
        Return whether a request may start; if not, requests in flight may still leave room for it.

        An event loop that has none in flight never waits: those of others may wait for it, such as those of
        one that a sync call blocks.

        Raises:
            SpentError: If the budget is used up, whatever requests in flight use.
        """
        if self._tokens >= self._max_tokens:
            raise SpentError(f"max_tokens={self._max_tokens} is reached: {self._tokens:.0f} tokens")
        if self._is_cost_unknown:
            message = f"max_cost_usd={self._max_usd} can't be kept: a response did not report its cost"
            raise SpentError(advised(message, "give usd_per_million_tokens"))
        if self._usd >= self._max_usd:
            raise SpentError(f"max_cost_usd={self._max_usd} is reached: {self._usd:.12g} USD")
        if here not in self._reserved:
            return True
        reserved = sum(
            tokens
            for (process, loop), tokens in self._reserved.items()
            if process == here[0] and not is_closed(loop)
        )
        if self._tokens + reserved >= self._max_tokens:
            return False
        if self._price is not None:
            usd_per_token = self._price / MILLION
        elif self._tokens:
            usd_per_token = self._usd / self._tokens
        else:
            return self._max_usd == math.inf  # one at a time until the price is known
        return self._usd + reserved * usd_per_token < self._max_usd

    def reserve(self, here: Place, tokens: float) -> None:
        """Reserve the expected tokens of a request."""
        self._reserved[here] += math.ceil(tokens)

    def settle(self, here: Place, tokens: float, usage: Usage) -> None:
        """Replace a reservation with the actual usage."""
        self._reserved[here] -= math.ceil(tokens)
        if not self._reserved[here]:
            del self._reserved[here]
        billed = tokens if usage.total_tokens is None else usage.total_tokens
        self._tokens += billed
        if self._price is not None:
            self._usd += billed * self._price / MILLION
        elif usage.usd_spent is not None:
            self._usd += usage.usd_spent
        elif usage.credits_used is not None:
            self._usd += usage.credits_used / CREDITS_PER_USD
        else:
            self._is_cost_unknown = self._max_usd < math.inf


# One lock for all blocks, held for an addition, and during a fork, so that it is free in the child.
usage_lock = threading.RLock()
if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(
        before=usage_lock.acquire, after_in_parent=usage_lock.release, after_in_child=usage_lock.release
    )


async def within_budgets(
    budgets: Sequence[Budget],
    tokens: float,
    attempt: Callable[[float], Awaitable[Response]],
) -> Response:
    """
    Make an attempt once all budgets of its call have room.

    Args:
        budgets: The budgets of the call; may be empty.

        tokens: Expected tokens of the request.

        attempt: Sends the request; takes the expected tokens.

    Raises:
        SpentError: If a budget is used up.
    """
    if not budgets:
        return await attempt(tokens)
    here = os.getpid(), current_loop()
    while not _reserved(budgets, here, tokens):
        import anyio  # noqa: PLC0415 (slow to import; the first client has imported it)

        await anyio.sleep(POLL)
    usage = Usage()
    try:
        response = await attempt(tokens)
        usage = response.usage
    finally:
        with usage_lock:
            for budget in budgets:
                budget.settle(here, tokens, usage)
    return response


def _reserved(budgets: Sequence[Budget], here: Place, tokens: float) -> bool:
    with usage_lock:
        if not all(budget.has_room(here) for budget in budgets):
            return False
        for budget in budgets:
            budget.reserve(here, tokens)
    return True
