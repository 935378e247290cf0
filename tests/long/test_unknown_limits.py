"""How long 3,000 texts take where the service has limits that it does not tell, and how much it refuses."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from qwen_aiml import Usage

    Way: TypeAlias = Callable[..., tuple[list[list[float]], Usage]]

pytestmark = pytest.mark.long

TEXTS = [f"text {number}" for number in range(3000)]
REQUESTS = len(TEXTS) // 10
RATE = 50
RUNS = 3


def emulate(pipe: Connection, settings: dict[str, Any]) -> None:
    """Serve an emulator until asked for its counts."""
    emulator = Emulator(**settings)
    with serve(emulator) as url:
        pipe.send(url)
        pipe.recv()
        pipe.send((emulator.request_count, emulator.rejected_count))


@contextmanager
def emulated(**settings: Any) -> Iterator[tuple[str, Callable[[], tuple[int, int]]]]:
    """Serve an emulator in a process of its own, and give its address and what asks for its counts."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=emulate, args=(there, settings), daemon=True)
    process.start()

    def counts() -> tuple[int, int]:
        here.send(None)
        assert here.poll(60)
        received, rejected = here.recv()
        return received, rejected

    try:
        assert here.poll(60)
        yield here.recv(), counts
    finally:
        process.join(10)
        process.kill()
        process.join()
        process.close()
        here.close()
        there.close()


def run(way: Way, **limits: Any) -> tuple[float, float]:
    """Embed all texts, and give the seconds that took and the share of requests that was refused."""
    with emulated(**limits) as (url, counts):
        started = time.perf_counter()
        vectors, usage = way(TEXTS, url)
        seconds = time.perf_counter() - started
        received, rejected = counts()
    assert len(vectors) == len(TEXTS)
    assert received == usage.requests == REQUESTS + rejected
    return seconds, rejected / received


def told(runs: list[tuple[float, float]], ideal: float) -> str:
    """Put runs into words: the seconds each took, as a multiple of the ideal, and the share refused."""
    return ", ".join(f"{seconds / ideal:.2f} of {ideal:g} s ({share:.1%} refused)" for seconds, share in runs)


@pytest.mark.parametrize("latency", [0.02, 0.1])
def test_unknown_rate(way: Way, latency: float, tell: Callable[[str], None]) -> None:
    """Under an unknown limit of 50 a second it takes 1.25 of the ideal time, and under 5 % are refused."""
    runs = [run(way, rate_limit=RATE, latency=latency) for _ in range(RUNS)]
    tell(f"{RATE} a second, {latency:g} s each: {told(runs, REQUESTS / RATE)}")

    assert median(seconds for seconds, _ in runs) <= 1.25 * REQUESTS / RATE
    assert median(share for _, share in runs) < 0.05


def test_advised_rate(way: Way, tell: Callable[[str], None]) -> None:
    """A limit whose refusals say to wait a second costs a second more."""
    figures = run(way, rate_limit=RATE, latency=0.02, retry_after=1)
    tell(f"{RATE} a second, wait 1 s: {told([figures], REQUESTS / RATE)}")

    assert figures[0] <= 1.6 * REQUESTS / RATE
    assert figures[1] < 0.05


def test_unknown_concurrency(way: Way, tell: Callable[[str], None]) -> None:
    """An unknown limit of 4 at once is not taken for a rate."""
    figures = run(way, concurrency_limit=4, latency=0.1)
    tell(f"4 at once, 0.1 s each: {told([figures], REQUESTS * 0.1 / 4)}")

    assert figures[0] <= 2 * REQUESTS * 0.1 / 4
    assert figures[1] < 0.1
