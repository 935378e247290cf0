"""One call as a whole, driven by hand: what is sent, in which batches, and when it ends."""

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
    EmbeddingBatchError,
    EmbeddingConfig,
    InputError,
    ResponseFormatError,
    Usage,
)
from qwen_aiml._engine.request import Call, Clock
from qwen_aiml._engine.job import Job
from qwen_aiml._learned import Learned
from qwen_aiml._steps import Outcome, Send, Step
from qwen_aiml._engine.queue import Turns
from qwen_aiml._protocol.response import Response, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

CLOCK = Clock(lambda: 100.0, lambda: datetime(2026, 11, 22, tzinfo=timezone.utc), lambda: 0.0)


def job(texts: Any, role: Any = "document", **settings: Any) -> Job:
    config = EmbeddingConfig(**{"api_key": "k", "model": "unknown", "batch_size": 2, **settings})
    deadline = None if config.total_timeout is None else CLOCK.now() + config.total_timeout
    call = Call(config, CLOCK, Learned(config), Turns(lambda: 99), threading.Event(), deadline=deadline)
    return Job(texts, role, call, None)


def answer(body: bytes, length: int = 2) -> Answer:
    """Give each text its number and then its own length, so that a vector tells whose it is."""
    texts = orjson.loads(body)["input"]
    data = [
        {"index": at, "embedding": [float(ord(text[0])), float(len(text))] + [1.0] * (length - 2)}
        for at, text in enumerate(texts)
    ]
    usage = {"total_tokens": len(texts)}
    return Response(200, {}, orjson.dumps({"data": data, "usage": usage, "model": "m", "id": texts[0]}))


def take(work: Job) -> tuple[Generator[Step, Outcome, None], bytes]:
    flow = work.next_flow()
    assert flow is not None
    step = next(flow)
    assert isinstance(step, Send)
    return flow, step.body


def end(flow: Generator[Step, Outcome, None], outcome: Outcome) -> None:
    with pytest.raises(StopIteration):
        flow.send(outcome)


def run(work: Job, reply: Callable[[bytes], Outcome] = answer) -> list[list[str]]:
    """Answer every request, and give what was sent."""
    sent = []
    while (flow := work.next_flow()) is not None:
        step = next(flow)
        assert isinstance(step, Send)
        sent.append(orjson.loads(step.body)["input"])
        end(flow, reply(step.body))
    return sent


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (2, [2]), (3, [2, 1]), (5, [2, 2, 1])])
def test_batches(count: int, sizes: list[int]) -> None:
    """A list of any length is cut into requests of the batch size."""
    texts = [chr(97 + at) for at in range(count)]
    work = job(texts)

    assert len(sizes) == work.batches
    assert sizes == [len(batch) for batch in run(work)]
    assert [[float(ord(text)), 1.0] for text in texts] == work.result().embeddings


def test_identical_texts() -> None:
    """Identical texts are sent once, and each gets a list of its own."""
    work = job(["a", "b", "a", "c", "a", "b"])

    assert run(work) == [["a", "b"], ["c"]]
    embeddings = work.result().embeddings
    assert [row[0] for row in embeddings] == [97.0, 98.0, 97.0, 99.0, 97.0, 98.0]
    embeddings[0][0] = 0.0
    assert embeddings[2][0] == 97.0
    assert len({id(row) for row in embeddings}) == 6


def test_identical_once_sent() -> None:
    """Texts that differ only in what JSON can't carry are one text."""
    assert run(job(["x\ud800", "x\udfff"])) == [["x\ufffd"]]


def test_roles() -> None:
    """Only queries get the instruction."""
    assert run(job(["q"], "query", query_instruction="Find")) == [["Instruct: Find\nQuery:q"]]
    assert run(job(["q"], "document", query_instruction="Find")) == [["q"]]
    assert run(job(["q"], "query")) == [["q"]]


def test_answer_without_an_id() -> None:
    """An answer need not have an id."""
    work = job(["a"])
    run(work, lambda _: Response(200, {}, b'{"data":[{"embedding":[0.5]}]}'))

    assert work.result().request_ids == ()


def test_out_of_order_batches() -> None:
    """Batches may end in any order."""
    work = job(["a", "b", "c"])
    first, body_1 = take(work)
    second, body_2 = take(work)
    end(second, answer(body_2))
    end(first, answer(body_1))

    result = work.result()
    assert [row[0] for row in result.embeddings] == [97.0, 98.0, 99.0]
    assert (result.usage, result.model, result.request_ids) == (Usage(2, 3, None), "m", ("c", "a"))


def test_bad_input_sends_nothing() -> None:
    """Bad input is refused before there is a job."""
    with pytest.raises(InputError):
        job(["a", ""])


def test_failure_keeps_what_is_paid_for() -> None:
    """After a lasting failure nothing new starts, and what is in flight is still kept."""
    work = job(["a", "b", "c", "d", "e", "c"])
    first, body_1 = take(work)
    second, _ = take(work)
    end(second, Response(401, {}, b""))
    assert work.next_flow() is None
    end(first, answer(body_1))

    with pytest.raises(EmbeddingBatchError) as caught:
        work.result()
    error = caught.value
    assert error.embeddings == [[97.0, 1.0], [98.0, 1.0], None, None, None, None]
    assert list(error.failures) == [2, 3, 5]
    assert {type(failure) for failure in error.failures.values()} == {AuthenticationError}
    assert error.failures[2].indices == (2, 3, 5)
    assert error.indices == (2, 3, 4, 5)
    assert error.usage == work._call.usage == Usage(2, 2, None)
    assert "4 of 6 texts have no embedding: texts 2-5" in str(error)


def test_what_was_not_sent_has_not_failed() -> None:
    """A batch that waited for its turn when the call failed has neither embeddings nor a failure."""
    work = job(["a", "b", "c", "d", "e"])
    first, body_1 = take(work)
    second, _ = take(work)
    third, _ = take(work)
    end(first, answer(body_1))
    end(second, Response(401, {}, b""))
    end(third, None)

    with pytest.raises(EmbeddingBatchError) as caught:
        work.result()
    assert list(caught.value.failures) == [2, 3]
    assert caught.value.embeddings[4] is None
    assert caught.value.usage.requests == 2


def test_nothing_embedded() -> None:
    """If no text was embedded, the first error itself is raised."""
    work = job(["a", "b", "c"])
    first, _ = take(work)
    second, _ = take(work)
    end(first, Response(401, {}, b""))
    end(second, Response(400, {}, b""))

    with pytest.raises(AuthenticationError) as caught:
        work.result()
    assert caught.value.indices == (0, 1)
    assert "(texts 0-1)" in str(caught.value)


def test_length_across_batches() -> None:
    """Where the length is not known, all answers must still agree on one."""
    work = job(["a", "b", "c"], max_retries=0)
    first, body_1 = take(work)
    second, body_2 = take(work)
    end(first, answer(body_1))
    end(second, answer(body_2, length=3))

    with pytest.raises(EmbeddingBatchError) as caught:
        work.result()
    assert isinstance(caught.value.failures[2], ResponseFormatError)
    assert "row 0 has 3 numbers instead of 2" in str(caught.value)


def test_length_across_simultaneous_batches() -> None:
    """Answers that are read at the same moment must agree as well."""
    work = job(["a"])
    assert list(work.keep([0], Rows([[1.0, 2.0]], None, None))) == []
    with pytest.raises(ResponseFormatError, match="rows of 3 numbers, where earlier answers had 2"):
        next(work.keep([0], Rows([[1.0, 2.0, 3.0]], None, None)))


def test_known_length() -> None:
    """The default length of a known model is expected where none is asked for."""
    work = job(["a"], model="text-embedding-v4", max_retries=0)
    flow, body = take(work)
    end(flow, answer(body))

    with pytest.raises(ResponseFormatError, match="row 0 has 2 numbers instead of 1024"):
        work.result()


def test_deadline() -> None:
    """total_timeout runs from the start of the call."""
    work = job(["a", "b", "c"], total_timeout=5)
    flow, body = take(work)
    end(flow, answer(body))
    late = work.next_flow()
    assert late is not None
    step = next(late)
    assert isinstance(step, Send)
    assert step.deadline == 105.0
    end(late, None)

    with pytest.raises(EmbeddingBatchError) as caught:
        work.result()
    assert isinstance(caught.value.failures[2], DeadlineError)


def test_foreign_exception_of_the_first_request() -> None:
    """What is no error of this project ends the call, and is raised as it is if nothing was embedded."""
    work = job(["a", "b", "c"])
    flow, _ = take(work)
    crash = ZeroDivisionError()
    end(flow, crash)

    assert work.next_flow() is None
    with pytest.raises(ZeroDivisionError) as caught:
        work.result()
    assert caught.value is crash


def test_foreign_exception_of_a_later_request() -> None:
    """It does not throw away what was embedded before."""
    work = job(["a", "b", "c"])
    flow, body = take(work)
    end(flow, answer(body))
    flow, _ = take(work)
    crash = ZeroDivisionError("a text of its own")
    end(flow, crash)

    with pytest.raises(EmbeddingBatchError) as caught:
        work.result()
    assert caught.value.embeddings == [[97.0, 1.0], [98.0, 1.0], None]
    assert str(caught.value.failures[2]) == "the HTTP client (or rate limiter) raised ZeroDivisionError"
    assert caught.value.__cause__ is crash


def test_stop() -> None:
    """A call that was interrupted starts no further request."""
    work = job(["a", "b", "c"])
    work._call.stop()

    assert work.next_flow() is None


def test_usage_of_failures() -> None:
    """Requests that failed are counted too."""
    work = job(["a"], max_retries=1)
    flow, _ = take(work)
    flow.send(Response(500, {}, b""))
    end(flow, Response(500, {}, b""))

    assert work._call.usage == Usage(2, 0, 0)
    with pytest.raises(APIStatusError, match=r"\(text 0, 2 attempts\)"):
        work.result()
