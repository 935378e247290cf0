"""
Streams: texts are read as needed, and embedded block by block, each block as a `Job`.

`Blocks` decides when a block begins and in which order rows are returned; the iterators do the rest.
"""

from __future__ import annotations

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
from .._utils.tasks import Tasks
from .job import count, log_lost
from .runner import BackgroundCall, wait_for

if TYPE_CHECKING:
    from array import array
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from typing_extensions import Self

    from .job import Job

    Row: TypeAlias = tuple[int, array[float]]

# Number of blocks in the look-ahead if they overlap: two running, and one whose rows are yielded.
BLOCKS_AHEAD = 3

# Values of `read_error` that are not errors: no exception, or the end of the texts.
NO_ERROR = (type(None), StopIteration, StopAsyncIteration)


class Blocks:
    """
    The state of one iteration.

    Args:
        make: Creates the job of some texts, given the index of the first.

        look_ahead: Maximum number of texts read and not yielded yet.

        in_order: Whether rows are yielded in the order of the texts; otherwise block by block, as these end.

        overlap: Whether two blocks may be running, also while rows are yielded; otherwise one, and only when
            no row is left to yield.

        cached: Whether embeddings are stored in a cache.

    Attributes:
        running: Number of running blocks.

        read: Texts read for the next block.

        read_error: The exception raised by reading the next text, including the end of the texts; None if
            there was none.
    """

    def __init__(
        self,
        make: Callable[[list[str], int], Job],
        look_ahead: int,
        *,
        in_order: bool,
        overlap: bool,
        cached: bool = False,
    ) -> None:
        self._make = make
        self._look_ahead = look_ahead
        self._in_order = in_order
        self.overlap = overlap
        self.running = 0
        self.read: list[str] = []
        self.read_error: Exception | None = None
        self._begun = 0
        self._yielded = 0
        self._cached = cached
        self._blocks: dict[Job, list[Row] | None] = {}  # None while a block is running
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
        if self._missing or self.running == BLOCKS_AHEAD - 1:
            return False
        return self._begun - self._yielded + self._size <= self._look_ahead

    @property
    def wants_text(self) -> bool:
        """Whether to read another text now, for a block that may begin."""
        return len(self.read) < self._size and self.read_error is None and self._may_begin

    def begin(self) -> Job | None:
        """Return the block to begin now, once no further text is wanted; None if there is none."""
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
        Record that a block has ended.

        Args:
            job: A job that was begun, and whose workers have ended.

            error: An exception that was raised and is not recorded in the job; None if there is none.
        """
        if job not in self._blocks:
            return  # the iteration was closed in the meantime
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
        """Return the next row; None if none has arrived yet."""
        if not self._rows:
            return None
        self._yielded += 1
        return self._rows.popleft()

    def error(self) -> BaseException | None:
        """
        Return the error to raise, once no block is running and all rows are yielded; None if there is none.

        It is an `EmbeddingBatchError` if requests failed and some rows were yielded; otherwise the earliest
        error itself. A read error comes last: it means that all texts before it are embedded.
        """
        ends = (*self._errors, self.read_error)
        error = other = next((end for end in ends if not isinstance(end, NO_ERROR)), None)
        if self._failed:
            failures = dict(sorted(each for job in self._failed for each in job.failures().items()))
            error = self._failed[0].cause()
            some = self._yielded > 0
            if (kind := batch_error(failures, some=some)) is not None:
                error = kind([], failures, self._usage, missing=sorted(self._missing), some=some)
                error.__cause__ = next(filter(None, (job.crash for job in self._failed)), other)
        clear_frames(error)
        return error

    def log_interrupted(self) -> None:
        """Log how many texts were embedded and not yielded before the iteration was interrupted."""
        embedded = len(self._rows)
        for job, rows in self._blocks.items():
            embedded += count(job, job.embeddings) if rows is None else len(rows)
        log_lost(embedded, self._begun - self._yielded, cached=self._cached)

    def closed(self) -> Blocks:
        """Return the state of a closed iteration, which reads, begins, yields and raises nothing."""
        return Blocks(self._make, 0, in_order=self._in_order, overlap=self.overlap)


class EmbeddingIterator:
    """
    Iterator over indices and embeddings of texts that are read as needed.

    Two blocks are embedded in the background. Leaving a ``with`` block, ``close``, an error and an interrupt
    cancel requests in flight and wait for both blocks. So does dropping the object, as when a ``for`` loop
    over it is left with ``break``. Only one thread at a time may iterate.
    """

    def __init__(
        self,
        texts: Iterable[str],
        blocks: Blocks,
        run: Callable[[Job], Awaitable[None]],
    ) -> None:
        self._running: dict[Job, BackgroundCall] = {}
        self._texts = iterate(texts)
        self._blocks = blocks
        self._run = run
        self._ended: SimpleQueue[Job] = SimpleQueue()

    def __iter__(self) -> Iterator[tuple[int, array[float]]]:
        return self

    def __next__(self) -> tuple[int, array[float]]:
        try:
            while True:
                for running in list(self._running.values()):  # a copy, since another thread may close it
                    running.check_not_forked()
                while not self._ended.empty():
                    self._end_block(self._ended.get())
                self._begin_blocks()
                if (row := self._blocks.take()) is not None:
                    return row
                if not self._blocks.running:
                    # Not in a variable: the traceback refers to this frame, which would be a reference cycle.
                    raise self._blocks.error() or StopIteration  # noqa: TRY301 (closed like all others)
                self._end_block(wait_for(self._ended))
        except BaseException as error:
            self.__exit__(type(error))
            raise

    def close(self) -> None:
        """Cancel requests in flight and wait for their end; no further row is returned."""
        self._blocks = self._blocks.closed()
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        blocks = self._blocks
        self.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            blocks.log_interrupted()

    def __del__(self) -> None:
        self._cancel()

    def _begin_blocks(self) -> None:
        blocks = self._blocks
        while True:
            try:
                while blocks.wants_text:
                    blocks.read.append(next(self._texts))
            except Exception as error:  # noqa: BLE001 (raised once the texts before are embedded)
                blocks.read_error = error
            if (job := blocks.begin()) is None:
                return
            # Registered before it starts, so that an interrupt in between cancels it as well.
            self._running[job] = running = BackgroundCall(
                partial(self._run, job), partial(self._ended.put, job)
            )
            running.start()

    def _end_block(self, job: Job) -> None:
        if (running := self._running.pop(job, None)) is not None:  # otherwise it was cancelled
            self._blocks.end(job, running.error)

    def _cancel(self) -> None:
        left = self._running.copy()
        for running in left.values():
            running.cancel()
        for job in left:  # only now, so that after an interrupt, all are cancelled by the next attempt
            self._running.pop(job, None)
        for running in left.values():
            running.join()


class AsyncEmbeddingIterator:
    """
    Iterator over indices and embeddings of texts that are read as needed, on asyncio or Trio.

    Inside an ``async with`` block, two tasks embed, even while rows are processed; they end with the block.
    Without one, blocks run one after another, and only while a row is awaited; cancelling that ends the
    iteration. Only one task at a time may iterate.
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
        self._tasks = Tasks()
        self._block_ended = anyio.Event()

    def __aiter__(self) -> AsyncIterator[tuple[int, array[float]]]:
        return self

    async def __anext__(self) -> tuple[int, array[float]]:
        while True:
            # At each row, so that requests continue and cancellation is noticed, whatever the caller does.
            await anyio.lowlevel.checkpoint()
            if self._block_ended.is_set():  # otherwise another task may be waiting for it
                self._block_ended = anyio.Event()
            await self._begin_blocks()
            if (row := self._blocks.take()) is not None:
                return row
            if not self._blocks.running:
                break
            await self._block_ended.wait()
        try:
            raise self._blocks.error() or StopAsyncIteration  # not in a variable, see above
        finally:
            self._blocks = self._blocks.closed()

    async def aclose(self) -> None:
        """Cancel requests in flight and wait for their end; no further row is returned."""
        self._blocks = self._blocks.closed()
        await self._tasks.end()

    async def __aenter__(self) -> Self:
        self._blocks.overlap = True
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        blocks = self._blocks
        try:
            await self.aclose()
        finally:
            if kind is not None and not issubclass(kind, (Exception, GeneratorExit)):
                blocks.log_interrupted()

    async def _begin_blocks(self) -> None:
        while True:
            blocks = self._blocks
            try:
                # Not `blocks`, here and below: another task may leave the block while a text is read.
                while self._blocks.wants_text:
                    blocks.read.append(await self._next())
            except Exception as error:  # noqa: BLE001 (raised once the texts before are embedded)
                blocks.read_error = error
            except BaseException:
                if getattr(self._texts, "ag_frame", self) is None:
                    # A cancelled generator ends, and the texts would seem to be complete.
                    blocks.read_error = InputError("reading the texts was cancelled, which ends a generator")
                raise
            if (job := self._blocks.begin()) is None:
                return
            if self._blocks.overlap:
                self._tasks.start(partial(self._embed, job))
            else:
                await self._embed(job)

    async def _embed(self, job: Job) -> None:
        try:
            await self._run(job)
        except Exception as error:  # noqa: BLE001 (raised where rows are requested)
            self._blocks.end(job, error)
        except BaseException as error:
            if not self._blocks.overlap or isinstance(error, (KeyboardInterrupt, GeneratorExit)):
                self._blocks.log_interrupted()
                self._blocks = self._blocks.closed()
                raise
            # Raises if this iteration was cancelled; otherwise other code cancelled something it awaited, or
            # raised an exception that does not derive from `Exception`, such as pytest's.
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._blocks.end(job, error)
        else:
            self._blocks.end(job)
        finally:
            # Also if cancelled, since the task that waits for a row may not be the one that left the block.
            self._block_ended.set()


def _reader(texts: Iterable[str] | AsyncIterable[str]) -> Callable[[], Awaitable[str]]:
    if isinstance(texts, AsyncIterable):
        return aiter(texts).__anext__
    iterator = iterate(texts)

    async def read() -> str:
        for text in iterator:
            return text
        raise StopAsyncIteration

    return read
