"""Which failures are retried, and the delay before a retry."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from qwen_aiml import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    DeadlineError,
    InsufficientCreditsError,
    QwenAIMLError,
    RateLimitError,
    ResponseFormatError,
    TransportError,
)
from qwen_aiml._engine.retry import backoff, is_transient, retry_after, throttled_backoff

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Override the shared fixture: this file needs real delays."""


@pytest.mark.parametrize("status", [408, 409, 429, *range(500, 506), *range(520, 531), 599])
def test_transient_statuses(status: int) -> None:
    """These statuses are transient."""
    assert is_transient(APIStatusError("x", status_code=status))


@pytest.mark.parametrize("status", [300, 302, 400, 401, 402, 403, 404, 410, 413, 422, 511])
def test_permanent_statuses(status: int) -> None:
    """All other statuses are permanent."""
    assert not is_transient(APIStatusError("x", status_code=status))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TransportError("x"), True),
        (TransportError("x", transient=False), False),
        (ResponseFormatError("x"), True),
        (RateLimitError("x", status_code=429), True),
        (InsufficientCreditsError("x", status_code=429), False),
        (AuthenticationError("x", status_code=401), False),
        (DeadlineError("x"), False),
        (ConfigurationError("x"), False),
    ],
)
def test_transient_errors(error: QwenAIMLError, expected: bool) -> None:
    """A lack of credits is permanent, whatever the status."""
    assert expected == is_transient(error)


@pytest.mark.parametrize(
    ("attempt", "longest"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 16.0), (7, 30.0), (100, 30.0), (5000, 30.0)]
)
def test_backoff(attempt: int, longest: float) -> None:
    """The delay is random, from half a bound to all of it; the bound doubles up to a ceiling."""
    assert backoff(attempt, None, lambda: 1.0) == longest
    assert backoff(attempt, None, lambda: 0.5) == longest * 3 / 4
    assert backoff(attempt, None, lambda: 0.0) == longest / 2


def test_retries_outlast_a_short_outage() -> None:
    """Five retries outlast an outage of seven seconds, even if each draws the shortest delay."""
    assert sum(backoff(attempt, None, lambda: 0.0) for attempt in range(1, 6)) > 7


def test_advised_wait() -> None:
    """Retry-After is followed, with jitter so that not all requests retry at once."""
    assert backoff(1, 2.0, lambda: 0.0) == 2.0
    assert backoff(9, 2.0, lambda: 1.0) == 2.2


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "3"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3.0),
        ({"retry-after-ms": "0", "retry-after": "3"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:30 -0000"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 14:00:30 +0200"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Sun Nov  6 082:499999999999:7 19-94"}, None),
        ({"retry-after": "Sun, 99 Nov 2026 12:00:30 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    """Seconds, milliseconds and dates are parsed; malformed values and zero are ignored."""
    assert expected == retry_after(headers, NOW)


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "3600"},
        {"retry-after": "inf"},
        {"retry-after-ms": "3600000"},
        {"retry-after": "Sun, 22 Nov 2065 12:00:00 GMT"},
    ],
)
def test_endless_retry_after(headers: dict[str, str]) -> None:
    """A long or infinite Retry-After is limited to a minute."""
    assert retry_after(headers, NOW) == 60.0


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 0.0), (2, 1.0), (3, 3.0), (4, 9.0), (5, 27.0), (6, 30.0), (10_000, 30.0)]
)
def test_throttled_backoff(attempt: int, seconds: float) -> None:
    """The delay after repeated 429s grows, up to half a minute."""
    assert throttled_backoff(attempt, lambda: 0.0) == seconds
    assert throttled_backoff(attempt, lambda: 1.0) == pytest.approx(1.1 * seconds)
