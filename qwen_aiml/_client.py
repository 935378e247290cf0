"""The clients: arguments in, results out. What is sent, retried and cached is decided in `_engine`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ._config import EmbeddingConfig
from ._engine.engine import Engine
from ._engine.job import log_interrupted
from ._engine.runner import Running
from ._engine.stream import AsyncEmbeddingIterator, EmbeddingIterator
from ._errors import ConfigurationError
from ._observe.estimate import Counting
from ._progress import Reporter
from ._protocol.arrays import load_numpy, matrix
from ._utils.frames import shows_no_texts
from ._utils.threads import in_thread

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterable

    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from ._cache.protocol import Cache
    from ._engine.limiter import Limiter, Limits
    from ._progress import Progress
    from ._results import EmbeddingResult, Usage
    from ._texts.validation import Role


class _Client(Counting):
    """What both clients share: settings, totals, copies."""

    _sync: bool

    def __init__(
        self,
        config: EmbeddingConfig | None = None,
        *,
        http_client: Any = None,
        cache: Cache | str | os.PathLike[str] | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        if config is not None and not isinstance(config, EmbeddingConfig):
            made, config = type(config).__name__, None  # which may be a key, and would stand in this frame
            raise ConfigurationError(
                f"config must be an EmbeddingConfig, not {made}; write EmbeddingConfig(...)"
            )
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
        """Where embeddings are looked up and stored; None for nowhere."""
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
        Name everything that affects embeddings, as a prefix for caches that use only the text as a key.

        Args:
            role: What the texts are embedded as; ``query_instruction`` counts for queries only.
        """
        return self._engine.cache_namespace(role)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"

    def __copy__(self) -> Self:
        return type(self)(self.config, http_client=self._engine.http_client, cache=self.cache)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._engine.http_client is not None:
            message = (
                "a client of your own (http_client, http_async_client) can't be pickled, and a copy without "
                "it would connect in another way. Set proxies and certificates in the environment instead "
                "(HTTPS_PROXY, SSL_CERT_FILE): the default clients read them in every process"
            )
            raise TypeError(message)
        return partial(type(self), cache=self.cache), (self.config,)


class EmbeddingClient(_Client):
    """
    Embed texts synchronously.

    Thread-safe, and safe to use after a fork, unless it was given a client. Copies and pickles contain the
    settings, not the connections; a pickle does not contain the API key either: an unpickled copy reads it
    from its environment. ``close`` closes the connections; a later call opens new ones.

    Args:
        config: The settings; None takes the defaults and the environment.

        http_client: An ``httpx.Client`` or ``httpx2.Client`` to send with; None creates what is needed. It is
            used as it is, except for authorisation, timeouts and redirects, and never closed.

        cache: Where embeddings are looked up first, and stored as soon as they arrive: a `SQLiteCache`, the
            path of its file, or a custom object with the methods of `Cache`. None means no cache.

        limiter: The `limiter` of another client of the same account, to share its estimates of the service's
            limits, and its fixed rates, maximum in flight and texts per request; None creates one.

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.
    """

    _sync = True

    @shows_no_texts
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
            texts: Any number of strings, none blank. Identical ones are sent once.

            role: ``query`` puts the configured ``query_instruction`` before each text.

            admit: A custom rate limiter, called before each request, retries included, with its expected
                tokens; the request is sent when it returns. A call makes one such call at a time; others, and
                the second block of `embed_iter`, may make theirs meanwhile. None means none.

            progress: Called with a `Progress`: at the start, after each cache look-up, after each batch, and
                before a wait of more than a second. It is called in the caller's thread, and may itself
                embed; exceptions are logged. None means none.

            batch_size: Texts per request of this call, no more than the setting; None for the setting.

            packed: Whether each embedding is an ``array`` of float32, an eighth of the memory of a list.

        Returns:
            Embeddings of shape (texts, dimensions), row i for text i, and their usage.

        Raises:
            InputError: If some of the texts are invalid; nothing is sent then.

            CacheError: If the cache can't be read; nothing is sent then.

            EmbeddingBatchError: If some texts were embedded and some were not.

            QwenAIMLError: The first error, if no text was embedded.
        """
        job = self._engine.job(texts, role=role, admit=admit, packed=packed, batch_size=batch_size)
        running = Running(partial(self._engine.run, job))
        if progress is not None:
            job.call.reporter = Reporter(progress, job.items, running.call)
        try:
            running.run()
        except KeyboardInterrupt:
            log_interrupted(job)
            raise
        return job.result()

    @shows_no_texts
    def embed_array(
        self,
        texts: Iterable[str],
        *,
        role: Role = "document",
        admit: Callable[[int], object] | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> NDArray[np.float32]:
        """
        Embed texts into a NumPy array, an eighth of the memory of lists.

        Args:
            texts: As for `embed`, and so are the others.
            role: ``document`` or ``query``.
            admit: None means none.
            progress: None means none.

        Returns:
            A C-contiguous array of float32, of shape (texts, dimensions), row i for text i.

        Raises:
            ConfigurationError: If NumPy is not installed; nothing is sent then.

            QwenAIMLError: As `embed` does. ``EmbeddingBatchError.embeddings`` are ``array``s of float32.
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

        The texts are read in the caller's thread, a third of *look_ahead* at a time. Each such block is
        embedded as by a call of `embed`: identical texts are sent once, ``total_timeout`` bounds it, cached
        texts are not sent. Two blocks are in progress while the rows of a third are yielded. If a block
        fails, in part or as a whole, no other starts, and completed rows are yielded before the error is
        raised.

        Args:
            texts: Any iterable of strings, also an infinite one. What it raises is raised by the iterator,
                once the texts before are embedded.

            role: As for `embed`.

            admit: As for `embed`.

            in_order: Whether embeddings are yielded in the order of the texts; else in blocks, as they
                complete.

            look_ahead: Maximum number of texts that are read and whose embeddings are not yielded yet. None
                means 12 full requests for each that may be in flight, 3,840 texts by default. Set it lower
                for texts that arrive slowly, since a block waits until it is full.

        Returns:
            An iterator of a text's index and its embedding, an ``array`` of float32, which ``numpy.asarray``
            takes without copying. Use it in a ``with`` block, or close it, to be sure when its requests end.

        Raises:
            InputError: If *texts* can't be iterated; and, by the iterator, if a text is invalid. No text of
                its block is sent then.

            EmbeddingBatchError: By the iterator, if requests failed and some texts were embedded. Its
                ``failures`` and ``indices`` count from the first text; its ``embeddings`` are empty.

            QwenAIMLError: By the iterator, the first error, if no text was embedded.
        """
        blocks = self._engine.blocks(role, admit, look_ahead, in_order=in_order, overlap=True)
        return EmbeddingIterator(texts, blocks, self._engine.run)

    def close(self) -> None:
        """Close the connections, those in use as soon as they are free, and a cache given by its path."""
        self._engine.close()

    async def aclose(self) -> None:
        """Close as `close` does, without blocking the event loop that runs."""
        await in_thread(self._engine.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncEmbeddingClient(_Client):
    """
    Embed texts in async code, on asyncio or Trio.

    The async version of `EmbeddingClient`. One object serves any number of event loops, one after another or
    concurrently in several threads: each has connections of its own, which are closed when the loop ends, or
    with ``aclose``. On Trio, close an object that is dropped before that, or Trio warns.

    Args:
        config: The settings; None takes the defaults and the environment.

        http_client: An ``httpx.AsyncClient`` or ``httpx2.AsyncClient`` to send with, in one event loop, which
            its connections belong to; None creates what is needed. It is used as it is, except for
            authorisation, timeouts and redirects, and never closed.

        cache: As in `EmbeddingClient`.

        limiter: As in `EmbeddingClient`; the two may share one.

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.
    """

    _sync = False

    @shows_no_texts
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
        Embed as `EmbeddingClient.embed` does, awaited, *admit* too. Cancelling it ends its requests.

        *progress* is called in the thread of the event loop, which waits for it.
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

    @shows_no_texts
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
        Embed as `EmbeddingClient.embed_iter` does, with ``async for``; *texts* may be asynchronous.

        Inside ``async with client.embed_iter(texts) as rows`` two blocks are in progress while the rows of a
        third are processed, and end with the ``async with``. Without it nothing may run between two rows: a
        block is as large as *look_ahead*, and starts when its first row is requested, which is slower.
        """
        blocks = self._engine.blocks(role, admit, look_ahead, in_order=in_order, overlap=False)
        return AsyncEmbeddingIterator(texts, blocks, self._engine.run)

    async def aclose(self) -> None:
        """Close the connections of this event loop, and a cache given by its path."""
        await self._engine.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
