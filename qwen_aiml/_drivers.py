"""Carrying out what flows ask for, in both colours; what to do is decided in the flows."""

from __future__ import annotations

import math
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct

from . import _anyio as anyio
from ._steps import Admit, Enter, Load, Send, Wait
from ._waits import Called, Pause, Run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from ._cache.entries import Cache
    from ._engine.request import Clock
    from ._sender import AsyncSender, Sender
    from ._steps import Outcome, Step
    from ._waits import AnyWait

STORE_SECONDS = 30.0


class Driver(Struct, frozen=True):
    """
    Does what flows ask for, in a `Loop`, which waits for it.

    Attributes:
        sender: Posts, and has the line in which requests wait.

        clock: What deadlines are read from.

        cache: What is looked up and stored in; None for nothing.

        admit: The user's rate limiter; None for none.
    """

    sender: Sender
    clock: Clock
    cache: Cache | None
    admit: Callable[[int], object] | None

    def drive(self, flow: Generator[Step, Outcome, None]) -> Generator[AnyWait, Any, None]:
        """Take a flow to its end."""
        outcome: Outcome = None
        with closing(flow):
            while True:
                try:
                    step = flow.send(outcome)
                except StopIteration:
                    return
                try:
                    outcome = yield from self._do(step)
                except Exception as crash:  # noqa: BLE001 (the flow decides what comes of it)
                    outcome = crash

    def _do(self, step: Step) -> Generator[AnyWait, Any, Outcome]:
        if isinstance(step, Send):
            return (yield from self.sender.send(step))
        if isinstance(step, Enter):
            until = math.inf if step.deadline is None else step.deadline
            yield Called(partial(self.sender.turns.when_it_comes, step.turn), until)
        elif isinstance(step, Wait):
            yield Pause(self.clock.now() + step.seconds)
        elif isinstance(step, Admit):
            yield Run(partial(cast("Callable[[int], object]", self.admit), step.tokens))
        elif isinstance(step, Load):
            return cast("Outcome", (yield Run(partial(cast("Cache", self.cache).get_many, step.keys))))
        else:
            yield Run(partial(cast("Cache", self.cache).set_many, step.entries))
        return None


class AsyncDriver(Struct, frozen=True):
    """The same as `Driver`, awaited, on asyncio and Trio; ``stopped`` is an `anyio.Event`."""

    sender: AsyncSender
    clock: Clock
    stopped: anyio.Event
    cache: Cache | None
    admit: Callable[[int], Awaitable[object]] | None

    async def drive(self, flow: Generator[Step, Outcome, None]) -> None:
        """Take a flow to its end."""
        outcome: Outcome = None
        with closing(flow):
            while True:
                try:
                    step = flow.send(outcome)
                except StopIteration:
                    return
                try:
                    outcome = await self._do(step)
                except Exception as crash:  # noqa: BLE001 (the flow decides what comes of it)
                    outcome = crash

    async def _do(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            return await self.sender.send(step)
        if isinstance(step, Enter):
            came = anyio.Event()
            self.sender.turns.when_it_comes(step.turn, came.set)
            with self._until(step.deadline):
                await came.wait()
        elif isinstance(step, Wait):
            with anyio.move_on_after(step.seconds):
                await self.stopped.wait()
        elif isinstance(step, Admit):
            with self._until(step.deadline):
                await cast("Callable[[int], Awaitable[object]]", self.admit)(step.tokens)
        elif isinstance(step, Load):
            with self._until(step.deadline):
                return await cast("Cache", self.cache).aget_many(step.keys)
        else:
            # What is paid for is stored also while the call is being cancelled, unless the store hangs.
            with anyio.fail_after(STORE_SECONDS, shield=True):
                await cast("Cache", self.cache).aset_many(step.entries)
        return None

    def _until(self, deadline: float | None) -> anyio.CancelScope:
        return anyio.move_on_after(None if deadline is None else deadline - self.clock.now())
