"""One call being carried out, in both colours: workers that take its job's flows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING

import anyio
from msgspec import Struct

if TYPE_CHECKING:
    from ._drivers import AsyncDriver, Driver
    from ._flow import Call
    from ._job import Job


class Work(Struct, frozen=True):
    """
    What one synchronous call needs.

    Attributes:
        job: What is to be done.

        call: What its requests share.

        driver: Does what the job asks for.
    """

    job: Job
    call: Call
    driver: Driver

    def carry_out(self) -> None:
        """
        Take the job to its end, in as many threads as it has requests and settings allow.

        Raises:
            CacheError: If the cache can't be read.

            DeadlineError: If that took too long.
        """
        with self.driver.watch:
            self.driver.drive(self.job.look_up())
            workers = min(self.call.config.concurrency, self.job.batches)
            if workers > 1:
                self._work_in_threads(workers)
            else:
                self._work()

    def interrupt(self) -> None:
        """Send nothing more, and wait for no answer; from any thread, at any time."""
        self.call.stop()
        self.driver.watch.break_off()

    def _work_in_threads(self, workers: int) -> None:
        with ThreadPoolExecutor(workers, thread_name_prefix="qwen_aiml") as pool:
            try:
                # Each thread sees the caller's context variables, which tracing rests on.
                for done in [pool.submit(copy_context().run, self._work) for _ in range(workers)]:
                    done.result()
            except BaseException:
                # So that nobody waits for the answers; on the way out all threads are waited for.
                self.interrupt()
                raise

    def _work(self) -> None:
        while (flow := self.job.next_flow()) is not None:
            self.driver.drive(flow)


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
