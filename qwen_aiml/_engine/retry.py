"""
Which errors are transient, and how long to wait before a retry. No I/O, no clock here.

Source: no Retry-After has been seen from the service; Alibaba's throttles clear within 60 seconds.
"""

from __future__ import annotations

from datetime import timezone
from typing import TYPE_CHECKING

from .._errors import (
    APIStatusError,
    InsufficientCreditsError,
    QwenAIMLError,
    RateLimitError,
    ResponseFormatError,
    TransportError,
)
from .._protocol.status import is_retried

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0
LONGEST_RETRY_AFTER = 60.0


def is_transient(error: QwenAIMLError) -> bool:
    """Return whether a retry of the same request may succeed."""
    if isinstance(error, RateLimitError):
        return True  # even if its status was 200
    if isinstance(error, APIStatusError):
        return is_retried(error.status_code) and not isinstance(error, InsufficientCreditsError)
    if isinstance(error, TransportError):
        return error.transient
    return isinstance(error, ResponseFormatError)


def backoff(attempt: int, advised: float | None, random: Callable[[], float]) -> float:
    """
    Return the delay in seconds after a failed attempt.

    Args:
        attempt: The attempt that failed, from 1.

        advised: Seconds the service asked for; None if it did not.

        random: Returns numbers from 0 to 1.

    Returns:
        Half to all of 0.5 * 2**(attempt - 1) seconds, at most 30. Not less than half, since the request that
        first runs out of retries ends the call, and with 32 in flight one would soon draw only short delays.
        Or the advised seconds, plus jitter of up to a tenth so that requests do not all return at once.
    """
    if advised is not None:
        return advised * (1 + random() / 10)
    # The exponent is bounded, since 2.0**1024 overflows.
    return (1 + random()) / 2 * min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(attempt - 1, 16))


def throttled_backoff(attempt: int, random: Callable[[], float]) -> float:
    """
    Return the delay in seconds after a 429, before the request goes back into the queue.

    Args:
        attempt: The attempt that failed, from 1.

        random: Returns numbers from 0 to 1.

    Returns:
        0 after the first attempt, since the rate limiter makes all requests wait; then 1, 3, 9, 27 and 30
        seconds, plus up to a tenth, so that six attempts outlast most of a quota per minute. Also if the
        service advises a shorter time, since gateways send the same second whatever the limit.
    """
    if attempt == 1:
        return 0.0
    return min(LONGEST_BACKOFF, 2 * FIRST_BACKOFF * 3.0 ** min(attempt - 2, 16)) * (1 + random() / 10)


def retry_after(headers: Mapping[str, str], date: datetime) -> float | None:
    """
    Return the delay that the service asks for.

    Args:
        headers: Headers by lower-case name.

        date: The current time, with a time zone, for headers that give a date.

    Returns:
        Seconds, at most 60, so that no header can stall a call for an hour. None if there is no valid value,
        and for 0, since a wrong clock turns every date into 0.

    Source: RFC 9110, 10.2.3 (seconds or a date); ``retry-after-ms`` as OpenAI's SDKs read it.
    """
    header = headers.get("retry-after", "")
    seconds = _number(headers.get("retry-after-ms", ""), 1000)
    if seconds is None:
        seconds = _number(header)
    if seconds is None:
        seconds = _seconds_until(header, date)
    return min(seconds, LONGEST_RETRY_AFTER) if seconds else None


def _number(text: str, units: int = 1) -> float | None:
    try:
        value = float(text) / units
    except ValueError:
        return None
    # NaN compares false.
    return value if value >= 0 else None


def _seconds_until(text: str, date: datetime) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 (slow to import, and seldom needed)

    try:
        moment = parsedate_to_datetime(text)
    except (OverflowError, TypeError, ValueError):
        return None
    if moment.tzinfo is None:  # "-0000" means that the zone is not known
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - date).total_seconds())


def describe_cause(error: QwenAIMLError | None) -> str:
    """Describe why a request waits, without advice."""
    if isinstance(error, RateLimitError):
        return f"rate limited ({error.status_code})"
    if isinstance(error, APIStatusError):
        return f"HTTP {error.status_code}"
    return "rate limited" if error is None else str(error.args[0]).partition(". What to do: ")[0]
