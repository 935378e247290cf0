"""What calls and clients report: embeddings, usage, limits. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
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
        """Add the fields; a sum is None if either value is None."""
        return Usage(
            self.requests + other.requests,
            _sum(self.total_tokens, other.total_tokens),
            _sum(self.credits_used, other.credits_used),
            self.cached + other.cached,
            _sum(self.usd_spent, other.usd_spent),
        )


def _sum(a: Any, b: Any) -> Any:
    # Rounded far below one credit, so that sums of dollars do not show binary rounding errors.
    return None if a is None or b is None else round(a + b, 12)


@dataclass(frozen=True)
class Limits:
    """
    Current estimates of the service's limits.

    Attributes:
        requests_per_second: Estimated limit; None while none has been detected. Fixed limits are not
            included.

        in_flight: Current maximum number of requests in flight.

        texts_per_request: Maximum number of texts per request.
    """

    requests_per_second: float | None
    in_flight: int
    texts_per_request: int


@dataclass(frozen=True)
class EmbeddingResult:
    """
    The embeddings of one call.

    Attributes:
        embeddings: Shape (texts, dimensions), row i for text i; lists, or ``array``s of float32 if *packed*.

        usage: Usage of the call.

        model: The model name in the response, which may differ from the one requested. None if no response
            named one, or no request was needed.

        request_ids: IDs of the responses, in order of arrival, to quote to the service's support.

        cached: How many distinct texts came from the cache.

        shortened: Indices of the texts that were too long and were truncated or split; see ``on_too_long``.
            Includes texts billed at exactly the model's maximum number of tokens, which the service may have
            truncated; they are detected only in requests with one distinct text.
    """

    # Not in the repr, since event loops may print it.
    embeddings: list[list[float]] = field(repr=False)
    usage: Usage
    model: str | None = None
    request_ids: tuple[str, ...] = field(default=(), repr=False)
    cached: int = 0
    shortened: tuple[int, ...] = ()
