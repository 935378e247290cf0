"""One batch of texts to the end: sent whole, and bisected where the service takes fewer or rejects a text."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

from .._errors import APIStatusError, QwenAIMLError, ResponseFormatError, TransportError
from .request import embed_texts
from .retry import is_transient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._protocol.response import Rows
    from .request import Call

logger = logging.getLogger("qwen_aiml")

# What the service may respond to a text that it can't process, when it does not say so. Source: AI/ML API
# docs, "Errors and messages": errors of its partners show as 500; that others do is assumed (probe: long).
MAY_BE_ONE_TEXT = frozenset({408, 500, 504, 524})

# Texts rejected in requests of their own, while nothing was accepted, that show that it is not the texts.
ENOUGH = 3


class Batches(Protocol):
    """The texts of a call, each known by a number, and what became of them; a `Job`, which imports this."""

    call: Call

    def texts(self, items: Sequence[int]) -> list[str]:
        """Return texts as they are sent."""
        ...

    async def keep(self, items: Sequence[int], rows: Rows) -> None:
        """Keep the embeddings of some texts."""
        ...

    def may_shorten(self, item: int, error: QwenAIMLError) -> bool:
        """Tell whether a text that was rejected alone is to be sent in another form."""
        ...

    async def shorten(self, item: int, error: QwenAIMLError) -> None:
        """Embed a text that was rejected alone in another form; note the error if there is none."""
        ...


async def embed_batch(items: Sequence[int], job: Batches) -> None:
    """
    Embed some texts, as many as one request may hold, as far as they can be.

    A text that the service rejects is found by bisection: at most six requests more for a batch of ten, and
    the nine others are embedded. So is a text that makes the service time out or send a malformed response
    each time, unless nothing else is answered either. A batch that failed in all its attempts, while others
    were accepted, is sent in parts as well, and at worst fails alone.

    Args:
        items: The texts.

        job: Where they are.

    Raises:
        QwenAIMLError: What no other text of the account would escape either. Texts without an embedding or
            an error of their own are those it is about.
    """
    call = job.call
    # Parts, each with why it was rejected as a whole, if it was.
    waiting: deque[tuple[Sequence[int], QwenAIMLError | None]] = deque([(items, None)])
    while waiting:
        part, error = waiting.popleft()
        before = call.accepted
        if error is None:
            error = await _embed(part, job, call.config.max_retries, before)
        if error is None:
            continue
        if (rows := fewer_rows(error, len(part), call)) is not None:
            parts = [part[at : at + rows] for at in range(0, len(part), rows)]
            waiting.extendleft((part, None) for part in reversed(parts))
            continue
        sent_before = before
        if len(part) > 1:
            # Counted from here, so that a service that has gone down since is not sent text by text.
            before = call.accepted
        culprit, others, error = await _bisect(part, error, job, sent_before)
        others_error = None
        if error is not None:
            before = before if is_transient(error) else 0
            if others and call.accepted == before and not _names_the_text(error):
                # No text is blamed before another one was accepted.
                others_error = await _embed(others, job, _retries(error, call), sent_before)
                others = others if others_error else []
            # If it may be too long, a shorter form tells whether it is the service.
            if not (is_transient(error) and job.may_shorten(culprit, error)):
                _blame_the_text(error, call, before)
            await job.shorten(culprit, error)
        if others:
            waiting.append((others, others_error))


async def _embed(items: Sequence[int], job: Batches, retries: int, before: int) -> QwenAIMLError | None:
    """Return the error if one of the texts may be its cause; *before* as in `may_be_one_text`."""
    try:
        rows = await embed_texts(job.texts(items), job.call, retries=retries)
    except QwenAIMLError as error:
        if may_be_one_text(error, job.call, before):
            return error
        raise
    await job.keep(items, rows)
    return None


async def _bisect(
    suspects: Sequence[int], error: QwenAIMLError, job: Batches, before: int
) -> tuple[int, list[int], QwenAIMLError | None]:
    """
    Find one text that is the cause of *error*.

    For example, text 2 of texts 0 to 3: 0 and 1 are embedded, then 2 is rejected alone, and 3 is not known.

    Returns:
        The text; those of which nothing is known, since the cause was found without them; and the error of
        the text alone, None if it was embedded after all.
    """
    retries = _retries(error, job.call)
    others: list[int] = []
    seen_alone = len(suspects) == 1
    while len(suspects) > 1:
        half, rest = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
        found = await _embed(half, job, retries, before)
        if found is None:
            suspects, seen_alone = rest, False
        else:
            suspects, others, error, seen_alone = half, [*rest, *others], found, True
    if seen_alone:
        return suspects[0], others, error
    return suspects[0], others, await _embed(suspects, job, retries, before)


def _retries(error: QwenAIMLError, call: Call) -> int:
    # A transient error comes after all retries, so that there are none for the parts.
    return 0 if is_transient(error) else call.config.max_retries


def _blame_the_text(error: QwenAIMLError, call: Call, before: int) -> None:
    """
    Make sure that it is the text, since others are accepted.

    Raises:
        QwenAIMLError: If it is rather the request, or the service.
    """
    if call.accepted > before or _names_the_text(error):
        return
    call.rejected_alone += 1
    if is_transient(error) or call.rejected_alone >= ENOUGH:
        raise error


def _names_the_text(error: QwenAIMLError) -> bool:
    return isinstance(error, APIStatusError) and error.reason in ("length", "content")


def may_be_one_text(error: QwenAIMLError, call: Call, before: int) -> bool:
    """
    Tell whether one text may be the cause of an error, and others would be embedded.

    Args:
        error: The last one of a request.

        call: Whose request it was.

        before: How many responses of the call had been accepted before its first attempt.
    """
    if not is_transient(error):
        return isinstance(error, APIStatusError) and error.reason in ("rows", "length", "content", "text")
    if not call.config.max_retries:
        return False  # what may have been billed is not to be sent again
    if call.accepted > before:
        return True  # the service works for others
    if isinstance(error, APIStatusError):
        return error.status_code in MAY_BE_ONE_TEXT
    return isinstance(error, ResponseFormatError) or (isinstance(error, TransportError) and error.timed_out)


def fewer_rows(error: QwenAIMLError, sent: int, call: Call) -> int | None:
    """
    Learn from a rejection how many texts a request may hold.

    Args:
        error: The rejection.

        sent: How many texts were in the request.

        call: Whose client is to know.

    Returns:
        The number; None if those were not too many.
    """
    rows = error.max_rows if isinstance(error, APIStatusError) else None
    if rows is None or not 0 < rows < sent:
        return None
    if rows < call.limiter.rows:
        logger.info("the service accepts %d texts per request; later requests hold no more", rows)
        call.limiter.rows = rows
    return rows
