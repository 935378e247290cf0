"""One batch of texts: sent whole, split if the service takes fewer texts, bisected if it rejects one."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

from .._errors import APIStatusError, QwenAIMLError, RateLimitError, ResponseFormatError, TransportError
from .request import embed_texts
from .retry import describe_cause, is_transient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._protocol.response import Rows
    from .request import Call

logger = logging.getLogger("qwen_aiml")

# Statuses that may mean that the service can't process one of the texts. Source: AI/ML API docs, "Errors and
# messages": errors of its partners show as 500; the other statuses are assumed (probe: long).
MAY_BE_ONE_TEXT = frozenset({408, 500, 504, 524})

# If this many texts were rejected alone and nothing was accepted, the texts are not the cause.
MAX_REJECTED_ALONE = 3


class Batches(Protocol):
    """The items of a call and their outcomes: the interface of `Job`, which imports this module."""

    call: Call

    def texts(self, items: Sequence[int]) -> list[str]:
        """Return the texts of some items, as they are sent."""
        ...

    async def store(self, items: Sequence[int], rows: Rows) -> None:
        """Store the embeddings of some items."""
        ...

    def may_shorten(self, item: int, error: QwenAIMLError) -> bool:
        """Return whether a text that was rejected alone should be sent in a shortened form."""
        ...

    async def shorten(self, item: int, error: QwenAIMLError) -> None:
        """Embed a text that was rejected alone in a shortened form; record the error if that fails."""
        ...


async def embed_batch(items: Sequence[int], job: Batches) -> None:
    """
    Embed the texts of one batch, as far as the service accepts them.

    A text that the service rejects is found by bisection: at most six more requests for a batch of ten, and
    the other nine are embedded. The same applies to a text that always makes the service time out or send a
    malformed response, unless all other requests fail too. A batch that exhausts its retries while others are
    accepted is also sent in parts, and at worst fails alone.

    Args:
        items: The items of the batch.

        job: The job that they belong to.

    Raises:
        QwenAIMLError: If the error would affect any other text too. It applies to the items that have
            neither an embedding nor an error.
    """
    call = job.call
    # Parts, each with the error of the whole part if it was rejected.
    waiting: deque[tuple[Sequence[int], QwenAIMLError | None]] = deque([(items, None)])
    while waiting:
        part, error = waiting.popleft()
        before = call.accepted
        if error is None:
            error = await _embed(part, job, call.config.max_retries, before)
        if error is None:
            continue
        if (rows := fewer_rows(error, len(part), call)) is not None:
            waiting.extend((part[at : at + rows], None) for at in range(0, len(part), rows))
        else:
            waiting.extend(await _isolate(part, error, job, before))


async def _isolate(
    part: Sequence[int], error: QwenAIMLError, job: Batches, before: int
) -> list[tuple[Sequence[int], QwenAIMLError | None]]:
    """
    Find the text that causes *error*, and shorten it or record its error.

    Returns:
        The parts that are left, each with the error of the whole part if it was rejected.
    """
    call = job.call
    if len(part) > 1:
        logger.info("%s, sending %d texts in parts to isolate the cause", describe_cause(error), len(part))
    # Counted from here, so that texts are not sent one by one to a service that has gone down since.
    since = call.accepted if len(part) > 1 else before
    culprit, others, found = await _bisect(part, error, job, before)
    if found is None and not isinstance(error, RateLimitError):
        # The text was embedded alone, so the number of texts may be the cause.
        return [([other], None) for other in others]
    others_error = None
    if found is not None:
        # A service that has gone down sends no permanent errors: any accepted response counts.
        since = since if is_transient(found) else 0
        if others and call.accepted == since and not _names_the_text(found):
            # A text is blamed only after another one was accepted.
            others_error = await _embed(others, job, _retries(found, call), before)
            others = others if others_error else []
        # If it may be too long, a shorter form shows whether the service is the cause.
        may_shorten = job.may_shorten(culprit, found)
        if not may_shorten:
            _blame_the_text(found, call, since)
        await job.shorten(culprit, found)
        if may_shorten and not is_transient(found):
            _blame_the_text(found, call, since)
    return [(others, others_error)] if others else []


async def _embed(items: Sequence[int], job: Batches, retries: int, before: int) -> QwenAIMLError | None:
    """Embed some items; return the error if one text may be its cause. See `may_be_one_text` on *before*."""
    accepted = job.call.accepted
    try:
        rows = await embed_texts(job.texts(items), job.call, retries=retries)
    except QwenAIMLError as error:
        # Each part gets all retries of a 429, so that none may be sent to a service that rejects everything.
        if may_be_one_text(error, job.call, accepted if isinstance(error, RateLimitError) else before):
            return error
        raise
    await job.store(items, rows)
    return None


async def _bisect(
    suspects: Sequence[int], error: QwenAIMLError, job: Batches, before: int
) -> tuple[int, list[int], QwenAIMLError | None]:
    """
    Find one text that causes *error*.

    For example, if it is text 2 of 0 to 3: 0 and 1 are embedded, 2 is rejected alone, and 3 is unknown.

    Returns:
        The text; the texts of unknown outcome, since the cause was found without them; and the error of the
        text alone, None if it was embedded after all.
    """
    retries = _retries(error, job.call)
    others: list[int] = []
    known: QwenAIMLError | None = error  # that of the suspects, if they were sent without others
    while len(suspects) > 1:
        half, rest = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
        found = await _embed(half, job, retries, before)
        if found is None:
            suspects, known = rest, None
        else:
            suspects, others, known = half, [*rest, *others], found
    if known is None:
        known = await _embed(suspects, job, retries, before)
    return suspects[0], others, known


def _retries(error: QwenAIMLError, call: Call) -> int:
    # A transient error was raised after all retries, so the parts get none.
    return 0 if is_transient(error) else call.config.max_retries


def _blame_the_text(error: QwenAIMLError, call: Call, since: int) -> None:
    """
    Check that the text is the cause: that other texts are accepted, or that the error names it.

    Raises:
        QwenAIMLError: *error*, if the request or the service is more likely to be the cause.
    """
    if call.accepted > since or _names_the_text(error):
        return
    call.rejected_alone += 1
    if is_transient(error) or call.rejected_alone >= MAX_REJECTED_ALONE:
        raise error


def _names_the_text(error: QwenAIMLError) -> bool:
    return isinstance(error, APIStatusError) and error.reason in ("length", "content")


def may_be_one_text(error: QwenAIMLError, call: Call, before: int) -> bool:
    """
    Return whether one text may be the cause of an error, so that others would be embedded.

    Args:
        error: The last error of a request.

        call: The call of the request.

        before: Number of responses accepted in the call before the first attempt of the request.
    """
    if not is_transient(error):
        return isinstance(error, APIStatusError) and error.reason in ("rows", "length", "content", "text")
    if not call.config.max_retries or call.is_throttled_too_long:
        return False  # texts that may have been billed must not be sent again
    if call.accepted > before:
        return True  # the service works for others
    if isinstance(error, APIStatusError):
        return error.status_code in MAY_BE_ONE_TEXT
    return isinstance(error, ResponseFormatError) or (isinstance(error, TransportError) and error.timed_out)


def fewer_rows(error: QwenAIMLError, sent: int, call: Call) -> int | None:
    """
    Read the maximum number of texts per request from a rejection, and lower that of the limiter.

    Args:
        error: The rejection.

        sent: Number of texts in the request.

        call: The call of the request.

    Returns:
        The maximum; None if the error does not state one below *sent*.
    """
    rows = error.max_rows if isinstance(error, APIStatusError) else None
    if rows is None or not 0 < rows < sent:
        return None
    if rows < call.limiter.rows:
        logger.info("the service accepts %d texts per request; later requests respect that", rows)
        call.limiter.rows = rows
    return rows
