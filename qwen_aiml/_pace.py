"""
How fast the requests of one client may start: fixed rates, and limits found out from refusals. No I/O here.

The service publishes no limits, so they are found. Requests start as fast as answers come, and one more is
under way at once after each round, until one is refused with 429. Then nothing starts until those under way
are answered and one more has been tried. If that one is accepted, too many were under way. If it is refused
as well, too many had started in a second: once that second is over they start evenly, a little slower than
was just accepted. The rate comes back to that, stays near it, and goes beyond it faster and faster the longer
nothing is refused, as CUBIC does for TCP. Halving it would leave a quarter of what the service takes unused.

Source: CUBIC, RFC 9438. That limits hold for each second: Alibaba Cloud Model Studio, "Rate limits" (those a
minute are enforced a second as well); that AI/ML API has such limits is assumed.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_WINDOW = 6
LESS = 0.05  # than the rate that was just accepted
REGAINED = 150  # requests until it is that rate again, and as many more until it is as much above it
FASTEST, SLOWEST = 0.5, 30.0  # seconds that may take
PATIENCE = 16  # rounds before one more is under way, near the number that was too many
REMEMBERED = 10.0  # seconds
SETTLED = 1.2  # seconds
CAUGHT_UP = 0.04  # seconds of lateness that are made good, since nobody wakes to the millisecond
LONGEST_PAUSE = 30.0
FIRST_RATIO = 1 / 3  # tokens a byte, until answers tell; English has 0.2, Chinese 0.25, code 0.4


@dataclass(eq=False)
class Start:
    """
    One request that has started.

    Attributes:
        at: When, by the clock.

        tokens: Expected in it.

        outcome: What came of it; None if that is not known yet.

        ended: When that was known.
    """

    at: float
    tokens: float
    outcome: Literal["accepted", "refused", "lost"] | None = None
    ended: float = math.inf


@dataclass
class _Suspicion:
    """A first refusal, not yet understood; with what to do if it was the rate that was too high."""

    first: Start
    rate: float
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
        self._too_many = 0  # under way at once, as far as was found out
        self._next = self._paused_until = -math.inf
        self._recent: deque[Start] = deque()
        self._suspicion: _Suspicion | None = None
        # Requests a second at the time of `_grown_from`; None as long as no limit was met.
        self._rate: float | None = None
        self._grown_from = self._refused_at = self._settled_at = -math.inf
        self._fruitless = 0
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Leave the lock to the parent, one of whose threads may have held it."""
        self._lock = threading.Lock()

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
            rate = self._rate_at(now)
            wait = max(self._next, self._paused_until, self._room_at(now, rate)) - now
            if wait > 0:
                return wait
            self._next = max(self._next, now - CAUGHT_UP) + max(
                self._seconds_a_request, tokens * self._seconds_a_token, 1 / rate if rate else 0.0
            )
            while self._recent and self._recent[0].at < now - REMEMBERED:
                self._recent.popleft()
            self._recent.append(Start(now, tokens))
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
            self._end(start, now, "accepted")
            if self._fruitless:
                # Whatever was in the way is gone; the rate was a guess.
                self._fruitless, self._rate = 0, None
            if self._suspicion is None:
                patience = 1 if self.window > self._too_many else PATIENCE
                self._window = min(self._most, self._window + 1 / (self.window * patience))
            elif start.at > self._suspicion.first.at:
                self._too_many_under_way(self._suspicion)
            if tokens is not None:
                self._bytes += size
                self._tokens += tokens
                self._next += (tokens - start.tokens) * self._seconds_a_token

    def lost(self, start: Start, now: float) -> None:
        """Count a request whose answer tells nothing about limits, or never came."""
        with self._lock:
            self._end(start, now, "lost")

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
            self._end(start, now, "refused")
            if advised is not None:
                self._pause(now, advised * (1 + jitter))
            if start.at <= self._refused_at:
                return  # under way when the others were refused, so it tells nothing new
            rate = self._rate_at(now)
            self._refused_at = now
            # Both ways to count: connecting delays a first request, and a refusal may come before its elders'
            # answers do.
            earlier = [other for other in self._recent if other.outcome in ("accepted", None)]
            near = [other.at for other in earlier if start.at - 1 < other.at]
            # A request that starts first can arrive last.
            started = [at for at in near if at <= start.at] or near
            answered = [other.at for other in earlier if now - 1 < other.ended <= now]
            if self._suspicion is not None:
                self._too_high_a_rate(self._suspicion, now)
            elif not started:
                self._fruitless += 1
                self._window = max(1.0, self._window / 2)
                # Not slower than the pauses, or the client would crawl long after the service has recovered.
                self._rate = max(rate / 2, 1 / LONGEST_PAUSE) if rate else self._window
                if advised is None:
                    self._pause(now, min(LONGEST_PAUSE, 3.0 ** (self._fruitless - 1)) * (1 + jitter))
            else:
                found = float(max(len(started), len(answered)))
                suspicion = _Suspicion(start, found, self._window)
                if rate is not None:
                    suspicion.rate = max(rate / 2, min(found, rate))
                known = any(start.at - 2 < other.at <= start.at - 1 for other in self._recent)
                if rate is not None or advised is not None or known:
                    self._too_high_a_rate(suspicion, now)
                else:
                    self._suspicion, self._window = suspicion, 1.0
            self._grown_from = max(now, self._paused_until)

    def _end(self, start: Start, now: float, outcome: Literal["accepted", "refused", "lost"]) -> None:
        start.outcome, start.ended = outcome, now

    def _pause(self, now: float, seconds: float) -> None:
        self._paused_until = max(self._paused_until, now + seconds)

    def _too_many_under_way(self, suspicion: _Suspicion) -> None:
        """Keep to as many as were accepted at once; fewer than that, and one request had bad luck."""
        accepted = [start for start in self._recent if start.outcome == "accepted"]
        then = sum(start.at <= suspicion.first.at < start.ended for start in accepted)
        most = max(accumulate(step for _, step in sorted(_steps(accepted))), default=0)
        self._suspicion, self._window = None, suspicion.window
        if most <= then:
            self._window, self._too_many = max(1.0, float(most)), then + 1

    def _too_high_a_rate(self, suspicion: _Suspicion, now: float) -> None:
        if self._rate is None:
            self._settled_at = now + SETTLED
        self._suspicion, self._window, self._rate = None, suspicion.window, suspicion.rate

    def _room_at(self, now: float, rate: float | None) -> float:
        """
        Say when the last second leaves room for one more, as the service counts.

        Only after a refusal: from then on an even pace keeps to the limit by itself.
        """
        if rate is None or now > self._settled_at:
            return now
        # A request reached the service at the latest when it was answered; connecting delays some.
        reached = [
            start.at if start.outcome is None else start.ended
            for start in self._recent
            if start.outcome in ("accepted", None)
        ]
        most = max(1, round(rate / (1 - LESS)))
        last_second = sorted(moment for moment in reached if moment > now - 1)
        return last_second[-most] + 1 if len(last_second) >= most else now

    def _rate_at(self, now: float) -> float | None:
        if self._rate is None:
            return None
        back = min(SLOWEST, max(FASTEST, REGAINED / self._rate))
        return self._rate * (1 + LESS * (max(0.0, now - self._grown_from) / back - 1) ** 3)


def _steps(starts: list[Start]) -> Iterator[tuple[float, int]]:
    """Give the moments at which one more or one less was under way."""
    for start in starts:
        yield start.at, 1
        yield start.ended, -1
