"""One request: attempts, backoff, deadline; and the state shared by the requests of a call."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import TYPE_CHECKING

import anyio
from msgspec import Struct

from .._errors import DeadlineError, NotSentError, QwenAIMLError, RateLimitError, TransportError, advised
from .._observe.budget import within_budgets
from .._observe.usage import current_blocks
from .._protocol.masking import mask_message
from .._protocol.request import encode, max_response_bytes
from .._protocol.response import decode
from .._protocol.status import error_from
from .._results import Usage
from .._transport.base import Post, TransportFailure
from .._transport.failures import advice
from .limiter import FIRST_WINDOW
from .retry import LONGEST_RETRY_AFTER, backoff, describe_cause, is_transient, retry_after, throttled_backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from .._config import EmbeddingConfig
    from .._progress import Reporter
    from .._protocol.response import Response, Rows
    from .limiter import Limiter, Start
    from .queue import Queue

logger = logging.getLogger("qwen_aiml")

JITTER = 0.1  # share of a pause, at most
LOGGED_SECONDS = 1.0  # longer waits are logged, and retries after longer attempts


class Clock(Struct, frozen=True):
    """
    Sources of time and randomness, so that tests can control both.

    Attributes:
        now: Returns monotonic seconds.

        date: Returns the current time, with a time zone.

        random: Returns numbers from 0 to 1.
    """

    now: Callable[[], float]
    date: Callable[[], datetime]
    random: Callable[[], float]


class Call:
    """
    State shared by the requests of one call.

    Args:
        config: The settings.

        clock: Sources of time and randomness.

        limiter: The client's rate limiter.

        admit: A custom rate limiter, awaited before each attempt with its expected tokens; None means no
            custom limiter.

        packed: Whether embeddings are ``array``s of float32 instead of lists.

        batch_size: Maximum number of texts per request; None means the setting.

    Attributes:
        deadline: Reading of the clock at which to give up; None means no deadline.

        dimensions: Dimensions of each embedding; None until they are known.

        usage: Usage of the call so far.

        blocks: The `track_usage` blocks that count the call, and its client's total; `budgets` are theirs.

        accepted: Number of responses with valid embeddings so far.

        rejected_alone: Number of texts rejected alone while no response was valid.

        throttled_since: When the first 429 since the last accepted request came; infinity if none did.

        is_stopped: Whether no further request may start.

        starting: Lock of the one request that waits to start; see `Queue`.

        workers: Limits the batches begun until a request is accepted: a service that is down gets few.

        waiting: Cancel scopes of the requests that wait for something other than their response.

        retries: Number of retries so far.

        reporter: Receives progress, and each wait of more than `LOGGED_SECONDS`; None means no reports.
    """

    queue: Queue
    post: Callable[[Post], Awaitable[Response]]

    def __init__(
        self,
        config: EmbeddingConfig,
        clock: Clock,
        limiter: Limiter,
        *,
        admit: Callable[[int], Awaitable[object]] | None = None,
        packed: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self.config = config
        self.clock = clock
        self.limiter = limiter
        self.admit = admit
        self.packed = packed
        self.batch_size = config.checked_batch_size(batch_size)
        total = config.total_timeout
        self.deadline = None if total is None else clock.now() + total
        self.dimensions = config.length
        self.usage = Usage()
        self.blocks = current_blocks()
        self.budgets = [block.budget for block in self.blocks if block.budget is not None]
        self.accepted = 0
        self.rejected_alone = 0
        self.throttled_since = math.inf
        self.is_stopped = False
        self.retries = 0
        self.reporter: Reporter | None = None
        self.waiting: set[anyio.CancelScope] = set()

    def begin(self, queue: Queue, post: Callable[[Post], Awaitable[Response]]) -> None:
        """Set the queue and the post function of the event loop that runs the call."""
        self.queue = queue
        self.post = post
        self.starting = anyio.Lock(fast_acquire=True)
        self.workers = anyio.CapacityLimiter(max(FIRST_WINDOW, self.limiter.window))

    @property
    def rows(self) -> int:
        """Maximum number of texts per request, as far as it is known."""
        return min(self.batch_size, self.limiter.rows)

    def count(self, usage: Usage) -> None:
        """Add to the usage of the call, its client and the `track_usage` blocks in which it was made."""
        self.usage += usage
        for block in self.blocks:
            block.add(usage)

    def seconds_left(self) -> float:
        """Return the seconds left until the deadline."""
        return math.inf if self.deadline is None else self.deadline - self.clock.now()

    @property
    def is_throttled_too_long(self) -> bool:
        """
        Whether 429s came, and nothing was accepted, for longer than all retries of one request may wait.

        Requests take turns after 429s, so it would take many times as long to use up their retries.
        """
        return self.clock.now() - self.throttled_since > self.config.max_retries * LONGEST_RETRY_AFTER

    def stop(self) -> None:
        """Start no further request, and cancel those that wait; requests in flight continue."""
        self.is_stopped = True
        for scope in self.waiting:
            scope.cancel()


_PERMANENT = ("certificate", "local", "loop", "refused")
_SENT = Usage(requests=1)


async def embed_texts(texts: Sequence[str], call: Call, *, retries: int) -> Rows:
    """
    Embed the texts of one request, with retries.

    Args:
        texts: Texts as they are sent, at most as many as one request may contain.

        call: State shared by the requests of the call.

        retries: Maximum number of retries.

    Returns:
        The embeddings in the order of the texts.

    Raises:
        APIStatusError: For a permanent error, or one in response to the last attempt.

        TransportError: If the last attempt got no response.

        ResponseFormatError: If the last response was malformed.

        DeadlineError: If the deadline has passed, or would pass before the next attempt.

        NotSentError: If the call was stopped before the first attempt.
    """
    with anyio.move_on_after(call.seconds_left()) as scope:
        request = _Request(texts, call, retries, scope)
        return await request.send()
    if anyio.current_time() < scope.deadline:  # the call was stopped
        raise request.error or NotSentError("not sent")
    raise deadline_error(call, request.attempts, request.error) from request.error


class _Request:
    """The attempts of one request: their number, and the error of the last one."""

    def __init__(self, texts: Sequence[str], call: Call, retries: int, scope: anyio.CancelScope) -> None:
        self._texts = texts
        self._call = call
        self._retries = retries
        self._scope = scope
        self._post = Post(encode(texts, call.config), max_response_bytes(len(texts)))
        self.attempts = 0
        self.error: QwenAIMLError | None = None
        self._sent_at = math.inf

    async def send(self) -> Rows:
        """Send until a response is valid, or no retry is left."""
        call = self._call
        while True:
            response: Response | None = None
            call.waiting.add(self._scope)
            try:
                tokens = call.limiter.expected_tokens(len(self._post.body))
                response = await within_budgets(call.budgets, tokens, self._attempt)
                if self.error is None:
                    rows = decode(response, len(self._texts), call.dimensions)
                    call.dimensions = len(rows.embeddings[0])
                    call.workers.total_tokens = call.config.concurrency
                    call.accepted += 1
                    return rows
            except TransportFailure as failure:
                self.error = self._transport_error(failure)
            except QwenAIMLError as error:
                self.error = error
            await self._back_off(self.error, response)

    async def _attempt(self, tokens: float) -> Response:
        call = self._call
        start = await self._start(tokens)
        call.waiting.discard(self._scope)
        self._sent_at = start.at
        response: Response | None = None
        usage = _SENT
        try:
            response = await call.post(self._post)
            response.packed = call.packed
            usage = response.usage
            self.error = error_from(response, self._texts, call.config, self._post.secret)
        except QwenAIMLError:  # an error in the settings or the environment
            usage = Usage()
            raise
        finally:
            # First, whatever happens: a leaked slot would reduce concurrency for all later calls.
            call.queue.end()
            call.count(usage)
            self.attempts += usage.requests
            call.retries += bool(usage.requests and self.attempts > 1)
            self._report_outcome(start, response)
        return response

    async def _start(self, tokens: float) -> Start:
        """
        Wait until the request may start.

        Raises:
            NotSentError: If the call was stopped before.

            DeadlineError: If the wait would exceed the deadline.
        """
        call = self._call
        if call.is_stopped:
            raise NotSentError("not sent")
        # One at a time: none is admitted while another request of the call still waits to start.
        async with call.starting:
            if call.admit is not None:
                await call.admit(math.ceil(tokens))
            start = await call.queue.start(tokens, call.seconds_left, self._report_wait)
        if start is None:
            raise deadline_error(call, self.attempts, self.error) from self.error
        return start

    def _report_outcome(self, start: Start, response: Response | None) -> None:
        """Report the outcome of an attempt to the limiter."""
        limiter, clock, size = self._call.limiter, self._call.clock, len(self._post.body)
        now = clock.now()
        if response is None or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            limiter.lost(start)
        elif isinstance(self.error, RateLimitError):
            advised = retry_after(response.headers, clock.date())
            limiter.refused(start, now, advised, JITTER * clock.random())
            self._call.throttled_since = min(self._call.throttled_since, now)
        else:
            tokens = response.usage.total_tokens if response.is_success else None
            limiter.accepted(start, now, size, tokens)
            self._call.throttled_since = math.inf

    async def _back_off(self, error: QwenAIMLError, response: Response | None) -> None:
        """
        Wait before the next attempt.

        Raises:
            QwenAIMLError: If there is no next attempt: *error*, or a `DeadlineError`.
        """
        call = self._call
        error.attempts = self.attempts
        summary = error.args[0] if response is None else f"HTTP {response.status}, {len(response.body)} bytes"
        logger.debug("%d texts, attempt %d: %s", len(self._texts), self.attempts, summary)  # no texts in it
        is_last = self.attempts > self._retries_allowed or call.is_throttled_too_long
        if is_last or call.is_stopped or not is_transient(error):
            raise error
        advised = None if response is None else retry_after(response.headers, call.clock.date())
        if isinstance(error, RateLimitError):
            # The limiter pauses all requests of the client for the advised time, meanwhile.
            seconds = throttled_backoff(self.attempts, call.clock.random)
        else:
            seconds = backoff(self.attempts, advised, call.clock.random)
        if call.seconds_left() <= max(seconds, advised or 0.0):
            raise deadline_error(call, self.attempts, error) from error
        if seconds:
            self._report_wait(seconds, after=call.clock.now() - self._sent_at)
            call.waiting.add(self._scope)
            await anyio.sleep(seconds)

    @property
    def _retries_allowed(self) -> int:
        # A 429 says nothing about the texts, so it does not end the search for one that breaks the service.
        is_throttled = isinstance(self.error, RateLimitError)
        return self._call.config.max_retries if is_throttled else self._retries

    def _report_wait(self, seconds: float, after: float = 0.0) -> None:
        """Log and report a wait before the next attempt; log short ones only after a long attempt."""
        if max(seconds, after) > LOGGED_SECONDS:
            cause, attempt, most = describe_cause(self.error), self.attempts + 1, self._retries_allowed + 1
            logger.info("%s, waiting %.1f s, attempt %d of %d", cause, seconds, attempt, most)
            if seconds > LOGGED_SECONDS and self._call.reporter is not None:
                self._call.reporter.send(self._call.usage, seconds)

    def _transport_error(self, failure: TransportFailure) -> TransportError:
        config = self._call.config
        # It may quote the response, and thus the request.
        detail = mask_message(failure.detail, self._texts, config.query_instruction, self._post.secret)
        what_to_do = advice(failure.kind, config.endpoint)
        return TransportError(
            advised(f"no response from {config.base_url}: {detail}", what_to_do),
            transient=failure.kind not in _PERMANENT,
            timed_out=failure.kind == "timeout",
        )


def deadline_error(call: Call, attempts: int = 0, last: QwenAIMLError | None = None) -> DeadlineError:
    """Create a `DeadlineError`, after a number of *attempts*, with the error of the last one."""
    if call.seconds_left() <= 0:
        said = "ran out"
    elif last is None:
        said = "leaves no time to send: rate limits make requests wait longer than that"
    else:
        said = "leaves no time for a retry after"
    cause = f": {last.args[0]}" if last else ""
    return DeadlineError(f"total_timeout of {call.config.total_timeout:g} s {said}{cause}", attempts=attempts)
