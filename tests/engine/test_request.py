"""The decisions about one batch, driven by hand: no network, no clock, no event loop."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from qwen_aiml import (
    APIStatusError,
    AuthenticationError,
    DeadlineError,
    EmbeddingConfig,
    InsufficientCreditsError,
    QwenAIMLError,
    RateLimitError,
    ResponseFormatError,
    TransportError,
    Usage,
)
from qwen_aiml._engine.request import Call, Clock, NotSentError, embed_batch
from qwen_aiml._learned import Learned
from qwen_aiml._steps import Admit, Enter, Fault, Outcome, Send, Step, Wait
from qwen_aiml._engine.queue import Turn, Turns
from qwen_aiml._protocol.response import Response, Rows

if TYPE_CHECKING:
    from collections.abc import Generator

GOOD = Response(200, {}, b'{"data":[{"index":0,"embedding":[0.5]}],"usage":{"total_tokens":3}}')
BUSY = Response(503, {}, b"")
UNSOUND = Response(200, {}, b"<html>")
UNKNOWN_KEY = Response(401, {}, b"")
RESET = Fault("connection", "ReadError")


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Keep the real waits in this file."""


class Hand:
    """A flow and what drives it: a clock that stands still, and chance that is always 1."""

    def __init__(self, *, has_limiter: bool = False, **settings: Any) -> None:
        self.time = 0.0
        config = EmbeddingConfig(**{"api_key": "k", "dimensions": 1, "model": "unknown", **settings})
        clock = Clock(lambda: self.time, lambda: datetime(2026, 11, 22, tzinfo=timezone.utc), lambda: 1.0)
        learned = Learned(config)
        self.call = Call(
            config,
            clock,
            learned,
            Turns(lambda: learned.pace.window),
            threading.Event(),
            has_limiter=has_limiter,
            deadline=config.total_timeout,
            dimensions=1,
        )
        self.flow: Generator[Step, Outcome, Rows] = embed_batch(
            ["text"], self.call, retries=config.max_retries
        )
        self.first = next(self.flow)

    def send(self, outcome: Outcome) -> Step:
        """Say what came of the last step, and get the next."""
        return self.flow.send(outcome)

    def finish(self, outcome: Outcome) -> Rows:
        """Say what came of the last step, and get the result."""
        with pytest.raises(StopIteration) as caught:
            self.flow.send(outcome)
        rows: Rows = caught.value.value
        return rows

    def fail(self, outcome: Outcome, error: type[QwenAIMLError]) -> QwenAIMLError:
        """Say what came of the last step, and get the error."""
        with pytest.raises(error) as caught:
            self.flow.send(outcome)
        return caught.value


def test_success() -> None:
    """A good answer ends the flow with its rows."""
    hand = Hand(total_timeout=9.0)

    assert isinstance(hand.first, Send)
    assert orjson.loads(hand.first.body) == {"model": "unknown", "input": ["text"], "dimensions": 1}
    assert hand.first.deadline == 9.0
    assert hand.finish(GOOD).embeddings == [[0.5]]
    assert hand.call.usage == Usage(1, 3, None)


@pytest.mark.parametrize("passing", [BUSY, UNSOUND, RESET, Fault("timeout", "silence")], ids=repr)
def test_retry(passing: Outcome) -> None:
    """What may pass is waited for, and the same body is sent again."""
    hand = Hand()

    assert hand.send(passing) == Wait(0.5)
    assert hand.send(None) == hand.first
    assert hand.send(passing) == Wait(1.0)
    assert hand.send(None) == hand.first
    hand.finish(GOOD)
    assert hand.call.usage.requests == 3


def test_retry_after() -> None:
    """The service's advice replaces the backoff."""
    assert Hand().send(Response(503, {"retry-after": "7"}, b"")) == Wait(7.0 * 1.1)


def test_refusal_for_the_rate() -> None:
    """After a 429 the client pauses, for as long as is advised, and then the same body is sent again."""
    hand = Hand()
    assert hand.send(Response(429, {"retry-after": "7"}, b"")) == Wait(7.0 * 1.1)
    assert hand.send(None) == Wait(7.0 * 1.1)
    hand.time = 7.8
    assert hand.send(None) == hand.first
    hand.finish(GOOD)


def test_refusal_for_an_hour() -> None:
    """A 429 that asks for an hour, or for the year 2065, pauses the client for a minute."""
    for said in ("3600", "Sun, 22 Nov 2065 12:00:00 GMT"):
        step = Hand().send(Response(429, {"retry-after": said}, b""))
        assert isinstance(step, Wait)
        assert step.seconds == pytest.approx(60.0 * 1.1)


def test_refusal_for_the_rate_near_the_deadline() -> None:
    """A pause that would outlast the deadline is not begun."""
    error = Hand(total_timeout=5.0).fail(Response(429, {"retry-after": "7"}, b""), DeadlineError)

    assert str(error).startswith("total_timeout of 5 s leaves no time to try again after: HTTP 429")
    assert error.attempts == 1


def test_empty_balance_is_no_matter_of_the_rate() -> None:
    """A 429 for want of credits ends the flow, and slows nothing down."""
    hand = Hand()
    hand.fail(Response(429, {}, b'{"message":"no credits left"}'), InsufficientCreditsError)

    assert hand.call.learned.pace._rate is None


def test_fixed_rate() -> None:
    """Requests start no faster than requests_per_minute allows."""
    hand = Hand(requests_per_minute=6)
    assert hand.send(BUSY) == Wait(0.5)
    step = hand.send(None)
    assert isinstance(step, Wait)
    assert step.seconds == pytest.approx(10, abs=0.1)
    hand.time = 10
    assert hand.send(None) == hand.first


def test_limiter() -> None:
    """The user's rate limiter is asked before each request, with the tokens expected in it."""
    hand = Hand(has_limiter=True)
    body = b'{"model":"unknown","input":["text"],"dimensions":1}'
    assert hand.first == Admit(-(-len(body) // 3), None)
    assert isinstance(hand.send(None), Send)
    assert isinstance(hand.send(BUSY), Wait)
    assert isinstance(hand.send(None), Admit)
    assert isinstance(hand.send(None), Send)
    hand.finish(GOOD)


def test_limiter_that_raises() -> None:
    """What the user's rate limiter raises ends the flow, and nothing is sent."""
    hand = Hand(has_limiter=True)
    with pytest.raises(ZeroDivisionError):
        hand.send(ZeroDivisionError())

    assert hand.call.usage.requests == 0


def test_turns() -> None:
    """A request waits for its turn, and hands it on when it ends."""
    first = Hand(max_concurrency=1)
    second = Hand(max_concurrency=1)
    second.flow.close()
    second.call.turns = first.call.turns
    flow = embed_batch(["text"], second.call, retries=0)
    step = next(flow)
    assert isinstance(step, Enter)
    assert not step.turn.has_come

    first.finish(GOOD)
    assert step.turn.has_come
    assert isinstance(flow.send(None), Send)
    flow.close()
    assert isinstance(next(embed_batch(["text"], first.call, retries=0)), Send)


def test_turns_are_given_back_come_what_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours, in what is learned from an answer, does not cost the client a turn."""
    hand = Hand()

    def fail(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(hand.call.learned.pace, "accepted", fail)
    with pytest.raises(RecursionError):
        hand.send(GOOD)

    assert not hand.call.turns._started


def test_turn_that_never_came() -> None:
    """A request whose turn is withdrawn since the call has ended is not sent."""
    first = Hand(max_concurrency=1)
    second = Hand(max_concurrency=1)
    second.flow.close()
    second.call.turns = first.call.turns
    flow = embed_batch(["text"], second.call, retries=0)
    next(flow)
    second.call.stop()
    with pytest.raises(NotSentError):
        flow.send(None)


def test_log(caplog: pytest.LogCaptureFixture) -> None:
    """Each attempt is logged, without texts and embeddings."""
    caplog.set_level("DEBUG", logger="qwen_aiml")
    hand = Hand()
    hand.send(BUSY)
    hand.send(None)
    hand.send(RESET)
    hand.send(None)
    hand.finish(GOOD)
    with pytest.raises(ZeroDivisionError):
        Hand().send(ZeroDivisionError("text"))

    assert [record.getMessage() for record in caplog.records] == [
        "1 texts, attempt 1: HTTP 503, 0 bytes",
        "1 texts, attempt 2: ReadError",
        f"1 texts, attempt 3: HTTP 200, {len(GOOD.body)} bytes",
        "1 texts, attempt 1: ZeroDivisionError",
    ]


@pytest.mark.parametrize(
    "lasting", [UNKNOWN_KEY, Response(400, {}, b""), Fault("certificate", "x"), Fault("local", "x")], ids=repr
)
def test_no_retry(lasting: Outcome) -> None:
    """What trying again does not cure ends the flow at once."""
    assert Hand().fail(lasting, QwenAIMLError).attempts == 1


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Response(429, {}, b""), RateLimitError),
        (UNSOUND, ResponseFormatError),
        (RESET, TransportError),
        (UNKNOWN_KEY, AuthenticationError),
    ],
)
def test_last_error(outcome: Outcome, error: type[QwenAIMLError]) -> None:
    """After the last attempt its own error is raised, with the number of attempts."""
    hand = Hand(max_retries=1)
    hand.send(BUSY)
    hand.send(None)

    assert hand.fail(outcome, error).attempts == 2


def test_no_retries_wanted() -> None:
    """max_retries=0 sends once."""
    Hand(max_retries=0).fail(BUSY, QwenAIMLError)


def test_deadline_before_the_next_attempt() -> None:
    """A wait that would end after the deadline is not begun."""
    hand = Hand(total_timeout=1.0)
    hand.send(BUSY)
    hand.send(None)

    error = hand.fail(BUSY, DeadlineError)
    assert isinstance(error.__cause__, QwenAIMLError)
    assert error.attempts == 2
    assert str(error).startswith(
        "total_timeout of 1 s leaves no time to try again after: HTTP 503: no message"
    )


def test_last_error_before_the_deadline() -> None:
    """An error after which nothing was to be tried again is no matter of the deadline."""
    hand = Hand(total_timeout=10.0, max_retries=0)

    hand.fail(Response(429, {"retry-after": "30"}, b""), RateLimitError)


def test_cost_of_unsound_answers() -> None:
    """A success that is unsound was billed all the same."""
    hand = Hand()
    hand.send(Response(200, {}, b'{"data":[],"usage":{"total_tokens":3},"meta":{"usage":{"credits_used":1}}}'))
    hand.send(None)
    hand.send(BUSY)
    hand.send(None)
    hand.finish(GOOD)

    assert hand.call.usage == Usage(3, 6, None)


def test_foreign_exceptions() -> None:
    """What the HTTP client is not known to raise ends the flow as it is."""
    with pytest.raises(ZeroDivisionError):
        Hand().send(ZeroDivisionError())


def test_deadline_during_an_attempt() -> None:
    """A fault that comes at the deadline is the deadline's."""
    hand = Hand(total_timeout=1.0, max_retries=0)
    hand.time = 1.0

    error = hand.fail(Fault("timeout", "late"), DeadlineError)
    assert str(error).startswith("total_timeout of 1 s ran out: no answer from")


def test_deadline_before_sending() -> None:
    """A request that the deadline kept from being sent does not count as an attempt."""
    hand = Hand(total_timeout=5.0, requests_per_minute=6)
    hand.send(BUSY)
    late = Hand(total_timeout=5.0)
    late.flow.close()
    late.call.learned = hand.call.learned
    with pytest.raises(DeadlineError) as caught:
        next(embed_batch(["text"], late.call, retries=0))

    assert caught.value.attempts == 0
    assert str(caught.value) == (
        "total_timeout of 5 s leaves no time to send: requests have to wait longer than that"
    )
    late.time = 5.0
    with pytest.raises(DeadlineError, match=r"^total_timeout of 5 s ran out$"):
        next(embed_batch(["text"], late.call, retries=0))


def test_answer_at_the_deadline() -> None:
    """A good answer is kept however late it comes, and a lasting error says more than the deadline."""
    hand = Hand(total_timeout=1.0)
    hand.time = 2.0
    assert hand.finish(GOOD).embeddings == [[0.5]]

    hand = Hand(total_timeout=1.0)
    hand.time = 2.0
    hand.fail(UNKNOWN_KEY, AuthenticationError)


def test_stopped_before_its_turn() -> None:
    """Once the call has failed elsewhere, what was to come is not sent."""
    hand = Hand()
    hand.call.stop()

    with pytest.raises(NotSentError):
        next(embed_batch(["text"], hand.call, retries=0))


def test_stopped_before_it_enters_the_line() -> None:
    """A call that was stopped does not wait for a turn that another call holds back."""
    hand = Hand()
    other = Call(hand.call.config, hand.call.clock, hand.call.learned, hand.call.turns, threading.Event())
    assert hand.send(BUSY) == Wait(0.5)
    held = Turn(other)
    hand.call.turns.enter(held)
    assert held.has_come
    hand.call.stop()

    hand.fail(None, APIStatusError)


def test_stopped_while_waiting() -> None:
    """Once the call has failed elsewhere, nothing is sent again."""
    hand = Hand()
    hand.send(BUSY)
    hand.call.stop()

    assert hand.fail(None, QwenAIMLError).attempts == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (RESET, "ReadError. What to do: check the network and base_url; behind a proxy, set HTTPS_PROXY"),
        (Fault("timeout", "silence"), "silence. What to do: check the network; raise timeout if the service"),
        (Fault("local", "LocalProtocolError"), "LocalProtocolError. What to do: look at default_headers"),
        (Fault("certificate", "bad"), "bad. What to do: behind a proxy that inspects TLS, set SSL_CERT_FILE"),
        (
            Fault("proxy", "refused"),
            "refused. What to do: check the proxy that HTTPS_PROXY or ALL_PROXY name",
        ),
        (
            Fault("refused", "407"),
            "407. What to do: check the proxy that HTTPS_PROXY or ALL_PROXY names, with",
        ),
    ],
)
def test_transport_error(fault: Fault, said: str) -> None:
    """A missing answer says which address was silent, why, and what to do."""
    error = Hand(max_retries=0).fail(fault, TransportError)

    assert str(error).startswith(f"no answer from https://api.aimlapi.com/v1: {said}")


@pytest.mark.parametrize(("kind", "passing"), [("proxy", True), ("refused", False), ("certificate", False)])
def test_what_passes(kind: Any, passing: bool) -> None:
    """A proxy that is down may come up; one that refuses goes on refusing."""
    error: Any = Hand(max_retries=0).fail(Fault(kind, "x"), TransportError)

    assert error.passing is passing


def test_web_page() -> None:
    """A web page in place of an answer is told from an unsound answer, with where it came from."""
    page = Response(200, {"content-type": "text/html"}, b"<html>secret</html>")
    error = Hand(max_retries=0).fail(page, ResponseFormatError)

    assert "a web page came, so look at base_url (https://api.aimlapi.com/v1)" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("form", ["{}", "illegal header line: bytearray({!r})"])
def test_fault_that_repeats_the_request(form: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a fault says shows no key, no text and no more than 300 characters, in errors and in the log."""
    caplog.set_level("DEBUG", logger="qwen_aiml")
    key, text = "sk-test-0123456789abcdef", "déjà vu, a secret diary"
    said = f"Bearer {key} {text} {'x' * 900}"
    hand = Hand(api_key=key, max_retries=0)
    flow = embed_batch([text], hand.call, retries=0)
    hand.flow.close()
    next(flow)
    with pytest.raises(TransportError) as caught:
        flow.send(Fault("connection", form.format(said.encode() if "!r" in form else said)))

    for shown in (str(caught.value), caplog.text):
        assert key not in shown
        assert "secret diary" not in shown
        assert "[key] [text]" in shown
        assert "x" * 300 not in shown
