"""One call: cache look-up, batches, result."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

import anyio
import anyio.lowlevel

from .._cache.access import KEYS_PER_LOOKUP
from .._errors import NotSentError, QwenAIMLError, TransportError, batch_error, note_none_embedded
from .._protocol.arrays import packed
from .._results import EmbeddingResult, Usage
from .._texts.distinct import DistinctTexts
from .._texts.validation import check_texts, prepare_texts
from .batch import embed_batch
from .long_texts import LongTexts
from .request import deadline_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Iterable, Sequence

    from .._cache.access import CacheAccess
    from .._protocol.response import Rows
    from .._texts.validation import Role
    from .request import Call

logger = logging.getLogger("qwen_aiml")

KEEP_ADVICE = "Set cache= (a path is enough) to keep them; another run then sends only the rest"


class Job:
    """
    The state of one call. Each distinct text is sent, and billed, once.

    Args:
        texts: The user's texts.

        role: Whether they are documents or queries.

        call: State shared by the requests.

        cache: The cache of embeddings; None if there is none.

        first: The index of the first text, in errors and results; also an attribute.

    Attributes:
        embeddings: Embeddings so far, by item.

        shortened: Items that were truncated or split.

        at_limit: Items that the service may have truncated.

        cached_items: Items whose embeddings came from the cache.

        crash: An exception of an unknown type, or ``SystemExit``; None if there was none.

        items: The item of each text.

        model: The model name in the first response that has one; None if none has.

    Raises:
        InputError: If some of the texts are invalid.
    """

    def __init__(
        self,
        texts: Iterable[str],
        role: Role,
        call: Call,
        cache: CacheAccess | None = None,
        *,
        first: int = 0,
    ) -> None:
        config = call.config
        self.call = call
        self.cache = cache
        self.first = first
        instruction = config.instruction(role)
        checked = check_texts(texts, blank_replacement=config.blank_replacement, first=first)
        sent = prepare_texts(checked, instruction)
        self._distinct = DistinctTexts(sent, first)
        self.items = self._distinct.items
        self._long = LongTexts(config, instruction)
        counts = self._long.counted(self._distinct)

        self.embeddings: dict[int, Sequence[float]] = {}
        self._failures: dict[int, QwenAIMLError] = {}
        self.crash: BaseException | None = None
        self._pending = [item for item in range(len(self._distinct.texts)) if item not in counts]
        self._sent = 0
        self._too_long = list(counts)
        self.shortened: set[int] = set()
        self.at_limit: set[int] = set()
        self.cached_items: set[int] = set()
        self.model: str | None = None
        self._request_ids: list[str] = []

    async def run(self) -> None:
        """
        Look up texts in the cache, then embed the rest, with as many workers as the settings allow.

        Raises:
            CacheError: If the cache can't be read; nothing is sent.

            DeadlineError: If the deadline passed while the cache was read; nothing is sent.
        """
        began = self.call.clock.now()
        try:
            self._report(())
            await self._look_up()
            batches = -(-len(self._pending) // self.call.rows) + len(self._too_long)
            # Even for one worker: cancelling an asyncio task breaks shields, except in its child tasks.
            async with anyio.create_task_group() as group:
                for _ in range(min(self.call.config.concurrency, batches)):
                    group.start_soon(self._work)
        finally:
            log_end(self, self.call.clock.now() - began)

    def result(self) -> EmbeddingResult:
        """
        Return the embeddings, once `run` has ended.

        Raises:
            EmbeddingBatchError: If only some texts were embedded. At a budget limit it is a `BudgetError`,
                even if none was.

            QwenAIMLError: If none was embedded. An exception of an unknown type is raised unchanged.
        """
        if self.cause() is not None:
            raise cast("BaseException", self.error())
        return EmbeddingResult(
            cast("list[list[float]]", self.rows()),
            self.call.usage,
            self.model,
            tuple(self._request_ids),
            cached=len(self.cached_items),
            shortened=tuple(self._distinct.indices(self.shortened | self.at_limit)),
        )

    def error(self) -> BaseException | None:
        """Return the error that `result` raises; None if it returns embeddings."""
        failures = self.failures()
        kind = batch_error(failures, some=bool(self.embeddings))
        if kind is None:
            cause = self.cause()
            if isinstance(cause, QwenAIMLError):
                note_none_embedded(cause, len(self.items))
            return cause
        advice = f"{KEEP_ADVICE}. " if self.embeddings and not self.cache else ""
        error = kind(self.rows(), failures, self.call.usage, advice=advice)
        error.__cause__ = self.crash
        return error

    def cause(self) -> BaseException | None:
        """Return the crash, otherwise the earliest failure; None if the call succeeded."""
        return self.crash or next(iter(self._failures.values()), None)

    def rows(self) -> list[list[float] | None]:
        """Return the embedding of every text, None if it has none; repeated texts get copies."""
        # Packed embeddings are arrays, which behave like lists here.
        return cast("list[list[float] | None]", self._distinct.rows(self.embeddings))

    def failures(self) -> dict[int, QwenAIMLError]:
        """Return the error of each text whose request failed, by index."""
        return self._distinct.by_index(self._failures)

    def texts(self, items: Sequence[int]) -> list[str]:
        """Return the texts of some items, as they are sent."""
        return [self._distinct.texts[item] for item in items]

    async def store(self, items: Sequence[int], rows: Rows, shortened: str = "") -> None:
        """Store the embeddings of some items, also in the cache if there is one."""
        self.model = self.model or rows.model
        if rows.request_id is not None:
            self._request_ids.append(rows.request_id)
        self._set(items, rows.embeddings)
        if shortened:
            self.shortened.update(items)
        elif len(items) == 1 and self._long.may_be_truncated(rows.tokens):
            self.at_limit.update(items)
        if self.cache is not None:
            with self.call.queue.storing():
                rounded = await self.cache.store(self.texts(items), rows.embeddings, shortened)
            # So that results are the same whether or not they come from the cache.
            self._set(items, rounded)
        self._report(items)

    def may_shorten(self, item: int, error: QwenAIMLError) -> bool:
        """Return whether a text that was rejected alone should be sent in a shortened form."""
        return self._long.may_shorten(self._distinct.texts[item], error)

    async def shorten(self, item: int, error: QwenAIMLError | None) -> None:
        """Embed a text that is too long in a shortened form; record the error if that fails."""
        found = await self._long.embed(self._distinct.texts[item], error, self.call)
        if isinstance(found, QwenAIMLError):
            self._fail([item], found)
        else:
            await self.store([item], found, self._long.label)

    async def _look_up(self) -> None:
        if self.cache is None:
            return
        with anyio.move_on_after(self.call.seconds_left()) as scope:
            await self._load(self.cache, self._pending, "")
            if self._long.label:
                texts = self._distinct.texts
                long = [item for item in self._pending if self._long.may_be_too_long(texts[item])]
                await self._load(self.cache, [*self._missing(long), *self._too_long], self._long.label)
        if scope.cancelled_caught or self.call.seconds_left() <= 0:
            raise deadline_error(self.call)
        self._pending, self._too_long = self._missing(self._pending), self._missing(self._too_long)

    async def _load(self, cache: CacheAccess, items: Sequence[int], shortened: str) -> None:
        for at in range(0, len(items), KEYS_PER_LOOKUP):
            some = items[at : at + KEYS_PER_LOOKUP]
            entries = await cache.load(self.texts(some), self.call.dimensions, shortened)
            found = {item: entry for item, entry in zip(some, entries, strict=True) if entry is not None}
            if found:
                self.call.dimensions = len(next(iter(found.values())))
            self._set(list(found), list(found.values()))
            self.call.count(Usage(cached=len(found)))
            self.cached_items.update(found)
            if shortened:
                self.shortened.update(found)
            self._report(list(found), cached=True)

    async def _work(self) -> None:
        """Embed one batch after another, until none is left or the call is stopped."""
        call = self.call
        async with call.workers:
            while not call.is_stopped and (self._too_long or self._sent < len(self._pending)):
                if self._too_long:
                    item = self._too_long.pop()
                    await self._guarded([item], self.shorten(item, None))
                else:
                    items = self._pending[self._sent : self._sent + call.rows]
                    self._sent += len(items)
                    await self._guarded(items, embed_batch(items, self))

    async def _guarded(self, items: Sequence[int], embedding: Awaitable[None]) -> None:
        """Embed some items; if that fails, stop the call and keep the embeddings of other workers."""
        try:
            await embedding
        except NotSentError:
            return
        except QwenAIMLError as error:
            fatal = error
        except asyncio.CancelledError:
            # Raises if this call was cancelled; otherwise other code cancelled something that it awaited.
            await anyio.lowlevel.checkpoint_if_cancelled()
            message = "the HTTP client (or rate limiter, key function) was cancelled by other code"
            fatal = TransportError(message, transient=False)
        except (Exception, SystemExit) as crash:  # noqa: BLE001 (raised by `result`)
            self.crash = self.crash or crash
            # Without the exception's message, which may contain anything.
            message = f"the HTTP client (or rate limiter) raised {type(crash).__name__}"
            fatal = TransportError(message, transient=False)
        else:
            return
        self.call.stop()
        self._fail([item for item in self._missing(items) if item not in self._failures], fatal)

    def _fail(self, items: Sequence[int], error: QwenAIMLError) -> None:
        """Record the error of some items."""
        error.indices = tuple(self._distinct.indices(items))
        self._failures.update(dict.fromkeys(items, error))

    def _missing(self, items: Sequence[int]) -> list[int]:
        return [item for item in items if item not in self.embeddings]

    def _set(self, items: Sequence[int], embeddings: Sequence[Sequence[float]]) -> None:
        kept = list(map(packed, embeddings)) if self.call.packed else embeddings
        self.embeddings.update(zip(items, kept, strict=True))

    def _report(self, items: Sequence[int], *, cached: bool = False) -> None:
        if self.call.reporter is not None:
            self.call.reporter.add(items, self.call.usage, cached=cached)


def count(job: Job, found: Collection[int]) -> int:
    """Count the texts whose items are among those *found*; repeated texts share an item."""
    return sum(item in found for item in job.items) if found else 0


def log_end(job: Job, seconds: float) -> None:
    """Warn of texts that were shortened, and log a summary of the call in one line."""
    config, usage = job.call.config, job.call.usage
    if shortened := count(job, job.shortened):
        logger.warning("%d texts were too long, and were truncated or split", shortened)
    if at_limit := count(job, job.at_limit):
        logger.warning(
            "%d texts were billed at exactly the %d tokens that %s takes, so the service may have "
            "truncated them. Shorten or split them, or count first with tokenizer='qwen'",
            at_limit,
            config.facts.max_tokens,
            config.model,
        )
    if job.items:
        logger.info(
            "embedded %d of %d texts in %.1f s: %d requests (%d retries), %s tokens, %d texts cached",
            count(job, job.embeddings),
            len(job.items),
            seconds,
            usage.requests,
            job.call.retries,
            "unknown" if usage.total_tokens is None else usage.total_tokens,
            count(job, job.cached_items),
        )


def log_interrupted(job: Job) -> None:
    """Log how many texts were embedded before a call was interrupted or cancelled."""
    log_lost(count(job, job.embeddings), len(job.items), cached=job.cache is not None)


def log_lost(embedded: int, texts: int, *, cached: bool) -> None:
    """Log how many texts were embedded for a caller who does not get the embeddings."""
    if embedded and not cached:
        message = "interrupted: %d of %d texts were embedded and are lost. %s"
        logger.warning(message, embedded, texts, KEEP_ADVICE)
    elif embedded:
        logger.info("interrupted: %d of %d texts were embedded and are in the cache", embedded, texts)
