"""
One batch of texts to the end: sent whole, and cut where the service takes less or refuses one of the texts.

A generator that does no I/O, as `_flow` is.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

from .._errors import APIStatusError, QwenAIMLError, ResponseFormatError, TransportError
from .request import embed_batch
from .retry import is_passing

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from .request import Call
    from .._steps import Outcome, Step
    from .._protocol.response import Rows

logger = logging.getLogger("qwen_aiml")

# What the service may say of a text it can't digest, when it does not say so. Source: AI/ML API docs, "Errors
# and messages": errors of its partners show as 500; that others of these do is assumed.
OF_ONE_TEXT = frozenset({408, 500, 504, 524})

# Texts refused in requests of their own, while nothing was accepted, that show that it is not the texts.
ENOUGH = 3


class Book(Protocol):
    """Where the texts of a call stand, by place, and what became of them."""

    def texts(self, places: Sequence[int]) -> list[str]:
        """Give texts as they are sent."""
        ...

    def keep(self, places: Sequence[int], rows: Rows) -> Generator[Step, Outcome, None]:
        """Keep the embeddings of some texts."""
        ...

    def fail(self, places: Sequence[int], error: QwenAIMLError) -> None:
        """Note why some texts have none."""
        ...

    def shorten(self, place: int, error: QwenAIMLError) -> Generator[Step, Outcome, QwenAIMLError | None]:
        """Embed a text that was refused alone in another form; give the error if there is none."""
        ...


def embed_places(places: Sequence[int], book: Book, call: Call) -> Generator[Step, Outcome, None]:
    """
    Get a batch embedded as far as it can be.

    A text that the service refuses is found by halving: at most six requests more for a batch of ten, and
    the nine others are embedded. So is a text that makes the service time out or answer nonsense each time,
    unless nothing else is answered either. A batch that was unlucky in all its tries, while others were
    accepted, is tried in parts as well, and at worst fails alone.

    Args:
        places: Which texts of *book*, as many as one request may hold.

        book: Where the texts stand.

        call: What the requests of the call share.

    Raises:
        QwenAIMLError: What no other text of the account would escape either. Texts without an embedding or an
            error of their own are those it is about.
    """
    # Pieces, each with why it was refused as a whole, if it was.
    waiting: deque[tuple[list[int], QwenAIMLError | None]] = deque([(list(places), None)])
    while waiting:
        piece, error = waiting.popleft()
        before = call.accepted
        if error is None:
            error = yield from _embed(piece, book, call, call.config.max_retries, before)
        if error is None:
            continue
        if (rows := fewer_rows(error, len(piece), call)) is not None:
            pieces = [piece[at : at + rows] for at in range(0, len(piece), rows)]
            waiting.extendleft((part, None) for part in reversed(pieces))
            continue
        tried = before
        if len(piece) > 1:
            # Counted anew, lest a service that has gone down since be tried text by text.
            before = call.accepted
        culprit, others, error = yield from _narrowed(piece, error, book, call, tried)
        others_error = None
        if error is not None:
            before = before if is_passing(error) else 0
            if others and call.accepted == before and not _names_the_text(error):
                # No text is blamed before another one was accepted.
                others_error = yield from _embed(others, book, call, _retries(error, call), tried)
                others = others if others_error else []
            _blame_the_text(error, call, before)
            error = yield from book.shorten(culprit, error)
        if error is not None:
            book.fail([culprit], error)
        if others:
            waiting.append((others, others_error))


def _embed(
    places: list[int], book: Book, call: Call, retries: int, before: int
) -> Generator[Step, Outcome, QwenAIMLError | None]:
    """Give the error if one of the texts may be its cause; *before* as in `may_be_one_text`."""
    try:
        rows = yield from embed_batch(book.texts(places), call, retries=retries)
    except QwenAIMLError as error:
        if may_be_one_text(error, call, before):
            return error
        raise
    yield from book.keep(places, rows)
    return None


def _narrowed(
    suspects: list[int], error: QwenAIMLError, book: Book, call: Call, before: int
) -> Generator[Step, Outcome, tuple[int, list[int], QwenAIMLError | None]]:
    """
    Find one text that is the cause of *error*.

    Returns:
        The text; those of which nothing is known, since the cause was found without them; and the error of
        the text alone, None if it was embedded after all.
    """
    retries = _retries(error, call)
    others: list[int] = []
    seen_alone = len(suspects) == 1
    while len(suspects) > 1:
        half, rest = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
        found = yield from _embed(half, book, call, retries, before)
        if found is None:
            suspects, seen_alone = rest, False
        else:
            suspects, others, error = half, rest + others, found
            seen_alone = len(half) == 1
    if seen_alone:
        return suspects[0], others, error
    return suspects[0], others, (yield from _embed(suspects, book, call, retries, before))


def _retries(error: QwenAIMLError, call: Call) -> int:
    # A service that is slow or out of order got all its tries already.
    return 0 if is_passing(error) else call.config.max_retries


def _blame_the_text(error: QwenAIMLError, call: Call, before: int) -> None:
    """
    Make sure that it is the text, since others are accepted.

    Raises:
        QwenAIMLError: If it is rather the request, or the service.
    """
    if call.accepted > before or _names_the_text(error):
        return
    with call.lock:
        call.refused_alone += 1
    if is_passing(error) or call.refused_alone >= ENOUGH:
        raise error


def _names_the_text(error: QwenAIMLError) -> bool:
    return isinstance(error, APIStatusError) and error.reason in ("length", "content")


def may_be_one_text(error: QwenAIMLError, call: Call, before: int) -> bool:
    """
    Tell whether one text may be the cause of an error, and others would be embedded.

    Args:
        error: The last one of a request.

        call: Whose request it was.

        before: How many answers of the call had been accepted before its first attempt.
    """
    if not is_passing(error):
        return isinstance(error, APIStatusError) and error.reason in ("rows", "length", "content", "text")
    if not call.config.max_retries:
        return False  # what may have been billed is not to be sent again
    if call.accepted > before:
        return True  # the service is there for others
    if isinstance(error, APIStatusError):
        return error.status_code in OF_ONE_TEXT
    return isinstance(error, ResponseFormatError) or (isinstance(error, TransportError) and error.timed_out)


def fewer_rows(error: QwenAIMLError, sent: int, call: Call) -> int | None:
    """
    Learn from a refusal how many texts a request may hold.

    Args:
        error: The refusal.

        sent: How many texts were in the request.

        call: Whose client is to know.

    Returns:
        The number; None if those were not too many.
    """
    rows = error.max_rows if isinstance(error, APIStatusError) else None
    if rows is None or not 0 < rows < sent:
        return None
    if rows < call.learned.rows:
        logger.info("the service takes %d texts a request, so that is what it gets from now on", rows)
        call.learned.rows = rows
    return rows
