"""The queue in which requests wait to start: order, limit and cancellation."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from fakes import After, Harness

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Line:
    """
    Requests by name; the first letter is the name of their call.

    Attributes:
        started: The names of those that have started, in order.
    """

    def __init__(self, limit: int) -> None:
        self.harness = Harness()
        self.harness.limiter.window = limit
        self.queue = self.harness.queue
        self.calls: dict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self.scopes: dict[str, anyio.CancelScope] = {}
        self.started: list[str] = []
        self.on_wait: Callable[[float], object] = lambda _: None

    async def wait(self, name: str) -> None:
        """Wait until a request may start, or it is cancelled."""
        with anyio.CancelScope() as self.scopes[name]:
            async with self.calls[name[0]]:
                assert await self.queue.start(1.0, lambda: 100.0, self.on_wait)
                self.started.append(name)

    def leave(self, *names: str) -> None:
        """End requests that have started; cancel those that wait."""
        for name in names:
            if name in self.started:
                self.queue.end()
            else:
                self.scopes[name].cancel()


def run(limit: int, steps: Callable[[Line, Callable[..., Awaitable[None]]], Awaitable[None]]) -> list[str]:
    """Run steps that add and end requests, then end all; return the names in the order of their starts."""
    line = Line(limit)

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def come(*names: str) -> None:
                for name in names:
                    group.start_soon(line.wait, name)
                    await anyio.wait_all_tasks_blocked()

            await steps(line, come)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        while line.queue.in_flight:
            line.queue.end()

    line.harness.run(main)
    return line.started


def test_limit() -> None:
    """Requests start up to the limit, and one more whenever one ends."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        await come("a1", "a2", "a3")
        assert (line.started, line.queue.in_flight) == (["a1", "a2"], 2)
        line.leave("a1")

    assert run(2, steps) == ["a1", "a2", "a3"]


def test_storing() -> None:
    """Batches being stored count as in flight towards the ceiling, not towards the current limit."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        line.harness.limiter.most = 3
        with line.queue.storing():
            await come("a1", "a2", "a3")
            assert line.started == ["a1", "a2"]
            with line.queue.storing():
                line.leave("a1")
                await anyio.wait_all_tasks_blocked()
                assert line.started == ["a1", "a2"]
            await anyio.wait_all_tasks_blocked()
            assert line.started == ["a1", "a2", "a3"]

    assert run(2, steps) == ["a1", "a2", "a3"]


def test_limit_that_grows() -> None:
    """A limit that has grown lets more requests start when the next one ends."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        await come("a1", "a2", "a3", "a4", "a5")
        assert line.started == ["a1"]
        line.harness.limiter.window = 3
        line.leave("a1")

    assert run(1, steps) == ["a1", "a2", "a3", "a4"]


def test_limit_that_shrinks() -> None:
    """After the limit has shrunk, no request starts until fewer are in flight than it allows."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        await come("a1", "a2", "a3")
        line.harness.limiter.window = 1
        await come("a4")
        line.leave("a1", "a2")
        await anyio.wait_all_tasks_blocked()
        assert line.started == ["a1", "a2", "a3"]
        line.leave("a3")

    assert run(3, steps) == ["a1", "a2", "a3", "a4"]


def test_round_robin() -> None:
    """Calls are served round robin; within a call, the request that has waited longest is next."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        await come("a1", "a2", "a3", "a4", "b1", "b2", "c1")
        for at in range(6):
            line.leave(line.started[at])
            await anyio.wait_all_tasks_blocked()

    assert run(1, steps) == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


def test_leaving() -> None:
    """A request that leaves while in flight, next in line, or waiting leaves no gap."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        await come("a1", "a2", "a3", "b1", "b2", "c1")
        for names in (["a2"], ["b1", "c1"], ["a1"], ["a3"]):
            line.leave(*names)
            await anyio.wait_all_tasks_blocked()

    assert run(1, steps) == ["a1", "a3", "b2"]


def test_one_at_a_time_waits_for_the_limiter() -> None:
    """No request overtakes the one that waits for the limiter; when it leaves, the next one waits."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        line.harness.limiter.paused_until = 5.0
        await come("a1", "b1")
        line.harness.limiter.paused_until = 0.0
        await come("c1")
        assert not line.started
        line.leave("a1")
        await anyio.wait_all_tasks_blocked()
        assert line.started == ["b1", "c1"]

    run(3, steps)


def test_waiting_for_the_limiter() -> None:
    """A request waits as long as the limiter says, and reports the delay."""
    waits: list[float] = []

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        line.harness.limiter.paused_until = 5.0
        line.on_wait = waits.append
        await come("a1")
        assert not line.started
        await anyio.sleep(5.5)
        assert line.started

    run(3, steps)
    assert waits == [5.0]


def test_wait_beyond_the_deadline() -> None:
    """A wait for the limiter that would outlast the call does not start."""
    harness = Harness()
    harness.limiter.paused_until = 5.0

    async def start() -> object:
        return await harness.queue.start(1.0, lambda: 5.0, lambda _: None)

    assert harness.run(start) is None
    assert harness.now() == 0.0


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_no_wait(backend: str) -> None:
    """A request starts without yielding to the event loop if none is ahead of it and there is room."""
    harness = Harness(backend=backend)

    async def start() -> None:
        starting = harness.queue.start(1.0, lambda: 5.0, lambda _: None)
        with pytest.raises(StopIteration):
            starting.__await__().send(None)
        assert harness.queue.in_flight == 1
        harness.queue.end()

    harness.run(start)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("moment", range(12))
def test_cancelled_at_any_moment(moment: int, backend: str) -> None:
    """A request frees its place whenever it is cancelled, and the others are sent."""
    harness = Harness(backend=backend, max_concurrency=1, service=lambda _: After(0.001))

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(harness.attempt, "before")
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(harness.attempt, "cancelled", harness.new_call())
                for _ in range(3):
                    group.start_soon(harness.attempt, "after", harness.new_call())
                for _ in range(moment):
                    await anyio.sleep(0.0005)
                cancelled.cancel_scope.cancel()
        assert harness.is_idle

    harness.run(run)
    assert sorted(texts for texts in harness.sent if texts != ["cancelled"]) == [["after"]] * 3 + [["before"]]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_many(backend: str) -> None:
    """With many tasks each gets its turn, and no more requests are in flight than the limit allows."""
    harness = Harness(backend=backend, max_concurrency=3, service=lambda _: None)

    async def run() -> None:
        calls = [harness.new_call() for _ in range(7)]
        async with anyio.create_task_group() as group:
            for at in range(200):
                group.start_soon(harness.attempt, f"text {at}", calls[at % 7])

    harness.run(run)
    assert len(harness.sent) == 200
    assert harness.transport.most <= 3
