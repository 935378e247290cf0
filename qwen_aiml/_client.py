"""
The clients: what they are asked for, as jobs, and the connections of each colour.

What is sent, whether to try again and when to end is decided in `_job`, `_batch` and `_flow`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from . import _anyio as anyio
from ._protocol.arrays import load_numpy, matrix
from ._base import BaseClient
from ._drivers import AsyncDriver, Driver
from ._event_loops import close_with_loop, current_loop, is_closed
from ._engine.stream import AsyncEmbeddingIterator, EmbeddingIterator
from ._loop import Loop
from ._sender import AsyncSender, Sender
from ._work import AsyncWork, Work

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from ._engine.progress import Progress
    from ._results import EmbeddingResult
    from ._texts.validation import Role


class EmbeddingClient(BaseClient):
    """
    Embed texts, waiting for the answers.

    Safe to use from several threads at once, and after a fork, unless it was given a client. Copies and
    pickles take the settings along, not the connections; a pickle does not take the key either, an unpickled
    copy reads it from its environment. ``close`` frees the connections; a later call opens new ones.

    Args:
        config: The settings; None takes the defaults and the environment.

        http_client: An ``httpx.Client`` to send with; None makes what is needed. It is used as it is, but
            for authorisation, timeouts and redirects, and never closed.

        cache: Where embeddings are looked up first, and stored as soon as they are there: a `SQLiteCache`, or
            the path of its file, or anything with the methods of `Cache`. None keeps nothing.

        learned: What another client of the same account has found out of the service's limits, to share it
            and the fixed rates with that client; None starts anew.

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.
    """

    _kind = "Client"

    def _open(self) -> None:
        self._sender = Sender(self.config, self._clock, self.learned.pace, self._http_client)

    def embed(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], object] | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> EmbeddingResult:
        """
        Embed texts.

        Args:
            texts: Any number of strings, none blank. Identical ones are sent once.

            role: ``query`` puts the configured ``query_instruction`` before each text.

            admit: A rate limiter of your own, called before each request, repeated ones included, with the
                tokens expected in it; the request is sent when it returns. One call is made at a time. None
                for none.

            progress: Told how far the call has come, as a `Progress`: at the start, after each look-up in the
                cache, and after each batch. One call is made at a time, in any of our threads; what it raises
                is logged. None for none.

        Returns:
            Embeddings of shape (texts, dimensions), row i for text i, and what they cost.

        Raises:
            InputError: If some of the texts can't be embedded; nothing is sent then.

            CacheError: If the cache can't be read; nothing is sent then.

            EmbeddingBatchError: If some texts were embedded and some were not.

            QwenAIMLError: What went wrong first, if no text was embedded.
        """
        return self._embed(texts, role, admit, progress)

    def embed_array(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], object] | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> NDArray[np.float32]:
        """
        Embed texts into a NumPy array, in an eighth of the memory that lists take.

        Args:
            texts: As for `embed`, and so are *role*, *admit* and *progress*.

            role: ``document`` or ``query``.

            admit: None for no rate limiter.

            progress: None for no reports.

        Returns:
            A C-contiguous array of float32, of shape (texts, dimensions), row i for text i.

        Raises:
            ConfigurationError: If NumPy is not installed; nothing is sent then.

            QwenAIMLError: As `embed` does. The ``embeddings`` of an `EmbeddingBatchError` are packed, each an
                ``array`` of float32.
        """
        numpy = load_numpy()
        rows = self._embed(texts, role, admit, progress, packed=True).embeddings
        return matrix(rows, self.config.length or 0, numpy)

    def embed_iter(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], object] | None = None,
        in_order: bool = True,
        look_ahead: int | None = None,
    ) -> EmbeddingIterator:
        """
        Embed texts without end in little memory, while the embeddings are worked on.

        The texts are read in the caller's thread, a third of *look_ahead* at a time. Each such block is
        embedded as by a call of `embed`: identical texts are sent once, ``total_timeout`` bounds it, what is
        cached is not paid for. Two are under way while the rows of a third are given. If a block fails, in
        part or as a whole, no other begins, and the rows of those under way are given before the error is
        raised.

        Args:
            texts: Any iterable of strings, also one without end. What it raises is raised by the iterator,
                once the texts before are embedded.

            role: As for `embed`.

            admit: As for `embed`.

            in_order: Whether embeddings come in the order of the texts; else block by block, as these end.

            look_ahead: Texts read whose embeddings are not given yet, at the most. None for 12 full requests
                for each that may be in flight, 3,840 texts by default. Set it lower for texts that come
                slowly, since a block waits until it is full.

        Returns:
            An iterator of a text's index and its embedding, an ``array`` of float32, which ``numpy.asarray``
            takes without copying. Use it in a ``with`` block, or close it, to be sure when its requests end.

        Raises:
            InputError: If *texts* can't be iterated; and, by the iterator, if a text can't be embedded. No
                text of its block is sent then.

            EmbeddingBatchError: By the iterator, if requests failed and some texts were embedded. Its
                ``failures`` and ``indices`` count from the first text; its ``embeddings`` are empty.

            QwenAIMLError: By the iterator, what went wrong first, if no text was embedded.
        """
        make = partial(self._begin, role=role, admit=admit, packed=True)
        blocks = self._blocks(role, look_ahead, in_order=in_order, overlap=True)
        return EmbeddingIterator(texts, blocks, make, self._carry_out)

    def close(self) -> None:
        """Close the connections, those in use as soon as they are free, and a cache given by its path."""
        self._sender.close()
        self._close_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _embed(
        self,
        texts: Iterable[str],
        role: Role,
        admit: Callable[[int], object] | None,
        progress: Callable[[Progress], object] | None,
        *,
        packed: bool = False,
    ) -> EmbeddingResult:
        work = self._begin(texts, role=role, admit=admit, packed=packed)
        work.job.report_to(progress)
        self._carry_out(work)
        return work.job.result()

    def _begin(
        self,
        texts: Iterable[str],
        first: int = 0,
        *,
        role: Role,
        admit: Callable[[int], object] | None,
        packed: bool,
    ) -> Work:
        loop = Loop(self._clock.now, self.config.concurrency)
        turns, limited = self._sender.turns, admit is not None
        job, call = self._job(texts, role, turns, loop, has_limiter=limited, packed=packed, first=first)
        return Work(job, call, Driver(self._sender, self._clock, self.cache, admit), loop)

    def _carry_out(self, work: Work) -> None:
        try:
            work.carry_out()
        finally:
            self._count(work.call.usage)

    def _after_fork(self) -> None:
        super()._after_fork()
        self._sender.abandon()
        self._open()


class AsyncEmbeddingClient(BaseClient):
    """
    Embed texts, awaiting the answers, on asyncio or Trio.

    The same as `EmbeddingClient`, awaited. One object serves any number of event loops, one after the other
    or at once in several threads: each has connections of its own, which are closed when the loop ends, or
    with ``aclose``. On Trio, close an object that is dropped before that, or Trio warns.

    Args:
        config: The settings; None takes the defaults and the environment.

        http_client: An ``httpx.AsyncClient`` to send with, in every event loop; None makes what is needed. It
            is used as it is, but for authorisation, timeouts and redirects, and never closed.

        cache: As in `EmbeddingClient`.

        learned: As in `EmbeddingClient`, also between the two.

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.
    """

    _kind = "AsyncClient"

    def _open(self) -> None:
        # By event loop, each with what closes it when the loop ends.
        self._senders: WeakKeyDictionary[Any, tuple[AsyncSender, AsyncGenerator[None, None]]]
        self._senders = WeakKeyDictionary()

    async def embed(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], Awaitable[object]] | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> EmbeddingResult:
        """
        Embed as `EmbeddingClient.embed` does, awaited, *admit* too. Cancelling it ends its requests.

        *progress* is called in the thread of the event loop, which waits for it.
        """
        return await self._embed(texts, role, admit, progress)

    async def embed_array(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], Awaitable[object]] | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> NDArray[np.float32]:
        """Embed as `EmbeddingClient.embed_array` does, awaited."""
        numpy = load_numpy()
        rows = (await self._embed(texts, role, admit, progress, packed=True)).embeddings
        return matrix(rows, self.config.length or 0, numpy)

    def embed_iter(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], Awaitable[object]] | None = None,
        in_order: bool = True,
        look_ahead: int | None = None,
    ) -> AsyncEmbeddingIterator:
        """
        Embed as `EmbeddingClient.embed_iter` does, with ``async for``; *texts* may be asynchronous.

        Inside ``async with client.embed_iter(texts) as rows`` two blocks are under way also while the rows of
        a third are worked on, and end with the ``async with``. Without it nothing may run between two rows: a
        block is as large as *look_ahead*, and begins when its first row is asked for. That is slower by the
        time that is spent on the rows, and by the end of each block.
        """
        make = partial(self._begin, role=role, admit=admit, packed=True)
        blocks = self._blocks(role, look_ahead, in_order=in_order, overlap=False)
        return AsyncEmbeddingIterator(texts, blocks, make, self._carry_out)

    async def aclose(self) -> None:
        """Close the connections of this event loop, and a cache given by its path."""
        self._close_cache()
        _, closing = self._senders.pop(current_loop(), (None, None))
        if closing is not None:
            await closing.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _embed(
        self,
        texts: Iterable[str],
        role: Role,
        admit: Callable[[int], Awaitable[object]] | None,
        progress: Callable[[Progress], object] | None,
        *,
        packed: bool = False,
    ) -> EmbeddingResult:
        work = await self._begin(texts, role=role, admit=admit, packed=packed)
        work.job.report_to(progress)
        await self._carry_out(work)
        return work.job.result()

    async def _begin(
        self,
        texts: Iterable[str],
        first: int = 0,
        *,
        role: Role,
        admit: Callable[[int], Awaitable[object]] | None,
        packed: bool,
    ) -> AsyncWork:
        stopped, sender, limited = anyio.Event(), await self._sender(), admit is not None
        job, call = self._job(
            texts, role, sender.turns, stopped, has_limiter=limited, packed=packed, first=first
        )
        return AsyncWork(job, call, AsyncDriver(sender, self._clock, stopped, self.cache, admit))

    async def _carry_out(self, work: AsyncWork) -> None:
        try:
            await work.carry_out()
        finally:
            self._count(work.call.usage)

    async def _sender(self) -> AsyncSender:
        loop = current_loop()
        if loop in self._senders:
            return self._senders[loop][0]
        # Loops that have ended, with or without closing their asynchronous generators first.
        for other in self._senders.keyrefs():
            if (ended := other()) is None:
                continue
            left, _ = self._senders.get(ended, (None, None))
            if left is not None and (left.closed or is_closed(ended)):
                self._senders.pop(ended, None)
        sender = AsyncSender(self.config, self._clock, self.learned.pace, self._http_client)
        closing = close_with_loop(sender)
        self._senders[loop] = (sender, closing)
        if self._http_client is None:
            await anext(closing)
        return sender

    def _after_fork(self) -> None:
        super()._after_fork()
        self._open()
