"""Exact short waits, by which requests keep the rate of a limit."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import socket
import sys
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock

from fakes import Harness
from qwen_aiml._engine import queue
from qwen_aiml._engine.runner import BackgroundCall
from qwen_aiml._results import Limits
from qwen_aiml._utils import short_waits
from qwen_aiml._utils.short_waits import exact_selector, sleep

linux = pytest.mark.skipif(sys.platform != "linux", reason="no timers with file descriptors")


@pytest.fixture(params=["os", "ctypes"])
def timers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the seconds for which timers with file descriptors are set."""
    seconds: list[float] = []

    def start(wait: float) -> int:
        timer = originally(wait)
        seconds.append(wait)
        return timer

    if request.param == "ctypes":
        monkeypatch.delattr(os, "timerfd_create", raising=False)
    elif not hasattr(os, "timerfd_create"):
        pytest.skip("needs Python 3.13")
    originally = short_waits._start_timer
    monkeypatch.setattr(short_waits, "_start_timer", start)
    return seconds


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@linux
def test_exact(timers: list[float]) -> None:
    """A short sleep is not rounded up to milliseconds, and leaves no file descriptor open."""

    async def main() -> None:
        before, began = count_descriptors(), monotonic()
        await sleep(0.0012)
        assert monotonic() - began >= 0.0012
        with anyio.move_on_after(0.001):
            await sleep(0.04)
        assert count_descriptors() == before

    asyncio.run(main())

    assert timers == [0.0012, 0.04]


@linux
def test_no_descriptor_left(timers: list[float]) -> None:
    """Without a file descriptor, a sleep is as exact as the event loop's."""
    import resource  # noqa: PLC0415 (not on Windows)

    async def main() -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            began = monotonic()
            await sleep(0.002)
            assert monotonic() - began >= 0.002
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    asyncio.run(main())

    assert timers == []


@linux
def test_long(timers: list[float]) -> None:
    """A long sleep, and one on Trio, are left to the event loop."""
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(sleep(60), 0.01))
    trio.run(sleep, 0.002, clock=MockClock(autojump_threshold=0))

    assert timers == []


@linux
def test_less_than_a_nanosecond(timers: list[float]) -> None:
    """The shortest sleeps end: a timer that is set to zero never would."""
    asyncio.run(asyncio.wait_for(sleep(1e-10), 1))

    assert timers == []


@linux
def test_own_loop(timers: list[float]) -> None:
    """Synchronous calls need no timers: those of their event loop are exact."""
    BackgroundCall(partial(sleep, 0.002)).run()

    assert timers == []


@pytest.mark.parametrize(("rate", "sleeps"), [(None, []), (50.0, [0.01])])
def test_only_at_a_limit(monkeypatch: pytest.MonkeyPatch, rate: float | None, sleeps: list[float]) -> None:
    """While no limit is known, waits need not be exact, which would take more processor time."""
    exact: list[float] = []

    async def record(seconds: float) -> None:
        exact.append(seconds)
        await anyio.sleep(seconds)

    async def wait(harness: Harness) -> None:
        assert await harness.queue.start(1.0, lambda: 60.0, lambda _: None)
        harness.queue.end()

    monkeypatch.setattr(queue, "sleep", record)
    harness = Harness()
    harness.limiter.limits = Limits(rate, 1, 10)
    harness.limiter.paused_until = 0.01
    harness.run(lambda: wait(harness))

    assert exact == pytest.approx(sleeps)


@pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="not epoll")
def test_exact_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short timeouts are not rounded up to a millisecond, and a file descriptor that is ready ends them."""
    waits: list[float] = []

    def wait(*arguments: Any) -> Any:
        waits.append(arguments[-1])
        return originally(*arguments)

    originally = select.select
    monkeypatch.setattr(select, "select", wait)
    here, there = socket.socketpair()
    with here, there, exact_selector() as selector:
        selector.register(here, selectors.EVENT_READ)
        nothing = selector.select(0.0012)
        there.send(b"x")
        ready = [selector.select(timeout) for timeout in (0.01, 0, 1.0, None)]
        monkeypatch.setattr(short_waits, "MAX_DESCRIPTOR", -1)
        ready.append(selector.select(0.02))

    assert waits == [0.0012, 0.01]
    assert nothing == []
    assert [[key.fileobj for key, _ in each] for each in ready] == [[here]] * 5


def test_selector_of_gevent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A selector that replaces the default one is used unchanged."""
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    with exact_selector() as selector:
        assert type(selector) is selectors.SelectSelector
