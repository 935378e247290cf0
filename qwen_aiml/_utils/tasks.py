"""Background tasks that belong to no task group, on asyncio or Trio."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import anyio

from .loops import current_loop, runs_asyncio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine


class Tasks:
    """
    Tasks that run in the background until they end, or until `end` is awaited, in whichever task.

    A task group must be exited by the task that entered it. An async generator that is left with ``break`` is
    closed by another task: leaving a group there would cancel the task that entered it.
    """

    def __init__(self) -> None:
        self._running: set[_Task] = set()

    def start(self, function: Callable[[], Awaitable[None]]) -> None:
        """Start a coroutine function, with the context variables of this task."""
        task = _Task()

        async def run() -> None:
            with task.scope:
                await function()

        def on_end(_: object) -> None:
            self._running.discard(task)
            task.ended.set()

        self._running.add(task)
        task.started = _start(run, on_end)

    async def end(self) -> None:
        """Cancel the tasks of this event loop, and wait for their end; another loop may no longer run."""
        running = [task for task in self._running if task.loop is current_loop()]
        for task in running:
            task.scope.cancel()
        with anyio.CancelScope(shield=True):
            for task in running:
                await task.ended.wait()


class _Task:
    def __init__(self) -> None:
        self.loop = current_loop()
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self.started: object = None  # asyncio does not keep a reference to it


def _start(function: Callable[[], Coroutine[Any, Any, None]], on_end: Callable[[object], None]) -> object:
    if runs_asyncio():
        started = asyncio.create_task(function())
        started.add_done_callback(on_end)  # even if it is cancelled before it runs
        return started
    import trio  # noqa: PLC0415 (it is running)

    async def run() -> None:
        try:
            await function()
        finally:
            on_end(None)

    return trio.lowlevel.spawn_system_task(run, context=copy_context())
