"""
How fast the requests of one client may start: fixed rates, and limits found out from refusals. No I/O here.

The service publishes no limits, so they are found. Requests start as fast as answers come, and one more is
under way at once after each round, until one is refused with 429. Then nothing starts until those under way
are answered and one more has been tried. If that one is accepted, too many were under way. If it is refused
as well, too many had started: all pause, and from there on requests start evenly at the rate that was just
accepted, less 5 %. That rate grows, slowly near where it failed and faster the longer nothing is refused, as
CUBIC does for TCP. Halving it instead would leave a quarter of what the service takes unused.

Source: CUBIC, RFC 9438. That limits hold for each second: Alibaba Cloud Model Studio, "Rate limits" (those a
minute are enforced a second as well); that AI/ML API has such limits is assumed.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

FIRST_WINDOW = 6
KEPT = 0.95  # of the rate that was just accepted
SLOW_GROWTH = 0.05  # after SLOW_REQUESTS at the rate kept, eightfold after twice as long
SLOW_REQUESTS = 200
FASTEST, SLOWEST = 0.5, 30.0  # seconds that may take
PATIENCE = 16  # rounds before one more is under way, near the number that was too many
REMEMBERED = 10.0  # seconds
EARLY = 0.01  # seconds a request may start before its time, since nobody wakes to the millisecond
LONGEST_PAUSE = 30.0
FIRST_RATIO = 1 / 3  # tokens a byte, until answers tell; English has 0.2, Chinese 0.25, code 0.4


@dataclass(eq=False)
class Start:
    """
    One request that has started.

    Attributes:
        at: When, by the clock.

        tokens: Expected in it.

        level: How many were under way then, itself included.

        outcome: What came of it; None if that is not known yet.

        took: Seconds until it was accepted; 0 if it was not.
    """

    at: float
    tokens: float
    level: int
    outcome: Literal["accepted", "refused", "lost"] | None = None
    took: float = 0.0


@dataclass
class _Suspicion:
    """A first refusal, not yet understood; with what to do if it was the rate that was too high."""

    first: Start
    rate: float
    resume_at: float
    window: float


class Pace:
    """
    When the next request may start, and how many may be under way. Safe in several threads.

    Args:
        most: Requests under way at once, at the most.

        requests_per_minute: A fixed bound, spread evenly; None for none.

        tokens_per_minute: A fixed bound, spread evenly; None for none.
    """

    def __init__(
        self,
        most: int,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self._most = most
        self._seconds_a_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_a_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._bytes, self._tokens = 0, 0
        self._window = float(min(FIRST_WINDOW, most))
        self._patience = 1
        self._under_way = 0
        self._next = self._paused_until = -math.inf
        self._recent: deque[Start] = deque()
        self._suspicion: _Suspicion | None = None
        # Requests a second at the time of `_grown_from`; None as long as no limit was met.
        self._rate: float | None = None
        self._grown_from = self._refused_at = -math.inf
        self._fruitless = 0
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Leave the lock to the parent, one of whose threads may have held it, and its requests."""
        self._lock = threading.Lock()
        self._under_way = 0

    @property
    def window(self) -> int:
        """How many requests may be under way at once."""
        return int(self._window + 1e-6)  # ten tenths are a little less than one

    def expected_tokens(self, size: int) -> float:
        """Estimate the tokens in *size* bytes of text, from what answers have said so far."""
        with self._lock:
            return size * (self._tokens / self._bytes if self._bytes else FIRST_RATIO)

    def take(self, now: float, tokens: float) -> Start | float:
        """
        Start a request, or say how many seconds to wait before asking again.

        Args:
            now: Reading of the clock.

            tokens: Expected in the request.
        """
        with self._lock:
            wait = max(self._next - EARLY, self._paused_until) - now
            if wait > 0:
                return wait
            rate = self._rate_at(now)
            self._next = max(self._next, now - EARLY) + max(
                self._seconds_a_request, tokens * self._seconds_a_token, 1 / rate if rate else 0.0
            )
            while self._recent and self._recent[0].at < now - REMEMBERED:
                self._recent.popleft()
            self._under_way += 1
            self._recent.append(Start(now, tokens, self._under_way))
            return self._recent[-1]

    def accepted(self, start: Start, now: float, size: int, tokens: int | None) -> None:
        """
        Count an answer that was no refusal.

        Args:
            start: The request.

            now: Reading of the clock.

            size: Bytes of text in it.

            tokens: Billed for it; None if the answer did not say.
        """
        with self._lock:
            self._end(start, "accepted")
            start.took = now - start.at
            self._fruitless = 0
            if self._suspicion is None:
                self._window = min(self._most, self._window + 1 / (self.window * self._patience))
            elif start.at > self._refused_at:
                self._too_many_under_way(self._suspicion)
            if tokens is not None:
                self._bytes += size
                self._tokens += tokens
                self._next += (tokens - start.tokens) * self._seconds_a_token

    def lost(self, start: Start) -> None:
        """Count a request whose answer tells nothing about limits, or never came."""
        with self._lock:
            self._end(start, "lost")

    def refused(self, start: Start, now: float, advised: float | None, jitter: float) -> None:
        """
        Slow down after a 429.

        Args:
            start: The request.

            now: Reading of the clock.

            advised: Seconds that the answer asks to wait; None if it does not.

            jitter: Share by which to lengthen the pause, so that not all clients come back at once.
        """
        with self._lock:
            self._end(start, "refused")
            if advised is not None:
                self._pause(now, advised * (1 + jitter))
            if start.at <= self._refused_at:
                return  # under way when the others were refused, so it tells nothing new
            self._refused_at = now
            accepted = self._accepted_before(start, now)
            rate = self._rate_at(now)
            if self._suspicion is not None:
                self._too_high_a_rate(self._suspicion, now)
            elif not accepted:
                self._fruitless += 1
                self._window = max(1.0, self._window / 2)
                self._rate = rate / 2 if rate else self._window
                if advised is None:
                    self._pause(now, min(LONGEST_PAUSE, 3.0 ** (self._fruitless - 1)) * (1 + jitter))
            else:
                found = KEPT * len(accepted)
                suspicion = _Suspicion(start, found, accepted[0] + 1, self._window)
                if rate is not None:
                    suspicion.rate = max(rate / 2, min(found, KEPT * rate))
                known = any(start.at - 2 < other.at <= start.at - 1 for other in self._recent)
                if rate is not None or advised is not None or known:
                    self._too_high_a_rate(suspicion, now, known=advised is not None)
                else:
                    self._suspicion, self._window = suspicion, 1.0
            self._grown_from = max(now, self._paused_until)

    def _accepted_before(self, refused: Start, now: float) -> list[float]:
        """Tell when, in the second before, requests that were accepted reached the service, about."""
        # What took longer than the fastest was late to reach it: connecting takes its time.
        fastest = min((start.took for start in self._recent if start.took), default=0.0)
        at = max(refused.at, now - fastest) if fastest else refused.at
        reached = (
            start.at + max(0.0, start.took - fastest)
            for start in self._recent
            if start.at <= refused.at and start.outcome in ("accepted", None)
        )
        return sorted(moment for moment in reached if at - 1 < moment <= at)

    def _end(self, start: Start, outcome: Literal["accepted", "refused", "lost"]) -> None:
        start.outcome = outcome
        self._under_way -= 1

    def _pause(self, now: float, seconds: float) -> None:
        self._paused_until = max(self._paused_until, now + seconds)

    def _too_many_under_way(self, suspicion: _Suspicion) -> None:
        """Keep to the number that was accepted; a refusal below that was one request's bad luck."""
        most = max(start.level for start in self._recent if start.outcome == "accepted")
        if most >= suspicion.first.level:
            self._window = suspicion.window
        else:
            self._window, self._patience = float(most), PATIENCE
        self._suspicion = None

    def _too_high_a_rate(self, suspicion: _Suspicion, now: float, *, known: bool = False) -> None:
        self._suspicion, self._window, self._rate = None, suspicion.window, suspicion.rate
        if not known:
            self._pause(now, suspicion.resume_at - now)

    def _rate_at(self, now: float) -> float | None:
        if self._rate is None:
            return None
        slow = min(SLOWEST, max(FASTEST, SLOW_REQUESTS / self._rate))
        return self._rate * (1 + SLOW_GROWTH * (max(0.0, now - self._grown_from) / slow) ** 3)
