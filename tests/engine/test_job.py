"""One call as a whole: cache look-up, batches, results, failures and logging."""

from __future__ import annotations

import math
import re
from array import array
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import orjson
import pytest

from fakes import DATE, HANG, After, FakeStore, Harness, Outcome, accepted, status, vector
from qwen_aiml import (
    APIStatusError,
    AuthenticationError,
    CacheError,
    ConfigurationError,
    DeadlineError,
    EmbeddingBatchError,
    InputError,
    RateLimitError,
    ResponseFormatError,
    TransportError,
    Usage,
)
from qwen_aiml._engine.engine import make_limiter
from qwen_aiml._engine.job import Job
from qwen_aiml._engine.limiter import FIRST_WINDOW
from qwen_aiml._engine.request import Clock
from qwen_aiml._engine.retry import LONGEST_RETRY_AFTER
from qwen_aiml._protocol.response import Response
from qwen_aiml._transport.base import TransportFailure

if TYPE_CHECKING:
    from collections.abc import Callable

UNKNOWN_KEY = status(401)


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Override the shared fixture: this file uses virtual time."""


def by_text(outcomes: dict[str, Outcome]) -> Callable[[list[str]], Outcome]:
    """Create a service whose outcome depends on the first text of a request."""
    return lambda texts: outcomes.get(texts[0])


def failure(job: Job) -> EmbeddingBatchError:
    with pytest.raises(EmbeddingBatchError) as caught:
        job.result()
    return caught.value


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (2, [2]), (3, [1, 2]), (5, [1, 2, 2])])
def test_batches(count: int, sizes: list[int], backend: str) -> None:
    """A list of any length is split into requests of the batch size."""
    texts = [chr(97 + at) for at in range(count)]
    harness = Harness(batch_size=2, backend=backend)
    job = harness.job(texts)

    assert sizes == sorted(map(len, harness.sent))
    assert job.result().embeddings == list(map(vector, texts))


@pytest.mark.parametrize(("concurrency", "seconds"), [(1, 5.0), (2, 3.0), (99, 1.0)])
def test_concurrency(concurrency: int, seconds: float) -> None:
    """As many requests are in flight as max_concurrency and the number of batches allow."""
    harness = Harness(service=lambda _: After(1.0), batch_size=1, max_concurrency=concurrency)
    harness.job("abcde"[at] for at in range(5))

    assert harness.now() == seconds
    assert harness.transport.most == min(concurrency, 5)


def test_batches_on_a_service_that_is_down() -> None:
    """Until a request is accepted, only as many batches are begun as may be in flight at first."""
    harness = Harness(service=lambda _: After(0.1, status(503)), limiter=make_limiter, max_retries=3)
    job = harness.job(f"text {number}" for number in range(400))

    assert isinstance(job.error(), APIStatusError)
    assert len({texts[0] for texts in harness.sent}) == FIRST_WINDOW
    assert len(harness.sent) <= 4 * FIRST_WINDOW


def test_batches_once_a_request_was_accepted() -> None:
    """Once a request was accepted, all batches are begun: those that are being stored delay no others."""
    store = FakeStore(before_store=partial(anyio.sleep, 10))
    harness = Harness(limiter=make_limiter, batch_size=1)
    harness.job((f"text {number}" for number in range(32)), cache=harness.cache(store.load, store.store))

    assert len(harness.sent) == 32
    assert max(harness.times) < 10


@pytest.mark.parametrize("jitter", [0.0, 1.0])
@pytest.mark.parametrize(
    ("outcome", "one", "many"),
    [
        (TransportFailure("connection", "no connection"), (7.75, 15.5), (7.75, 15.5)),
        (After(10, TransportFailure("connection", "no connection")), (67, 76), (67, 76)),
        (After(60, TransportFailure("timeout", "no response")), (367, 376), (600, 620)),
        (After(0.1, status(429)), (40, 45), (270, 330)),
        (After(0.1, status(429, retry_after="60")), (300, 360), (300, 390)),
    ],
)
def test_time_until_failure(
    outcome: Outcome, one: tuple[float, float], many: tuple[float, float], jitter: float
) -> None:
    """If no request succeeds, a call fails after the time that docs/how-to/troubleshooting.md states."""
    for texts, (least, most) in ((1, one), (60, many), (4000, many)):
        harness = Harness(service=lambda _: outcome, limiter=make_limiter)
        harness.call.clock = Clock(harness.now, lambda: DATE, lambda: jitter)
        job = harness.job(f"text {number}" for number in range(texts))

        assert job.error() is not None
        assert least <= harness.now() <= most


@pytest.mark.parametrize("retries", [2, 5, 20])
@pytest.mark.parametrize("seconds", [None, "1", "60", "3600"])
def test_time_until_failure_after_429s(seconds: str | None, retries: int) -> None:
    """Batches that take turns after 429s fail once nothing was accepted for `max_retries` minutes."""
    headers = {} if seconds is None else {"retry_after": seconds}
    harness = Harness(
        *[After(0.1)] * 200,
        service=lambda _: After(0.1, status(429, **headers)),
        limiter=make_limiter,
        max_retries=retries,
    )
    job = harness.job(f"text {number}" for number in range(4000))

    assert {type(error) for error in job.failures().values()} == {RateLimitError}
    assert len(job.embeddings) == 2000
    assert harness.now() <= (retries + 2) * LONGEST_RETRY_AFTER * 1.1


def test_rare_429s_in_a_long_call() -> None:
    """A 429 is retried however long ago the first one came, if requests were accepted in between."""
    harness = Harness(
        status(429), After(100.0), After(100.0), status(429), batch_size=1, max_concurrency=1, max_retries=1
    )

    assert harness.job(["a", "b", "c"]).result().usage.requests == 5


def test_identical_texts() -> None:
    """Identical texts are sent once, and each gets its own list."""
    harness = Harness(batch_size=2, max_concurrency=1)
    texts = ["a", "b", "a", "c", "a", "b"]
    embeddings = harness.job(texts).result().embeddings

    assert harness.sent == [["a", "b"], ["c"]]
    assert embeddings == list(map(vector, texts))
    assert len({id(row) for row in embeddings}) == 6


def test_identical_once_sent() -> None:
    """Texts that differ only in characters that JSON can't carry are one text."""
    harness = Harness()
    harness.job(["x\ud800", "x\udfff"])

    assert harness.sent == [["x\ufffd"]]


@pytest.mark.parametrize(
    ("role", "instruction", "sent"),
    [("query", "Find", "Instruct: Find\nQuery:q"), ("document", "Find", "q"), ("query", None, "q")],
)
def test_roles(role: str, instruction: str | None, sent: str) -> None:
    """Only queries get the instruction."""
    harness = Harness(query_instruction=instruction)
    harness.job(["q"], role)

    assert harness.sent == [[sent]]


def test_response_without_an_id() -> None:
    """A response need not have an id."""
    job = Harness(Response(200, {}, b'{"data":[{"embedding":[0.5]}]}')).job(["a"])
    assert job.result().request_ids == ()


def test_out_of_order_batches() -> None:
    """Batches may end in any order."""
    harness = Harness(service=by_text({"a": After(2.0), "c": After(1.0)}), batch_size=2)
    result = harness.job(["a", "b", "c"]).result()

    assert result.embeddings == list(map(vector, "abc"))
    assert (result.usage, result.model, result.request_ids) == (Usage(2, 3, None, 0, None), "m", ("c", "a"))


def test_bad_input_sends_nothing() -> None:
    """Invalid texts raise before there is a job."""
    harness = Harness()
    with pytest.raises(InputError):
        harness.job(["a", ""])
    assert not harness.sent


def test_failure_keeps_what_is_in_flight() -> None:
    """After a permanent failure no request starts; those in flight complete, and unsent texts don't fail."""
    service = by_text({"a": After(2.0), "c": After(1.0, UNKNOWN_KEY)})
    harness = Harness(service=service, batch_size=2, max_concurrency=2)
    error = failure(harness.job(["a", "b", "c", "d", "e", "c"]))

    assert error.embeddings == [vector("a"), vector("b"), None, None, None, None]
    assert list(error.failures) == [2, 3, 5]
    assert {type(each) for each in error.failures.values()} == {AuthenticationError}
    assert error.failures[2].indices == (2, 3, 5)
    assert error.indices == (2, 3, 4, 5)
    assert error.usage == harness.call.usage == Usage(2, 2, None, 0, None)
    assert "4 of 6 texts not embedded: texts 2-5. The other 2 are in `.embeddings`, the " in str(error)
    assert (
        ". Set cache= (a path is enough) to keep them; another run then sends only the rest. First error: "
        in (str(error))
    )


def test_failure_with_a_cache() -> None:
    """With a cache, the error does not advise to set one."""
    harness = Harness(service=by_text({"b": UNKNOWN_KEY}), batch_size=1, max_concurrency=1)
    store = FakeStore()
    error = failure(harness.job(["a", "b"], cache=harness.cache(store.load, store.store)))

    assert "Set cache=" not in str(error)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_queued_when_the_call_fails(backend: str) -> None:
    """A batch still queued when the call fails is not sent, and does not count as failed."""
    harness = Harness(service=by_text({"b": After(0.01, UNKNOWN_KEY)}), batch_size=1, backend=backend)
    harness.limiter.window = 1
    error = failure(harness.job("abcd"[at] for at in range(4)))

    assert harness.sent == [["a"], ["b"]]
    assert list(error.failures) == [1]
    assert error.indices == (1, 2, 3)


def test_nothing_embedded() -> None:
    """If no text was embedded, the first error itself is raised."""
    harness = Harness(UNKNOWN_KEY, service=lambda _: After(1.0, status(404)), batch_size=2)
    job = harness.job(["a", "b", "c"])
    with pytest.raises(AuthenticationError) as caught:
        job.result()

    assert len(caught.value.indices) in (1, 2)
    assert "(text" not in str(caught.value)  # any other text would have failed as well


def test_nothing_embedded_of_many() -> None:
    """The error of one request says that no text of the others was embedded."""
    job = Harness(status(503), service=lambda _: status(503), batch_size=2, max_retries=0).job(
        list("abcdefgh")
    )
    with pytest.raises(APIStatusError, match=r"\(none of 8 texts embedded; first failure: texts 0-1\)$"):
        job.result()


def test_dimensions_across_batches() -> None:
    """If the dimensions are unknown, all responses must agree on them."""
    harness = Harness(None, service=lambda texts: accepted(texts, 3), batch_size=2, max_retries=0)
    harness.limiter.window = 1
    error = failure(harness.job(["a", "b", "c"]))

    [other] = {type(each) for each in error.failures.values()}
    assert other is ResponseFormatError
    assert "instead of" in str(error)


def test_dimensions_of_simultaneous_batches() -> None:
    """Responses that arrive at the same moment must agree on the dimensions as well."""
    harness = Harness(
        After(1.0, lambda texts: accepted(texts, 3)),
        After(1.0),
        batch_size=1,
        max_concurrency=2,
        max_retries=0,
    )
    error = failure(harness.job(["a", "b"]))

    assert harness.times == [0.0, 0.0]
    [other] = error.failures.values()
    assert type(other) is ResponseFormatError
    assert "instead of" in str(error)


def test_known_dimensions() -> None:
    """If no dimensions are set, responses must have the default dimensions of a known model."""
    job = Harness(model="text-embedding-v4", max_retries=0).job(["a"])
    with pytest.raises(ResponseFormatError, match=r"row 0 has 2 .* instead of 1024"):
        job.result()


def test_deadline() -> None:
    """total_timeout limits the whole call, and embeddings completed before are kept."""
    harness = Harness(None, service=lambda _: HANG, batch_size=2, total_timeout=5.0, max_concurrency=1)
    error = failure(harness.job(["a", "b", "c", "d", "e"]))

    assert harness.now() == 5.0
    assert {index: type(each) for index, each in error.failures.items()} == dict.fromkeys(
        [2, 3], DeadlineError
    )


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_foreign_exception(backend: str) -> None:
    """An exception of an unknown type ends the call, and is raised unchanged if nothing was embedded."""
    crash = ZeroDivisionError("a text of its own")
    harness = Harness(crash, batch_size=2, backend=backend, max_concurrency=1)
    job = harness.job(["a", "b", "c"])
    with pytest.raises(ZeroDivisionError) as caught:
        job.result()

    assert caught.value is crash
    assert len(harness.sent) == 1


def test_foreign_exception_of_a_later_request() -> None:
    """An exception of a later request does not discard completed embeddings."""
    crash = ZeroDivisionError("a text of its own")
    error = failure(Harness(None, crash, batch_size=2, max_concurrency=1).job(["a", "b", "c"]))

    assert error.embeddings == [vector("a"), vector("b"), None]
    assert isinstance(error.failures[2], TransportError)
    assert not error.failures[2].transient
    assert str(error.failures[2].args[0]) == "the HTTP client (or rate limiter) raised ZeroDivisionError"
    assert error.__cause__ is crash


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_cancellation(backend: str) -> None:
    """Cancelling a call ends all its requests, and frees their places in the queue."""
    harness = Harness(service=lambda _: HANG, batch_size=1, backend=backend)

    async def run() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(Job(["a", "b", "c"], "document", harness.call).run)
            while len(harness.sent) < 3:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert harness.is_idle

    harness.run(run)


def test_stop() -> None:
    """A call that was stopped before it runs sends nothing."""
    harness = Harness()
    harness.call.stop()
    harness.job(["a", "b", "c"])

    assert not harness.sent


def test_usage_of_failures() -> None:
    """Failed requests count towards the usage."""
    harness = Harness(service=lambda _: status(500), max_retries=1)
    job = harness.job(["a"])

    assert harness.call.usage == Usage(2, 0, 0)
    with pytest.raises(APIStatusError, match=r"\(text 0, 2 attempts\)"):
        job.result()


def test_row_limit_of_another_call() -> None:
    """A row limit that another call of the client has learned applies to the next batch."""
    harness = Harness(batch_size=4, max_concurrency=1)
    harness.limiter.rows = 3
    harness.job(["a", "b", "c", "d"])

    assert list(map(len, harness.sent)) == [3, 1]


@pytest.mark.parametrize("packed", [False, True])
def test_cache(packed: bool) -> None:
    """Cached texts are not sent, and get the same rows as before; the others are sent."""
    store = FakeStore()
    number = 1 / 3 if packed else 0.5
    body = b'{"data":[{"embedding":[1,%r]},{"embedding":[2,3]}]}' % number

    def run(*texts: str) -> tuple[Harness, Job]:
        harness = Harness(Response(200, {}, body), options={"packed": packed})
        return harness, harness.job(texts, cache=harness.cache(store.load, store.store))

    _, first = run("a", "b")
    harness, second = run("a", "b", "a")
    assert not harness.sent
    assert second.rows() == [*first.rows(), first.rows()[0]]
    assert second.result().cached == 2
    assert {type(row) for row in second.rows()} == {array if packed else list}

    harness, third = run("b", "c", "d")
    assert harness.sent == [["c", "d"]]
    assert third.result().cached == 1


def test_rounding() -> None:
    """With a cache, new embeddings already have the precision of its entries."""
    body = b'{"data":[{"embedding":[0.1,1.0]}]}'
    harness, store = Harness(Response(200, {}, body)), FakeStore()
    job = harness.job(["a"], cache=harness.cache(store.load, store.store))

    assert job.result().embeddings == [list(array("f", [0.1, 1.0]))]


def test_cached_entries_of_other_dimensions() -> None:
    """If the dimensions are unknown, the first entry decides; texts with other entries are sent again."""
    store = FakeStore()
    for texts, dimensions in (["a"], 2), (["b"], 3):
        harness = Harness(service=lambda texts, size=dimensions: accepted(texts, size))  # type: ignore[misc]
        harness.job(texts, cache=harness.cache(store.load, store.store))
    harness = Harness()
    job = harness.job(["a", "b"], cache=harness.cache(store.load, store.store))

    assert harness.sent == [["b"]]
    assert job.result().cached == 1


def test_many_texts_are_looked_up_in_parts() -> None:
    """A look-up reads at most a thousand keys."""
    sizes = []

    async def load(keys: Any) -> list[None]:
        sizes.append(len(keys))
        return [None] * len(keys)

    harness = Harness()
    harness.job(map(str, range(2300)), cache=harness.cache(load, FakeStore().store))
    assert sizes == [1000, 1000, 300]


def test_cache_that_cannot_be_read() -> None:
    """If the cache can't be read, nothing is sent."""

    async def load(_: Any) -> None:
        raise OSError

    harness = Harness()
    with pytest.raises(CacheError, match=r"the cache can't be read \(OSError\)"):
        harness.job(["a"], cache=harness.cache(load, None))
    assert not harness.sent


@pytest.mark.parametrize("takes", [5.0, math.inf])
def test_deadline_of_the_look_up(takes: float) -> None:
    """If the deadline passes during a look-up, cancellable or not, nothing is sent."""

    async def before_load() -> None:
        with anyio.CancelScope(shield=takes == 5.0):
            await anyio.sleep(takes)

    store = FakeStore(before_load)
    harness = Harness(total_timeout=5.0)
    with pytest.raises(DeadlineError, match=r"^total_timeout of 5 s ran out$"):
        harness.job(["a"], cache=harness.cache(store.load, store.store))

    assert (harness.now(), harness.sent) == (5.0, [])


def test_deadline_of_storing() -> None:
    """A write is cut off at the deadline, or after a second if that is later; embeddings are returned."""
    store = FakeStore(before_store=anyio.sleep_forever)
    harness = Harness(After(4.5), total_timeout=5.0)
    job = harness.job(["a"], cache=harness.cache(store.load, store.store))

    assert job.result().embeddings == [vector("a")]
    assert harness.now() == 5.5


def test_nothing_is_sent_after_storing_beyond_the_deadline() -> None:
    """If storing outlasts the deadline, the next batch is not sent."""

    async def before_store() -> None:
        await anyio.sleep(20)

    store = FakeStore(before_store=before_store)
    harness = Harness(total_timeout=5.0, batch_size=1, max_concurrency=1)
    error = failure(harness.job(["a", "b", "c"], cache=harness.cache(store.load, store.store)))

    assert harness.sent == [["a"]]
    assert isinstance(error.failures[1], DeadlineError)


def test_log_of_slow_failures(caplog: pytest.LogCaptureFixture) -> None:
    """If attempts take long to fail, each retry is logged, and that a batch is bisected."""
    caplog.set_level("INFO", "qwen_aiml")
    harness = Harness(service=lambda _: After(60, status(504)), max_retries=2)
    harness.job(["a", "b"])

    assert [re.sub(r"\d\.\d s", "_ s", message) for message in caplog.messages[:-1]] == [
        "HTTP 504, waiting _ s, attempt 2 of 3",
        "HTTP 504, waiting _ s, attempt 3 of 3",
        "HTTP 504, sending 2 texts in parts to isolate the cause",
    ]


def test_log(caplog: pytest.LogCaptureFixture) -> None:
    """The end of a job is logged at INFO in one line, whatever its outcome."""
    caplog.set_level("INFO", logger="qwen_aiml")
    store = FakeStore()
    harness = Harness(None, batch_size=2, max_concurrency=1)
    harness.job(["a", "b", "a"], cache=harness.cache(store.load, store.store))
    later = Harness(status(503), batch_size=2, max_concurrency=1)
    later.job(["a", "a", "c"], cache=later.cache(store.load, store.store))
    Harness(status(401)).job(["a"])
    Harness(lambda texts: Response(200, {}, without_usage(texts))).job(["a"])
    Harness().job([])

    assert [record.getMessage() for record in caplog.records] == [
        "embedded 3 of 3 texts in 0.0 s: 1 requests (0 retries), 2 tokens, 0 texts cached",
        "embedded 3 of 3 texts in 0.5 s: 2 requests (1 retries), 1 tokens, 2 texts cached",
        "embedded 0 of 1 texts in 0.0 s: 1 requests (0 retries), 0 tokens, 0 texts cached",
        "embedded 1 of 1 texts in 0.0 s: 1 requests (0 retries), unknown tokens, 0 texts cached",
    ]


def test_retries_are_counted_once_sent() -> None:
    """A request that could not be sent, since the key function failed, is no retry."""
    harness = Harness(status(503), status(503), ConfigurationError("no key"))

    assert isinstance(harness.job(["a"]).error(), ConfigurationError)
    assert (harness.call.usage.requests, harness.call.retries) == (2, 1)


def without_usage(texts: list[str]) -> bytes:
    """Create the body of a response that does not report its tokens."""
    body = orjson.loads(accepted(texts).body)
    del body["usage"]
    return orjson.dumps(body)
