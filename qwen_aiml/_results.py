"""Results of a call. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct


class Usage(Struct, frozen=True):
    """
    Usage of some requests, as reported by the service.

    Attributes:
        requests: HTTP requests sent, retries included.

        total_tokens: Tokens billed; None if a response did not report them.

        credits_used: AI/ML API credits charged (2,000,000 are one US dollar); None if a response did not
            report them.

        cached: Distinct texts that came from the cache, and cost nothing.

        usd_spent: US dollars charged; None if a response did not report them.

    Source: AI/ML API docs, FAQ "How can I track my funds" (credits to dollars), "Request tracing and cost"
    (dollars); responses observed with and without ``meta.usage`` and its ``usd_spent``.
    """

    requests: int = 0
    total_tokens: int | None = 0
    credits_used: int | None = 0
    cached: int = 0
    usd_spent: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Add up; None if either is None."""
        return Usage(
            self.requests + other.requests,
            _sum(self.total_tokens, other.total_tokens),
            _sum(self.credits_used, other.credits_used),
            self.cached + other.cached,
            _sum(self.usd_spent, other.usd_spent),
        )


def _sum(a: Any, b: Any) -> Any:
    # Dollars are rounded far below a credit, or sums would show the error of binary fractions.
    return None if a is None or b is None else round(a + b, 12)


@dataclass(frozen=True)
class EmbeddingResult:
    """
    The embeddings of one call.

    Attributes:
        embeddings: Shape (texts, dimensions), row i for text i; lists, or ``array``s of float32 if *packed*.

        usage: Usage of the call.

        model: The model name in the response, which is the upstream's and need not be the one requested; None
            if no response named one, or none was needed.

        request_ids: The ids of the answers, to quote to the service's support, in the order they came.

        cached: How many distinct texts came from the cache.

        shortened: Positions of the texts that were too long and not embedded whole; see ``on_too_long``. Also
            of those that were billed at exactly as many tokens as the model takes, which the service may have
            truncated; that shows only where a request held one distinct text.
    """

    # Without the numbers, since event loops like to print what they hold.
    embeddings: list[list[float]] = field(repr=False)
    usage: Usage
    model: str | None = None
    request_ids: tuple[str, ...] = field(default=(), repr=False)
    cached: int = 0
    shortened: tuple[int, ...] = ()
