"""One call being carried out, in both colours: workers that take its job's flows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING

from msgspec import Struct

from . import _anyio as anyio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._drivers import AsyncDriver, Driver
    from ._engine.request import Call
    from ._engine.job import Job
    from ._loop import Loop, Task


class Work(Struct, frozen=True):
    """
    What one synchronous call needs.

    Attributes:
        job: What is to be done.

        call: What its requests share.

        driver: Does what the job asks for.

        loop: Waits for it.
    """

    job: Job
    call: Call
    driver: Driver
    loop: Loop

    def carry_out(self) -> None:
        """
        Take the job to its end, with as many requests side by side as it has and settings allow.

        Raises:
            CacheError: If the cache can't be read.

            DeadlineError: If that took too long.
        """
        self.loop.run([self.driver.drive(self.job.look_up())])
        workers = [self._work() for _ in range(min(self.call.config.concurrency, self.job.batches))]
        if len(workers) > 1:
            self._run_in_a_thread(workers)
        else:
            self.loop.run(workers)

    def interrupt(self) -> None:
        """Send nothing more, and wait for no answer; from any thread, at any time."""
        self.call.stop()
        self.loop.interrupt()

    def _run_in_a_thread(self, workers: Sequence[Task]) -> None:
        # One that nothing interrupts: what has come by then is kept, and stored.
        with ThreadPoolExecutor(1, thread_name_prefix="qwen_aiml") as pool:
            try:
                # It sees the caller's context variables, which tracing rests on.
                pool.submit(copy_context().run, self.loop.run, workers).result()
            except BaseException:
                # So that nobody waits for the answers; on the way out the thread is waited for.
                self.interrupt()
                raise

    def _work(self) -> Task:
        while (flow := self.job.next_flow()) is not None:
            yield from self.driver.drive(flow)


class AsyncWork(Struct, frozen=True):
    """The same as `Work`, awaited; cancelling interrupts it."""

    job: Job
    call: Call
    driver: AsyncDriver

    async def carry_out(self) -> None:
        """Take the job to its end."""
        await self.driver.drive(self.job.look_up())
        # Also for one worker alone: asyncio's own cancellation ends what is shielded, but not in a child.
        async with anyio.create_task_group() as group:
            for _ in range(min(self.call.config.concurrency, self.job.batches)):
                group.start_soon(self._work)

    async def _work(self) -> None:
        while (flow := self.job.next_flow()) is not None:
            await self.driver.drive(flow)
