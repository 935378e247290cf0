"""
Discrete-event simulation of clients whose limiter does not know the service's limits.

Nothing sleeps: each run has its own clock. Timers are up to a millisecond late, requests take a few
milliseconds to arrive, and latencies vary by 10 %. A request backs off as in the client from its second
rejection on.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from qwen_aiml._engine.retry import throttled_backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ARRIVAL = 0.02  # seconds; a request takes a fraction of this, or of the latency if that is less, to arrive


class Controller(Protocol):
    """A limiter under test."""

    def window(self) -> int:
        """Return how many requests may be in flight."""

    def take(self, now: float) -> Any:
        """Start a request and return a handle, or return the seconds to wait as a float."""

    def accepted(self, handle: Any, now: float) -> None:
        """Report a response."""

    def refused(self, handle: Any, now: float, advised: float | None) -> None:
        """Report a 429 and its Retry-After in seconds."""


class Service(Protocol):
    """A service with limits."""

    def admits(self, now: float, in_flight: int) -> bool:
        """Decide on a request that arrives, and count it if it is admitted."""

    def advice(self, now: float) -> float | None:
        """Return the Retry-After of a rejection."""

    def ideal(self, requests: int) -> float:
        """Return the minimum seconds until that many requests are admitted."""


class Unlimited:
    """A service without limits, and the base class of the others."""

    _advised: float | None = None

    def admits(self, now: float, in_flight: int) -> bool:  # noqa: ARG002 - no limits
        """Admit every request."""
        return True

    def advice(self, now: float) -> float | None:  # noqa: ARG002 - the same at all times
        """Return the seconds of Retry-After; None if the service sends none."""
        return self._advised

    def ideal(self, requests: int) -> float:  # noqa: ARG002 - no limits
        """Return 0."""
        return 0.0


class TokenBucket(Unlimited):
    """
    Each request takes a token; *rate* tokens are added per second, up to *burst*.

    Args:
        rate: Tokens per second.

        burst: Capacity, and initial content, in tokens.

        advised: Seconds of Retry-After with each rejection; gateways round them up to whole ones.
    """

    def __init__(self, rate: float, burst: float, advised: float | None = None) -> None:
        self._rate, self._burst, self._advised = rate, burst, advised
        self._tokens, self._filled_at = burst, 0.0

    def admits(self, now: float, in_flight: int) -> bool:  # noqa: ARG002 - the rate decides
        """Admit a request if there is a token for it."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        admitted = self._tokens >= 1
        self._tokens -= admitted
        return admitted

    def ideal(self, requests: int) -> float:
        """Return the seconds until enough tokens have been added."""
        return max(0.0, requests - self._burst) / self._rate


class SlidingWindow(Unlimited):
    """At most *quota* requests in any *period* seconds."""

    def __init__(self, quota: int, period: float = 1.0) -> None:
        self._quota, self._period = quota, period
        self._admitted: deque[float] = deque()

    def admits(self, now: float, in_flight: int) -> bool:  # noqa: ARG002 - the rate decides
        """Admit a request if fewer than the quota were admitted within the last period."""
        while self._admitted and self._admitted[0] <= now - self._period:
            self._admitted.popleft()
        if len(self._admitted) >= self._quota:
            return False
        self._admitted.append(now)
        return True

    def ideal(self, requests: int) -> float:
        """Return the duration of the periods that must pass before the last quota."""
        return (math.ceil(requests / self._quota) - 1) * self._period


class FixedWindow(Unlimited):
    """At most *quota* requests in each *period*; the first period began *phase* seconds before the start."""

    def __init__(self, quota: int, period: float = 1.0, phase: float = 0.0, *, advises: bool = False) -> None:
        self._quota, self._period, self._phase, self._advises = quota, period, phase, advises
        self._window, self._used = -1, 0

    def admits(self, now: float, in_flight: int) -> bool:  # noqa: ARG002 - the rate decides
        """Admit a request if the quota of the current period is not used up."""
        window = math.floor((now + self._phase) / self._period)
        if window != self._window:
            self._window, self._used = window, 0
        admitted = self._used < self._quota
        self._used += admitted
        return admitted

    def advice(self, now: float) -> float | None:
        """Return the whole seconds until the next period, if the service reports them."""
        if not self._advises:
            return None
        return max(1, math.ceil((self._window + 1) * self._period - (now + self._phase)))

    def ideal(self, requests: int) -> float:
        """Return the duration of the periods that must pass, the first of which has begun."""
        return max(0.0, (math.ceil(requests / self._quota) - 1) * self._period - self._phase)


class ConcurrencyLimit(Unlimited):
    """At most *most* requests in flight."""

    def __init__(self, most: int) -> None:
        self._most = most

    def admits(self, now: float, in_flight: int) -> bool:  # noqa: ARG002 - the number in flight decides
        """Admit a request while fewer are being processed."""
        return in_flight < self._most


class AdvisedOnce(Unlimited):
    """A service without limits that rejects its third request, with a Retry-After."""

    def __init__(self, seconds: float) -> None:
        self._advised, self._requests = seconds, 0

    def admits(self, now: float, in_flight: int) -> bool:  # noqa: ARG002 - the order decides
        """Admit all but the third."""
        self._requests += 1
        return self._requests != 3  # noqa: PLR2004 - any early one


class LateBucket(TokenBucket):
    """A token bucket that is full after *closed* seconds; before, every request is rejected."""

    def __init__(self, rate: float, burst: float, closed: float) -> None:
        super().__init__(rate, burst)
        self._closed = closed

    def admits(self, now: float, in_flight: int) -> bool:
        """Admit a request if it is late enough, and if there is a token for it."""
        return now >= self._closed and super().admits(now, in_flight)

    def ideal(self, requests: int) -> float:
        """Return the seconds until enough tokens have been added."""
        return self._closed + super().ideal(requests)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """
    A service and a job for it.

    Attributes:
        service: Creates a service with unused quotas.

        requests: Accepted requests that each client needs.

        latency: Seconds per accepted request.

        refusal: Seconds per rejected one. None: 20 ms or the latency, whichever is less.

        spurious: Share of requests rejected without reason.

        clients: Number of clients that share the service.

        most: Maximum number of requests in flight per client.

        useful: The service's concurrency limit, for the ideal. None: no limit.
    """

    service: Callable[[], Service]
    requests: int
    latency: float
    refusal: float | None = None
    spurious: float = 0.0
    clients: int = 1
    most: int = 32
    useful: int | None = None

    @property
    def ideal(self) -> float:
        """Seconds that a client with knowledge of all limits would take."""
        requests = self.requests * self.clients
        in_flight = min(self.most * self.clients, self.useful or math.inf)
        return max(self.service().ideal(requests) + self.latency, requests * self.latency / in_flight)


@dataclass(frozen=True)
class Result:
    """The outcome of a run: time over ideal, share of rejections, whether all were accepted, seconds."""

    ratio: float
    refused: float
    finished: bool
    seconds: float


@dataclass
class _Client:
    controller: Controller
    waiting: deque[int]  # the number of rejections of each waiting request
    ask_at: float = 0.0
    in_flight: int = 0
    last_arrival: float = 0.0


@dataclass(order=True)
class _Event:
    at: float
    number: int
    client: _Client = field(compare=False)
    handle: Any = field(compare=False)
    sent: float = field(compare=False)
    kind: str = field(compare=False)  # arrives, accepted, refused, again
    rejections: int = field(compare=False)  # of the request so far
    advised: float | None = field(compare=False, default=None)


class Simulation:
    """
    One run of a scenario.

    Args:
        scenario: The scenario to simulate.

        make: Creates a limiter for each client.

        seed: Seed of the random generator.
    """

    def __init__(self, scenario: Scenario, make: Callable[[], Controller], seed: int) -> None:
        self._scenario = scenario
        self._service = scenario.service()
        self._random = Random(seed)  # noqa: S311 - no secret
        self._clients = [_Client(make(), deque([0] * scenario.requests)) for _ in range(scenario.clients)]
        self._events: list[_Event] = []
        self._numbers = count()
        self._now = 0.0
        self._processing = self._sent = self._refused = self._done = 0

    def run(self) -> Result:
        """Run until all requests are accepted, or for a minute more than six times the ideal."""
        ideal = self._scenario.ideal
        needed = self._scenario.requests * self._scenario.clients
        while self._done < needed and self._now <= 6 * ideal + 60:
            self._start_requests()
            self._now = max(self._now, self._next_moment())
            while self._events and self._events[0].at <= self._now:
                self._handle(heapq.heappop(self._events))
        return Result(self._now / ideal, self._refused / self._sent, self._done == needed, self._now)

    def _may_ask(self, client: _Client) -> bool:
        most = min(self._scenario.most, client.controller.window())
        return bool(client.waiting) and client.in_flight < most

    def _next_moment(self) -> float:
        moments = [client.ask_at for client in self._clients if self._may_ask(client)]
        return min(moments + [event.at for event in self._events[:1]])

    def _start_requests(self) -> None:
        for client in self._clients:
            while client.ask_at <= self._now and self._may_ask(client):
                handle = client.controller.take(self._now)
                if isinstance(handle, float):
                    client.ask_at = self._now + max(1e-4, handle) + self._random.uniform(0, 0.001)
                else:
                    self._send(client, handle)

    def _send(self, client: _Client, handle: Any) -> None:
        client.in_flight += 1
        self._sent += 1
        travel = min(self._scenario.latency, ARRIVAL) * self._random.uniform(0.2, 0.4)
        client.last_arrival = max(client.last_arrival, self._now + travel)
        self._push(client.last_arrival, client, handle, self._now, "arrives", client.waiting.popleft())

    def _push(self, at: float, *details: Any) -> None:
        heapq.heappush(self._events, _Event(at, next(self._numbers), *details))

    def _handle(self, event: _Event) -> None:
        client, rejections = event.client, event.rejections
        if event.kind == "arrives":
            self._arrive(event)
        elif event.kind == "again":
            client.waiting.appendleft(rejections)
        else:
            client.in_flight -= 1
            client.ask_at = min(client.ask_at, event.at)
            if event.kind == "accepted":
                self._processing -= 1
                self._done += 1
                client.controller.accepted(event.handle, event.at)
            else:
                advised = event.advised
                client.controller.refused(event.handle, event.at, advised)
                seconds = 0.0 if advised else throttled_backoff(rejections + 1, self._random.random)
                self._push(event.at + seconds, client, None, 0.0, "again", rejections + 1)

    def _arrive(self, event: _Event) -> None:
        scenario = self._scenario
        admitted = self._service.admits(event.at, self._processing)
        advised = None if admitted else self._service.advice(event.at)
        admitted = admitted and self._random.random() >= scenario.spurious
        self._processing += admitted
        self._refused += not admitted
        refusal = min(scenario.latency, ARRIVAL) if scenario.refusal is None else scenario.refusal
        seconds = (scenario.latency if admitted else refusal) * self._random.uniform(0.9, 1.1)
        at = max(event.at, event.sent + seconds)
        kind = "accepted" if admitted else "refused"
        self._push(at, event.client, event.handle, event.sent, kind, event.rejections, advised)


def simulate(scenario: Scenario, make: Callable[[], Controller], seeds: Sequence[int]) -> list[Result]:
    """Run a scenario once for each seed."""
    return [Simulation(scenario, make, seed).run() for seed in seeds]
