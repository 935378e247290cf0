"""
One batch from its first attempt to its embeddings or its error, as a generator that does no I/O.

It yields what is to be done and is sent what came of it:

    Send  ->  Answer, Fault, an exception of the HTTP client's own; None if it was not sent
    Wait  ->  None

Both clients drive it; tests drive it by hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Literal, TypeAlias

from ._errors import DeadlineError, QwenAIMLError, TransportError
from ._result import Usage
from ._retry import backoff, is_passing, retry_after
from ._status import is_success, status_error
from ._wire import Answer, Rows, decode, encode, read_usage

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
        kind: What broke; ``certificate`` and ``local`` (a request that can't be sent) won't pass by
            themselves.

        detail: What happened, for people; no text and no key.
    """

    kind: Literal["connection", "timeout", "certificate", "local"]
    detail: str


Step: TypeAlias = Send | Wait
# None after Wait, and after a Send whose turn came after the deadline or the end of the call.
# An exception is one that the HTTP client is not known to raise.
Outcome: TypeAlias = Answer | Fault | Exception | None


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
    "local": "look at default_headers",
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
    spend: Callable[[Usage], None],
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

        spend: Told the cost of each request as soon as it is known.

    Returns:
        The embeddings in the order of the texts.

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
            raise _too_late(config, attempt - 1, is_over=True, last=None)
        spend(_cost(outcome))
        try:
            return _read(outcome, texts, config, dimensions)
        except QwenAIMLError as error:
            last = error
            error.attempts = attempt
            if not is_passing(error):
                raise
            advised = retry_after(outcome.headers, clock.date()) if isinstance(outcome, Answer) else None
            wait = Wait(backoff(attempt, advised, clock.random))
            is_last = attempt > config.max_retries
            left = math.inf if deadline is None else deadline - clock.now()
            if left <= (0 if is_last else wait.seconds):
                raise _too_late(config, attempt, is_over=left <= 0, last=error) from error
            if is_last:
                raise
        yield wait
    raise AssertionError  # pragma: no cover (count() has no end)


def _cost(outcome: Answer | Fault | Exception) -> Usage:
    # Failed requests are not billed. Source: AI/ML API docs, "API key usage". An unsound success is.
    if isinstance(outcome, Answer) and is_success(outcome.status):
        return read_usage(outcome)
    return Usage(requests=0 if isinstance(outcome, Exception) else 1)


def _read(
    outcome: Answer | Fault | Exception,
    texts: Sequence[str],
    config: EmbeddingConfig,
    dimensions: int | None,
) -> Rows:
    if isinstance(outcome, Exception):
        raise outcome
    if isinstance(outcome, Fault):
        advice = _ADVICE[outcome.kind]
        raise TransportError(
            f"no answer from {config.base_url}: {outcome.detail}. What to do: {advice}",
            passing=outcome.kind not in ("certificate", "local"),
        )
    if not is_success(outcome.status):
        raise status_error(outcome, texts, config)
    return decode(outcome, len(texts), dimensions)


def _too_late(
    config: EmbeddingConfig, attempts: int, *, is_over: bool, last: QwenAIMLError | None
) -> DeadlineError:
    said = "ran out" if is_over else "leaves no time to try again after"
    cause = f": {last.args[0]}" if last else ""
    return DeadlineError(f"total_timeout of {config.total_timeout:g} s {said}{cause}", attempts=attempts)
