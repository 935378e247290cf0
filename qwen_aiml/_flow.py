"""
One batch from its first attempt to its embeddings or its error, as a generator that does no I/O.

It yields what is to be done and is sent what came of it:

    Send  ->  Answer or Fault
    Wait  ->  None

Both clients drive it; tests drive it by hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Literal, TypeAlias

from ._errors import DeadlineError, QwenAIMLError, TransportError
from ._retry import backoff, is_passing, retry_after
from ._status import is_success, status_error
from ._wire import Answer, Rows, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from datetime import datetime

    from ._config import EmbeddingConfig


@dataclass(frozen=True)
class Send:
    """
    Post *body* to the endpoint.

    Attributes:
        body: JSON.

        deadline: Reading of the clock at which to give up; None for never.

        is_stopped: Tells that the call has failed elsewhere, so that what waited for its turn is not sent.
    """

    body: bytes
    deadline: float | None
    is_stopped: Callable[[], bool]


@dataclass(frozen=True)
class Wait:
    """Do nothing for some *seconds*."""

    seconds: float


@dataclass(frozen=True)
class Fault:
    """
    No answer came.

    Attributes:
        kind: What broke; ``certificate`` won't pass by itself, the others may.

        detail: What happened, for people; no text and no key.
    """

    kind: Literal["connection", "timeout", "certificate"]
    detail: str


Step: TypeAlias = Send | Wait
# None after Wait, and after a Send whose turn came after the deadline or the end of the call.
Outcome: TypeAlias = Answer | Fault | None


@dataclass(frozen=True)
class Clock:
    """
    Time and chance as the flow sees them, so that tests can hold both.

    Attributes:
        now: Gives seconds that only grow.

        date: Gives the present, with its time zone.

        random: Gives numbers from 0 to 1.
    """

    now: Callable[[], float]
    date: Callable[[], datetime]
    random: Callable[[], float]


class NotSentError(QwenAIMLError):
    """A batch was not sent, since the call had failed elsewhere; never raised to users."""

    def __init__(self) -> None:
        super().__init__("not sent")


_ADVICE = {
    "connection": "check the network and base_url; behind a proxy, set HTTPS_PROXY",
    "timeout": "check the network; raise timeout if the service is slow",
    "certificate": "behind a proxy that inspects TLS, set SSL_CERT_FILE to its CA bundle",
}


def embed_batch(
    texts: Sequence[str],
    config: EmbeddingConfig,
    clock: Clock,
    *,
    dimensions: int | None,
    deadline: float | None,
    is_stopped: Callable[[], bool],
) -> Generator[Step, Outcome, Rows]:
    """
    Get one batch of texts embedded, trying again where that may help.

    Args:
        texts: As they are sent, at most as many as one request may hold.

        config: The settings.

        clock: Time and chance.

        dimensions: Length each embedding must have; None if it is not known.

        deadline: Reading of the clock at which to give up; None for never.

        is_stopped: Tells that the call has failed elsewhere and nothing more is to be sent.

    Returns:
        The embeddings in the order of the texts, and what they cost.

    Raises:
        APIStatusError: For an answer that trying again does not cure, or the last one.

        TransportError: If the last attempt got no answer.

        ResponseFormatError: If the last answer was unsound.

        DeadlineError: If the deadline has passed, or would before the next attempt.

        NotSentError: If the call failed elsewhere before the first attempt.
    """
    send = Send(encode(texts, config), deadline, is_stopped)
    last: QwenAIMLError = NotSentError()
    for attempt in count(1):
        outcome = None if is_stopped() else (yield send)
        if outcome is None and is_stopped():
            raise last
        if outcome is None:
            raise _too_late(config, attempt - 1, None)
        try:
            rows = _read(outcome, texts, config, dimensions)
        except QwenAIMLError as error:
            last = error
            error.attempts = attempt
            if not is_passing(error):
                raise
            advised = retry_after(outcome.headers, clock.date()) if isinstance(outcome, Answer) else None
            wait = Wait(backoff(attempt, advised, clock.random))
            if deadline is not None and clock.now() + wait.seconds >= deadline:
                raise _too_late(config, attempt, error) from error
            if attempt > config.max_retries:
                raise
        else:
            return replace(rows, usage=replace(rows.usage, requests=attempt))
        yield wait
    raise AssertionError  # pragma: no cover (count() has no end)


def _read(
    outcome: Answer | Fault, texts: Sequence[str], config: EmbeddingConfig, dimensions: int | None
) -> Rows:
    if isinstance(outcome, Fault):
        advice = _ADVICE[outcome.kind]
        raise TransportError(
            f"no answer from {config.base_url}: {outcome.detail}. What to do: {advice}",
            passing=outcome.kind != "certificate",
        )
    if not is_success(outcome.status):
        raise status_error(outcome, texts, config)
    return decode(outcome, len(texts), dimensions)


def _too_late(config: EmbeddingConfig, attempts: int, last: QwenAIMLError | None) -> DeadlineError:
    cause = f" while trying again after: {last.args[0]}" if last else ""
    return DeadlineError(f"total_timeout of {config.total_timeout:g} s ran out{cause}", attempts=attempts)
