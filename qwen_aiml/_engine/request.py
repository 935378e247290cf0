"""
One request from its first attempt to its embeddings or its error, as a generator that does no I/O.

It yields what is to be done and is sent what came of it, as `_steps` lists. Both clients drive it; tests
drive it by hand.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Protocol, cast

from msgspec import Struct, field
from msgspec.structs import replace

from .._protocol.arrays import packed
from .._errors import DeadlineError, QwenAIMLError, RateLimitError, ResponseFormatError, TransportError
from .history import Start
from .._results import Usage
from .retry import backoff, is_passing, retry_after
from .._protocol.status import is_success, is_throttle, masked, page_advice, status_error
from .._steps import Admit, Enter, Fault, Send, Wait
from .queue import Turn
from .._protocol.response import Answer, decode, encode, most_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from datetime import datetime

    from .._config import EmbeddingConfig
    from .._learned import Learned
    from .._steps import Outcome, Step
    from .queue import Turns
    from .._protocol.response import Rows

logger = logging.getLogger("qwen_aiml")

JITTER = 0.1  # of a pause, at the most


class Clock(Struct, frozen=True):
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


class Flag(Protocol):
    """What a `Loop` and an `anyio.Event` share: either colour's way to end what waits for a next attempt."""

    def set(self) -> object:
        """Raise the flag."""
        ...

    def is_set(self) -> bool:
        """Tell whether it was raised."""
        ...


class Call(Struct, eq=False):
    """
    What all requests of one call share.

    Attributes:
        config: The settings.

        clock: Time and chance.

        learned: What the client knows of the service's limits.

        turns: The line in which requests wait to start.

        stopped: Raised once no further request may start, so that nobody waits for a next attempt.

        has_limiter: Whether the user's own rate limiter is to be asked before each request.

        deadline: Reading of the clock at which to give up; None for never.

        packed: Whether embeddings are kept as float32, in an ``array``, instead of in lists.

        dimensions: Length each embedding must have; None as long as it is not known.

        usage: What the call has cost so far.

        accepted: Answers that held sound embeddings, so far.

        refused_alone: Texts that were refused in a request of their own while no answer was good.
    """

    config: EmbeddingConfig
    clock: Clock
    learned: Learned
    turns: Turns
    stopped: Flag
    has_limiter: bool = False
    deadline: float | None = None
    packed: bool = False
    dimensions: int | None = None
    usage: Usage = field(default_factory=Usage)
    accepted: int = 0
    refused_alone: int = 0
    lock: Lock = field(default_factory=Lock)

    @property
    def rows(self) -> int:
        """Texts that one request may hold, by the settings and by what the service has told."""
        return min(self.config.rows, self.learned.rows)

    def stop(self) -> None:
        """Start no further request, and let nobody wait for one."""
        self.stopped.set()
        self.turns.dismiss(self)

    def spend(self, usage: Usage) -> None:
        """Add to what the call has cost."""
        with self.lock:
            self.usage += usage

    def seconds_left(self) -> float:
        """Say how long the call may still take."""
        return math.inf if self.deadline is None else self.deadline - self.clock.now()

    def is_over(self) -> bool:
        """Tell whether nothing more may be sent."""
        return self.stopped.is_set() or self.seconds_left() <= 0


class NotSentError(QwenAIMLError):
    """A request was not sent, since the call had failed elsewhere; never raised to users."""

    def __init__(self) -> None:
        super().__init__("not sent")


_PROXY = (
    "check the proxy that HTTPS_PROXY or ALL_PROXY names, with user and password in its address if it wants "
    "them, and that it lets this address through; NO_PROXY lists what goes past it"
)
_ADVICE = {
    "connection": "check the network and base_url; behind a proxy, set HTTPS_PROXY",
    "timeout": "check the network; raise timeout if the service is slow",
    "local": "look at default_headers",
    "certificate": (
        "behind a proxy that inspects TLS, set SSL_CERT_FILE to its CA bundle (PEM); the sign-in page of a "
        "network and a wrong clock look the same"
    ),
    "proxy": _PROXY,
    "refused": _PROXY,
}


def embed_batch(texts: Sequence[str], call: Call, *, retries: int) -> Generator[Step, Outcome, Rows]:
    """
    Get the texts of one request embedded, trying again where that may help.

    Args:
        texts: As they are sent, at most as many as one request may hold.

        call: What the requests of the call share.

        retries: Tries after the first.

    Returns:
        The embeddings in the order of the texts.

    Raises:
        APIStatusError: For an answer that trying again does not cure, or the last one.

        TransportError: If the last attempt got no answer.

        ResponseFormatError: If the last answer was unsound.

        DeadlineError: If the deadline has passed, or would before the next attempt.

        NotSentError: If the call failed elsewhere before the first attempt.
    """
    send = Send(encode(texts, call.config), call.deadline, most_bytes(len(texts)))
    last: QwenAIMLError | None = None
    for attempt in count(1):
        outcome = yield from _attempt(call, send)
        if outcome is None:
            if call.stopped.is_set():
                raise last or NotSentError()
            raise too_late(call, attempt - 1, last) from last
        if isinstance(outcome, Fault):
            # It may quote what came, and so what we sent.
            outcome = replace(outcome, detail=masked(outcome.detail, texts, call.config))
        logger.debug("%d texts, attempt %d: %s", len(texts), attempt, _said(outcome))
        call.spend(_cost(outcome))
        try:
            rows = _read(outcome, texts, call)
        except QwenAIMLError as error:
            last = error
            error.attempts = attempt
            seconds = _backoff(error, outcome, call, is_last=attempt > retries)
            if seconds:
                yield Wait(seconds)
        else:
            with call.lock:
                call.accepted += 1
            return rows
    raise AssertionError  # pragma: no cover (count() has no end)


def _backoff(error: QwenAIMLError, outcome: Outcome, call: Call, *, is_last: bool) -> float:
    """
    Say how long to wait before the next attempt.

    Raises:
        QwenAIMLError: If there is none to be: *error*, or a `DeadlineError`.
    """
    if not is_passing(error):
        raise error
    seconds = 0.0
    # After a refusal for the rate all requests of the client pause, this one among them.
    if not is_last and not isinstance(error, RateLimitError):
        advised = retry_after(outcome.headers, call.clock.date()) if isinstance(outcome, Answer) else None
        seconds = backoff(error.attempts, advised, call.clock.random)
    if call.seconds_left() <= seconds:
        raise too_late(call, error.attempts, error) from error
    if is_last:
        raise error
    return seconds


def _attempt(call: Call, send: Send) -> Generator[Step, Outcome, Outcome]:
    """Send once, in turn and at the right pace; None if the deadline or the end of the call comes first."""
    pace, size = call.learned.pace, len(send.body)
    turn = Turn(call)
    start: Start | float = 0.0
    outcome: Outcome = None
    try:
        call.turns.enter(turn)
        # Looked at after the turn was entered: a call that is stopped later than that withdraws it.
        crash = None if turn.has_come or call.is_over() else (yield Enter(turn, call.deadline))
        tokens = pace.expected_tokens(size)
        if crash is None and call.has_limiter and turn.has_come and not call.is_over():
            crash = yield Admit(math.ceil(tokens), call.deadline)
        if crash is not None:
            return crash
        while turn.has_come and not call.is_over():
            start = pace.take(call.clock.now(), tokens)
            if isinstance(start, Start):
                call.turns.start(turn)
                outcome = yield send
                if call.packed and isinstance(outcome, Answer):
                    outcome = replace(outcome, packed=True)
                break
            if call.seconds_left() <= start:
                break
            yield Wait(start)
        return outcome
    finally:
        try:
            if isinstance(start, Start):
                _report(call, start, size, outcome)
        finally:
            # Come what may: a turn that is not given back is one less for all later calls.
            call.turns.leave(turn)


def _report(call: Call, start: Start, size: int, outcome: Outcome) -> None:
    pace, now = call.learned.pace, call.clock.now()
    if not isinstance(outcome, Answer) or outcome.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        pace.lost(start, now)
    elif is_throttle(outcome):
        # Zero counts as unsaid: a clock that goes wrong makes 0 of every date.
        advised = retry_after(outcome.headers, call.clock.date()) or None
        pace.refused(start, now, advised, JITTER * call.clock.random())
    else:
        tokens = outcome.usage.total_tokens if is_success(outcome.status) else None
        pace.accepted(start, now, size, tokens)


def _said(outcome: Outcome) -> str:
    """Put an outcome into words for the log, which shows neither texts nor embeddings."""
    if isinstance(outcome, Answer):
        return f"HTTP {outcome.status}, {len(outcome.body)} bytes"
    return outcome.detail if isinstance(outcome, Fault) else type(outcome).__name__


def _cost(outcome: Outcome) -> Usage:
    # Failed requests are not billed. Source: AI/ML API docs, "API key usage". An unsound success is.
    if isinstance(outcome, Answer) and is_success(outcome.status):
        return outcome.usage
    return Usage(requests=0 if isinstance(outcome, Exception) else 1)


def _read(outcome: Outcome, texts: Sequence[str], call: Call) -> Rows:
    if isinstance(outcome, Exception):
        raise outcome
    if isinstance(outcome, Fault):
        advice = _ADVICE[outcome.kind]
        raise TransportError(
            f"no answer from {call.config.base_url}: {outcome.detail}. What to do: {advice}",
            passing=outcome.kind not in ("certificate", "local", "refused"),
            timed_out=outcome.kind == "timeout",
        )
    answer = cast("Answer", outcome)
    if not is_success(answer.status):
        raise status_error(answer, texts, call.config)
    if answer.success is None and answer.is_page:
        advice = page_advice(call.config)
        raise ResponseFormatError(f"the service answered with success, but no JSON. What to do: {advice}")
    rows = decode(answer, len(texts), call.dimensions)
    # Here, so that what float32 can't hold is asked for again and looked for like any unsound row.
    return replace(rows, embeddings=list(map(packed, rows.embeddings))) if call.packed else rows


def too_late(call: Call, attempts: int = 0, last: QwenAIMLError | None = None) -> DeadlineError:
    """Say that the deadline has passed, or would, after some *attempts*, the last of which got an error."""
    if call.seconds_left() <= 0:
        said = "ran out"
    elif last is None:
        said = "leaves no time to send: requests have to wait longer than that"
    else:
        said = "leaves no time to try again after"
    cause = f": {last.args[0]}" if last else ""
    return DeadlineError(f"total_timeout of {call.config.total_timeout:g} s {said}{cause}", attempts=attempts)
