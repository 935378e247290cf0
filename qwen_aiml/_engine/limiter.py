"""
Adaptive rate limiter: delivery-rate pacing. Pure arithmetic under one lock; callers supply the time.

The service publishes no rate limit, so it is estimated from responses. A rejection sets the rate to the one
recently accepted, not, as in AIMD, to a fraction of the sending rate. Unlike with a client-side token bucket,
starts are evenly spaced, so that no burst drains the service's bucket.

- Starts are at least latency / window apart; the window grows as in slow start, and never shrinks.
- Single 429s are retried and change nothing. Two in a row, or three in 30 responses, are a pattern: the rate
  becomes 0.975 of the one accepted since the last pattern, in the last second or the last 20 requests.
- If patterns lower the rate and rejections go on, it was useless, and the rate is restored (`_Reductions`).
- After the first pattern, and when nothing was accepted since the last one, single requests probe, at
  intervals that double. The time until one is accepted shows what kind of limit it is; see below.
- The rate grows along the curve of CUBIC (RFC 9438, section 4.2), over requests started instead of time, so
  that it does not grow while the client is idle. It exceeds an estimate after as many requests as that was
  based on, at least 20 or those of four seconds; once two estimates agree, after four seconds.
- `Retry-After` pauses all requests, and the next sample begins after it: one pause never lowers the rate. It
  also begins after idle time: a client with little to send learns nothing about the limit. If pauses take
  most of the time, a rejection costs more than a lower rate: that becomes 0.7 of the present, as in CUBIC.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from .._results import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_WINDOW = 6
FIRST_LATENCY = 0.1  # seconds, until the first response
SPEED_UP = 1.2  # times window / latency: the rate of starts while no limit is known
FASTEST_DOUBLING = 0.15  # seconds in which the window may double
BACKOFF_FACTOR = 0.975  # share of the accepted rate at which to continue
PAUSED_FACTOR = 0.7  # share of the rate after a pause that took longer than the time until the next one
# So many rejections, among so many responses, form a pattern; so do two in a row.
PATTERN_REJECTIONS, PATTERN_RESPONSES = 3, 30
SAMPLE_SECONDS, SAMPLE_REQUESTS = 1.0, 20  # sample of accepted requests: whichever is longer
SAMPLE_RATE = 0.7  # share of the present rate; slower starts say little about the limit
PRIOR = 3.0  # requests at the old rate, added to each sample, so that short ones weigh little
FEW = 1 / 8  # share of rejections that may be chance
MAX_REDUCTIONS, MIN_REDUCTIONS = 8, 2  # patterns in a row that lower the rate; see `_Reductions`
RAISE = 1.15  # times the restored rate, once the rejections are known not to depend on the rate
MANY = 120  # requests without a pattern, after which they may depend on it again
AGREEMENT = 0.15  # relative difference between two estimates that agree
SLOW_SECONDS = 4.0  # until growth exceeds an estimate that agrees with the last one
MIN_REQUESTS = 20.0  # until growth exceeds any other estimate, unless four seconds are sooner
# If the first probe is accepted, the requests in flight at the pattern show the rate, since the bucket was
# empty; if none was rejected, the pattern was chance. Otherwise acceptance had really ended: the rate is the
# number accepted since it last began, divided by the time until it resumed, between the last two probes. All
# is forgotten after more than LONGEST_REFILL: an outage looks like a quota per minute, and is no low rate.
LONGEST_PROBE_GAP = 15.0  # seconds, also between any two starts
LONGEST_REFILL = 4.0  # seconds
EARLY = 0.001  # seconds by which a start may come early while no limit is known; timers are no finer
MAX_CATCH_UP = 0.04  # seconds of lateness to make up for, since timers are late
TURN = 0.1  # seconds for which a start is left to the event loops whose turn it is
IDLE = 0.3  # seconds between a response and the next request
LONGEST_PAUSE = 3600.0  # seconds
FIRST_RATIO = 1 / 3  # tokens per byte, until responses report tokens
MAX_RATIO, MAX_EXTRA = 4, 16  # plausible tokens: per byte, plus per request
REMEMBERED = 1024  # starts
LOG_CHANGE = 0.2

_log = logging.getLogger("qwen_aiml")
Outcome = Literal["accepted", "refused", "lost"]


class Start(Struct, eq=False):
    """
    One started request, whose outcome must be reported once.

    Attributes:
        at: When it started, by the caller's clock.

        tokens: Expected tokens.

        rate: The adaptive rate when it started, in requests per second.

        outcome: None until reported.
    """

    at: float
    tokens: float
    rate: float
    outcome: Outcome | None = None


class _Reductions:
    """
    Patterns in a row that lowered the rate. Few find a limit; more are useless: rejections occur at any rate.

    After two with few rejections, or eight in any way, the rate before is restored. Further series are undone
    sooner. After eight, any two suffice, and the rate is raised, until 120 requests pass without a pattern.
    """

    def __init__(self) -> None:
        self.in_row: list[tuple[float, bool]] = []  # the estimate before, and whether few were rejected
        self._most = MAX_REDUCTIONS

    def undo_if_useless(self, rate: float, last: float | None, *, few: bool) -> float:
        """Return the rate to set: an estimate, or the one before the reductions if they were useless."""
        if last is None or rate >= last:
            self.in_row.clear()
            return rate
        self.in_row.append((last / BACKOFF_FACTOR, few))
        limit = MIN_REDUCTIONS if all(was_few for _, was_few in self.in_row[-2:]) else self._most
        if len(self.in_row) < limit:
            return rate
        rate = self.in_row[-limit][0] * (RAISE if self._most == MIN_REDUCTIONS else 1)
        self.in_row.clear()
        self._most = self._most - 1 if limit < self._most else MIN_REDUCTIONS
        return rate


class Limiter:
    """
    Decides when the next request may start, and how many may be in flight. Thread-safe.

    Args:
        most: Maximum number of requests in flight.

        rows: Maximum number of texts per request. The attribute is lowered if the service states less.

        first: Initial maximum of requests in flight.

        requests_per_minute: A fixed rate, evenly spaced; None means no fixed rate.

        tokens_per_minute: A fixed rate, evenly spaced; None means no fixed rate.
    """

    def __init__(
        self,
        most: int,
        rows: int = 10,
        first: int = FIRST_WINDOW,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._arguments = most, rows, first, requests_per_minute, tokens_per_minute
        self.rows = rows
        self.most = most
        self._first = min(first, most)
        self._seconds_per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next = self._paused_until = self._last_response = -math.inf
        self._bytes = self._tokens = 0
        self._recent: deque[Start] = deque(maxlen=REMEMBERED)
        self._open: set[Start] = set()
        self._waiting: list[object] = []  # queues, in the order of their starts
        self._latency: float | None = None
        self._logged_rate = math.inf
        self._forget_limits()

    def _forget_limits(self) -> None:
        self._window = float(self._first)
        self._rate: float | None = None  # at the last pattern; see `_present_rate`
        self._grown = 0  # requests started since then
        self._until_regained = MIN_REQUESTS
        self._judged_from = -math.inf  # requests that started before no longer count
        self._reductions = _Reductions()
        self._closed: float | None = None  # when acceptance ended, while probing
        self._probe_rejected: float | None = None  # when the last rejected probe started

    def __reduce__(self) -> tuple[Any, ...]:
        # Copied or pickled together, clients that share a limiter share the new one.
        return type(self), self._arguments

    def after_fork(self) -> None:
        """Create a new lock, since a thread of the parent may hold the old one; forget requests in flight."""
        self._lock = threading.Lock()
        self._open.clear()

    @property
    def window(self) -> int:
        """Maximum number of requests in flight."""
        return 1 if self._closed is not None else int(self._window)

    @property
    def limits(self) -> Limits:
        """Current estimates of the service's limits."""
        # Without the lock: a log handler may read them in a thread that holds it.
        rate = None if self._rate is None else self._present_rate()
        return Limits(rate, self.window, self.rows)

    def expected_tokens(self, size: int) -> float:
        """Estimate the tokens in *size* bytes of request body, from the responses so far."""
        with self._lock:
            return size * (self._tokens / self._bytes if self._bytes else FIRST_RATIO)

    def take(self, now: float, tokens: float, queue: object = None) -> Start | float:
        """
        Start a request, or return the seconds to wait before the next call.

        Args:
            now: Reading of the caller's monotonic clock.

            tokens: Expected tokens of the request.

            queue: The caller, if there are several, such as one per event loop; they take turns.
        """
        with self._lock:
            rate = self._present_rate()
            fixed = max(self._seconds_per_request, tokens * self._seconds_per_token)
            interval = max(fixed, 1 / rate)
            if queue not in self._waiting:
                self._waiting.append(queue)
            ahead = self._waiting.index(queue)
            allowed = max(self._next, self._paused_until)
            early = EARLY if self._rate is None else 0.0
            if (wait := allowed + min(ahead * interval, TURN) - now) > early:
                return min(wait, LONGEST_PAUSE)
            del self._waiting[: ahead + 1]  # those ahead are late
            idle = now - max(allowed, self._last_response)
            if idle > (IDLE if self._closed is None else LONGEST_PROBE_GAP) and not self._open:
                self._recent.clear()  # with the idle time, earlier starts would look slow
                self._closed = None  # and it would lengthen the intervals of probes
            # A fixed rate is kept on average; at an estimated one, several starts at once could be rejected.
            late = MAX_CATCH_UP if interval == fixed else min(MAX_CATCH_UP, interval)
            scheduled = self._next if now - self._next <= late else now
            self._next = scheduled + min(interval, LONGEST_PAUSE)
            start = Start(now, tokens, rate)
            self._grown += 1
            self._open.add(start)
            self._recent.append(start)
            return start

    def accepted(self, start: Start, now: float, size: int, tokens: int | None) -> None:
        """
        Report any response other than a 429 or a server error.

        Args:
            start: The start returned by `take`.

            now: Reading of the clock.

            size: Bytes of the request body.

            tokens: Tokens billed; None if unknown.
        """
        with self._lock:
            if not self._close(start, "accepted"):
                return
            self._last_response = now
            latency = max(now - start.at, 1e-4)
            self._latency = latency + 7 / 8 * ((self._latency or latency) - latency)
            self._window = min(self.most, self._window + min(1.0, self._latency / FASTEST_DOUBLING))
            if self._closed is not None and start.at > self._judged_from:
                self._end_probing(start, self._closed, now)
            if tokens is not None and 0 <= tokens <= MAX_RATIO * size + MAX_EXTRA:
                self._bytes += size
                self._tokens += tokens
                self._next += (tokens - start.tokens) * self._seconds_per_token

    def lost(self, start: Start) -> None:
        """Report a request that says nothing about limits: transport error, server error, cancellation."""
        # Without the lock: garbage collection may end a coroutine in a thread that holds it.
        self._close(start, "lost")

    def refused(self, start: Start, now: float, advised: float | None, jitter: float) -> None:
        """
        Report a 429.

        Args:
            start: The start returned by `take`.

            now: Reading of the clock.

            advised: Seconds of `Retry-After`; None if there is none.

            jitter: Share by which to lengthen a pause, so that clients do not all resume at once.
        """
        with self._lock:
            if not self._close(start, "refused"):
                return
            self._last_response = now
            is_new = start.at > self._judged_from  # not in flight at the last pattern
            if is_new and self._closed is not None:
                self._probe_rejected = start.at
                self._schedule_probe(now, jitter, now - self._closed)
            elif is_new and advised is not None and 0 <= start.at - self._paused_until < advised:
                self._judged_from, rate = now, PAUSED_FACTOR * self._present_rate()
                self._set_rate(rate, int(SLOW_SECONDS * rate), now)
            elif is_new:
                outcomes = [one.outcome for one in self._recent if one.at > self._judged_from]
                if _is_pattern(outcomes):
                    self._respond_to_pattern(outcomes, start, now, jitter)
            if advised is not None:
                pause = min(advised, LONGEST_PAUSE) * (1 + jitter)
                self._paused_until = max(self._paused_until, now + pause)

    def _close(self, start: Start, outcome: Outcome) -> bool:
        """Record an outcome; return False if there is one already, or after a fork."""
        if start not in self._open:
            return False
        self._open.remove(start)
        start.outcome = outcome
        return True

    def _present_rate(self) -> float:
        filling = SPEED_UP * self._window / (self._latency or FIRST_LATENCY)
        if (rate := self._rate) is None:
            return filling
        progress = self._grown / self._until_regained
        return min(rate * (1 + (1 - BACKOFF_FACTOR) * (1 + (progress - 1) ** 3)), filling)

    def _set_rate(self, accepted: float, requests: int, now: float) -> None:
        """Continue slightly below *accepted*, an estimate of the accepted rate from that many *requests*."""
        agrees = self._rate is not None and abs(accepted / self._rate - 1) < AGREEMENT
        slow = accepted * SLOW_SECONDS
        self._until_regained = slow if agrees else max(requests, min(MIN_REQUESTS, slow))
        self._grown = 0
        self._rate = rate = max(BACKOFF_FACTOR * accepted, 1 / LONGEST_PROBE_GAP)
        self._next = max(self._next, now + 1 / rate)
        if abs(rate / self._logged_rate - 1) >= LOG_CHANGE:
            kind = "found" if self._logged_rate == math.inf else "changed"
            _log.info("rate limit %s: about %.3g requests per second", kind, rate)
            self._logged_rate = rate

    def _respond_to_pattern(
        self, outcomes: list[Outcome | None], refused: Start, now: float, jitter: float
    ) -> None:
        last, present, begin = self._rate, self._present_rate(), max(self._judged_from, self._paused_until)
        accepted, seconds = _sample(self._recent, begin, refused, SAMPLE_RATE * present)
        self._judged_from = now
        if accepted:
            few = outcomes.count("refused") < FEW * len(outcomes)
            if self._grown > MANY:
                self._reductions = _Reductions()
            rate = self._reductions.undo_if_useless(_estimate(accepted, seconds, present), last, few=few)
            self._set_rate(rate, accepted, now)
        if last is None or not accepted:
            self._reductions.in_row.clear()
            self._closed, self._probe_rejected = refused.at, None
            self._schedule_probe(now, jitter, 1 / self._present_rate())

    def _schedule_probe(self, now: float, jitter: float, seconds: float) -> None:
        self._next = max(self._next, now + min(seconds, LONGEST_PROBE_GAP) * (1 + jitter))

    def _end_probing(self, start: Start, closed: float, now: float) -> None:
        """Resume after an accepted probe; if one before it was rejected, acceptance had really ended."""
        judged, self._closed, self._judged_from = self._judged_from, None, start.at
        if self._probe_rejected is None:
            in_flight = [one for one in self._recent if closed < one.at <= judged]
            accepted = sum(one.outcome == "accepted" for one in in_flight)
            if accepted >= PATTERN_REJECTIONS and all(one.outcome != "refused" for one in in_flight):
                self._rate = None  # the pattern was chance
            elif accepted:
                rate, self._rate = _estimate(accepted, in_flight[-1].at - closed, self._present_rate()), None
                self._set_rate(rate, accepted, now)  # a correction is not agreement
            elif sum(one.outcome == "accepted" for one in self._recent) > PATTERN_RESPONSES:
                # The next sample begins now, since a lone probe would make it look slow. At a few requests
                # per second the probe is kept: it is the only sample.
                self._judged_from = now
        else:
            accepted = sum(one.outcome == "accepted" for one in self._recent if one.at < closed)
            seconds = (self._probe_rejected + start.at) / 2 - self._recent[0].at
            if accepted and start.at - closed <= LONGEST_REFILL:
                self._set_rate(accepted / seconds, accepted, now)
            else:
                self._forget_limits()
            self._recent.clear()
            self._recent.append(start)


def _estimate(accepted: int, seconds: float, present: float) -> float:
    return (accepted + PRIOR) / (seconds + PRIOR / present)


def _is_pattern(outcomes: list[Outcome | None]) -> bool:
    """Return whether outcomes, None for requests in flight, end in a pattern of rejections."""
    latest = [outcome for outcome in outcomes if outcome is not None][-PATTERN_RESPONSES:]
    return latest.count("refused") >= PATTERN_REJECTIONS or ("refused", "refused") in pairwise(outcomes)


def _sample(recent: Sequence[Start], begin: float, refused: Start, slowest: float) -> tuple[int, float]:
    """
    Return the number of requests in a sample, accepted or in flight, and the seconds that they span.

    It lies between *begin* and the start of *refused*, and covers at most the last second, or 20 requests if
    those are more. Starts at rates below *slowest* extend it no further, since they say little about the
    limit.
    """
    begin = max(begin, recent[0].at)
    sample = [
        start for start in recent if begin <= start.at < refused.at and start.outcome in ("accepted", None)
    ]
    since = refused.at - SAMPLE_SECONDS
    count = max(SAMPLE_REQUESTS, sum(start.at > since and start.rate > slowest for start in sample))
    if count < len(sample):
        begin = sample[-count - 1].at
    return min(count, len(sample)), refused.at - begin
