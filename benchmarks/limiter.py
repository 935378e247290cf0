"""
Simulate the limiter under limits that it does not know.

    python -m benchmarks.limiter

Prints, for three runs of each scenario, the median and the worst ratio of time to the ideal, and the median
share of requests rejected. The held-out scenarios were not used to choose the limiter's constants.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from statistics import geometric_mean, mean, median
from typing import TYPE_CHECKING, Any

from benchmarks.simulator import (
    AdvisedOnce,
    ConcurrencyLimit,
    FixedWindow,
    LateBucket,
    Scenario,
    SlidingWindow,
    TokenBucket,
    Unlimited,
    simulate,
)
from qwen_aiml._engine.limiter import Limiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from benchmarks.simulator import Result, Service
    from qwen_aiml._engine.limiter import Start

SIZE, TOKENS = 300, 100  # of each request


class Adapter:
    """
    The limiter with the interface that simulators expect.

    Other programs simulate it as well, so the names and parameters of its four methods must stay.
    """

    def __init__(self) -> None:
        self.limiter = Limiter(32)

    def window(self) -> int:
        """Return how many requests may be in flight."""
        return self.limiter.window

    def take(self, now: float) -> Start | float:
        """Start a request, or return the seconds to wait."""
        return self.limiter.take(now, TOKENS)

    def accepted(self, handle: Any, now: float) -> None:
        """Report a response."""
        self.limiter.accepted(handle, now, SIZE, TOKENS)

    def refused(self, handle: Any, now: float, advised: float | None) -> None:
        """Report a 429."""
        self.limiter.refused(handle, now, advised, 0.05)


def make() -> Adapter:
    """Create a limiter for one run."""
    return Adapter()


def _rates(
    jobs: Mapping[int, int], latencies: Iterable[float], bursts: Sequence[int], phases: Sequence[float]
) -> dict[str, Scenario]:
    """Combine rates per second, each with the requests of its job, with latencies and all kinds of limits."""
    found = {}
    for (rate, requests), latency in product(jobs.items(), latencies):
        services: dict[str, Callable[[], Service]] = {f"sliding {rate}/s": partial(SlidingWindow, rate)}
        for burst in bursts:
            services[f"bucket {rate}/s, burst {burst}"] = partial(TokenBucket, rate, burst)
        for phase in phases:
            services[f"fixed {rate}/s, phase {phase}"] = partial(FixedWindow, rate, 1.0, phase)
        for name, service in services.items():
            found[f"{name}, {latency} s"] = Scenario(service=service, requests=requests, latency=latency)
    return found


def _minutes(jobs: Mapping[int, int], phase: float, latency: float) -> dict[str, Scenario]:
    """Combine quotas per minute, each with the requests of its job."""
    found = {}
    for quota, requests in jobs.items():
        services: dict[str, Callable[[], Service]] = {
            "no Retry-After": partial(FixedWindow, quota, 60.0, phase),
            "with Retry-After": partial(FixedWindow, quota, 60.0, phase, advises=True),
            "sliding": partial(SlidingWindow, quota, 60.0),
        }
        for name, service in services.items():
            found[f"{quota} a minute, {name}, {latency} s"] = Scenario(
                service=service, requests=requests, latency=latency
            )
    return found


def _concurrency(limits: Iterable[int], latencies: Iterable[float]) -> dict[str, Scenario]:
    return {
        f"{most} in flight, {latency} s": Scenario(
            service=partial(ConcurrencyLimit, most),
            requests=min(1000, int(15 * most / latency)),
            latency=latency,
            useful=most,
        )
        for most, latency in product(limits, latencies)
    }


def _spurious(shares: Iterable[float], rate: int, latency: float) -> dict[str, Scenario]:
    services: dict[str, Callable[[], Service]] = {
        "no limit": Unlimited,
        f"bucket {rate}/s": partial(TokenBucket, rate, rate / 5),
        f"sliding {rate}/s": partial(SlidingWindow, rate),
    }
    return {
        f"{name}, {share:.1%} at random, {latency} s": Scenario(
            service=service, requests=20 * rate, latency=latency, spurious=share
        )
        for (name, service), share in product(services.items(), shares)
    }


def scenarios() -> dict[str, Scenario]:
    """Return the scenarios that were used to choose the limiter's constants, by name."""
    return {
        **_rates({5: 100, 50: 500, 500: 3000}, (0.02, 0.1, 0.3, 1.0), (1, 2, 10, 50), (0.0, 0.6)),
        **_minutes({60: 150, 300: 900}, 20.0, 0.1),
        **_concurrency((1, 4, 16), (0.02, 0.1, 0.5)),
        **_spurious((0.0, 0.01, 0.03), 50, 0.05),
    }


def held_out() -> dict[str, Scenario]:
    """Return other scenarios of the same kinds, by name."""
    return {
        **_rates({8: 120, 20: 250, 75: 700, 200: 1200}, (0.04, 0.25, 0.8), (1, 4, 15, 30), (0.75,)),
        **_minutes({90: 240, 200: 500}, 50.0, 0.25),
        **_concurrency((3, 9, 20), (0.04, 0.25, 0.8)),
        **_spurious((0.015, 0.025), 70, 0.15),
    }


def special() -> dict[str, Scenario]:
    """Return the scenarios with specific requirements, by name."""
    found = {
        f"bucket {rate}/s, holds {burst}, {latency} s": Scenario(
            service=partial(TokenBucket, rate, burst), requests=requests, latency=latency
        )
        for rate, requests in ((5, 100), (50, 500), (500, 5000))
        for burst in (1, rate // 5)
        for latency in (0.02, 0.1)
    }
    found |= _spurious((0.05, 0.1), 500, 0.1)
    found["one Retry-After of 1 s"] = Scenario(service=partial(AdvisedOnce, 1.0), requests=200, latency=0.1)
    for clients, latency in product((2, 4), (0.05, 0.1)):
        found[f"{clients} clients, bucket 50/s, {latency} s"] = Scenario(
            service=partial(TokenBucket, 50, 10), requests=600, latency=latency, clients=clients
        )
    for rate, burst in ((50, 1), (50, 10), (200, 100)):
        found[f"bucket {rate}/s, holds {burst}, Retry-After of 1 s"] = Scenario(
            service=partial(TokenBucket, rate, burst, advised=1.0), requests=10 * rate, latency=0.1
        )
    for closed in (1, 5, 20, 60):
        found[f"bucket 50/s, closed for the first {closed} s"] = Scenario(
            service=partial(LateBucket, 50, 10, closed), requests=500, latency=0.1
        )
    return found


def line(name: str, results: Sequence[Result]) -> str:
    """Format the results of one scenario as a line of the table."""
    ratios = [result.ratio for result in results]
    refused = median(result.refused for result in results)
    unfinished = "" if all(result.finished for result in results) else "  unfinished"
    return f"{name:45} {median(ratios):6.2f} {max(ratios):6.2f} {refused:7.1%}{unfinished}"


def summary(found: Mapping[str, Sequence[Result]]) -> str:
    """Summarise the results of all scenarios in one line."""
    ratios = [median(result.ratio for result in results) for results in found.values()]
    refused = mean(median(result.refused for result in results) for results in found.values())
    everything = [result for results in found.values() for result in results]
    return (
        f"{len(found)} scenarios: time over ideal {geometric_mean(ratios):.2f} (geometric mean), worst "
        f"{max(result.ratio for result in everything):.1f}; rejected {refused:.1%}; "
        f"unfinished: {sum(not result.finished for result in everything)}"
    )


def main() -> None:
    """Print the tables."""
    for title, group in (("chosen by", scenarios()), ("held out", held_out()), ("special", special())):
        print(title)
        found = {name: simulate(scenario, make, range(3)) for name, scenario in group.items()}
        for name, results in found.items():
            print(line(name, results))
        print(summary(found), end="\n\n")


if __name__ == "__main__":
    main()
