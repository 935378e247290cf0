"""
How fast the requests of one client may start: fixed rates, and limits found out from refusals. No I/O here.

The service publishes no limits, so they are found. Requests start as fast as answers come, and one more is
under way at once after each round, half as many again after the first second, until one is refused with 429.
Then nothing starts until those under way are answered and one more has been tried. If that one is accepted,
too many were under way. If it is refused as well, too many had started in a second: once that second is over
they start evenly, a little slower than was just accepted. The rate comes back to that, stays near it, and
goes beyond it faster and faster the longer nothing is refused, as CUBIC does for TCP. Halving it would leave
a quarter of what the service takes unused.

A service may also refuse now and then for reasons of its own. Whoever slows down each time soon crawls, so a
refusal is held against what was accepted before: if as many in a second, and as many at once, were, no limit
explains it. After two of these a single refusal means nothing any more, only many in a short time do.

Source: CUBIC, RFC 9438. That limits hold for each second: Alibaba Cloud Model Studio, "Rate limits" (those a
minute are enforced a second as well); that AI/ML API has such limits is assumed.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from msgspec import Struct

from .history import History, Start


FIRST_WINDOW = 6
LESS = 0.05  # than the rate that was just accepted
REGAINED = 150  # requests until it is that rate again, and as many more until it is as much above it
FASTEST, SLOWEST = 1.0, 30.0  # seconds that may take; each time it goes beyond costs a few refusals
PATIENCE = 16  # rounds before one more is under way, near the number that was too many
SLACK = 0.01  # seconds by which a request may come to the service earlier or later than it starts here
AS_MUCH = 0.98  # of the most that was accepted in a second is as much, as far as can be told from here
BAD_LUCK = 2  # refusals that no limit explains, after which those that one might explain are bad luck too
SETTLED = 1.2  # seconds after a first refusal in which the service may still count what came before it
CAUGHT_UP = 0.04  # seconds of lateness that are made good, since nobody wakes to the millisecond
LONGEST_PAUSE = 30.0
FIRST_RATIO = 1 / 3  # tokens a byte, until answers tell; English has 0.2, Chinese 0.25, code 0.4


class _Suspicion(Struct):
    """A first refusal, not yet understood; with what to do if it was the rate that was too high."""

    first: Start
    rate: float
    window: float


class Limiter:
    """
    When the next request may start, and how many may be under way. Safe in several threads.

    Args:
        most: Requests under way at once, at the most.

        first: How many to start with.

        requests_per_minute: A fixed bound, spread evenly; None for none.

        tokens_per_minute: A fixed bound, spread evenly; None for none.
    """

    def __init__(
        self,
        most: int,
        *,
        rows: int = 10,
        first: int = FIRST_WINDOW,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self._most = most
        self.rows = rows  # texts that one request may hold
        self._seconds_a_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_a_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._bytes, self._tokens = 0, 0
        self._window = float(min(first, most))
        self._too_many = 0  # under way at once, as far as was found out
        self._next = self._paused_until = -math.inf
        self._history = History()
        self._suspicion: _Suspicion | None = None
        # Requests a second at the time of `_grown_from`; None as long as no limit was met.
        self._rate: float | None = None
        self._is_proven = False  # that there is a limit: by many refusals in a short time
        self._grown_from = self._refused_at = self._settled_at = -math.inf
        self._fruitless = 0
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Leave the lock and what is under way to the parent, one of whose threads may have held it."""
        self._lock, self._history = threading.Lock(), History()

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
            return self._history.begin(now, tokens)

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
            self._history.end(start, now, "accepted")
            if self._fruitless:
                # Whatever was in the way is gone; the rate was a guess.
                self._fruitless, self._rate, self._is_proven = 0, None, False
            if self._suspicion is None:
                if self._window < self._most:
                    self._window = min(self._most, self._window + self._more(start))
            elif start.at > self._refused_at:
                suspicion, self._suspicion = self._suspicion, None
                self._window = suspicion.window
                self._too_many_under_way(suspicion.first)
            if tokens is not None:
                self._bytes += size
                self._tokens += tokens
                self._next += (tokens - start.tokens) * self._seconds_a_token

    def lost(self, start: Start, now: float) -> None:
        """Count a request whose answer tells nothing about limits, or never came."""
        with self._lock:
            self._history.end(start, now, "lost")

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
            self._history.end(start, now, "refused")
            if advised is not None:
                self._pause(now, advised * (1 + jitter))
            if start.at <= self._refused_at:
                return  # under way when the others were refused, so it tells nothing new
            # Both ways to count: connecting delays a first request, and a refusal may come before its elders'
            # answers do.
            started = self._history.in_the_second_before(start)
            found = max(started, self._history.answered_in_the_second_before(now))
            if self._suspicion is not None:
                self._too_high_a_rate(self._suspicion, now)
            elif not started:
                self._nothing_accepted(now, advised, jitter)
            elif self._history.is_refused_often:
                self._history.explain()
                self._is_proven = True
                # A limit that was found a while ago may have fallen.
                found = found if now > self._settled_at else max(found, self._history.most_in_a_second())
                self._too_high_a_rate(self._suspect(start, found, now), now)
            elif self._history.unlucky >= BAD_LUCK:
                self._had_bad_luck(start)
            elif self._is_no_rate(start, advised):
                self._too_many_under_way(start)  # since more in a second were accepted
            else:
                # What was accepted once would be again, so that less than that was not the limit.
                suspicion = self._suspect(start, max(found, self._history.most_in_a_second()), now)
                if self._rate is not None or advised is not None or self._history.was_busy(start):
                    self._too_high_a_rate(suspicion, now)
                else:
                    self._suspicion, self._window = suspicion, 1.0
            if start.outcome == "refused":
                self._refused_at = now
                # Until a first finding has settled, the rate grows to what was found, and not beyond.
                self._grown_from = max(now, self._paused_until, self._settled_at - self._back)

    def _is_no_rate(self, refused: Start, advised: float | None) -> bool:
        """Tell whether clearly more were accepted in a second than had started before a refusal."""
        most = self._history.most_in_a_second()
        # Where requests are as far apart as a limit has it, one may come a little late, and one fewer be too
        # many. Where the service asks for pauses, these keep a mistake from becoming a burst.
        clearly = AS_MUCH * most if advised is not None else min(AS_MUCH * most, most - 1)
        return self._history.in_the_second_before(refused, SLACK) < clearly

    def _more(self, accepted: Start) -> float:
        """Say how much more may be under way: one after each round, half as many again after a second."""
        if self.window <= self._too_many:
            return 1 / (self.window * PATIENCE)
        calm = self._refused_at == -math.inf and self._history.was_busy(accepted)
        return 0.5 if calm else 1 / self.window

    def _pause(self, now: float, seconds: float) -> None:
        self._paused_until = max(self._paused_until, now + seconds)

    def _nothing_accepted(self, now: float, advised: float | None, jitter: float) -> None:
        rate = self._rate_at(now)
        self._fruitless += 1
        self._window = max(1.0, self._window / 2)
        # Not slower than the pauses, or the client would crawl long after the service has recovered.
        self._rate = max(rate / 2, 1 / LONGEST_PAUSE) if rate else self._window
        if advised is None:
            self._pause(now, min(LONGEST_PAUSE, 3.0 ** (self._fruitless - 1)) * (1 + jitter))

    def _had_bad_luck(self, refused: Start) -> None:
        refused.outcome = "unlucky"
        if self._history.unlucky >= BAD_LUCK and not self._is_proven:
            # Other refusals, taken for the sign of a limit, are likely to have been bad luck as well.
            self._rate, self._too_many = None, 0

    def _suspect(self, start: Start, found: int, now: float) -> _Suspicion:
        rate = self._rate_at(now)
        return _Suspicion(start, max(rate / 2, min(found, rate)) if rate else float(found), self._window)

    def _too_many_under_way(self, refused: Start) -> None:
        """Keep to as many as are accepted at once; if it was one of those, it had bad luck."""
        if self._history.is_accepted_with(refused.under_way):
            self._had_bad_luck(refused)
        else:
            most = self._history.most_under_way()
            # One that ends as another starts may seem to have been under way with it.
            most = max(1, most - (most >= refused.under_way))
            self._window, self._too_many = float(most), most + 1

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
        most = max(1, round(rate / (1 - LESS)))
        last_second = self._history.reached_since(now - 1)
        return last_second[-most] + 1 if len(last_second) >= most else now

    def _rate_at(self, now: float) -> float | None:
        if self._rate is None:
            return None
        return self._rate * (1 + LESS * (max(0.0, now - self._grown_from) / self._back - 1) ** 3)

    @property
    def _back(self) -> float:
        """Seconds until the rate is what was accepted before the last refusal."""
        return min(SLOWEST, max(FASTEST, REGAINED / self._rate)) if self._rate else 0.0
