"""Property tests of one call, for any texts, responses, orders and faults: virtual time, no I/O."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson
import pytest
import trio
import trio.testing
from hypothesis import event, given, settings
from hypothesis import strategies as st

from qwen_aiml import (
    APIStatusError,
    EmbeddingBatchError,
    EmbeddingConfig,
    QwenAIMLError,
    ResponseFormatError,
    Usage,
)
from qwen_aiml._engine.engine import make_limiter
from qwen_aiml._engine.job import Job
from qwen_aiml._engine.queue import Queue
from qwen_aiml._engine.request import Call, Clock
from qwen_aiml._engine.retry import retry_after
from qwen_aiml._protocol.response import Response, decode
from qwen_aiml._protocol.status import error_from
from qwen_aiml._transport.base import TransportFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn, SearchStrategy

    from qwen_aiml._transport.base import Post

# Deterministic, and without a deadline, since the machine may be slow.
repeatable = settings(deadline=None, derandomize=True, database=None)

pytestmark = pytest.mark.once

DATE = datetime(2026, 11, 22, tzinfo=timezone.utc)
Outcome: TypeAlias = Response | Exception
REJECTIONS: dict[str, Callable[[], Outcome]] = {
    "content": lambda: Response(400, {}, b'{"error":{"message":"DataInspectionFailed"}}'),
    "length": lambda: Response(400, {}, b'{"error":{"message":"Range of input length should be [1, 8192]"}}'),
    "text": lambda: Response(422, {}, b'{"message":"unprocessable"}'),
    "crash": lambda: Response(500, {}, b""),
    "silence": lambda: TransportFailure("timeout", "silence"),
}
TRANSIENT: list[Callable[[], Outcome]] = [
    lambda: Response(408, {}, b""),
    lambda: Response(429, {"retry-after": "1"}, b""),
    lambda: Response(429, {}, b""),
    lambda: Response(500, {}, b""),
    lambda: Response(503, {}, b""),
    lambda: Response(200, {}, b"<html>busy</html>"),
    lambda: Response(200, {}, b'{"data":[]}'),
    lambda: TransportFailure("connection", "ReadError"),
    lambda: TransportFailure("timeout", "silence"),
]
FATAL: list[Callable[[], Outcome]] = [
    lambda: Response(401, {}, b""),
    lambda: Response(403, {}, b""),
    lambda: Response(404, {}, b""),
    lambda: TransportFailure("certificate", "x"),
    lambda: ZeroDivisionError("of the HTTP client"),
]


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Override the shared fixture: this file uses virtual time."""


@dataclass
class Service:
    """
    A service whose response depends on the texts of the request.

    Args:
        random: Source of randomness.

        poison: Texts that it rejects, together with the whole request.

        refusal: Kind of rejection, a key of `REJECTIONS`.

        max_rows: Maximum number of texts per request.

        faults: Share of requests with a transient failure; never more in a row than are retried.

        dies_at: The request, from 0, whose response ends the call. None means none.
    """

    random: Random
    poison: set[str]
    refusal: str
    max_rows: int
    faults: float = 0.0
    dies_at: int | None = None
    requests: int = 0
    faulty: int = 0
    beyond: int = 0
    died: bool = False
    accepted: Counter[str] = field(default_factory=Counter)
    refused_alone: set[str] = field(default_factory=set)
    in_a_row: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def respond(self, texts: list[str]) -> Outcome:
        """Return the outcome of one request."""
        self.requests += 1
        if self.requests - 1 == self.dies_at:
            self.died = True
            return self.random.choice(FATAL)()
        if self.in_a_row[tuple(texts)] < 5 and self.random.random() < self.faults:
            self.in_a_row[tuple(texts)] += 1
            self.faulty += 1
            return self.random.choice(TRANSIENT)()
        self.in_a_row[tuple(texts)] = 0
        if len(texts) > self.max_rows:
            self.beyond += 1
            message = f"batch size is invalid, it should not be larger than {self.max_rows}.: input.contents"
            return Response(400, {}, orjson.dumps({"error": {"message": message}}))
        if not self.poison.isdisjoint(texts):
            self.refused_alone.update(texts if len(texts) == 1 else ())
            return REJECTIONS[self.refusal]()
        self.accepted.update(texts)
        rows = [{"index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
        self.random.shuffle(rows)
        return Response(200, {}, orjson.dumps({"data": rows}))


def vector(text: str) -> list[float]:
    """Return an embedding that identifies its text."""
    return [float(text) + 1.0, -1.0]


class Run:
    """A call with several workers and responses in any order; it is its own transport."""

    def __init__(self, texts: list[str], size: int, workers: int, service: Service) -> None:
        self.service = service
        self.size = size
        config = EmbeddingConfig(api_key="k", model="unknown", batch_size=size, max_concurrency=workers)
        clock = Clock(trio.current_time, lambda: DATE, service.random.random)
        self.call = Call(config, clock, make_limiter(config))
        self.job = Job(texts, "document", self.call)
        trio.run(self.carry_out, clock=trio.testing.MockClock(autojump_threshold=0))

    async def carry_out(self) -> None:
        """Run the job, for a bounded amount of virtual time."""
        self.call.begin(Queue(self.call.limiter, trio.current_time), self.post)
        with trio.fail_after(1e9):
            await self.job.run()

    async def post(self, request: Post) -> Response:
        """Check that a request may be sent, and respond to it after a random delay."""
        texts = orjson.loads(request.body)["input"]
        service = self.service
        assert not self.call.is_stopped
        assert len(texts) == len(set(texts)) <= self.size
        assert service.accepted.keys().isdisjoint(texts)
        assert service.refusal in ("crash", "silence") or service.refused_alone.isdisjoint(texts)
        await trio.sleep(service.random.random())
        outcome = service.respond(texts)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def outcome(self) -> tuple[list[list[float] | None], dict[int, QwenAIMLError]]:
        """Return embeddings and failures."""
        count = len(self.job.items)
        try:
            return list(self.job.result().embeddings), {}
        except EmbeddingBatchError as error:
            return error.embeddings, error.failures
        except QwenAIMLError as error:
            return [None] * count, dict.fromkeys(error.indices, error)
        except ZeroDivisionError:
            return [None] * count, {}


@st.composite
def lists(draw: DrawFn) -> list[str]:
    """Generate up to 60 distinct texts, some of them repeated, in any order."""
    distinct = list(map(str, range(draw(st.integers(0, 60)))))
    random = draw(st.randoms())
    texts = distinct + random.choices(distinct or [""], k=len(distinct) // 3)
    random.shuffle(texts)
    return texts


poisons = st.sets(st.integers(0, 60).map(str), max_size=8)
sizes = st.integers(1, 10)


@given(lists(), sizes, sizes, st.integers(1, 8), st.floats(0, 0.6), st.randoms())
@repeatable
def test_faults(
    texts: list[str], size: int, max_rows: int, workers: int, faults: float, random: Random
) -> None:
    """Despite transient failures every text gets its own embedding, and is accepted only once."""
    service = Service(random, set(), "content", max_rows, faults)
    run = Run(texts, size, workers, service)

    assert run.outcome() == ([vector(text) for text in texts], {})
    assert service.accepted == Counter(set(texts))
    plain = -(-len(set(texts)) // size)
    if size <= max_rows:
        assert service.requests == plain + service.faulty
    # Batches started before the limit was known are split; later ones are cut to it.
    pieces = -(-len(set(texts)) // min(size, max_rows))
    assert service.beyond <= workers
    assert service.requests <= pieces + 2 * workers + service.faulty
    assert run.call.usage.requests == service.requests


@given(
    lists(),
    poisons,
    sizes,
    sizes,
    st.integers(1, 8),
    st.floats(0, 0.6),
    st.randoms(),
)
@repeatable
def test_refused_texts(
    texts: list[str],
    poison: set[str],
    size: int,
    max_rows: int,
    workers: int,
    faults: float,
    random: Random,
) -> None:
    """Exactly the rejected texts fail, and each costs at most six additional requests."""
    refusal = random.choice(["content", "length"])
    service = Service(random, poison, refusal, max_rows, faults)
    run = Run(texts, size, workers, service)
    embeddings, failures = run.outcome()

    assert embeddings == [None if text in poison else vector(text) for text in texts]
    assert list(failures) == [at for at, text in enumerate(texts) if text in poison]
    assert all(
        isinstance(error, APIStatusError) and error.reason == refusal and at in error.indices
        for at, error in failures.items()
    )
    assert service.accepted == Counter(set(texts) - poison)
    pieces = -(-len(set(texts)) // min(size, max_rows))
    more = 0 if size <= max_rows else 2 * workers
    assert service.requests <= pieces + more + 6 * len(poison & set(texts)) + service.faulty


@pytest.mark.parametrize("size", range(1, 11))
def test_search(size: int) -> None:
    """Bisection finds the one rejected text at any position: among ten, with at most six more requests."""
    texts = list(map(str, range(size)))
    for poison in texts:
        service = Service(Random(1), {poison}, "content", 10)  # noqa: S311 (no secret)
        embeddings, failures = Run(texts, size, 1, service).outcome()

        assert list(failures) == [int(poison)]
        assert embeddings.count(None) == 1
        assert service.requests <= 1 + 2 * math.log2(size)


@given(
    lists(),
    poisons,
    sizes,
    st.integers(1, 8),
    st.sampled_from(["text", "crash", "silence"]),
    st.randoms(),
)
@repeatable
def test_indigestible_texts(
    texts: list[str], poison: set[str], size: int, workers: int, refusal: str, random: Random
) -> None:
    """A text that fails without a reason is distinguished from a failing service if others are accepted."""
    service = Service(random, poison, refusal, 10)
    run = Run(texts, size, workers, service)
    embeddings, failures = run.outcome()
    bad = [at for at, text in enumerate(texts) if text in poison]

    assert all(embedding in (None, vector(text)) for text, embedding in zip(texts, embeddings, strict=True))
    assert all(embeddings[at] is None for at in bad)
    assert max(service.accepted.values(), default=1) == 1
    if not run.call.is_stopped:
        assert embeddings == [None if text in poison else vector(text) for text in texts]
        assert list(failures) == bad
        attempts = 6 if refusal == "text" else 6 + run.call.config.max_retries
        assert service.requests <= -(-len(set(texts)) // size) + attempts * len(poison & set(texts))
    else:
        assert bad
        event("taken for a failure of the service")


@given(
    lists(),
    poisons,
    sizes,
    st.integers(1, 8),
    st.floats(0, 0.6),
    st.integers(0, 30),
    st.randoms(),
)
@repeatable
def test_end_of_the_call(
    texts: list[str],
    poison: set[str],
    size: int,
    workers: int,
    faults: float,
    dies_at: int,
    random: Random,
) -> None:
    """After a fatal failure no request starts, and accepted embeddings are kept."""
    service = Service(random, poison, "content", 10, faults, dies_at)
    run = Run(texts, size, workers, service)  # checks each request that starts
    embeddings, failures = run.outcome()

    assert service.died == run.call.is_stopped
    # Those in flight when the call ended get a response; none is retried.
    assert service.requests <= dies_at + workers
    assert embeddings == [vector(text) if text in service.accepted else None for text in texts]
    assert service.accepted.keys().isdisjoint(poison)
    assert all(embeddings[at] is None for at in failures)
    kinds = {texts[at]: getattr(error, "reason", None) for at, error in failures.items()}
    assert all(kinds.get(text, "content") == "content" for text in service.refused_alone)
    if service.died:
        assert service.requests > dies_at
    else:
        assert service.accepted == Counter(set(texts) - poison)


finite = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1)
leaves = st.none() | st.booleans() | finite | st.text(max_size=20)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def responses(draw: DrawFn) -> dict[str, Any]:
    """Generate a valid response of 1 to 4 rows, in any order, as lists or base64."""
    count, length = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    number = st.integers(-99, 99).map(lambda eighths: eighths / 8)  # exact in float32
    row = st.lists(number, min_size=length, max_size=length)
    data = []
    for index in draw(st.permutations(range(count))):
        embedding: Any = draw(row.filter(any))
        if draw(st.booleans()):
            embedding = base64.b64encode(struct.pack(f"<{length}f", *embedding)).decode()
        data.append({"index": index, "embedding": embedding, "object": "embedding"})
    return {"data": data, "usage": {"total_tokens": 4}, "meta": {"usage": {"credits_used": 1}}, "id": "a"}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return the location of each value in some JSON, as a container and a key."""
    keys: list[Any] = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        keys = list(range(len(value)))
    return [place for key in keys for place in [(value, key), *places(value[key])]]


@st.composite
def bodies(draw: DrawFn) -> tuple[bytes, int]:
    """Generate a response body, valid or changed in some places, and the number of its texts."""
    response = draw(responses())
    count = len(response["data"])
    for _ in range(draw(st.integers(0, 3))):
        container, key = draw(st.sampled_from([(response, "data"), *places(response)]))
        change = draw(st.sampled_from(["replace", "delete", "repeat"]))
        if change == "replace":
            container[key] = draw(anything | st.sampled_from([0, 1, 2, 0.0, 1.0, True, "AACAPw=="]))
        elif change == "delete":
            container.pop(key, None) if isinstance(container, dict) else container.pop(key)
            if container is response:
                break
        elif isinstance(container, list):
            container.append(container[key])
    body = orjson.dumps(response)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]
    return body, count


def numbers_of(embedding: Any) -> list[float]:
    """Return the numbers of a row, which is a list or base64."""
    if isinstance(embedding, str):
        packed = base64.b64decode(embedding)
        return list(struct.unpack(f"<{len(packed) // 4}f", packed))
    return [float(number) for number in embedding]


@given(responses())
@repeatable
def test_order_of_rows(response: dict[str, Any]) -> None:
    """Rows are returned in the order of the texts."""
    rows = decode(Response(200, {}, orjson.dumps(response)), len(response["data"]), None)

    expected = {row["index"]: numbers_of(row["embedding"]) for row in response["data"]}
    assert rows.embeddings == [expected[at] for at in range(len(expected))]


@given(bodies(), st.none() | st.integers(1, 4))
@settings(repeatable, max_examples=500)
def test_changed_answer(body: tuple[bytes, int], dimensions: int | None) -> None:
    """A response with any change is either rejected or decoded to the row of each index."""
    sent, expected = body
    response = Response(200, {}, sent)
    try:
        found = decode(response, expected, dimensions).embeddings
    except ResponseFormatError:
        event("refused")
        return
    # Fields that are not read need not be UTF-8.
    data = json.loads(sent.decode("utf-8", "replace"))["data"]
    by_index = {at if row.get("index") is None else row["index"]: row for at, row in enumerate(data)}
    assert len(found) == len(data) == len(by_index) == expected
    assert found == [numbers_of(by_index[at]["embedding"]) for at in range(expected)]
    assert {len(row) for row in found} == {dimensions or len(found[0])}
    assert all(type(number) is float and math.isfinite(number) for row in found for number in row)
    assert all(any(row) for row in found)


envelopes = st.one_of(
    st.binary(max_size=50),
    anything.map(orjson.dumps),
    st.fixed_dictionaries(
        {},
        optional={
            "message": anything,
            "title": anything,
            "requestId": anything,
            "usage": anything | st.fixed_dictionaries({"total_tokens": anything}),
            "meta": anything | st.fixed_dictionaries({"usage": anything}),
            "error": anything
            | st.fixed_dictionaries(
                {},
                optional={
                    "message": anything,
                    "data": anything
                    | st.lists(st.fixed_dictionaries({"path": anything, "message": anything}), max_size=2)
                    | st.fixed_dictionaries({"kind": anything}),
                },
            ),
        },
    ).map(orjson.dumps),
)
header_names = ["retry-after", "retry-after-ms", "x-request-id", "x-aimlapi-credits-used", "content-type"]
headers_of: SearchStrategy[dict[str, str]] = st.dictionaries(
    st.sampled_from(header_names), st.text(st.characters(max_codepoint=255), max_size=20), max_size=3
)


@given(envelopes, headers_of, st.integers(100, 999), st.lists(st.text(max_size=20), max_size=3))
@settings(repeatable, max_examples=300)
def test_any_error_answer(body: bytes, headers: dict[str, str], status: int, texts: list[str]) -> None:
    """Any error response gives one error, whose message has a bounded length and no key."""
    config = EmbeddingConfig(api_key="sk-0123456789abcdef")
    response = Response(status, headers, body)
    error = error_from(response, texts, config, config.secret)

    if not 200 <= status < 300:
        assert isinstance(error, APIStatusError)
    if isinstance(error, APIStatusError):
        assert error.status_code == status
    assert len(str(error)) < 600
    assert "0123456789abcdef" not in str(error)
    usage = response.usage
    assert isinstance(usage, Usage)
    assert all(type(count) in (int, type(None)) for count in (usage.total_tokens, usage.credits_used))


dates = st.lists(
    st.sampled_from(
        [
            "Sun",
            ",",
            " ",
            "22",
            "Nov",
            "2026",
            "12:00:30",
            "GMT",
            "+0200",
            "-",
            "0",
            ":",
            "99999",
            "1",
            "9999",
        ]
    ),
    max_size=14,
).map("".join)


@given(st.text(max_size=30) | dates | st.floats().map(str), st.text(max_size=8) | st.floats().map(str))
@settings(repeatable, max_examples=500)
def test_any_retry_after(seconds: str, milliseconds: str) -> None:
    """For any headers, the retry delay is None or a finite number, 0 or more."""
    for headers in ({"retry-after": seconds}, {"retry-after": seconds, "retry-after-ms": milliseconds}):
        advised = retry_after(headers, DATE)
        assert advised is None or (math.isfinite(advised) and advised >= 0)
