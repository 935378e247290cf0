"""
Streams: texts are read as they are needed, and embedded block by block, each block as a `Job`.

`Blocks` decides when a block begins and in which order rows are returned; the iterators do the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, cast

import anyio
import anyio.lowlevel

from .._errors import InputError, batch_error
from .._results import Usage
from .._texts.validation import iterate
from .._utils.frames import clear_frames
from .runner import Running, wait_for

if TYPE_CHECKING:
    from array import array
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from anyio.abc import TaskGroup
    from typing_extensions import Self

    from .job import Job

    Row: TypeAlias = tuple[int, array[float]]

# Seconds that dropping an iterator waits for each block, since it may be dropped where blocks can't end.
DROP_SECONDS = 5.0

# Blocks that the look-ahead is cut into where they overlap: two running, and one whose rows are given.
BLOCKS_AHEAD = 3

# What is no error of reading texts: none, or that they have ended.
NO_ERROR = (type(None), StopIteration, StopAsyncIteration)


class Blocks:
    """
    The state of one iteration.

    Args:
        make: Makes the job of some texts, the first of which has an index.

        look_ahead: Maximum number of texts read and not yielded yet.

        in_order: Whether rows are given in the order of the texts; else block by block, as these end.

        overlap: Whether two blocks may be running, also while rows are given; else one, and only when
            there is none to give.

    Attributes:
        running: How many blocks are running.

        read: The texts that were read for the next block.

        read_error: What reading the next one raised, be it that there is none; None for nothing.
    """

    def __init__(
        self, make: Callable[[list[str], int], Job], look_ahead: int, *, in_order: bool, overlap: bool
    ) -> None:
        self._make = make
        self._look_ahead = look_ahead
        self._in_order = in_order
        self.overlap = overlap
        self.running = 0
        self.read: list[str] = []
        self.read_error: Exception | None = None
        self._begun = 0
        self._given = 0
        self._blocks: dict[Job, list[Row] | None] = {}  # those that run have no rows yet
        self._rows: deque[Row] = deque()
        self._usage = Usage()
        self._missing: list[int] = []
        self._failed: list[Job] = []
        self._errors: list[BaseException] = []

    @property
    def _size(self) -> int:
        return max(1, self._look_ahead // BLOCKS_AHEAD) if self.overlap else self._look_ahead

    @property
    def _may_begin(self) -> bool:
        if self._missing or self._errors or self.running == BLOCKS_AHEAD - 1:
            return False
        return self._begun - self._given + self._size <= self._look_ahead

    @property
    def wants_text(self) -> bool:
        """Whether a text is to be read now, for a block that may begin."""
        return len(self.read) < self._size and self.read_error is None and self._may_begin

    def begin(self) -> Job | None:
        """Give the block that is to begin now, once no further text is wanted; None for none."""
        if not self.read or not self._may_begin:
            return None
        texts, first = self.read, self._begun
        self.read = []
        self._begun += len(texts)
        try:
            job = self._make(texts, first)
        except Exception as error:  # noqa: BLE001 (raised once all other blocks have ended)
            self._missing += range(first, self._begun)
            self._errors.append(error)
            return None
        self._blocks[job] = None
        self.running += 1
        return job

    def end(self, job: Job, error: BaseException | None = None) -> None:
        """
        Note that a block has ended.

        Args:
            job: One that has begun, with all workers gone.

            error: What was raised instead of being noted by the job; None for nothing.
        """
        if job not in self._blocks:
            return  # of an iteration that was closed in the meantime
        self.running -= 1
        indexed = list(enumerate(job.rows(), job.first))
        self._blocks[job] = [(index, cast("array[float]", row)) for index, row in indexed if row is not None]
        self._missing += [index for index, row in indexed if row is None]
        self._usage += job.call.usage
        if job.cause() is not None:
            self._failed.append(job)
        if error is not None:
            self._errors.append(error)
        for begun, rows in list(self._blocks.items()):
            if rows is not None:
                self._rows.extend(rows)
                del self._blocks[begun]
            elif self._in_order:
                break

    def take(self) -> Row | None:
        """Give the next row; None if none is there yet."""
        if not self._rows:
            return None
        self._given += 1
        return self._rows.popleft()

    def error(self) -> BaseException | None:
        """
        Tell what is to be raised, once no block is running and all rows are given; None for nothing.

        An `EmbeddingBatchError` if requests failed, unless not a single row was given; then, or if it was
        something else, the first error in time itself. What reading raised comes last: it means that all
        texts before are embedded.
        """
        ends = (*self._errors, self.read_error)
        error = other = next((end for end in ends if not isinstance(end, NO_ERROR)), None)
        if self._failed:
            failures = dict(sorted(each for job in self._failed for each in job.failures().items()))
            error = self._failed[0].cause()
            if (kind := batch_error(failures, some=bool(self._given))) is not None:
                error = kind([], failures, self._usage, missing=sorted(self._missing))
                error.__cause__ = next(filter(None, (job.crash for job in self._failed)), other)
        clear_frames(error)
        return error

    def closed(self) -> Blocks:
        """Give the state of an iteration that reads, begins, gives and raises nothing."""
        return Blocks(self._make, 0, in_order=self._in_order, overlap=self.overlap)


class EmbeddingIterator:
    """
    Indices and embeddings of texts that are read as they are needed.

    Two blocks are embedded in the background. Leaving a ``with`` block, ``close``, an interrupt and the end
    of the texts cancel what is in flight and wait for both blocks; so does dropping the object, as breaking
    out of a ``for`` loop over it does. For one thread at a time.
    """

    def __init__(
        self,
        texts: Iterable[str],
        blocks: Blocks,
        run: Callable[[Job], Awaitable[None]],
    ) -> None:
        self._running: dict[Job, Running] = {}
        self._texts = iterate(texts)
        self._blocks = blocks
        self._run = run
        self._ended: SimpleQueue[Job] = SimpleQueue()

    def __iter__(self) -> Iterator[tuple[int, array[float]]]:
        return self

    def __next__(self) -> tuple[int, array[float]]:
        try:
            while True:
                for running in list(self._running.values()):  # another thread may close it
                    running.check_process()
                while not self._ended.empty():
                    self._end_block(self._ended.get())
                self._begin_blocks()
                if (row := self._blocks.take()) is not None:
                    return row
                if not self._blocks.running:
                    # Never in a variable of this frame, which its traceback holds.
                    raise self._blocks.error() or StopIteration  # noqa: TRY301 (closed like all others)
                self._end_block(wait_for(self._ended))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel what is in flight and wait for its end; no further row is returned."""
        self._blocks = self._blocks.closed()
        self._cancel(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._cancel(DROP_SECONDS)

    def _begin_blocks(self) -> None:
        blocks = self._blocks
        while True:
            try:
                while blocks.wants_text:
                    blocks.read.append(next(self._texts))
            except Exception as error:  # noqa: BLE001 (raised once what was read is embedded)
                blocks.read_error = error
            if (job := blocks.begin()) is None:
                return
            # Kept before it starts, so that an interrupt in between cancels it as well.
            self._running[job] = running = Running(partial(self._run, job), partial(self._ended.put, job))
            running.start()

    def _end_block(self, job: Job) -> None:
        if job in self._running:  # else it was cancelled
            self._blocks.end(job, self._running.pop(job).error)

    def _cancel(self, seconds: float | None) -> None:
        left = list(self._running.values())
        self._running.clear()
        for running in left:
            running.cancel()
        for running in left:
            running.join(seconds)


class AsyncEmbeddingIterator:
    """
    Indices and embeddings of texts that are read as they are needed, on asyncio or Trio.

    Inside an ``async with`` block two tasks embed, also while rows are worked on, and end with it. Without
    one nothing runs but while a row is awaited, a block after the other; cancelled then, it has ended. For
    one task at a time.
    """

    def __init__(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        blocks: Blocks,
        run: Callable[[Job], Awaitable[None]],
    ) -> None:
        self._texts = texts
        self._next = _reader(texts)
        self._blocks = blocks
        self._run = run
        self._group: TaskGroup | None = None

    def __aiter__(self) -> AsyncIterator[tuple[int, array[float]]]:
        return self

    async def __anext__(self) -> tuple[int, array[float]]:
        while True:
            # At each row, so that requests go on, and cancellation is seen, whatever is done with the rows.
            await anyio.lowlevel.checkpoint()
            self._block_ended = anyio.Event()
            await self._begin_blocks()
            if (row := self._blocks.take()) is not None:
                return row
            if not self._blocks.running:
                break
            await self._block_ended.wait()
        try:
            raise self._blocks.error() or StopAsyncIteration  # in no variable, as above
        finally:
            self._blocks = self._blocks.closed()

    async def __aenter__(self) -> Self:
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group
        self._blocks.overlap = True
        return self

    async def __aexit__(self, *_: object) -> None:
        group, self._group = cast("TaskGroup", self._group), None
        self._blocks = self._blocks.closed()
        group.cancel_scope.cancel()
        # Not with what ended the block, which the group would wrap.
        await group.__aexit__(None, None, None)

    async def _begin_blocks(self) -> None:
        blocks = self._blocks
        while True:
            try:
                while blocks.wants_text:
                    blocks.read.append(await self._next())
            except Exception as error:  # noqa: BLE001 (raised once what was read is embedded)
                blocks.read_error = error
            except BaseException:
                if getattr(self._texts, "ag_frame", self) is None:
                    # A generator ends when it is cancelled, and would seem to be complete.
                    blocks.read_error = InputError("reading the texts was cancelled, which ends a generator")
                raise
            if (job := blocks.begin()) is None:
                return
            if self._group is None:
                await self._embed(job)
            else:
                self._group.start_soon(self._embed, job)

    async def _embed(self, job: Job) -> None:
        try:
            await self._run(job)
        except Exception as error:  # noqa: BLE001 (raised where rows are asked for)
            self._blocks.end(job, error)
        except BaseException as error:
            if self._group is None or not isinstance(error, asyncio.CancelledError):
                self._blocks = self._blocks.closed()
                raise
            # Raises it again, unless other code has cancelled what was awaited, and not this iteration.
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._blocks.end(job, error)
        else:
            self._blocks.end(job)
        self._block_ended.set()


def _reader(texts: Iterable[str] | AsyncIterable[str]) -> Callable[[], Awaitable[str]]:
    if isinstance(texts, AsyncIterable):
        return aiter(texts).__anext__
    given = iterate(texts)

    async def read() -> str:
        for text in given:
            return text
        raise StopAsyncIteration

    return read
