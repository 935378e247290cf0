"""One request: attempts, retries, waits, deadlines, and its place in the queue."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import orjson
import pytest

from fakes import HANG, After, Harness, Outcome, status, vector
from qwen_aiml import (
    APIStatusError,
    AuthenticationError,
    DeadlineError,
    InsufficientCreditsError,
    QwenAIMLError,
    RateLimitError,
    ResponseFormatError,
    TransportError,
    Usage,
)
from qwen_aiml._engine.engine import make_limiter
from qwen_aiml._errors import NotSentError
from qwen_aiml._protocol.response import Response
from qwen_aiml._transport.base import FailureKind, TransportFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwen_aiml._engine.request import Call

BUSY = status(503)
MALFORMED = Response(200, {}, b"<html>")
THROTTLED_IN_200 = Response(200, {"retry-after": "3"}, b'{"error": {"message": "Too many requests."}}')
NO_CREDITS_IN_200 = Response(200, {}, b'{"error": {"message": "You\'ve run out of credits."}}')
UNKNOWN_KEY = status(401)
RESET = TransportFailure("connection", "ReadError")
SILENCE = TransportFailure("timeout", "silence")


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Override the shared fixture: this file uses virtual time."""


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_success(backend: str) -> None:
    """A valid response ends the request, which was posted as configured."""
    harness = Harness(backend=backend, dimensions=2)

    assert harness.embed().embeddings == [vector("text")]
    [post] = harness.transport.posts
    assert orjson.loads(post.body) == {"model": "unknown", "input": ["text"], "dimensions": 2}
    assert post.max_bytes == 16 * 2**20
    assert (harness.call.usage, harness.call.accepted) == (Usage(1, 1, None, 0, None), 1)
    assert harness.limiter.reports == [("accepted", 1)]


@pytest.mark.parametrize("transient", [BUSY, MALFORMED, RESET, SILENCE], ids=repr)
def test_retry(transient: Outcome) -> None:
    """After a transient failure the same body is sent again, after 0.5 s, then after 1 s."""
    harness = Harness(transient, transient)
    harness.embed()

    assert harness.times == [0.0, 0.5, 1.5]
    assert len({post.body for post in harness.transport.posts}) == 1
    assert harness.call.usage.requests == 3


@pytest.mark.parametrize(
    ("response", "seconds"),
    [
        (status(503, retry_after="7"), 7.7),
        (status(503, retry_after_ms="70"), 0.077),
        (status(503, retry_after="0"), 0.5),
        (status(429, retry_after="7"), 7.7),
        (status(429, retry_after="3600"), 66.0),
        (status(429, retry_after="Sun, 22 Nov 2065 12:00:00 GMT"), 66.0),
    ],
)
def test_retry_after(response: Response, seconds: float) -> None:
    """Retry-After is followed, for at most a minute; after a 429 the whole client pauses."""
    harness = Harness(response)
    harness.embed()

    assert harness.times == [0.0, pytest.approx(seconds)]


@pytest.mark.parametrize(("advised", "last"), [(None, 14.3), ("0.2", 14.52), ("20", 88.0)])
def test_repeated_429(advised: str | None, last: float) -> None:
    """Each 429 delays the request for longer, and for at least the time that the service asks for."""
    headers = {} if advised is None else {"retry_after": advised}
    harness = Harness(*[status(429, **headers)] * 4)
    harness.embed()

    assert harness.times[-1] == pytest.approx(last)


def test_429_with_the_real_limiter() -> None:
    """A Retry-After pauses all calls of the client, not only the one that got it."""
    harness = Harness(status(429, retry_after="7"), limiter=make_limiter)

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(harness.attempt, "a")
            await anyio.sleep(1)
            group.start_soon(harness.attempt, "b", harness.new_call())

    harness.run(both)
    assert len(harness.times) == 3
    assert min(harness.times[1:]) >= 7.0


@pytest.mark.parametrize(
    ("outcome", "report"),
    [
        (None, ("accepted", 1)),
        (status(400), ("accepted", None)),
        (status(429), ("refused", None, 0.1)),
        (status(429, retry_after="7"), ("refused", 7.0, 0.1)),
        (status(429, "no credits left"), ("accepted", None)),
        (status(500), ("lost",)),
        (BUSY, ("lost",)),
        (RESET, ("lost",)),
        (ZeroDivisionError(), ("lost",)),
    ],
)
def test_report(outcome: Outcome, report: tuple[Any, ...]) -> None:
    """The limiter gets the outcome of each attempt; a 429 for lack of credits is not a rate limit."""
    harness = Harness(outcome, max_retries=0)
    if outcome is None:
        harness.embed()
    else:
        with pytest.raises((QwenAIMLError, ZeroDivisionError)):
            harness.embed()

    assert harness.limiter.reports == [report]


def test_fixed_rate() -> None:
    """Requests start no faster than requests_per_minute allows."""
    harness = Harness(BUSY, limiter=make_limiter, requests_per_minute=6)
    harness.embed()

    assert harness.times == [0.0, pytest.approx(10, abs=0.1)]


def test_admit() -> None:
    """A rate limiter is awaited before each attempt, with the expected number of tokens."""
    admitted = []

    async def admit(tokens: int) -> None:
        admitted.append((harness.now(), tokens))
        await anyio.sleep(1)

    harness = Harness(BUSY, options={"admit": admit})
    harness.embed()

    tokens = math.ceil(len(harness.transport.posts[0].body) / 3)
    assert admitted == [(0.0, tokens), (1.5, tokens)]
    assert harness.times == [1.0, 2.5]


def test_admit_one_at_a_time() -> None:
    """Requests of a call are admitted one at a time, until they start; other calls continue meanwhile."""
    admitted = []

    async def admit(_: int) -> None:
        admitted.append(harness.now())
        await anyio.sleep(1)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(harness.attempt)
            await anyio.sleep(0.5)
            group.start_soon(harness.attempt, "other", harness.new_call())

    harness = Harness(After(10.0), service=lambda _: After(3.0), options={"admit": admit}, max_concurrency=1)
    harness.run(run)

    # The first is posted when the other call's has ended; then each waits for the one before.
    assert admitted == [0.0, 10.5, 13.5]
    assert harness.times == [0.5, 10.5, 13.5, 16.5]
    assert harness.transport.most == 1


def test_admit_that_embeds() -> None:
    """A rate limiter may embed with the same client, even if only one request may be in flight."""

    async def admit(_: int) -> None:
        await harness.attempt("nested", harness.new_call())

    harness = Harness(options={"admit": admit}, max_concurrency=1)
    harness.embed()

    assert harness.sent == [["nested"], ["text"]]


def test_admit_that_raises() -> None:
    """An exception of a rate limiter ends the request, and nothing is sent."""

    async def admit(_: int) -> None:
        raise ZeroDivisionError

    harness = Harness(options={"admit": admit})
    with pytest.raises(ZeroDivisionError):
        harness.embed()

    assert harness.call.usage.requests == 0


def test_ticket_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the handling of a response does not leak the request's place in the queue."""
    harness = Harness()

    def fail(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(harness.limiter, "accepted", fail)
    with pytest.raises(RecursionError):
        harness.embed()


def waiting_in_queue() -> Harness:
    return Harness(After(5.0), max_concurrency=1)


def waiting_for_the_limiter() -> Harness:
    harness = Harness(After(1.0))
    harness.limiter.paused_until = 5.0
    return harness


def waiting_for_the_admission() -> Harness:
    async def admit(_: int) -> None:
        await anyio.sleep(5)

    return Harness(options={"admit": admit})


PHASES: dict[str, Callable[[], Harness]] = {
    "queue": waiting_in_queue,
    "limiter": waiting_for_the_limiter,
    "admit": waiting_for_the_admission,
    "backoff": lambda: Harness(status(503, retry_after="5")),
}


@pytest.mark.parametrize("phase", PHASES)
def test_stop_while_waiting(phase: str) -> None:
    """A stopped call ends all waits and sends nothing more; an earlier error remains its error."""
    harness = PHASES[phase]()
    expected = APIStatusError if phase == "backoff" else NotSentError

    async def wait() -> None:
        with pytest.raises(expected):
            await harness.attempt("stopped")
        assert harness.now() == 1.0

    async def run() -> None:
        async with anyio.create_task_group() as group:
            if phase == "queue":
                group.start_soon(harness.attempt, "first", harness.new_call())
                await anyio.sleep(0.5)
            group.start_soon(wait)
            await anyio.sleep(1.0 - harness.now())
            harness.call.stop()

    harness.run(run)
    assert harness.call.usage.requests == (phase == "backoff")


def test_stop_leaves_what_is_in_flight() -> None:
    """When a call is stopped, a request in flight ends as usual, and its embeddings are kept."""
    harness = Harness(After(5.0))

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(harness.attempt)
            await anyio.sleep(1)
            harness.call.stop()

    harness.run(run)
    assert harness.call.accepted == 1


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_stopped_before(backend: str) -> None:
    """A stopped call sends nothing, and does not retry a request that fails after the stop."""
    harness = Harness(backend=backend)
    harness.call.stop()
    with pytest.raises(NotSentError):
        harness.embed()
    assert not harness.sent

    def stop(_: list[str]) -> Response:
        harness.call.stop()
        return BUSY

    harness = Harness(stop, BUSY)
    with pytest.raises(APIStatusError):
        harness.embed()
    assert harness.times == [0.0]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("waits_for", ["queue", "admit"])
def test_stopped_when_its_turn_comes(waits_for: str, backend: str) -> None:
    """A request whose turn comes through the failure that stops the call is not sent."""

    async def admit(_: int) -> None:
        pass

    options = {"admit": admit} if waits_for == "admit" else {}
    harness = Harness(After(0.001, UNKNOWN_KEY), backend=backend, options=options, max_concurrency=1)

    async def fail() -> None:
        with pytest.raises(AuthenticationError):
            await harness.attempt("first")
        harness.call.stop()

    async def wait() -> None:
        with pytest.raises(NotSentError):
            await harness.attempt("second")

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            while not harness.queue.in_flight:
                await anyio.lowlevel.checkpoint()
            group.start_soon(wait)

    harness.run(run)
    assert harness.sent == [["first"]]


@pytest.mark.parametrize("at", [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5])
@pytest.mark.parametrize("how", ["cancel", "stop", "deadline"])
def test_tickets_are_given_back(how: str, at: float) -> None:
    """A request that ends early, whatever it awaits, frees its place in the queue."""

    async def admit(_: int) -> None:  # 0-1 and 4.5-5.5
        await anyio.sleep(1)

    harness = Harness(
        After(1.5),  # of another call, until 1.5
        After(2.0, BUSY),  # from 2 to 4, then backoff until 4.5
        After(1.0),
        options={"admit": admit},
        max_concurrency=1,
        total_timeout=10.0,
    )
    if how == "deadline":
        harness.call.deadline = at

    async def first() -> None:
        await harness.attempt("other", harness.new_call())
        harness.limiter.paused_until = 2.0

    async def mine() -> None:
        with suppress(NotSentError, APIStatusError, DeadlineError):
            await harness.attempt("mine")

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(mine)
                    await anyio.sleep(at)
                    if how == "cancel":
                        scope.cancel()
                    elif how == "stop":
                        harness.call.stop()
        assert harness.is_idle
        harness.limiter.paused_until = 0.0
        await harness.attempt("afterwards", harness.new_call())

    harness.run(run)
    assert harness.sent[-1] == ["afterwards"]


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize("stop", [False, True])
def test_tickets_at_every_checkpoint(stop: bool, backend: str) -> None:
    """A request that ends early, at any checkpoint, frees its place in the queue."""

    async def admit(_: int) -> None:
        await anyio.lowlevel.checkpoint()

    async def attempt_once(harness: Harness, call: Call) -> None:
        with suppress(NotSentError):
            await harness.attempt("text", call)

    async def run(harness: Harness, steps: int) -> None:
        other = harness.new_call()
        async with anyio.create_task_group() as group:
            for call in (harness.call, other, harness.call, harness.call):
                group.start_soon(attempt_once, harness, call)
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            if stop:
                harness.call.stop()
            else:
                group.cancel_scope.cancel()
        assert harness.is_idle

    for steps in range(12):
        harness = Harness(
            service=lambda _: After(0), backend=backend, options={"admit": admit}, max_concurrency=1
        )
        harness.run(run, harness, steps)


def paused(harness: Harness) -> None:
    harness.limiter.paused_until = 60.0


async def hang(_: int) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize(
    ("script", "options", "prepare", "ends", "attempts", "reason"),
    [
        ([HANG], {}, None, 5.0, 1, "ran out"),
        ([BUSY, HANG], {}, None, 5.0, 2, "ran out: HTTP 503: no. What to do: try again later"),
        ([], {"admit": hang}, None, 5.0, 0, "ran out"),
        ([status(503, retry_after="7")], {}, None, 0.0, 1, "leaves no time for a retry after: HTTP 503"),
        ([status(429, retry_after="7")], {}, None, 0.0, 1, "leaves no time for a retry after: HTTP 429"),
        (
            [status(429), status(429, retry_after="7")],
            {},
            None,
            0.0,
            2,
            "leaves no time for a retry after: HTTP 429",
        ),
        ([], {}, paused, 0.0, 0, "leaves no time to send: rate limits make requests wait longer than that"),
        ([After(5.0, SILENCE, shield=True)], {}, None, 5.0, 1, "ran out: no response from"),
    ],
    ids=[
        "request",
        "second request",
        "admit",
        "backoff",
        "429",
        "second 429",
        "limiter",
        "failure at the deadline",
    ],
)
def test_deadline(
    script: list[Outcome],
    options: dict[str, Any],
    prepare: Callable[[Harness], None] | None,
    ends: float,
    attempts: int,
    reason: str,
) -> None:
    """The deadline ends whatever is awaited; a wait that would outlast it does not begin."""
    harness = Harness(*script, options=options, total_timeout=5.0)
    if prepare is not None:
        prepare(harness)
    with pytest.raises(DeadlineError) as caught:
        harness.embed()

    assert str(caught.value).startswith(f"total_timeout of 5 s {reason}")
    assert ("raise max_retries (and total_timeout, if set)" in str(caught.value)) == ("HTTP" in reason)
    assert (harness.now(), caught.value.attempts) == (ends, attempts)
    assert ("HTTP" in reason or "no response" in reason) == isinstance(caught.value.__cause__, QwenAIMLError)


def test_deadline_in_the_queue() -> None:
    """A request gives up its place in the queue at the deadline."""
    harness = Harness(After(8.0), max_concurrency=1, total_timeout=10.0)

    async def run() -> None:
        late = harness.new_call()
        late.deadline = 3.0
        async with anyio.create_task_group() as group:
            group.start_soon(harness.attempt)
            await anyio.sleep(1)
            with pytest.raises(DeadlineError, match=r"^total_timeout of 10 s ran out$"):
                await harness.attempt("late", late)
            assert harness.now() == 3.0

    harness.run(run)
    assert harness.sent == [["text"]]


def test_deadline_before_sending() -> None:
    """Once the deadline has passed, nothing is sent, and no admission is requested."""

    async def admit(tokens: int) -> None:
        pytest.fail(f"admission of {tokens} tokens")

    harness = Harness(total_timeout=5.0, options={"admit": admit})
    harness.call.deadline = 0.0
    with pytest.raises(DeadlineError, match=r"^total_timeout of 5 s ran out$") as caught:
        harness.embed()

    assert (harness.sent, caught.value.attempts) == ([], 0)


def test_response_at_the_deadline() -> None:
    """A late but valid response is kept, and a permanent error takes precedence over the deadline."""
    late = Harness(After(2.0, shield=True), total_timeout=1.0)
    assert late.embed().embeddings == [vector("text")]

    with pytest.raises(AuthenticationError):
        Harness(After(2.0, UNKNOWN_KEY, shield=True), total_timeout=1.0).embed()


def test_last_error_before_the_deadline() -> None:
    """If no retries are left, the last error is raised, and no DeadlineError."""
    with pytest.raises(RateLimitError):
        Harness(status(429, retry_after="30"), total_timeout=10.0, max_retries=0).embed()


@pytest.mark.parametrize(
    ("script", "error", "attempts"),
    [
        ([UNKNOWN_KEY], AuthenticationError, 1),
        ([status(400)], APIStatusError, 1),
        ([status(429, "no credits left")], InsufficientCreditsError, 1),
        ([TransportFailure("certificate", "x")], TransportError, 1),
        ([BUSY, status(429)], RateLimitError, 2),
        ([BUSY, MALFORMED], ResponseFormatError, 2),
        ([BUSY, RESET], TransportError, 2),
        ([BUSY, UNKNOWN_KEY], AuthenticationError, 2),
    ],
)
def test_error(script: list[Outcome], error: type[QwenAIMLError], attempts: int) -> None:
    """A permanent error is raised at once; after the last attempt, its own error is raised."""
    harness = Harness(*script, max_retries=1)
    with pytest.raises(error) as caught:
        harness.embed()

    assert type(caught.value) is error
    assert caught.value.attempts == attempts == len(harness.sent)


def test_errors_in_success() -> None:
    """A throttle with status 200 pauses the client and is retried; an empty balance ends the request."""
    harness = Harness(THROTTLED_IN_200)
    assert harness.embed().embeddings == [vector("text")]
    assert harness.limiter.reports[0][0] == "refused"

    harness = Harness(NO_CREDITS_IN_200)
    with pytest.raises(
        InsufficientCreditsError, match=r"HTTP 200: You've run out of credits\. What to do: top up"
    ):
        harness.embed()
    assert harness.call.usage.requests == 1


def test_no_retries_wanted() -> None:
    """max_retries=0 sends once."""
    harness = Harness(BUSY, max_retries=0)
    with pytest.raises(APIStatusError):
        harness.embed()
    assert harness.times == [0.0]


def test_cost_of_malformed_responses() -> None:
    """A malformed response with status 200 counts as billed, a failed request does not."""
    body = b'{"data":[],"usage":{"total_tokens":3},"meta":{"usage":{"credits_used":1}}}'
    harness = Harness(Response(200, {}, body), BUSY)
    harness.embed()

    assert harness.call.usage == Usage(3, 4, None, 0, None)


def test_packed() -> None:
    """With packed=True, embeddings are float32 arrays."""
    [row] = Harness(options={"packed": True}).embed().embeddings
    assert (type(row).__name__, list(row)) == ("array", vector("text"))


def test_foreign_exceptions() -> None:
    """An unknown exception of a transport is raised unchanged; the request counts."""
    harness = Harness(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        harness.embed()
    assert harness.call.usage.requests == 1


PROXY = (
    "check the proxy that ALL_PROXY names: that it runs, lets api.aimlapi.com through, and gets user and "
    "password in its URL if it wants them. To bypass it, add api.aimlapi.com to NO_PROXY"
)


@pytest.mark.parametrize(
    ("kind", "transient", "advice"),
    [
        ("connection", True, "check the network and base_url; behind a proxy, set HTTPS_PROXY"),
        ("timeout", True, "check the network; raise timeout if the service is slow"),
        ("certificate", False, "behind a proxy that inspects TLS, set SSL_CERT_FILE"),
        ("local", False, "check default_headers"),
        ("loop", False, "create one AsyncClient of httpx, and one object with it, in each event loop"),
        ("proxy", True, PROXY),
        ("refused", False, PROXY),
    ],
)
def test_transport_failure(
    kind: FailureKind, transient: bool, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error for a failure without a response has its cause, what to do, and whether it is transient."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    with pytest.raises(TransportError) as caught:
        Harness(TransportFailure(kind, "broken"), max_retries=0).embed()

    message = f"no response from https://api.aimlapi.com/v1: broken. What to do: {advice}"
    assert str(caught.value).startswith(message)
    assert (caught.value.transient, caught.value.timed_out) == (transient, kind == "timeout")


def test_web_page() -> None:
    """The error for a web page as the response names its type, and base_url, but repeats nothing of it."""
    page = Response(200, {"content-type": "text/html"}, b"<html>secret</html>")
    with pytest.raises(ResponseFormatError) as caught:
        Harness(page, max_retries=0).embed()

    assert "(text/html, 19 bytes). What to do: check base_url" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("form", ["{}", "illegal header line: bytearray({!r})"])
def test_failure_that_quotes_the_request(form: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither errors nor the log show the key, a text or more than 300 characters of a failure."""
    caplog.set_level("DEBUG", logger="qwen_aiml")
    key, text = "sk-test-0123456789abcdef", "déjà vu, a secret diary"
    quoted = f"Bearer {key} {text} {'x' * 900}"
    detail = form.format(quoted.encode() if "!r" in form else quoted)
    harness = Harness(TransportFailure("connection", detail), api_key=key, max_retries=0)
    with pytest.raises(TransportError) as caught:
        harness.embed(text)

    for shown in (str(caught.value), caplog.text):
        assert key not in shown
        assert "secret diary" not in shown
        assert "[key] [text]" in shown
        assert "x" * 300 not in shown


def test_log(caplog: pytest.LogCaptureFixture) -> None:
    """Failed attempts are logged at DEBUG, waits of more than a second at INFO, without texts."""
    caplog.set_level("DEBUG", logger="qwen_aiml")
    Harness(BUSY, status(503, retry_after="7"), RESET, status(429, retry_after="9")).embed("a text")

    size = len(BUSY.body)
    reset = "no response from https://api.aimlapi.com/v1: ReadError. What to do: check the network and "
    reset += "base_url; behind a proxy, set HTTPS_PROXY"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", f"1 texts, attempt 1: HTTP 503, {size} bytes"),
        ("DEBUG", f"1 texts, attempt 2: HTTP 503, {size} bytes"),
        ("INFO", "HTTP 503, waiting 7.7 s, attempt 3 of 6"),
        ("DEBUG", f"1 texts, attempt 3: {reset}"),
        (
            "INFO",
            "no response from https://api.aimlapi.com/v1: ReadError, waiting 2.0 s, attempt 4 of 6",
        ),
        ("DEBUG", f"1 texts, attempt 4: HTTP 429, {size} bytes"),
        ("INFO", "rate limited (429), waiting 9.9 s, attempt 5 of 6"),
    ]


def test_waits_for_others(caplog: pytest.LogCaptureFixture) -> None:
    """A long wait for the limiter is logged before the first attempt."""
    caplog.set_level("INFO", logger="qwen_aiml")
    for seconds in (1.0, 5.0):
        harness = Harness()
        harness.limiter.paused_until = seconds
        harness.embed()

    assert caplog.messages == ["rate limited, waiting 5.0 s, attempt 1 of 6"]
