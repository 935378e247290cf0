"""The sync and async clients: arguments in, results out. Batching, retries and caching are in `_engine`."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

from ._config import CLIENT_SETTINGS, EmbeddingConfig
from ._engine.engine import Engine
from ._engine.job import log_interrupted
from ._engine.runner import BackgroundCall
from ._engine.stream import AsyncEmbeddingIterator, EmbeddingIterator
from ._errors import ConfigurationError, advised
from ._observe.estimate import Estimator
from ._progress import Reporter
from ._protocol.arrays import load_numpy, matrix
from ._transport.httpx_library import check_picklable
from ._utils.frames import hide_locals
from ._utils.threads import run_in_thread
from ._utils.unknown_settings import unknown_settings

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Never, Self

    from ._cache.protocol import Cache
    from ._engine.limiter import Limiter
    from ._progress import Progress
    from ._results import EmbeddingResult, Limits, Usage
    from ._texts.validation import Role


class _Client(Estimator):
    """Base class of both clients: settings, totals, copies."""

    _sync: bool

    @hide_locals
    def __init__(
        self,
        config: EmbeddingConfig | None = None,
        *,
        http_client: Any = None,
        cache: Cache | str | os.PathLike[str] | None = None,
        limiter: Limiter | None = None,
        **settings: Never,
    ) -> None:
        if settings:
            kind = type(self).__name__
            unknown = unknown_settings(settings, CLIENT_SETTINGS)
            advice = f"put the settings into a config: {kind}(EmbeddingConfig(...))"
            raise ConfigurationError(advised(f"{kind}: {unknown}", advice))
        if config is not None and not isinstance(config, EmbeddingConfig):
            kind = type(config).__name__
            message = f"config must be an EmbeddingConfig, not {kind}; write EmbeddingConfig(...)"
            raise ConfigurationError(message)
        self._engine = Engine(
            config or EmbeddingConfig(),
            http_client=http_client,
            cache=cache,
            limiter=limiter,
            sync=self._sync,
        )

    @property
    def config(self) -> EmbeddingConfig:
        """The settings."""
        return self._engine.config

    @property
    def cache(self) -> Cache | None:
        """The cache of embeddings; None if there is none."""
        return self._engine.cache

    @property
    def limiter(self) -> Limiter:
        """The rate limiter; another client of the same account may share it."""
        return self._engine.limiter

    @property
    def limits(self) -> Limits:
        """Estimates of the service's limits so far."""
        return self._engine.limiter.limits

    @property
    def usage(self) -> Usage:
        """Usage of all calls of this client so far."""
        return self._engine.usage.total

    def cache_namespace(self, role: Role = "document") -> str:
        """
        Return a prefix that identifies everything that affects embeddings, for caches keyed by text alone.

        Args:
            role: The role of the texts; ``query_instruction`` is part of the prefix for queries only.
        """
        return self._engine.cache_namespace(role)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"

    def __copy__(self) -> Self:
        return self._copied(self.limiter)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self._copied(deepcopy(self.limiter, memo))

    def _copied(self, limiter: Limiter) -> Self:
        copied = type(self)(self.config, http_client=self._engine.http_client, cache=self.cache)
        copied.__setstate__(limiter)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        check_picklable(self._engine.http_client)
        return partial(type(self), cache=self.cache), (self.config,), self.limiter

    def __setstate__(self, limiter: Limiter) -> None:
        self._engine.limiter = limiter


class EmbeddingClient(_Client):
    """
    Embed texts synchronously.

    Thread-safe, and safe to use after a fork, unless *http_client* was given. Copies and pickles contain the
    settings but no connections; only shallow copies share the limiter with the original. A pickle does not
    contain the API key; an unpickled copy reads it from its environment. ``close`` closes the connections; a
    later call opens new ones.

    Args:
        config: The settings; None means the defaults and the environment.

        http_client: An ``httpx.Client`` or ``httpx2.Client`` to send with; None creates connections as
            needed. Only authorisation, timeouts and redirects are overridden. It is never closed.

        cache: Cache that is read first, and written as soon as embeddings arrive: a `SQLiteCache`, the path
            of its file, or a custom object with the methods of `Cache`. None means no cache.

        limiter: The `limiter` of another client of the same account, to share its estimates of the service's
            limits, fixed rates, maximum in flight and texts per request; None creates one.

    Raises:
        ConfigurationError: If a setting is invalid, or no API key is found.
    """

    _sync = True

    @hide_locals
    def embed(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], object] | None = None,
        progress: Callable[[Progress], object] | None = None,
        batch_size: int | None = None,
        packed: bool = False,
    ) -> EmbeddingResult:
        """
        Embed texts.

        Args:
            texts: Any number of strings, none blank. Identical texts are sent once.

            role: ``query`` prepends the configured ``query_instruction`` to each text.

            admit: A custom rate limiter, called with the expected tokens before each request, retries
                included; the request may start when it returns. Within a call it is called once at a time;
                other calls, and the second block of `embed_iter`, may call it concurrently. None means no
                custom limiter.

            progress: Called with a `Progress`: at the start, after each cache look-up, after each batch, and
                before a wait of more than a second. It is called in the caller's thread, and may itself
                embed; exceptions are logged. None means no reports.

            batch_size: Texts per request of this call, at most the setting; None means the setting.

            packed: Whether each embedding is an ``array`` of float32, an eighth of the memory of a list.

        Returns:
            Embeddings of shape (texts, dimensions), row i for text i, and their usage.

        Raises:
            InputError: If some of the texts are invalid; nothing is sent.

            CacheError: If the cache can't be read; nothing is sent.

            EmbeddingBatchError: If some texts were embedded and some were not.

            QwenAIMLError: The first error, if no text was embedded.
        """
        job = self._engine.job(texts, role=role, admit=admit, packed=packed, batch_size=batch_size)
        running = BackgroundCall(partial(self._engine.run, job))
        if progress is not None:
            job.call.reporter = Reporter(progress, job.items, running.call)
        try:
            running.run()
        except KeyboardInterrupt:
            log_interrupted(job)
            raise
        return job.result()

    @hide_locals
    def embed_array(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], object] | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> NDArray[np.float32]:
        """
        Embed texts into a NumPy array, which takes an eighth of the memory of lists.

        Args:
            texts: As for `embed`.
            role: As for `embed`.
            admit: As for `embed`.
            progress: As for `embed`.

        Returns:
            A C-contiguous array of float32, of shape (texts, dimensions), row i for text i.

        Raises:
            ConfigurationError: If NumPy is not installed; nothing is sent.

            QwenAIMLError: As for `embed`. ``EmbeddingBatchError.embeddings`` are ``array``s of float32.
        """
        numpy = load_numpy()
        rows = self.embed(texts, role=role, admit=admit, progress=progress, packed=True).embeddings
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
        Embed a stream of texts in constant memory, while the embeddings are processed.

        The texts are read in the caller's thread, in blocks of a third of *look_ahead*. Each block is
        embedded like a call of `embed`: its identical texts are sent once, cached texts are not sent, and
        ``total_timeout`` applies to it. Two blocks are in progress while the rows of a third are yielded. If
        a block fails, in whole or in part, no other starts, and completed rows are yielded before the error
        is raised.

        Args:
            texts: Any iterable of strings, even an infinite one. The iterator raises its exceptions, after
                the texts before them are embedded.

            role: As for `embed`.

            admit: As for `embed`.

            in_order: Whether embeddings are yielded in the order of the texts; otherwise block by block, as
                blocks complete.

            look_ahead: Maximum number of texts read whose embeddings have not been yielded yet. None means
                12 full requests for each that may be in flight, 3,840 texts by default. Set it lower if texts
                arrive slowly, since a block starts only when it is full.

        Returns:
            An iterator of (index, embedding) pairs. Each embedding is an ``array`` of float32, which
            ``numpy.asarray`` wraps without copying. To stop early, leave its ``with`` block or call its
            ``close``, which cancels requests in flight.

        Raises:
            InputError: If *texts* is not iterable; from the iterator, if a text is invalid. No text of its
                block is sent.

            EmbeddingBatchError: From the iterator, if requests failed and some rows were yielded. Indices in
                its ``failures`` and ``indices`` count from the first text; its ``embeddings`` is empty.

            QwenAIMLError: From the iterator, the first error, if no text was embedded.
        """
        blocks = self._engine.blocks(role, admit, look_ahead, in_order=in_order)
        return EmbeddingIterator(texts, blocks, self._engine.run)

    def close(self) -> None:
        """Close the connections, those in use once they are free, and a cache that was given as a path."""
        self._engine.close()

    async def aclose(self) -> None:
        """Async version of `close`, which does not block the event loop."""
        await run_in_thread(self._engine.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncEmbeddingClient(_Client):
    """
    Embed texts in async code, on asyncio or Trio.

    The async version of `EmbeddingClient`. One object serves any number of event loops, one after another or
    concurrently in several threads. Each loop has its own connections, which ``aclose`` or the end of the
    loop closes. On Trio, close an object before dropping it; otherwise Trio warns.

    Args:
        config: The settings; None means the defaults and the environment.

        http_client: An ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` to send with, in one event loop only,
            since its connections belong to that loop; None creates connections as needed. Only
            authorisation, timeouts and redirects are overridden. It is never closed.

        cache: As in `EmbeddingClient`.

        limiter: As in `EmbeddingClient`; the two may share one.

    Raises:
        ConfigurationError: If a setting is invalid, or no API key is found.
    """

    _sync = False

    @hide_locals
    async def embed(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], Awaitable[object]] | None = None,
        progress: Callable[[Progress], object] | None = None,
        batch_size: int | None = None,
        packed: bool = False,
    ) -> EmbeddingResult:
        """
        Async version of `EmbeddingClient.embed`; *admit* is async too. Cancellation ends its requests.

        *progress* is called in the event loop's thread and blocks it.
        """
        job = self._engine.job(texts, role=role, admit=admit, packed=packed, batch_size=batch_size)
        if progress is not None:
            job.call.reporter = Reporter(progress, job.items, lambda call: call())
        try:
            await self._engine.run(job)
        except BaseException as error:
            if not isinstance(error, Exception):  # it was cancelled
                log_interrupted(job)
            raise
        return job.result()

    @hide_locals
    async def embed_array(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], Awaitable[object]] | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> NDArray[np.float32]:
        """Async version of `EmbeddingClient.embed_array`."""
        numpy = load_numpy()
        result = await self.embed(texts, role=role, admit=admit, progress=progress, packed=True)
        return matrix(result.embeddings, self.config.length or 0, numpy)

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
        Async version of `EmbeddingClient.embed_iter`; *texts* may be an async iterable.

        Inside ``async with client.embed_iter(texts) as rows``, two blocks are in progress while the rows of
        a third are processed; leaving it, or ``aclose``, cancels them. Without it, no request runs between
        two rows: a block is as large as *look_ahead*, and starts when its first row is requested, which is
        slower.
        """
        blocks = self._engine.blocks(role, admit, look_ahead, in_order=in_order)
        return AsyncEmbeddingIterator(texts, blocks, self._engine.run)

    async def aclose(self) -> None:
        """Close the connections of this event loop, and a cache that was given as a path."""
        await self._engine.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
