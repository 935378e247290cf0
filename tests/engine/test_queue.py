"""The queue in which requests wait to start: its order, its bound, and whoever leaves it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from fakes import After, Harness
from qwen_aiml._engine.queue import Ticket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Line:
    """
    Tickets by name, whose first letter is their owner.

    Attributes:
        started: The names of those that have started, in order.
    """

    def __init__(self, limit: int) -> None:
        self.harness = Harness()
        self.harness.limiter.window = limit
        self.queue = self.harness.queue
        self.tickets: dict[str, Ticket] = {}
        self.started: list[str] = []
        self.on_wait: Callable[[float], object] | None = None

    async def wait(self, name: str) -> None:
        """Take a ticket and wait until it may start."""
        self.tickets[name] = ticket = Ticket(name[0], self.on_wait)
        assert await self.queue.start(ticket, 1.0, lambda: 100.0)
        self.started.append(name)

    def leave(self, *names: str) -> None:
        """End tickets."""
        for name in names:
            self.queue.leave(self.tickets[name])


def run(limit: int, steps: Callable[[Line, Callable[..., Awaitable[None]]], Awaitable[None]]) -> list[str]:
    """Run steps that let tickets come, in order; in the end all are left."""
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
        line.leave(*line.tickets)

    line.harness.run(main)
    return line.started


def test_limit() -> None:
    """As many start as may be in flight, and one more when one of these ends."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        await come("a1", "a2", "a3")
        assert (line.started, line.queue.in_flight) == (["a1", "a2"], 2)
        line.leave("a1")

    assert run(2, steps) == ["a1", "a2", "a3"]


def test_storing() -> None:
    """What is being stored counts as in flight up to the ceiling, which the limit may be far below."""

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
    """A limit that has grown lets more in at the next end."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        await come("a1", "a2", "a3", "a4", "a5")
        assert line.started == ["a1"]
        line.harness.limiter.window = 3
        line.leave("a1")

    assert run(1, steps) == ["a1", "a2", "a3", "a4"]


def test_limit_that_shrinks() -> None:
    """Under a limit that has shrunk nothing starts before fewer are in flight than it allows."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        await come("a1", "a2", "a3")
        line.harness.limiter.window = 1
        assert not line.queue.start_now(Ticket("b"), 1.0)
        await come("a4")
        line.leave("a1", "a2")
        await anyio.wait_all_tasks_blocked()
        assert line.started == ["a1", "a2", "a3"]
        line.leave("a3")

    assert run(3, steps) == ["a1", "a2", "a3", "a4"]


def test_round_robin() -> None:
    """Calls are served round robin, and within one call whoever has waited longest is next."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        await come("a1", "a2", "a3", "a4", "b1", "b2", "c1")
        for at in range(6):
            line.leave(line.started[at])
            await anyio.wait_all_tasks_blocked()

    assert run(1, steps) == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


def test_leaving() -> None:
    """Whoever leaves, in whatever state and how often, leaves no gap."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        await come("a1", "a2", "a3", "b1", "c1")
        line.leave("a2", "b1", "b1", "a1", "a1")

    assert run(1, steps)[:2] == ["a1", "a3"]


def test_one_at_a_time_waits_for_the_limiter() -> None:
    """Nobody overtakes the ticket that waits for the limiter; when it leaves, the next one waits."""

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        line.harness.limiter.paused_until = 5.0
        await come("a1", "b1")
        assert not line.queue.start_now(Ticket("c"), 1.0)
        line.leave("a1")
        await anyio.sleep(6)

    assert "b1" in run(3, steps)


def test_waiting_for_the_limiter() -> None:
    """A request waits as long as the limiter says, and is told how long."""
    told: list[float] = []

    async def steps(line: Line, come: Callable[..., Awaitable[None]]) -> None:
        line.harness.limiter.paused_until = 5.0
        assert not line.queue.start_now(Ticket("a"), 1.0)
        line.on_wait = told.append
        await come("a1")
        assert not line.started
        await anyio.sleep(5.5)
        assert line.started

    run(3, steps)
    assert told == [5.0]


def test_wait_beyond_the_deadline() -> None:
    """A wait for the limiter that would outlast the call does not begin."""
    harness = Harness()
    harness.limiter.paused_until = 5.0

    async def start() -> bool:
        ticket = Ticket("a")
        try:
            return await harness.queue.start(ticket, 1.0, lambda: 5.0)
        finally:
            harness.queue.leave(ticket)

    assert not harness.run(start)
    assert harness.now() == 0.0


def test_start_now() -> None:
    """A request starts without a wait if none is before it, and there is room."""

    async def start() -> None:
        tickets = [Ticket(name) for name in "abc"]
        assert [harness.queue.start_now(ticket, 1.0) for ticket in tickets] == [True, True, False]
        for ticket in tickets:
            harness.queue.leave(ticket)

    harness = Harness()
    harness.limiter.window = 2
    harness.run(start)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("moment", range(12))
def test_cancelled_at_any_moment(moment: int, backend: str) -> None:
    """A request gives back its place at whatever moment it is cancelled, and the others are sent."""
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
    """With many tasks each gets its turn, and no more than the limit are in flight."""
    harness = Harness(backend=backend, max_concurrency=3, service=lambda _: None)

    async def run() -> None:
        calls = [harness.new_call() for _ in range(7)]
        async with anyio.create_task_group() as group:
            for at in range(200):
                group.start_soon(harness.attempt, f"text {at}", calls[at % 7])

    harness.run(run)
    assert len(harness.sent) == 200
    assert harness.transport.most <= 3
