"""The rate limiter: its arithmetic at given times, and simulated services with undisclosed limits."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from itertools import cycle, pairwise
from statistics import geometric_mean, mean, median

import pytest

from benchmarks.limiter import held_out, make, scenarios, special
from benchmarks.simulator import simulate
from qwen_aiml._engine.limiter import (
    BACKOFF_FACTOR,
    EARLY,
    LONGEST_PAUSE,
    LONGEST_PROBE_GAP,
    MAX_CATCH_UP,
    PRIOR,
    TURN,
    Limiter,
    Start,
    _Reductions,
)
from qwen_aiml._results import Limits


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Override the shared fixture: this file needs the real limiter."""


def begin(limiter: Limiter, now: float, tokens: float = 0) -> tuple[Start, float]:
    """Start a request as soon as the limiter allows it; return it and its start time."""
    for _ in range(10_000):
        start = limiter.take(now, tokens)
        if isinstance(start, Start):
            return start, now
        assert start > 0
        now += start
    pytest.fail("the limiter starts nothing")


def begin_many(limiter: Limiter, now: float, count: int) -> tuple[list[Start], float]:
    """Start requests one after the other; return them and the start time of the last."""
    starts = []
    for _ in range(count):
        start, now = begin(limiter, now)
        starts.append(start)
    return starts, now


def fill(limiter: Limiter) -> tuple[list[Start], float]:
    """Send 300 requests with 30 in flight; return the 30 and the start time of the last."""
    now, starts = 0.0, deque[Start]()
    for _ in range(300):
        start, now = begin(limiter, now)
        starts.append(start)
        if len(starts) > 30:
            accepted = starts.popleft()
            limiter.accepted(accepted, accepted.at + 0.1, 300, 100)
    return list(starts), now


def feed(limiter: Limiter, outcomes: str, now: float = 0.0, latency: float = 0.01) -> float:
    """Send requests one by one, accepted (a), rejected (r) or lost (l); return the time after the last."""
    for outcome in outcomes:
        start, now = begin(limiter, now)
        now += latency
        if outcome == "a":
            limiter.accepted(start, now, 300, 100)
        elif outcome == "l":
            limiter.lost(start)
        else:
            limiter.refused(start, now, None, 0.0)
    return now


@pytest.mark.parametrize(
    ("rates", "tokens", "seconds"),
    [
        ({"requests_per_minute": 120}, 1000, 0.5),
        ({"tokens_per_minute": 60_000}, 1000, 1.0),
        ({"requests_per_minute": 120, "tokens_per_minute": 60_000}, 100, 0.5),
    ],
)
def test_fixed_rates(rates: dict[str, float], tokens: float, seconds: float) -> None:
    """Fixed rates space starts evenly from the first on; the slower rate decides."""
    limiter, now, starts = Limiter(32, **rates), 0.0, []  # type: ignore[arg-type]
    for _ in range(20):
        start, now = begin(limiter, now, tokens)
        limiter.lost(start)
        starts.append(now)
    gaps = [later - earlier for earlier, later in pairwise(starts)]

    assert starts[-1] == pytest.approx(19 * seconds, abs=0.05)
    assert min(gaps) >= seconds - MAX_CATCH_UP - 0.001


@pytest.mark.parametrize("rates", [{"requests_per_minute": 15_000}, {"tokens_per_minute": 1_500_000}])
def test_fixed_rates_with_late_timers(rates: dict[str, float]) -> None:
    """Timers that are later than the time between two requests do not lower a fixed rate."""
    limiter, now = Limiter(32, **rates), 0.0  # type: ignore[arg-type]
    for _ in range(500):
        wait = limiter.take(now, 100)
        while not isinstance(wait, Start):
            now += wait + 0.01
            wait = limiter.take(now, 100)
        limiter.accepted(wait, now + 0.01, 300, 100)

    assert now == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("late", [0.0, 0.09])
def test_event_loops_take_turns(late: float) -> None:
    """Event loops start requests in turn, also if the timers of one are late."""
    limiter, started = Limiter(32, requests_per_minute=600), ""
    wakes = dict.fromkeys("ab", 0.0)
    while len(started) < 20:
        name = min(wakes, key=wakes.__getitem__)
        start = limiter.take(wakes[name], 0, name)
        if isinstance(start, Start):
            started += name
        else:
            wakes[name] += start + (late if name == "a" else 0.0)

    assert started == "a" + "ab" * 9 + "a"


def test_event_loops_that_wait_no_longer() -> None:
    """If event loops do not use their turn, the others wait for them once, and briefly."""
    limiter = Limiter(32, requests_per_minute=60)
    begin(limiter, 0.0)
    assert limiter.take(0.0, 0, "cancelled") == pytest.approx(1.0)
    for name in ("cancelled too", "closed"):
        assert limiter.take(0.0, 0, name) == pytest.approx(1.0 + TURN)
    assert limiter.take(0.0, 0, "other") == pytest.approx(1.0 + TURN)
    assert isinstance(limiter.take(1.0, 0, "other"), float)
    assert isinstance(limiter.take(1.0 + TURN, 0, "other"), Start)
    wait = limiter.take(1.0 + TURN, 0, "other")
    assert isinstance(wait, float)
    assert wait <= 1.0


def test_tokens_are_settled() -> None:
    """The difference between estimated and billed tokens is charged or refunded."""
    limiter = Limiter(32, tokens_per_minute=600)
    start, _ = begin(limiter, 0.0, 10)
    assert limiter.take(0.0, 10) == pytest.approx(1.0, abs=0.05)
    limiter.accepted(start, 0.0, 100, 30)
    assert limiter.take(0.0, 10) == pytest.approx(3.0, abs=0.05)

    start, _ = begin(limiter, 3.0, 40)
    limiter.accepted(start, 3.0, 100, 20)
    assert limiter.take(3.0, 10) == pytest.approx(2.0, abs=0.1)


def test_expected_tokens() -> None:
    """Estimates follow the ratio of billed tokens to bytes, a third at first."""
    limiter = Limiter(32)
    assert limiter.expected_tokens(300) == 100
    limiter.accepted(begin(limiter, 0.0)[0], 0.1, 1000, 200)
    limiter.accepted(begin(limiter, 0.2)[0], 0.3, 1000, None)

    assert limiter.expected_tokens(300) == pytest.approx(60)


@pytest.mark.parametrize("tokens", [-1, 417, 10**400])
def test_absurd_tokens(tokens: int) -> None:
    """Impossible token counts are ignored."""
    limiter = Limiter(32, tokens_per_minute=600)
    limiter.accepted(begin(limiter, 0.0, 10)[0], 0.0, 100, tokens)

    assert limiter.expected_tokens(300) == 100
    assert limiter.take(0.0, 10) == pytest.approx(1.0, abs=0.05)


def test_most_tokens() -> None:
    """Up to four tokens per byte, plus 16, are accepted."""
    limiter = Limiter(32, tokens_per_minute=600)
    limiter.accepted(begin(limiter, 0.0, 10)[0], 0.0, 100, 416)

    assert limiter.expected_tokens(100) == 416
    assert limiter.take(0.0, 10) == pytest.approx(41.6, abs=0.05)


@pytest.mark.parametrize("tokens", [1e12, 1e308])
def test_absurd_estimates(tokens: float) -> None:
    """No token estimate blocks for more than an hour, or creates an infinite debt or credit."""
    limiter = Limiter(32, tokens_per_minute=1)
    start, _ = begin(limiter, 0.0, tokens)
    wait = limiter.take(0.0, 1)

    assert isinstance(wait, float)
    assert 0 < wait <= LONGEST_PAUSE
    limiter.accepted(start, 1.0, 100, 1)
    assert isinstance(limiter.take(1e5, 1), Start)


@pytest.mark.parametrize("advised", [1e9, float("inf")])
def test_absurd_advice(advised: float) -> None:
    """A Retry-After is honoured for at most an hour."""
    limiter = Limiter(32)
    limiter.refused(begin(limiter, 0.0)[0], 0.1, advised, 0.0)

    assert limiter.take(0.1, 0) == LONGEST_PAUSE


def test_reports_are_idempotent() -> None:
    """Only the first report of a start counts."""
    limiter = Limiter(32)
    feed(limiter, "a" * 4)
    start, _ = begin(limiter, 1.0)
    limiter.refused(start, 1.1, None, 0.0)
    window = limiter.window
    for _ in range(5):
        limiter.refused(start, 1.2, 50.0, 0.0)
        limiter.accepted(start, 1.2, 1, 2)
        limiter.lost(start)

    assert limiter.limits == Limits(None, window, 10)
    assert limiter.expected_tokens(300) == 100
    assert not limiter._open


def test_after_fork() -> None:
    """The child has a free lock, nothing in flight, and ignores reports of the parent's starts."""
    limiter = Limiter(32)
    start, _ = begin(limiter, 0.0)
    limiter._lock.acquire()
    limiter.after_fork()
    limiter.refused(start, 0.1, 60.0, 0.0)

    assert isinstance(limiter.take(0.2, 0), Start)
    assert len(limiter._open) == 1


def test_starts_are_spaced() -> None:
    """Starts are spaced even before any limit is known."""
    limiter = Limiter(32)
    begin(limiter, 0.0)
    wait = limiter.take(0.0, 0)

    assert isinstance(wait, float)
    assert 0.005 < wait < 0.05


def test_starts_a_little_early() -> None:
    """While no limit is known, a start may be a millisecond early, which saves waits and adds no requests."""
    limiter, now = Limiter(32, requests_per_minute=600), 0.0
    for _ in range(100):
        begin(limiter, now)
        wait = limiter.take(now, 0)
        assert isinstance(wait, float)
        assert isinstance(limiter.take(now + wait - 1.01 * EARLY, 0), float)
        now += wait - 0.99 * EARLY

    assert now == pytest.approx(10.0, abs=EARLY)


def test_starts_are_punctual_at_a_limit() -> None:
    """Once a limit is known, no request starts early."""
    limiter = Limiter(32)
    now = feed(limiter, "a" * 50 + "rr" + "a", latency=0.05)
    for _ in range(10):
        _, now = begin(limiter, now)
        wait = limiter.take(now, 0)
        assert isinstance(wait, float)
        assert isinstance(limiter.take(now + wait - 0.01 * EARLY, 0), float)


def test_no_limit() -> None:
    """Without rejections the window reaches the ceiling, and no limit is reported."""
    limiter = Limiter(32)
    feed(limiter, "a" * 500)

    assert limiter.limits == Limits(None, 32, 10)


def test_retry_after_pauses_all() -> None:
    """All requests wait for Retry-After, lengthened by the jitter; it does not count as a rate."""
    limiter = Limiter(32)
    first, now = begin(limiter, 0.0)
    second, now = begin(limiter, now)
    limiter.refused(first, 0.1, 2.0, 0.1)
    limiter.lost(second)

    assert limiter.take(0.1, 0) == pytest.approx(2.2)
    assert limiter.limits.requests_per_second is None
    assert isinstance(limiter.take(2.31, 0), Start)


def test_pauses_are_no_time() -> None:
    """The estimated rate is about the same with a pause between the accepted requests as without."""
    rates = []
    for advised in (None, 30.0):
        limiter = Limiter(32)
        now = feed(limiter, "a" * 20)
        start, now = begin(limiter, now)
        limiter.refused(start, now + 0.01, advised, 0.0)
        now = feed(limiter, "a" * 10, now + 0.01)
        feed(limiter, "rr", now)
        rates.append(limiter.limits.requests_per_second)

    assert rates[0] is not None
    assert rates[1] == pytest.approx(rates[0], rel=0.2)


@pytest.mark.parametrize(("seconds", "factor"), [(0.5, 0.7), (1.5, 1.0)])
def test_pauses_that_take_most_of_the_time(seconds: float, factor: float) -> None:
    """If a pause follows sooner than the last was long, the rate is lowered; the first changes nothing."""
    limiter = Limiter(32)
    now = feed(limiter, "a" * 100 + "rr" + "a" * 100)
    rate = limiter.limits.requests_per_second
    start, now = begin(limiter, now)
    limiter.refused(start, now, 1.0, 0.0)

    assert limiter.limits.requests_per_second == pytest.approx(rate, rel=0.01)

    start, now = begin(limiter, now + 1.0 + seconds)
    before = limiter.limits.requests_per_second
    limiter.refused(start, now, 1.0, 0.0)

    assert before is not None
    assert limiter.limits.requests_per_second == pytest.approx(factor * before, rel=0.05)
    assert not isinstance(limiter.take(now + 0.99, 0), Start)


def test_single_rejections() -> None:
    """One rejection in twenty changes nothing."""
    limiter = Limiter(32)
    feed(limiter, ("a" * 19 + "r") * 30)

    assert limiter.limits == Limits(None, 32, 10)


@pytest.mark.parametrize("outcomes", ["rr", "raaaraaar"])
def test_patterns(outcomes: str) -> None:
    """Two rejections in a row, or three among thirty, set the rate slightly below the accepted one."""
    limiter = Limiter(1)
    now = feed(limiter, "a" * 100, latency=0.1)
    feed(limiter, outcomes, now, latency=0.1)
    rate = limiter.limits.requests_per_second

    assert rate is not None
    assert 7 <= rate <= 10
    assert limiter.window == 1


@pytest.mark.parametrize("in_flight", [2, 28, 64])
def test_pattern_with_many_in_flight(in_flight: int) -> None:
    """Two rejections in a row are a pattern, however many requests started after them."""
    limiter = Limiter(64)
    starts, now = begin_many(limiter, feed(limiter, "a" * 100), in_flight)
    for start in starts[:2]:
        limiter.refused(start, now, None, 0.0)

    assert limiter.limits.requests_per_second is not None


@pytest.mark.parametrize(
    ("a_minute", "outcomes", "accepted", "seconds"),
    [(600, "a" * 50, 20, 2.2), (6000, "a" * 200 + "al" * 20, 78, 1.0)],
)
def test_estimate(a_minute: int, outcomes: str, accepted: int, seconds: float) -> None:
    """An estimate covers the requests accepted in the last second, or the last twenty if that is longer."""
    limiter = Limiter(32, requests_per_minute=a_minute)
    feed(limiter, outcomes + "rr", latency=0.0001)  # so that requests at the old rate take no time
    rate = limiter.limits.requests_per_second

    assert rate == pytest.approx(BACKOFF_FACTOR * (accepted + PRIOR) / seconds, rel=0.02)


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_first_probe(jitter: float) -> None:
    """The first probe is sent when the estimated rate allows it, delayed by the jitter."""
    limiter = Limiter(32)
    start, now = begin(limiter, feed(limiter, "a" * 50 + "r", latency=0.1))
    limiter.refused(start, now + 0.1, None, jitter)
    rate = limiter.limits.requests_per_second

    assert rate is not None
    assert limiter.take(now + 0.1, 0) == pytest.approx((1 + jitter) / rate)


def test_reductions_in_a_row() -> None:
    """Two reductions with few rejections are undone, unless the rate has risen in between."""
    reductions = _Reductions()

    assert reductions.undo_if_useless(9.0, 10.0, few=True) == 9.0
    assert reductions.undo_if_useless(11.0, 9.0, few=True) == 11.0
    assert reductions.undo_if_useless(8.0, 11.0, few=True) == 8.0
    assert reductions.undo_if_useless(7.0, 8.0, few=True) == 11.0 / BACKOFF_FACTOR


def test_useless_reductions() -> None:
    """Once eight reductions were useless, any two are undone, and the rate is raised as well."""
    reductions, counts, restored = _Reductions(), [], []
    for _ in range(4):
        rate, count = 100.0, 0
        while count == 0 or rate < 100:
            rate = reductions.undo_if_useless(rate * 0.9, rate, few=False)
            count += 1
        counts.append(count)
        restored.append(rate * BACKOFF_FACTOR)

    assert counts == [8, 2, 2, 2]
    assert restored == pytest.approx([100, 115, 115, 115])


def test_useless_reductions_with_few_rejections() -> None:
    """Each time that two reductions with few rejections are undone, one other reduction less is needed."""
    reductions = _Reductions()
    for _ in range(3):
        reductions.undo_if_useless(9.0, 10.0, few=True)
        reductions.undo_if_useless(8.0, 9.0, few=True)
    rates = [reductions.undo_if_useless(9.0 - count, 10.0 - count, few=False) for count in range(5)]

    assert rates == pytest.approx([9, 8, 7, 6, 10 / BACKOFF_FACTOR])


def test_reductions_help_again() -> None:
    """After many requests without a pattern, it takes as many useless reductions as at first to undo them."""
    limiter, counts = Limiter(32), []
    now = feed(limiter, "a" * 40 + "rr" + "a" * 4)
    for quiet in (0, 0, 0, 200):
        now, count = feed(limiter, "a" * quiet, now), 0
        before = limiter.limits.requests_per_second or 0.0
        while count < 2 or (limiter.limits.requests_per_second or 0.0) < before:
            before = limiter.limits.requests_per_second or 0.0
            now = feed(limiter, "aaaarr", now)
            count += 1
        counts.append(count)

    assert counts == [8, 2, 2, 8]


def test_late_rejection() -> None:
    """A request that was in flight at the pattern, in another event loop, is no evidence about the probes."""
    rates = []
    for is_late in (False, True):
        limiter = Limiter(32)
        late, now = begin(limiter, feed(limiter, "a" * 50))
        now = feed(limiter, "rr" + "rr", now)  # the pattern, and probes
        if is_late:
            limiter.refused(late, now, None, 0.0)
        feed(limiter, "a", now)
        rates.append(limiter.limits.requests_per_second)

    assert rates[0] == rates[1]


def test_quota_per_window() -> None:
    """The rate is the quota of a window over its length; the window ended between the last two probes."""
    limiter, now, probes = Limiter(32), 0.0, []
    now = feed(limiter, "a" * 50)
    feed(limiter, "rr", now)
    while now < 1.0:
        start, now = begin(limiter, now)
        probes.append(now)
        if now < 1.0:
            limiter.refused(start, now, None, 0.0)
        else:
            limiter.accepted(start, now, 300, 100)
    rate = limiter.limits.requests_per_second

    assert rate is not None
    assert 50 / probes[-1] < rate / BACKOFF_FACTOR < 50 / probes[-2]


def test_rejections_in_flight_at_a_pattern() -> None:
    """Rejections of requests in flight when the rate was set do not change it again."""
    limiter = Limiter(32)
    starts, now = begin_many(limiter, feed(limiter, "a" * 50), 6)
    for start in starts[:2]:
        limiter.refused(start, now, None, 0.0)
    found = limiter.limits.requests_per_second
    for start in starts[2:]:
        limiter.refused(start, now, None, 0.0)

    assert found == limiter.limits.requests_per_second


@pytest.mark.parametrize("outcomes", ["ar", "arr", "r"])
def test_first_rate(outcomes: str) -> None:
    """Requests in flight at the first pattern correct the rate, which a burst has inflated."""
    limiter = Limiter(32)
    starts, now = fill(limiter)
    in_flight = list(zip(starts, cycle(outcomes), strict=False))
    for start, _ in in_flight[:2]:
        limiter.refused(start, now, None, 0.0)
    before = limiter.limits.requests_per_second
    for start, outcome in in_flight[2:]:
        if outcome == "a":
            limiter.accepted(start, now, 300, 100)
        else:
            limiter.refused(start, now, None, 0.0)
    feed(limiter, "a", now)
    after = limiter.limits.requests_per_second

    accepted_rate = len(starts) * outcomes.count("a") / len(outcomes) / (starts[-1].at - starts[0].at)
    assert before is not None
    assert after is not None
    assert after == pytest.approx(accepted_rate or before, rel=0.2)
    assert outcomes == "r" or after < 0.85 * before


def test_correction_is_no_agreement() -> None:
    """A first rate that the requests in flight confirm is still a first rate: the limiter grows quickly."""
    limiter = Limiter(32)
    starts, now = fill(limiter)
    for start in starts[:2]:
        limiter.refused(start, now, None, 0.0)
    before = limiter.limits.requests_per_second
    for start in starts[2:5]:
        limiter.refused(start, now, None, 0.0)
    for start in starts[5:]:
        limiter.accepted(start, now, 300, 100)
    now = feed(limiter, "a", now)
    corrected = limiter.limits.requests_per_second
    assert before is not None
    assert corrected is not None
    assert corrected == pytest.approx(before, rel=0.15)
    feed(limiter, "a" * round(2 * corrected), now)
    grown = limiter.limits.requests_per_second

    assert grown is not None
    assert grown > 1.04 * corrected


def test_growth_is_no_average() -> None:
    """While the rate grows fast, an estimate is close to the current rate, not to a second's average."""
    limiter = Limiter(32)
    starts, now = fill(limiter)
    rate = 1 / (starts[-1].at - starts[-2].at)
    for start in starts[:2]:
        limiter.refused(start, now, None, 0.0)
    found = limiter.limits.requests_per_second

    assert 300 / now < 0.7 * rate
    assert found is not None
    assert found > 0.9 * rate


def test_few_requests_prove_little() -> None:
    """A rate estimated from a few requests is exceeded after twenty more, and doubles within a hundred."""
    limiter = Limiter(32)
    now = feed(limiter, "aaaarra", latency=0.02)
    found = limiter.limits.requests_per_second
    now = feed(limiter, "a" * 20, now, 0.001)
    passed = limiter.limits.requests_per_second
    feed(limiter, "a" * 80, now, 0.001)
    grown = limiter.limits.requests_per_second

    assert found is not None
    assert passed is not None
    assert grown is not None
    assert found < passed < 1.1 * found
    assert grown > 2 * found


def test_pattern_by_chance() -> None:
    """If no request in flight at the first pattern is rejected, there is no limit."""
    limiter = Limiter(32)
    starts, now = begin_many(limiter, feed(limiter, "a" * 100), 6)
    for start in starts[:2]:
        limiter.refused(start, now, None, 0.0)
    assert limiter.limits.requests_per_second is not None
    for start in starts[2:]:
        limiter.accepted(start, now, 300, 100)
    feed(limiter, "a", now)

    assert limiter.limits.requests_per_second is None


def test_falls_by_chance() -> None:
    """If the rate falls twice in a row, each time with few rejections, it is restored; many are no chance."""
    found = []
    for outcomes in ("a" * 24 + "rr", "a" * 4 + "rr"):
        limiter = Limiter(32)
        now = feed(limiter, "a" * 100 + "rra", latency=0.05)
        found.append([limiter.limits.requests_per_second or 0.0])
        for _ in range(2):
            now = feed(limiter, outcomes, now, latency=0.15)
            found[-1].append(limiter.limits.requests_per_second or 0.0)

    (first, second, third), many = found
    assert second < 0.8 * first
    assert third == pytest.approx(first, rel=0.02)
    assert many[2] < many[1] < many[0]


@pytest.mark.parametrize("outcomes", ["ar", "aar", "aaar", "aaaar"])
def test_rejections_at_any_rate(outcomes: str) -> None:
    """If every second to fifth request is rejected, at any rate, the rate does not fall for ever."""
    limiter, now, rates = Limiter(32), 0.0, []
    for _ in range(1000 // len(outcomes)):
        now = feed(limiter, outcomes, now, latency=0.1)
        rates.append(limiter.limits.requests_per_second or math.inf)

    assert min(rates) >= 1 / LONGEST_PROBE_GAP
    assert max(rates[-100:]) > 1


def test_lost_requests() -> None:
    """Requests without a response are not evidence: nothing grows, and no rate is set."""
    limiter = Limiter(32)
    now = 0.0
    for _ in range(50):
        start, now = begin(limiter, now)
        limiter.lost(start)

    assert limiter.limits == Limits(None, 6, 10)


def test_probing() -> None:
    """While everything is rejected, single requests probe, at most a quarter of a minute apart."""
    limiter = Limiter(32)
    now, starts = feed(limiter, "aaarr"), []
    for _ in range(30):
        assert limiter.window == 1
        start, now = begin(limiter, now)
        limiter.refused(start, now, None, 0.0)
        starts.append(now)
    gaps = [later - earlier for earlier, later in pairwise(starts)]

    assert gaps == pytest.approx(sorted(gaps))
    assert gaps[-1] == pytest.approx(15.0)
    feed(limiter, "a", now)
    assert limiter.limits == Limits(None, 6, 10)  # after an outage it starts over


def test_probing_ends_with_idle_time() -> None:
    """A job that ends while requests probe does not make those of a later one wait for long."""
    limiter = Limiter(32)
    now = feed(limiter, "aaarr" + "r" * 10) + 60
    rejected = feed(limiter, "r", now)

    assert limiter.window > 1
    assert begin(limiter, rejected)[1] - rejected < 0.1


def test_probing_goes_on_during_backoff() -> None:
    """While the requests of a small job wait for their next attempts, the client goes on probing."""
    limiter = Limiter(32)
    feed(limiter, "r", feed(limiter, "aaarr" + "r" * 5) + 10)

    assert limiter.window == 1


@pytest.mark.parametrize(("seconds", "is_rate"), [(1.0, True), (4.0, False)])
def test_end_of_acceptance(seconds: float, *, is_rate: bool) -> None:
    """If acceptance ends for few seconds, that shows the rate; if for longer, estimates are discarded."""
    limiter = Limiter(32)
    ended = feed(limiter, "a" * 50)
    now = feed(limiter, "rr", ended)
    while now < ended + seconds:
        now = feed(limiter, "r", now)
    feed(limiter, "a", now)
    rate = limiter.limits.requests_per_second

    assert (rate is not None) == is_rate
    assert limiter.limits.in_flight == (6 if rate is None else 9)


def test_no_acceptance_shows_no_rate() -> None:
    """If no request was accepted before acceptance ended, its end does not show a rate."""
    limiter = Limiter(32)
    feed(limiter, "rrra")

    assert limiter.limits.requests_per_second is None


@pytest.mark.parametrize(("latency", "requests"), [(0.05, 20), (1.0, 6)])
def test_growth_of_low_rates(latency: float, requests: int) -> None:
    """Growth exceeds an estimate from few requests after 20, at low rates after those of four seconds."""
    limiter, count = Limiter(32), 0
    now = feed(limiter, "a" * 5 + "rr", latency=latency)
    found = limiter.limits.requests_per_second or 0.0
    while (limiter.limits.requests_per_second or 0.0) < found * (2 - BACKOFF_FACTOR) and count < 100:
        now = feed(limiter, "a", now, latency)
        count += 1

    assert count == pytest.approx(requests, abs=1)


def test_idle_clients_do_not_grow() -> None:
    """The rate grows with requests, not with time."""
    limiter = Limiter(32)
    now = feed(limiter, "a" * 50 + "rr" + "a", latency=0.05)
    before = limiter.limits.requests_per_second
    start, _ = begin(limiter, now + 1000)
    limiter.lost(start)
    after = limiter.limits.requests_per_second

    assert before is not None
    assert after == pytest.approx(before, rel=0.05)


def test_idle_time_is_no_slow_service() -> None:
    """Neither requests accepted before an idle time nor that time itself are part of an estimate."""
    found = []
    for idle in (0, 60):
        limiter = Limiter(32)
        feed(limiter, "a" * 10 + "rr", feed(limiter, "a" * 30) + idle)
        found.append(limiter.limits.requests_per_second or 0.0)

    assert found[1] == pytest.approx(found[0], rel=0.2)


def test_slow_responses_are_no_idle_time() -> None:
    """A client that waits for responses is not idle: two rejections in a row are a pattern."""
    limiter = Limiter(32)
    starts = [begin(limiter, number / 2)[0] for number in range(8)]
    for start in starts[:6]:
        limiter.accepted(start, 4.0, 300, 100)
    for start in starts[6:]:
        limiter.refused(start, 4.5, None, 0.0)

    assert limiter.limits.requests_per_second is not None


def test_little_demand_is_no_limit() -> None:
    """Two rejections in a row of a client that sends two requests per second do not limit it to two."""
    limiter = Limiter(32)
    for number in range(52):
        feed(limiter, "a" if number < 50 else "r", number / 2, latency=0.05)

    assert limiter.limits.requests_per_second is None


def test_estimates_that_agree() -> None:
    """If two estimates agree, growth takes several times the requests to exceed the second."""
    limiter, counts = Limiter(32), []
    now = feed(limiter, "a" * 50 + "rr" + "a", latency=0.05)
    for _ in range(2):
        found = limiter.limits.requests_per_second or 0.0
        counts.append(0)
        while (limiter.limits.requests_per_second or 0.0) < found * 1.05 and counts[-1] < 1000:
            now = feed(limiter, "a", now, 0.001)
            counts[-1] += 1
        now = feed(limiter, "rr" + "a", now, 0.05)

    assert 3 * counts[0] < counts[1] < 1000


def test_estimates_that_differ() -> None:
    """If two estimates differ, growth exceeds the second after about a second's requests."""
    limiter, count = Limiter(32), 0
    now = feed(limiter, "a" * 50 + "rr" + "a", latency=0.05)
    before = limiter.limits.requests_per_second or 0.0
    now = feed(limiter, "a" * 120, now, 0.001)
    now = feed(limiter, "rr" + "a", now, 0.001)
    found = limiter.limits.requests_per_second or 0.0
    while (limiter.limits.requests_per_second or 0.0) < found * 1.05 and count < 1000:
        now = feed(limiter, "a", now, 0.001)
        count += 1

    assert found > 1.2 * before
    assert count < 2 * found


def test_rate_grows() -> None:
    """Without rejections the rate grows beyond the estimate with each request, ever faster."""
    limiter = Limiter(32)
    now, rates = feed(limiter, "a" * 50 + "rr" + "a", latency=0.05), []
    for _ in range(160):
        rates.append(limiter.limits.requests_per_second or 0.0)
        now = feed(limiter, "a", now, 0.001)

    assert all(later > earlier for earlier, later in pairwise(rates))
    assert rates[120] > 1.5 * rates[0]


def test_log(caplog: pytest.LogCaptureFixture) -> None:
    """A rate limit is logged when found, and when it changes by a fifth."""
    limiter = Limiter(1)
    with caplog.at_level(logging.INFO, "qwen_aiml"):
        now = feed(limiter, "a" * 50 + "rr" + "a" * 30, latency=0.02)
        now = feed(limiter, "rr" + "a" * 10, now, latency=0.02)
        first = list(caplog.messages)
        feed(limiter, ("a" * 50 + "rr") * 2, now + 10, latency=0.5)  # a second fall in a row is undone

    assert len(first) == 1
    assert first[0].startswith("rate limit found: about ")
    assert len(caplog.messages) == 2
    assert caplog.messages[1].startswith("rate limit changed: about ")


def test_reentrance(caplog: pytest.LogCaptureFixture) -> None:
    """A log handler may read the limits, and garbage collection end a request, under the lock."""
    limiter = Limiter(32)
    dropped, now = begin(limiter, 0.0)
    found: list[Limits] = []

    def log(_: logging.LogRecord) -> bool:
        limiter.lost(dropped)
        found.append(limiter.limits)
        return True

    caplog.handler.addFilter(log)
    with caplog.at_level(logging.INFO, "qwen_aiml"):
        thread = threading.Thread(target=feed, args=(limiter, "a" * 40 + "rr", now), daemon=True)
        thread.start()
        thread.join(30)

    assert not thread.is_alive()
    assert [each.requests_per_second for each in found] == [limiter.limits.requests_per_second]
    assert dropped.outcome == "lost"


def test_probe_is_no_sample() -> None:
    """After many accepted requests, the time a probe spends alone in flight does not count as a slow rate."""
    limiter = Limiter(64, first=64)
    quota, now = begin_many(limiter, 0.0, 500)
    late, now = begin_many(limiter, now, 40)
    for start in quota:
        limiter.accepted(start, start.at + 0.1, 300, 100)
    for start in late:
        limiter.refused(start, now + 0.1, None, 0.0)
    probe, now = begin(limiter, 1.01)
    limiter.accepted(probe, now + 0.1, 300, 100)
    after, now = begin_many(limiter, now + 0.1, 2)
    for start in after:
        limiter.refused(start, now + 0.02, None, 0.0)

    found = limiter.limits.requests_per_second
    assert found is not None
    assert found > 400


FEW = [
    "bucket 5/s, burst 10, 0.1 s",
    "bucket 50/s, burst 1, 0.02 s",
    "bucket 50/s, burst 10, 0.1 s",
    "bucket 500/s, burst 50, 0.02 s",
    "sliding 50/s, 0.1 s",
    "fixed 50/s, phase 0.6, 0.02 s",
    "60 a minute, no Retry-After, 0.1 s",
    "60 a minute, with Retry-After, 0.1 s",
    "4 in flight, 0.1 s",
    "16 in flight, 0.5 s",
    "no limit, 0.0% at random, 0.05 s",
    "no limit, 1.0% at random, 0.05 s",
    "sliding 50/s, 3.0% at random, 0.05 s",
]


def test_interface_of_simulators() -> None:
    """Any simulator can drive the limiter through these four methods, called by position."""
    controller = make()
    handle, other = controller.take(0.0), controller.take(1.0)
    assert (type(handle), type(other), controller.window()) == (Start, Start, 6)
    controller.accepted(handle, 1.1)
    controller.refused(other, 1.1, 30.0)

    assert controller.take(1.2) == pytest.approx(30.0, rel=0.1)


@pytest.mark.parametrize("name", FEW)
def test_undisclosed_limit(name: str) -> None:
    """Under any kind of limit, the work takes at most 1.6 times the ideal, with few rejections."""
    results = simulate(scenarios()[name], make, range(7))

    assert all(result.finished for result in results)
    assert median(result.ratio for result in results) <= 1.6
    assert median(result.refused for result in results) <= 0.2


@pytest.mark.parametrize("burst", [10, pytest.param(100, marks=pytest.mark.long)])
def test_bucket_that_holds_a_fifth(burst: int) -> None:
    """A bucket that holds a fifth of a second is used fully: 1.15 times the ideal in nine of ten runs."""
    found = special()[f"bucket {5 * burst}/s, holds {burst}, 0.1 s"]
    results = simulate(found, make, range(10))

    assert sorted(result.ratio for result in results)[8] <= 1.15
    assert sorted(result.refused for result in results)[8] <= 0.05


@pytest.mark.parametrize("closed", [1, 5, 20, 60])
def test_service_that_is_closed_at_first(closed: int) -> None:
    """A service that rejects everything at first is used soon after; until then, few requests are sent."""
    found = special()[f"bucket 50/s, closed for the first {closed} s"]
    results = simulate(found, make, range(5))

    assert max(result.ratio for result in results) <= 1.35
    assert max(result.refused for result in results) <= 0.1


@pytest.mark.parametrize("bucket", ["50/s, holds 1", "50/s, holds 10", "200/s, holds 100"])
def test_bucket_with_retry_after(bucket: str) -> None:
    """If each rejection has a Retry-After of a second, few are rejected, so that pauses take little time."""
    results = simulate(special()[f"bucket {bucket}, Retry-After of 1 s"], make, range(5))

    assert median(result.ratio for result in results) <= 2.5
    assert median(result.refused for result in results) <= 0.05


@pytest.mark.parametrize("clients", [2, 4])
@pytest.mark.parametrize("latency", [0.05, 0.1])
def test_clients_on_one_bucket(clients: int, latency: float) -> None:
    """Clients of one account share its limit, and a client that got little of it uses what others leave."""
    found = special()[f"{clients} clients, bucket 50/s, {latency} s"]
    results = simulate(found, make, range(12))

    assert all(result.finished for result in results)
    assert median(result.ratio for result in results) <= 1.3
    assert max(result.ratio for result in results) <= 4
    assert median(result.refused for result in results) <= 0.08


@pytest.mark.parametrize("name", ["no limit", "bucket 500/s"])
def test_random_rejections(name: str) -> None:
    """A twentieth of all requests, rejected at random, does not bring the rate down."""
    results = simulate(special()[f"{name}, 5.0% at random, 0.1 s"], make, range(5))

    assert median(result.ratio for result in results) <= 2.5


def test_many_random_rejections() -> None:
    """A tenth of all requests, rejected at random, does not bring the rate down step by step."""
    results = simulate(special()["no limit, 10.0% at random, 0.1 s"], make, range(5))

    assert median(result.ratio for result in results) <= 2.5


def test_one_retry_after() -> None:
    """One early Retry-After of a second costs little more than that second."""
    assert (
        max(result.seconds for result in simulate(special()["one Retry-After of 1 s"], make, range(3))) < 2.5
    )


@pytest.mark.long
@pytest.mark.parametrize("group", [scenarios, held_out], ids=["chosen by", "held out"])
def test_all_scenarios(group: object) -> None:
    """Over all scenarios the mean time is 1.25 times the ideal, the worst 3.0, with few rejections."""
    assert callable(group)
    found = [simulate(scenario, make, range(3)) for scenario in group().values()]

    assert all(result.finished for results in found for result in results)
    assert geometric_mean(median(result.ratio for result in results) for results in found) <= 1.25
    assert max(result.ratio for results in found for result in results) <= 3.0
    assert mean(median(result.refused for result in results) for results in found) <= 0.08
