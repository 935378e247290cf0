"""Batches that are rejected or fail: splitting, bisection, and which texts are to blame."""

from __future__ import annotations

from itertools import count
from math import log2
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from fakes import Harness, Outcome, status, vector
from qwen_aiml import (
    APIStatusError,
    EmbeddingBatchError,
    EmbeddingResult,
    QwenAIMLError,
    RateLimitError,
    ResponseFormatError,
    TransportError,
)
from qwen_aiml._engine.batch import fewer_rows
from qwen_aiml._protocol.response import Response
from qwen_aiml._transport.base import TransportFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qwen_aiml._engine.request import Call

TEXTS = [f"text {at}" for at in range(10)]
INSPECTED = "<400> InternalError.Algo.DataInspectionFailed: Input text may contain inappropriate content."
TOO_MANY = "<400> Value error, batch size is invalid, it should not be larger than {}.: input.contents"
RESET = TransportFailure("connection", "reset")
SILENCE = TransportFailure("timeout", "silence")


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Override the shared fixture: this file uses virtual time."""


def rejection(code: int = 400, message: str = "no") -> Response:
    return status(code, message)


def service(poison: Mapping[str, Outcome]) -> Callable[[list[str]], Outcome]:
    """Create a service that returns the outcome in *poison* for a request with one of its texts."""

    def reply(texts: list[str]) -> Outcome:
        return next((poison[text] for text in texts if text in poison), None)

    return reply


class Run:
    """A completed call with one worker, and the requests that it sent."""

    def __init__(
        self,
        texts: list[str],
        reply: Callable[[list[str]], Outcome],
        watch: Callable[[Call], None] = lambda _: None,
        **settings: Any,
    ) -> None:
        def bounded(sent: list[str]) -> Outcome:
            if len(self.sent) > 1000:
                pytest.fail("bisection does not end")
            return reply(sent)

        harness = Harness(service=bounded, max_concurrency=1, **{"batch_size": 10, **settings})
        watch(harness.call)
        self.call = harness.call
        self.sent = harness.sent
        self.job = harness.job(texts)

    def result(self) -> EmbeddingResult:
        """Return the result of the call."""
        return self.job.result()

    def failure(self) -> EmbeddingBatchError:
        """Return the failure of the call."""
        with pytest.raises(EmbeddingBatchError) as caught:
            self.job.result()
        return caught.value


@pytest.mark.parametrize("guilty", range(10))
def test_one_text_is_rejected(guilty: int) -> None:
    """Only the rejected text fails, at the cost of at most 2 * log2(10) more requests."""
    run = Run(TEXTS, service({TEXTS[guilty]: rejection()}))

    error = run.failure()
    assert len(run.sent) - 1 <= 2 * log2(10)
    assert list(error.failures) == [guilty]
    assert error.failures[guilty].indices == (guilty,)
    assert [row is None for row in error.embeddings] == [at == guilty for at in range(10)]
    assert [row for row in error.embeddings if row] == [
        vector(text) for text in TEXTS if text != TEXTS[guilty]
    ]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_statuses_of_a_rejected_text(status: int) -> None:
    """Any rejection that may be due to one text is narrowed down to it."""
    error = Run(TEXTS, service({TEXTS[3]: rejection(status)})).failure()

    assert [getattr(failure, "status_code", None) for failure in error.failures.values()] == [status]


def test_several_texts_are_rejected() -> None:
    """Several rejected texts are all found, and no accepted text is sent again."""
    guilty = {TEXTS[at]: rejection(message=INSPECTED) for at in (0, 4, 5, 9)}
    run = Run(TEXTS, service(guilty))

    error = run.failure()
    assert list(error.failures) == [0, 4, 5, 9]
    good = [text for texts in run.sent if not guilty.keys() & set(texts) for text in texts]
    assert sorted(good) == [text for text in TEXTS if text not in guilty]


@pytest.mark.parametrize("guilty", [(0, 1), (0, 1, 2), (0, 5), (8, 9), tuple(range(1, 10))])
def test_no_innocent_text_is_blamed(guilty: tuple[int, ...]) -> None:
    """Wherever the rejected texts are, the others are embedded, even if nothing was accepted before."""
    run = Run(TEXTS, service({TEXTS[at]: rejection() for at in guilty}))

    assert tuple(run.failure().failures) == guilty
    assert len(set(map(tuple, run.sent))) == len(run.sent)  # no request is repeated


def test_all_texts_are_rejected() -> None:
    """Texts that are rejected for their content each get that error, and the call continues."""
    more = [f"more {at}" for at in range(10)]
    run = Run(TEXTS + more, service({text: rejection(message=INSPECTED) for text in TEXTS}))

    error = run.failure()
    assert list(error.failures) == list(range(10))
    assert all(error.embeddings[10:])


def test_a_rejected_request_is_not_blamed_on_texts() -> None:
    """If nothing is ever accepted, three texts rejected alone show that the texts are not to blame."""
    run = Run(TEXTS + [f"more {at}" for at in range(90)], lambda _: rejection())

    with pytest.raises(APIStatusError) as caught:
        run.result()
    assert len(run.sent) <= 16
    assert sum(len(texts) == 1 for texts in run.sent) == 3
    assert caught.value.reason == "text"


def test_rejected_texts_among_others() -> None:
    """Texts rejected alone do not end the call, however many, once another text was accepted."""
    texts = [f"{'good' if at % 2 else 'bad'} {at}" for at in range(12)]
    run = Run(texts, lambda sent: rejection() if "bad" in sent[0] else None, batch_size=1)

    assert list(run.failure().failures) == [0, 2, 4, 6, 8, 10]
    assert len(run.sent) == 12


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "no"), (403, "no"), (404, "no"), (402, "no"), (400, "dimension for embedding v3 is invalid")],
)
def test_account_wide_errors(status: int, message: str) -> None:
    """An account-wide error is not bisected, and nothing more is sent."""
    run = Run([*TEXTS, "more 1"], lambda _: rejection(status, message))

    with pytest.raises(APIStatusError):
        run.result()
    assert len(run.sent) == 1


def test_a_text_that_times_out() -> None:
    """A batch that times out each time is split, and only the text that causes it fails."""
    run = Run(TEXTS, service({TEXTS[7]: SILENCE}), max_retries=2)

    error = run.failure()
    assert list(error.failures) == [7]
    assert isinstance(error.failures[7], TransportError)
    assert len(run.sent) <= 3 + 6


@pytest.mark.parametrize("status", [408, 500, 504, 524])
def test_a_text_that_the_service_breaks_on(status: int) -> None:
    """A batch that gets a server error each time is split, and only the text that causes it fails."""
    error = Run(TEXTS, service({TEXTS[0]: rejection(status)}), max_retries=1).failure()

    assert list(error.failures) == [0]


def test_a_text_with_a_malformed_response() -> None:
    """A batch with malformed responses is split, and only the text that causes them fails."""
    error = Run(TEXTS, service({TEXTS[2]: Response(200, {}, b"{}")}), max_retries=1).failure()

    assert list(error.failures) == [2]
    assert isinstance(error.failures[2], ResponseFormatError)


@pytest.mark.parametrize("outcome", [rejection(500), SILENCE, Response(200, {}, b"{}")], ids=repr)
def test_a_service_that_is_down(outcome: Outcome) -> None:
    """If no other request succeeds, the texts are not to blame: the call ends after a few more requests."""
    run = Run(TEXTS + [f"more {at}" for at in range(50)], lambda _: outcome, max_retries=2)

    with pytest.raises(QwenAIMLError):
        run.result()
    assert len(run.sent) <= 3 + 5


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("outcome", [rejection(503), rejection(429), RESET], ids=repr)
def test_no_matter_of_texts(outcome: Outcome, retries: int) -> None:
    """If the service is unreachable or busy, the texts are not to blame: the batch is not split."""
    run = Run(TEXTS, lambda _: outcome, max_retries=retries)

    with pytest.raises(QwenAIMLError):
        run.result()
    assert run.sent == [TEXTS] * (1 + retries)


def test_no_repetition_wanted() -> None:
    """With max_retries=0 nothing that may have been billed is sent again, not even in parts."""
    run = Run(TEXTS, lambda _: rejection(500), max_retries=0)

    with pytest.raises(APIStatusError):
        run.result()
    assert len(run.sent) == 1


def test_embedded_after_all() -> None:
    """If a rejection does not recur, every text gets its embedding."""
    rejections = [rejection()]
    run = Run(TEXTS, lambda _: rejections.pop() if rejections else None)

    assert run.result().embeddings == list(map(vector, TEXTS))
    assert len(run.sent) <= 6


@pytest.mark.parametrize("failure", [rejection(), status(504), SILENCE])
@pytest.mark.parametrize("most", [1, 2])
def test_requests_of_many_texts_fail(most: int, failure: Outcome) -> None:
    """If only small requests succeed, each remaining text gets a request of its own."""
    run = Run(TEXTS, lambda texts: failure if len(texts) > most else None)

    assert run.result().embeddings == list(map(vector, TEXTS))
    assert sum(len(texts) == 10 for texts in run.sent) == (1 if failure == rejection() else 6)
    assert len([texts for texts in run.sent if 1 < len(texts) < 10]) <= 4


@pytest.mark.parametrize("code", [400, 422])
def test_row_limit(code: int) -> None:
    """A rejection that names the maximum of texts per request is obeyed at once, and remembered."""

    def reply(texts: list[str]) -> Outcome:
        return None if len(texts) <= 3 else rejection(code, TOO_MANY.format(3))

    texts = [f"text {at}" for at in range(25)]
    run = Run(texts, reply)

    assert run.result().embeddings == list(map(vector, texts))
    assert [len(texts) for texts in run.sent] == [10, 3, 3, 3, 1, 3, 3, 3, 3, 3]
    assert run.call.limiter.rows == 3


@pytest.mark.parametrize("most", [0, 10, 11])
def test_row_limit_that_does_not_fit(most: int) -> None:
    """A row limit that the request met, or that is impossible, is ignored; the batch is bisected."""
    run = Run(TEXTS, service({TEXTS[6]: rejection(message=TOO_MANY.format(most))}))

    assert list(run.failure().failures) == [6]
    assert run.call.limiter.rows == 10


def test_row_limit_that_is_known() -> None:
    """A request that was in flight when a lower limit was learned does not raise it again."""
    run = Run(TEXTS, lambda _: None)
    run.call.limiter.rows = 2
    error = APIStatusError("too many", status_code=400, reason="rows", max_rows=5)

    assert fewer_rows(error, 10, run.call) == 5
    assert run.call.limiter.rows == 2


def test_row_limit_of_the_schema() -> None:
    """A row limit in a schema error of the gateway is recognized."""

    def reply(texts: list[str]) -> Outcome:
        if len(texts) <= 5:
            return None
        issue = {"path": ["input"], "message": "Array must contain at most 5 element(s)"}
        details = {"message": "Invalid payload provided", "data": [issue]}
        return Response(400, {}, orjson.dumps({"message": details["message"], "error": details}))

    run = Run(TEXTS, reply)
    assert len(run.result().embeddings) == 10
    assert run.call.limiter.rows == 5


def test_a_fatal_error_while_bisecting() -> None:
    """An account-wide error during bisection ends the call, and completed embeddings are kept."""
    responses: list[Outcome] = [rejection(), None, rejection(401)]
    run = Run([*TEXTS, "more 1"], lambda _: responses.pop(0))
    error = run.failure()

    assert all(error.embeddings[:5])
    assert sorted(error.failures) == [5, 6, 7, 8, 9]
    assert len(run.sent) == 3


def test_a_fatal_error_after_a_text_was_found() -> None:
    """A text keeps the error that rejected its content, even if the call ends before another is accepted."""
    responses: list[Outcome] = [rejection(message=INSPECTED), rejection(message=INSPECTED), rejection(401)]
    run = Run(TEXTS[:2], lambda _: responses.pop(0))
    with pytest.raises(QwenAIMLError):
        run.result()

    reasons = [getattr(error, "reason", None) for error in run.job.failures().values()]
    assert reasons == ["content", "account"]
    assert run.sent == [TEXTS[:2], TEXTS[:1], TEXTS[1:2]]


@pytest.mark.parametrize("outcome", [rejection(503), rejection(429), RESET], ids=repr)
def test_an_unlucky_batch(outcome: Outcome) -> None:
    """A batch that fails at each attempt while others are accepted is split, and the call continues."""
    attempts = 0

    def reply(texts: list[str]) -> Outcome:
        nonlocal attempts
        if texts == TEXTS:
            attempts += 1
            calls[0].accepted += 1  # as if another worker's request were accepted
            return outcome
        return None

    calls: list[Call] = []
    run = Run([*TEXTS, "more 1"], reply, max_retries=2, watch=calls.append)

    assert len(run.result().embeddings) == 11
    assert attempts == 3


def test_a_service_that_begins_to_reject_everything() -> None:
    """A batch that is throttled while nothing else is accepted is not split any further."""
    began: list[bool] = []

    def reply(_: list[str]) -> Outcome:
        if not began:
            calls[0].accepted += 1  # as if another worker's request were accepted
            began.append(True)
        return rejection(429)

    calls: list[Call] = []
    run = Run(TEXTS, reply, max_retries=2, watch=calls.append)

    with pytest.raises(RateLimitError):
        run.result()
    assert [len(texts) for texts in run.sent] == [10, 10, 10, 5, 5, 5]


@pytest.mark.parametrize("throttled", [6, 7, 8])
def test_throttled_while_bisecting(throttled: int) -> None:
    """A 429 during bisection is retried, and not blamed on a text."""
    replies = count()
    breaks = service({TEXTS[7]: rejection(500)})

    def reply(texts: list[str]) -> Outcome:
        return status(429) if next(replies) == throttled else breaks(texts)

    assert list(Run(TEXTS, reply).failure().failures) == [7]


def test_throttled_in_vain() -> None:
    """If the texts of a batch are throttled together but not alone, the rest is sent in one request."""

    def reply(texts: list[str]) -> Outcome:
        calls[0].accepted += 1  # as if another worker's request were accepted
        return rejection(429) if len(texts) > 2 and texts[0] == TEXTS[0] else None

    calls: list[Call] = []
    run = Run(TEXTS, reply, max_retries=1, watch=calls.append)

    assert run.result().embeddings == list(map(vector, TEXTS))
    assert list(map(len, run.sent)) == [10, 10, 5, 5, 2, 1, 1, 1, 5]


def test_a_transient_error_while_bisecting() -> None:
    """The parts of a rejected batch are retried after transient errors."""
    replies = count()
    rejects = service({TEXTS[7]: rejection()})
    run = Run(TEXTS, lambda texts: status(503) if next(replies) == 1 else rejects(texts))

    assert list(run.failure().failures) == [7]
    assert list(map(len, run.sent)) == [10, 5, 5, 2, 1, 2]


@pytest.mark.parametrize("batch_size", [10, 1])
def test_an_unlucky_text(batch_size: int) -> None:
    """A text that fails at each attempt, even alone, is the only failure if others are accepted."""

    def reply(texts: list[str]) -> Outcome:
        if TEXTS[4] in texts:
            calls[0].accepted += 1
            return rejection(503)
        return None

    calls: list[Call] = []
    texts = [*TEXTS, "more 1"]
    run = Run(texts, reply, max_retries=1, batch_size=batch_size, watch=calls.append)

    error = run.failure()
    assert list(error.failures) == [4]
    assert [at for at, row in enumerate(error.embeddings) if row is None] == [4]


def test_a_service_that_goes_down() -> None:
    """If the service goes down after it has accepted others, the call ends after a few requests."""

    def reply(texts: list[str]) -> Outcome:
        if not calls[0].accepted:
            return None
        calls[0].accepted += len(seen) < 1
        seen.append(texts)
        return rejection(503)

    calls: list[Call] = []
    seen: list[list[str]] = []
    run = Run(TEXTS + [f"more {at}" for at in range(90)], reply, max_retries=2, watch=calls.append)

    error = run.failure()
    assert list(map(len, seen)) == [10, 10, 10, 5, 2, 1, 9]  # attempts, then bisection, then the other batch
    assert sum(row is not None for row in error.embeddings) == 10
