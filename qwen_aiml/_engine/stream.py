"""Texts without end, in both colours: reading them and running their blocks, when `_blocks` says so."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable
from contextvars import copy_context
from queue import SimpleQueue
from typing import TYPE_CHECKING, cast

from . import _anyio as anyio
from .._texts.validation import iterate

if TYPE_CHECKING:
    from array import array
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from anyio.abc import TaskGroup
    from typing_extensions import Self

    from .blocks import Block, Blocks
    from .job import Job
    from .._work import AsyncWork, Work

# An iterator that is dropped waits so long for each thread, since it may be dropped where they can't end.
DROP_SECONDS = 5.0


class EmbeddingIterator:
    """
    Indices and embeddings of texts that are read as they are needed.

    Two background threads embed, one block each. Leaving a ``with`` block, ``close``, an interrupt and the
    end of the texts wait until both are gone, after what is in flight was broken off; so does dropping the
    object, as breaking out of a ``for`` loop over it does. For one thread at a time.
    """

    def __init__(
        self,
        texts: Iterable[str],
        blocks: Blocks,
        make: Callable[[list[str], int], Work],
        carry_out: Callable[[Work], None],
    ) -> None:
        self._texts = iterate(texts)
        self._blocks = blocks
        self._make = make
        self._carry_out = carry_out
        self._running: dict[Block, tuple[Work, threading.Thread]] = {}
        self._ended: SimpleQueue[tuple[Block, Job, BaseException | None]] = SimpleQueue()
        # A queue and a thread, since an object may be dropped anywhere, also where a lock is held that
        # breaking off needs; and a daemon, lest an iterator that nobody closes keep the process from ending.
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._breaker = threading.Thread(
            target=_break_off, args=(self._asked, self._running), name="qwen_aiml_breaker", daemon=True
        )

    def __iter__(self) -> Iterator[tuple[int, array[float]]]:
        return self

    def __next__(self) -> tuple[int, array[float]]:
        try:
            while True:
                while not self._ended.empty():
                    self._end_block()
                self._begin_blocks()
                if (row := self._blocks.take()) is not None:
                    return row
                if not self._blocks.running:
                    break
                self._end_block()
        except BaseException:
            self.close()
            raise
        error = self._blocks.error()
        self.close()
        try:
            raise error or StopIteration
        finally:
            error = None  # whose traceback holds this frame

    def close(self) -> None:
        """End the requests, and wait for the threads; nothing further is given."""
        self._blocks.close()
        self._end(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_breaker"):  # else the texts were refused
            self._end(DROP_SECONDS)

    def _begin_blocks(self) -> None:
        blocks = self._blocks
        while True:
            while blocks.wants_text:
                try:
                    blocks.read(next(self._texts))
                except StopIteration:
                    blocks.no_more()
                except Exception as error:  # noqa: BLE001 (raised once what was read is embedded)
                    blocks.no_more(error)
            if (block := blocks.begin()) is None:
                return
            try:
                work = self._make(block.texts, block.first)
            except Exception as error:  # noqa: BLE001 (raised once what is under way has ended)
                blocks.end(block, None, error)
            else:
                self._start(block, work)

    def _start(self, block: Block, work: Work) -> None:
        if self._breaker.ident is None:
            self._breaker.start()
        thread = threading.Thread(
            target=copy_context().run,
            args=(_embed, self._carry_out, work, block, self._ended),
            name="qwen_aiml_block",
        )
        self._running[block] = work, thread
        thread.start()

    def _end_block(self) -> None:
        block, job, error = self._ended.get()
        _, thread = self._running.pop(block)
        thread.join()
        self._blocks.end(block, job, error)

    def _end(self, seconds: float | None) -> None:
        self._asked.put(None)
        for thread in [self._breaker, *(thread for _, thread in list(self._running.values()))]:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(seconds)


def _embed(
    carry_out: Callable[[Work], None],
    work: Work,
    block: Block,
    ended: SimpleQueue[tuple[Block, Job, BaseException | None]],
) -> None:
    try:
        carry_out(work)
    except BaseException as error:  # noqa: BLE001 (raised where rows are asked for)
        ended.put((block, work.job, error))
    else:
        ended.put((block, work.job, None))


def _break_off(asked: SimpleQueue[None], running: dict[Block, tuple[Work, threading.Thread]]) -> None:
    asked.get()
    for work, _ in list(running.values()):
        work.interrupt()


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
        make: Callable[[list[str], int], Awaitable[AsyncWork]],
        carry_out: Callable[[AsyncWork], Awaitable[None]],
    ) -> None:
        self._next = _reader(texts)
        self._blocks = blocks
        self._make = make
        self._carry_out = carry_out
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
        error = self._blocks.error()
        self._blocks.close()
        try:
            raise error or StopAsyncIteration
        finally:
            error = None  # whose traceback holds this frame

    async def __aenter__(self) -> Self:
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group
        self._blocks.overlap = True
        return self

    async def __aexit__(self, *_: object) -> None:
        group, self._group = cast("TaskGroup", self._group), None
        self._blocks.close()
        group.cancel_scope.cancel()
        # Not with what ended the block, which the group would wrap.
        await group.__aexit__(None, None, None)

    async def _begin_blocks(self) -> None:
        blocks = self._blocks
        while True:
            while blocks.wants_text:
                try:
                    blocks.read(await self._next())
                except StopAsyncIteration:
                    blocks.no_more()
                except Exception as error:  # noqa: BLE001 (raised once what was read is embedded)
                    blocks.no_more(error)
            if (block := blocks.begin()) is None:
                return
            try:
                work = await self._make(block.texts, block.first)
            except Exception as error:  # noqa: BLE001 (raised once what is under way has ended)
                blocks.end(block, None, error)
                continue
            if self._group is None:
                await self._embed(block, work)
            else:
                self._group.start_soon(self._embed, block, work)

    async def _embed(self, block: Block, work: AsyncWork) -> None:
        try:
            await self._carry_out(work)
        except Exception as error:  # noqa: BLE001 (raised where rows are asked for)
            self._blocks.end(block, work.job, error)
        except BaseException:
            self._blocks.close()
            raise
        else:
            self._blocks.end(block, work.job)
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
