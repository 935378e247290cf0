"""`embed_iter` and `embed_array` of both clients, with and without ``async with``."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from array import array
from contextlib import aclosing, nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio
import anyio.to_thread
import httpx
import numpy as np
import pytest

from fakes import HANG, After, Harness
from qwen_aiml import (
    AsyncEmbeddingClient,
    AuthenticationError,
    ConfigurationError,
    DeadlineError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    InputTypeError,
    InputValueError,
    Progress,
    ResponseFormatError,
    Usage,
)
from qwen_aiml._engine import runner
from qwen_aiml._engine.job import Job
from qwen_aiml._engine.runner import BackgroundCall
from qwen_aiml._engine.stream import AsyncEmbeddingIterator, Blocks
from qwen_aiml._utils.tasks import Tasks
from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text number {at}" for at in range(100)]

Client: TypeAlias = EmbeddingClient | AsyncEmbeddingClient
Way: TypeAlias = Literal["with", "async with", "async for"]

pytestmark = [
    pytest.mark.anyio,
    # httpx wraps a body in a generator, which is not closed if the request is cancelled while it is sent.
    pytest.mark.filterwarnings("ignore:Async generator 'httpx.*:ResourceWarning"),
]


@pytest.fixture(params=["with", "async with", "async for"])
def way(request: pytest.FixtureRequest) -> Any:
    """Return each way to iterate in turn."""
    return request.param


def threads() -> set[threading.Thread]:
    """Return the running threads, except that of sync calls, which stays."""
    return {thread for thread in threading.enumerate() if thread.name != "qwen_aiml"}


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Check that nothing is left running in the event loop of sync calls."""
    yield
    left: list[asyncio.Task[Any]] = []

    async def look() -> None:
        for _ in range(10):  # cancelled tasks may be about to end
            await asyncio.sleep(0)
        left.extend(asyncio.all_tasks() - {asyncio.current_task()})

    BackgroundCall(look).run()
    assert not left


def make(way: Way, emulator: Emulator, cache: Any = None, **settings: Any) -> Client:
    """Create a client of the emulator."""
    config = EmbeddingConfig(**{"api_key": KEY, "dimensions": 64, **settings})
    if way == "with":
        http: Any = httpx.Client(transport=emulator.transport())
        return EmbeddingClient(config, http_client=http, cache=cache)
    http = httpx.AsyncClient(transport=emulator.async_transport())
    return AsyncEmbeddingClient(config, http_client=http, cache=cache)


async def walk(
    way: Way, client: Client, texts: Any, visit: Callable[[int, Any], object], **options: Any
) -> None:
    """Iterate over the embeddings in the given way."""
    if isinstance(client, EmbeddingClient):
        with client.embed_iter(texts, **options) as rows:
            for index, row in rows:
                visit(index, row)
    elif way == "async with":
        async with client.embed_iter(texts, **options) as rows_too:
            async for index, row in rows_too:
                visit(index, row)
    else:
        async for index, row in client.embed_iter(texts, **options):
            visit(index, row)


async def rows_of(way: Way, client: Client, texts: Any, **options: Any) -> list[tuple[int, Any]]:
    """Collect the embeddings."""
    rows: list[tuple[int, Any]] = []
    await walk(way, client, texts, lambda index, row: rows.append((index, row)), **options)
    return rows


async def cancel(way: Way, client: Client, texts: Any, emulator: Emulator, requests: int) -> None:
    """Iterate, and cancel that once the emulator has received some requests."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(rows_of, way, client, texts)
            with anyio.fail_after(30):
                while emulator.request_count < requests:  # noqa: ASYNC110 (it has no event to await)
                    await anyio.sleep(0.01)
            scope.cancel()
    assert scope.cancelled_caught


async def array_of(client: Client, texts: Any, **options: Any) -> Any:
    """Call `embed_array` of a sync or async client."""
    if isinstance(client, EmbeddingClient):
        return client.embed_array(texts, **options)
    return await client.embed_array(texts, **options)


def expected(texts: Sequence[str]) -> list[array[float]]:
    """Return the embeddings that `embed` returns, packed."""
    client = make("with", Emulator())
    assert isinstance(client, EmbeddingClient)
    return [array("f", row) for row in client.embed(texts).embeddings]


@pytest.mark.slow
@pytest.mark.parametrize("look_ahead", [None, 1, 7, 30, 1000])
async def test_every_vector_in_order(way: Way, look_ahead: int | None) -> None:
    """Each text gets its own embedding, packed, in the order of the texts."""
    emulator = Emulator(shuffle=True)
    client = make(way, emulator)
    rows = await rows_of(way, client, iter(TEXTS), look_ahead=look_ahead)

    assert rows == list(enumerate(expected(TEXTS)))
    assert {type(row) for _, row in rows} == {array}
    assert client.usage.requests == emulator.request_count
    if look_ahead in (None, 1000):
        assert emulator.request_count == 10


async def test_any_order(way: Way) -> None:
    """With in_order=False every row is yielded, and none twice."""
    rows = await rows_of(way, make(way, Emulator()), TEXTS, in_order=False, look_ahead=30)

    assert sorted(rows) == list(enumerate(expected(TEXTS)))


@pytest.mark.parametrize(("in_order", "first"), [(True, 0), (False, 10)])
async def test_a_block_that_takes_long(in_order: bool, first: int) -> None:
    """With in_order=False a slow block does not hold back the others."""
    emulator = Emulator()

    async def handler(request: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.3 if TEXTS[3].encode() + b'"' in request.content else 0)
        return await emulator.async_transport().handle_async_request(request)

    http = httpx.AsyncClient(transport=httpx.MockTransport(handler))
    client = AsyncEmbeddingClient(EmbeddingConfig(api_key=KEY, dimensions=64), http_client=http)
    rows = await rows_of("async with", client, TEXTS, in_order=in_order, look_ahead=30)

    assert rows[0][0] == first
    assert len(rows) == 100


async def test_without_end(way: Way) -> None:
    """An endless iterable is read only up to the look-ahead, and nothing is sent after the iteration."""
    emulator = Emulator()
    read = yielded = 0
    gaps = set()

    def texts() -> Iterator[str]:
        nonlocal read
        for at in count():
            read += 1
            gaps.add(read - yielded)
            yield f"text {at}"

    def visit(index: int, _: Any) -> None:
        nonlocal yielded
        yielded += 1
        if index == 200:
            while way == "with" and emulator.request_count < 26:  # its threads can't be cancelled
                threading.Event().wait(0.01)
            raise KeyError(index)

    with pytest.raises(KeyError):
        await walk(way, make(way, emulator), texts(), visit, look_ahead=60)

    assert yielded == 201
    assert max(gaps) == 60
    sent = emulator.request_count
    await anyio.sleep(0.05)
    assert emulator.request_count == sent <= 26


async def test_requests_go_on_between_rows() -> None:
    """While the caller processes the first rows, the next two blocks are embedded, and no more."""
    for way in ("with", "async with"):
        emulator = Emulator()
        client: Any = make(way, emulator)
        rows = client.embed_iter(map("text {}".format, count()), look_ahead=30)
        if way == "with":
            with rows:
                next(rows)
                while emulator.request_count < 3:
                    threading.Event().wait(0.01)
        else:
            async with rows:
                await anext(rows)
                while emulator.request_count < 3:  # noqa: ASYNC110 (it has no event to await)
                    await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        assert emulator.request_count == 3


async def test_nothing_goes_on_without_async_with() -> None:
    """A bare ``async for`` leaves no request running, wherever it is left."""
    emulator = Emulator()
    client = make("async for", emulator)
    assert isinstance(client, AsyncEmbeddingClient)
    async for _ in client.embed_iter(map("text {}".format, count()), look_ahead=30):
        await anyio.sleep(0.05)
        assert emulator.request_count == 3
        break


async def test_identical_texts(way: Way) -> None:
    """Identical texts of one block are sent once, and each gets its own array."""
    emulator = Emulator()
    rows = await rows_of(way, make(way, emulator), ["same", "other"] * 50)

    assert [row for _, row in rows] == expected(["same", "other"]) * 50
    assert len({id(row) for _, row in rows}) == 100
    assert emulator.texts_billed.total() == 2


@pytest.mark.parametrize("texts", [[], (), iter(())])
async def test_no_texts(way: Way, texts: Iterable[str]) -> None:
    """An empty iterable sends no request."""
    emulator = Emulator()

    assert await rows_of(way, make(way, emulator), texts) == []
    assert emulator.request_count == 0


@pytest.mark.parametrize("texts", ["a text", b"bytes", None, 7])
async def test_what_is_no_texts(way: Way, texts: Any) -> None:
    """Texts of a type that `embed` rejects raise when the iterator is created."""
    with pytest.raises(InputTypeError, match="expected a list of str"):
        make(way, Emulator()).embed_iter(texts)


@pytest.mark.parametrize("look_ahead", [0, -1, 1.5, True, "10"])
async def test_wrong_options(way: Way, look_ahead: Any) -> None:
    """An invalid look-ahead or role raises when the iterator is created."""
    client = make(way, Emulator())
    with pytest.raises(ConfigurationError, match="look_ahead must be a whole number, 1 or more"):
        client.embed_iter(TEXTS, look_ahead=look_ahead)
    with pytest.raises(ConfigurationError, match="role"):
        client.embed_iter(TEXTS, role="passage")  # type: ignore[arg-type]


async def test_role(way: Way) -> None:
    """Queries get the instruction."""
    emulator = Emulator()
    await rows_of(way, make(way, emulator, query_instruction="Find"), ["q"], role="query")

    assert [request.texts for request in emulator.requests] == [("Instruct: Find\nQuery:q",)]


@pytest.mark.parametrize("way", ["async with", "async for"])
async def test_asynchronous_texts(way: Way) -> None:
    """Texts may come from an async generator."""

    async def texts() -> AsyncIterator[str]:
        for text in TEXTS:
            await anyio.sleep(0.001)
            yield text

    rows = await rows_of(way, make(way, Emulator()), texts(), look_ahead=30)
    assert rows == list(enumerate(expected(TEXTS)))


async def test_one_text_is_rejected(way: Way) -> None:
    """All other rows of the blocks in flight are yielded; then the error names the rejected text."""
    emulator = Emulator(refuses=lambda text: text.endswith(" 34"))
    client = make(way, emulator)
    rows: list[int] = []
    with pytest.raises(EmbeddingBatchError) as caught:
        await walk(way, client, TEXTS, lambda index, _: rows.append(index), look_ahead=30)

    assert list(caught.value.failures) == [34]
    assert caught.value.indices == caught.value.failures[34].indices == (34,)
    assert caught.value.embeddings == []
    assert caught.value.usage == client.usage
    assert set(range(34)) < set(rows) < set(range(61)) - {34}
    assert rows == sorted(rows)


async def test_a_bad_key(way: Way) -> None:
    """If nothing was embedded, the error itself is raised."""
    with pytest.raises(AuthenticationError):
        await rows_of(way, make(way, Emulator(api_keys=["another"])), TEXTS)


async def test_a_key_that_ends(way: Way) -> None:
    """Rows embedded before a fatal error are yielded."""
    emulator = Emulator()
    emulator.script(*[None] * 4, *[Fault(status=401)] * 99)
    rows: list[int] = []
    with pytest.raises(EmbeddingBatchError) as caught:
        await walk(
            way,
            make(way, emulator, max_concurrency=1),
            TEXTS,
            lambda index, _: rows.append(index),
            look_ahead=60,
        )

    assert len(rows) == 40
    assert not set(rows) & set(caught.value.indices)
    assert emulator.request_count <= 6


async def test_bad_texts(way: Way) -> None:
    """Invalid texts raise with their indices in all texts, before anything of their block is sent."""
    emulator = Emulator()
    rows: list[int] = []
    texts = [*TEXTS[:50], "", None, *TEXTS[52:]]
    with pytest.raises(
        InputTypeError, match=r"texts\[51\] is NoneType, expected str; texts\[50\] is blank"
    ) as caught:
        await walk(way, make(way, emulator), texts, lambda index, _: rows.append(index), look_ahead=30)

    assert caught.value.indices == (50, 51)
    assert rows == list(range(50 if way != "async for" else 30))
    assert emulator.texts_billed.total() == len(rows)


async def test_texts_that_are_too_long(way: Way) -> None:
    """The error for a text with too many tokens has its index in all texts as well."""
    texts = [*TEXTS[:40], "word " * 9000]
    with pytest.raises(InputValueError, match=r"texts\[40\] is \d+ tokens long"):
        await rows_of(way, make(way, Emulator(), tokenizer="qwen"), texts, look_ahead=10)


async def test_texts_that_are_shortened(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    """Shortened texts are logged, as with `embed`."""
    client = make(way, Emulator(), on_too_long="truncate")
    rows = await rows_of(way, client, [*TEXTS[:10], "word " * 9000])

    assert len(rows) == 11
    assert "1 texts were too long, and were truncated or split" in caplog.text


async def test_texts_that_break_off(way: Way) -> None:
    """An exception of the iterable is raised after the rows of the texts before it."""

    def texts() -> Iterator[str]:
        yield from TEXTS[:45]
        raise ZeroDivisionError

    rows: list[int] = []
    with pytest.raises(ZeroDivisionError):
        await walk(way, make(way, Emulator()), texts(), lambda index, _: rows.append(index), look_ahead=30)

    assert rows == list(range(45))


async def test_beyond_float32(way: Way) -> None:
    """A number beyond float32 is retried as malformed, and is an error if it recurs."""

    def edit(body: dict[str, Any]) -> dict[str, Any]:
        body["data"][3]["embedding"][5] = 1e39
        return body

    emulator = Emulator()
    emulator.script(Fault(edit=edit))
    client = make(way, emulator)
    assert await rows_of(way, client, TEXTS[:10]) == list(enumerate(expected(TEXTS[:10])))
    assert emulator.request_count == 2

    client = make(way, emulator, max_retries=0)
    for call in (rows_of(way, client, TEXTS[:10]), array_of(client, TEXTS[:10])):
        emulator.script(Fault(edit=edit))
        with pytest.raises(ResponseFormatError, match="beyond float32"):
            await call


async def test_foreign_exceptions(way: Way) -> None:
    """An exception of the user's HTTP client is raised unchanged."""

    def service(_: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    config = EmbeddingConfig(api_key=KEY)
    transport = httpx.MockTransport(service)
    client: Client = AsyncEmbeddingClient(config, http_client=httpx.AsyncClient(transport=transport))
    if way == "with":
        client = EmbeddingClient(config, http_client=httpx.Client(transport=transport))
    with pytest.raises(ZeroDivisionError):
        await rows_of(way, client, TEXTS)


@pytest.mark.parametrize("overlap", [False, True])
def test_deadline(overlap: bool) -> None:
    """total_timeout limits each block, not all of them together."""

    async def main() -> list[int]:
        def make(texts: list[str], first: int) -> Job:
            return Job(texts, "document", harness.new_call(packed=True), first=first)

        blocks = Blocks(make, 6, in_order=True, overlap=False)
        rows = AsyncEmbeddingIterator(TEXTS[:20], blocks, Job.run)
        if not overlap:
            return [index async for index, _ in rows]
        async with rows:
            return [index async for index, _ in rows]

    settings: dict[str, Any] = {"total_timeout": 4.5, "batch_size": 1, "max_concurrency": 2}
    harness = Harness(service=lambda _: After(1.0), **settings)
    assert harness.run(main) == list(range(20))
    assert harness.now() == 10.0

    harness = Harness(*[None] * 6, service=lambda _: HANG, **settings)
    with pytest.raises(EmbeddingBatchError) as caught:
        harness.run(main)
    assert {type(error) for error in caught.value.failures.values()} == {DeadlineError}
    assert harness.now() == 4.5


async def test_rate_limiter(way: Way) -> None:
    """A rate limiter is called before each request."""
    asked = []

    async def admit(tokens: int) -> None:
        asked.append(tokens)

    options: Any = {"admit": asked.append if way == "with" else admit}
    await rows_of(way, make(way, Emulator()), TEXTS, look_ahead=30, **options)

    assert len(asked) == 10


async def test_usage(way: Way) -> None:
    """The client sums the usage of all blocks."""
    client = make(way, Emulator())
    await rows_of(way, client, ["Laura is a DJ."] * 2, look_ahead=1)

    assert client.usage == Usage(2, 8, 2, 0, 0.000001)


class MemoryCache:
    """A cache in memory; a broken one can't be read."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.broken = False

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Look up."""
        if self.broken:
            raise OSError
        return [self.kept.get(key) for key in keys]

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """Store."""
        self.kept.update(entries)

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Look up."""
        return self.get_many(keys)

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Store."""
        self.set_many(entries)


async def test_cache(way: Way) -> None:
    """Embeddings completed before an early end are not requested again."""
    emulator, cache = Emulator(), MemoryCache()
    with pytest.raises(IndexError):
        await walk(way, make(way, emulator, cache), TEXTS, lambda index, _: [][index], look_ahead=30)
    kept = len(cache.kept)
    assert kept >= 10
    assert await rows_of(way, make(way, emulator, cache), TEXTS) == list(enumerate(expected(TEXTS)))
    assert emulator.texts_billed.total() - len(TEXTS) <= 20
    assert (await array_of(make(way, emulator, cache), TEXTS)).tolist() == [
        r.tolist() for r in expected(TEXTS)
    ]
    assert len(cache.kept) == len(TEXTS)

    cache.broken = True
    with pytest.raises(Exception, match="the cache can't be read"):
        await rows_of(way, make(way, emulator, cache), TEXTS)


async def test_context_variables() -> None:
    """Requests see the context variables of the code that iterates."""
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    seen = set()
    emulator = Emulator()

    def handler(request: httpx.Request) -> httpx.Response:
        seen.add(tenant.get())
        return emulator.transport().handle_request(request)

    http = httpx.Client(transport=httpx.MockTransport(handler))
    tenant.set("somebody")
    list(EmbeddingClient(EmbeddingConfig(api_key=KEY, dimensions=64), http_client=http).embed_iter(TEXTS))

    assert seen == {"somebody"}


@pytest.mark.parametrize("way", ["async with", "async for"])
async def test_cancelled(way: Way) -> None:
    """Cancelling ends the requests, starts no others and propagates; the client stays usable."""
    emulator = Emulator(latency=30)
    client = make(way, emulator, max_concurrency=2)
    await cancel(way, client, TEXTS, emulator, 2)
    assert emulator.request_count == 2
    emulator._latency = 0.0
    assert len(await rows_of(way, client, TEXTS)) == 100


@pytest.mark.parametrize(("way", "begun"), [("async with", 80), ("async for", 100)])
async def test_log_of_what_is_lost(way: Way, begun: int, caplog: pytest.LogCaptureFixture) -> None:
    """Cancelling logs how many embedded texts were not yielded; leaving early logs nothing."""
    emulator = Emulator()
    client: Any = make(way, emulator, max_concurrency=1)
    async with client.embed_iter(TEXTS) as rows:
        await anext(rows)
    assert not caplog.records

    emulator = Emulator()
    emulator.script(None, None, *[Fault(hang=True)] * 9)
    client = make(way, emulator, max_concurrency=1, batch_size=10)
    await cancel(way, client, TEXTS, emulator, 3)
    [message] = caplog.messages
    assert message.startswith(f"interrupted: 20 of {begun} texts were embedded and are lost. Set cache= (")


@pytest.mark.parametrize("way", ["with", "async with"])
async def test_left_early_logs_nothing(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    """An error of the caller's, and the end of a generator around a stream, are no interrupts."""
    client: Any = make(way, Emulator())

    async def rows() -> AsyncGenerator[int]:
        if way == "with":
            with client.embed_iter(TEXTS) as rows:
                for index, _ in rows:
                    yield index
        else:
            async with client.embed_iter(TEXTS) as async_rows:
                async for index, _ in async_rows:
                    yield index

    async with aclosing(rows()) as generator:
        assert await anext(generator) == 0

    def fail(*_: object) -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        await walk(way, client, TEXTS, fail)
    assert not caplog.records


@pytest.mark.parametrize("way", ["async with", "async for"], indirect=True)
async def test_several_tasks(way: Way) -> None:
    """Each row is returned to one of the tasks that await rows, and none waits forever."""
    client: Any = make(way, Emulator(latency=0.01))
    rows = client.embed_iter(TEXTS, look_ahead=30)
    found: list[int] = []

    async def read() -> None:
        found.append((await anext(rows))[0])

    with anyio.fail_after(20):
        async with rows if way == "async with" else nullcontext(), anyio.create_task_group() as group:
            for _ in TEXTS:
                group.start_soon(read)
    assert sorted(found) == list(range(len(TEXTS)))


def in_flight(client: Any) -> int:
    """Return how many requests of a client are in flight."""
    [session] = client._engine._sessions.values()
    found: int = session.queue.in_flight
    return found


async def until_in_flight(client: Any, number: int) -> None:
    """Wait until so many requests are in flight."""
    with anyio.fail_after(20):
        while in_flight(client) != number:  # noqa: ASYNC110 (it has no event to await)
            await anyio.sleep(0.01)


@pytest.mark.filterwarnings("ignore:Async generator '.*rows':ResourceWarning")
async def test_generator_that_is_dropped() -> None:
    """Dropping a generator around a stream ends its requests, and cancels nothing else."""
    emulator = Emulator()
    emulator.script(None, *[Fault(hang=True)] * 2)
    client: Any = make("async with", emulator)

    async def rows() -> AsyncGenerator[int]:
        async with client.embed_iter(TEXTS, in_order=False, look_ahead=30) as rows:
            async for index, _ in rows:
                yield index

    async for _ in rows():
        await until_in_flight(client, 2)
        break
    gc.collect()
    await until_in_flight(client, 0)  # once the event loop has closed the generator
    emulator._script.clear()
    assert len((await client.embed(TEXTS)).embeddings) == 100


async def test_exception_that_is_no_error(way: Way) -> None:
    """An exception that does not derive from ``Exception``, as of ``pytest.fail`` in a mock, is raised."""

    class Failed(BaseException):
        pass

    calls = count()

    def admit(_: int) -> None:
        if next(calls) == 3:
            raise Failed

    async def admit_async(tokens: int) -> None:
        admit(tokens)

    client: Any = make(way, Emulator())
    options = {"look_ahead": 30, "admit": admit if way == "with" else admit_async}
    with pytest.raises(BaseException) as caught:  # noqa: PT011 (maybe in a group)
        await rows_of(way, client, TEXTS, **options)
    assert [type(error) for error in getattr(caught.value, "exceptions", [caught.value])] == [Failed]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_task_that_never_began() -> None:
    """The end does not wait for a task that other code cancelled before it began."""
    others, tasks = asyncio.all_tasks(), Tasks()
    tasks.start(anyio.sleep_forever)
    for task in asyncio.all_tasks() - others:
        task.cancel()
    with anyio.fail_after(20):
        await tasks.end()


def test_end_in_another_event_loop() -> None:
    """The end does not wait for tasks of another event loop, which may no longer run."""
    tasks, first, second = Tasks(), asyncio.new_event_loop(), asyncio.new_event_loop()

    async def begin() -> None:
        tasks.start(anyio.sleep_forever)
        await asyncio.sleep(0)

    first.run_until_complete(begin())
    second.run_until_complete(asyncio.wait_for(tasks.end(), 20))
    first.run_until_complete(asyncio.wait_for(tasks.end(), 20))
    assert not asyncio.all_tasks(first)
    first.close()
    second.close()


async def test_log_of_what_is_in_the_cache(caplog: pytest.LogCaptureFixture) -> None:
    """With a cache, cancelling a stream logs how many texts it has; repeated texts count."""
    caplog.set_level(logging.INFO)
    emulator = Emulator()
    emulator.script(None, *[Fault(hang=True)] * 9)
    client = make("async for", emulator, MemoryCache(), max_concurrency=1)
    await cancel("async for", client, TEXTS[:20] * 2, emulator, 2)
    assert "interrupted: 20 of 40 texts were embedded and are in the cache" in caplog.messages


async def test_a_row_that_is_waited_for_in_vain() -> None:
    """In an ``async with`` block, cancellation ends only the wait; the row is yielded later."""
    emulator = Emulator(latency=0.2)
    client: Any = make("async with", emulator)
    async with client.embed_iter(TEXTS) as rows:
        with anyio.move_on_after(0.05) as scope:
            await anext(rows)
        assert scope.cancelled_caught
        assert [index async for index, _ in rows] == list(range(100))
    assert emulator.request_count == 10
    assert [row async for row in rows] == []


async def test_a_block_that_is_cancelled() -> None:
    """Without ``async with``, a cancelled wait ends the iteration."""
    client: Any = make("async for", Emulator(latency=30))
    rows = client.embed_iter(TEXTS)
    with anyio.move_on_after(0.05):
        await anext(rows)

    assert [row async for row in rows] == []


async def test_exceptions_pass_through() -> None:
    """An exception in an ``async with`` block is raised unchanged, even with requests in flight."""
    client: Any = make("async with", Emulator(latency=0.05))

    async def work() -> None:
        async with client.embed_iter(TEXTS, look_ahead=30) as rows:
            await anext(rows)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await work()


async def test_left_with_requests_in_flight() -> None:
    """Leaving an ``async with`` block cancels requests in flight instead of waiting for them."""
    emulator = Emulator()
    emulator.script(None, *[Fault(hang=True)] * 99)  # one block gets a response, whichever is first
    client: Any = make("async with", emulator)
    with anyio.fail_after(20):
        async with client.embed_iter(TEXTS, in_order=False, look_ahead=30) as rows:
            await anext(rows)
            await until_in_flight(client, 2)
    assert not in_flight(client)


async def test_aclosing() -> None:
    """After ``aclose``, no further row is returned, and no request is in flight, also in ``async with``."""
    emulator = Emulator()
    client: Any = make("async for", emulator)
    async with aclosing(client.embed_iter(TEXTS, look_ahead=30)) as rows:
        assert (await anext(rows))[0] == 0
    assert [row async for row in rows] == []
    assert emulator.request_count == 3

    emulator.script(None, *[Fault(hang=True)] * 9)
    with anyio.fail_after(20):
        async with client.embed_iter(TEXTS, look_ahead=30, in_order=False) as rows:
            await anext(rows)
            await until_in_flight(client, 2)
            await rows.aclose()
            assert not in_flight(client)
            assert [row async for row in rows] == []


async def test_requests_go_on_while_a_caller_blocks() -> None:
    """In an ``async with`` block, requests continue between rows even if the caller never awaits anything."""
    emulator = Emulator()
    client: Any = make("async with", emulator)
    async with client.embed_iter(map("text {}".format, count()), look_ahead=900) as rows:
        async for index, _ in rows:
            if index == 299:
                break
        assert emulator.request_count > 60  # two blocks of 300 texts, and some of the third


async def test_nothing_begins_after_a_failure() -> None:
    """A block whose texts are read while another one fails is not sent."""
    emulator = Emulator()
    emulator.script(Fault(status=401))
    client: Any = make("async with", emulator)

    async def texts() -> AsyncGenerator[str, None]:
        for at in range(10):
            yield TEXTS[at]
        while not client.usage.requests:  # noqa: ASYNC110 (it has no event to await)
            await anyio.sleep(0.01)
        for at in range(10, 30):
            await anyio.sleep(0.01)
            yield TEXTS[at]

    async with aclosing(texts()) as source, client.embed_iter(source, look_ahead=30) as rows:
        with pytest.raises(AuthenticationError):
            await anext(rows)
    assert emulator.request_count == 1


async def test_ended_by_an_error(way: Way) -> None:
    """After an error, the iteration has ended."""
    emulator = Emulator()
    emulator.script(Fault(status=401))
    client: Any = make(way, emulator)
    rows = client.embed_iter(TEXTS[:10])
    with pytest.raises(AuthenticationError):
        await (anyio.to_thread.run_sync(next, rows) if way == "with" else anext(rows))

    assert (list(rows) if way == "with" else [row async for row in rows]) == []


@pytest.mark.parametrize("waits_for", ["row", "text"])
async def test_left_while_another_task_waits(waits_for: str) -> None:
    """Leaving an ``async with`` block ends the iteration of another task, which begins no block after it."""
    emulator = Emulator(latency=30)
    client: Any = make("async with", emulator)
    is_left, is_waiting = anyio.Event(), anyio.Event()

    async def texts() -> AsyncGenerator[str, None]:
        for text in TEXTS:
            yield text
            if waits_for == "text":
                is_waiting.set()
                await is_left.wait()

    seen: list[list[int]] = []

    async def read(rows: Any) -> None:
        seen.append([index async for index, _ in rows])

    async with anyio.create_task_group() as group, aclosing(texts()) as source:
        async with client.embed_iter(source, look_ahead=30) as rows:
            group.start_soon(read, rows)
            while not is_waiting.is_set() and emulator.request_count < 2:  # noqa: ASYNC110 (one of two events)
                await anyio.sleep(0.01)
        sent = emulator.request_count
        is_left.set()
        with anyio.move_on_after(30):
            while not seen:  # noqa: ASYNC110 (a wait with a limit)
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()

    assert seen == [[]]
    assert emulator.request_count == sent == (2 if waits_for == "row" else 0)


async def test_left_unused(way: Way) -> None:
    """An unused iterator reads and sends nothing."""
    emulator = Emulator()
    texts = iter(TEXTS)
    client = make(way, emulator)
    if isinstance(client, EmbeddingClient):
        with client.embed_iter(texts):
            pass
    else:
        async with client.embed_iter(texts):
            pass
    client.embed_iter(texts)

    assert len(list(texts)) == 100
    assert emulator.request_count == 0


def break_out(client: EmbeddingClient) -> None:
    for _ in client.embed_iter(map("text {}".format, count()), in_order=False, look_ahead=30):
        break


def fail(client: EmbeddingClient) -> None:
    def work() -> None:
        for index, _ in client.embed_iter(map("text {}".format, count()), in_order=False, look_ahead=30):
            raise KeyError(index)

    with pytest.raises(KeyError):
        work()


def drop(client: EmbeddingClient) -> None:
    rows: Any = client.embed_iter(map("text {}".format, count()), in_order=False, look_ahead=30)
    next(rows)
    cycle = [rows]
    cycle.append(cycle)
    del rows, cycle
    gc.collect()


def close(client: EmbeddingClient) -> None:
    rows = client.embed_iter(map("text {}".format, count()), in_order=False, look_ahead=30)
    next(rows)
    rows.close()
    rows.close()
    assert list(rows) == []


def leave(client: EmbeddingClient) -> Any:
    with client.embed_iter(map("text {}".format, count()), in_order=False, look_ahead=30) as rows:
        next(rows)
    return rows


@pytest.mark.parametrize("how", [break_out, fail, drop, close, leave], ids=lambda how: how.__name__)
def test_ended_early(how: Callable[[EmbeddingClient], Any]) -> None:
    """However the iteration ends, requests are cancelled, no more are sent, and no thread is left."""
    emulator = Emulator()
    emulator.script(None, *[Fault(hang=True)] * 99)  # one block gets a response, whichever is first
    before = threads()
    with serve(emulator) as url:
        config = EmbeddingConfig(api_key=KEY, base_url=url, dimensions=64, timeout=300)
        served = threads()
        with EmbeddingClient(config) as client:
            kept = how(client)  # otherwise leaving could not be told from dropping
            assert threads() <= served
            [session] = client._engine._sessions.values()
            assert not session.queue.in_flight
            assert not session.queue._starting.locked()
            sent = client.usage.requests  # not the server's count: some may still be arriving
            time.sleep(0.05)
            assert client.usage.requests == sent <= 3
            del kept
    assert emulator.request_count <= sent
    assert threads() <= before


@pytest.mark.parametrize("moment", ["waiting", "starting"])
def test_interrupted(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt ends the iteration and cancels all requests, even of a block that has just started."""
    client = make("with", Emulator(latency=0.2))
    assert isinstance(client, EmbeddingClient)
    start = BackgroundCall.start

    def interrupted(*args: Any) -> None:
        if moment == "starting":
            start(args[0])
        raise KeyboardInterrupt

    if moment == "starting":
        monkeypatch.setattr(BackgroundCall, "start", interrupted)
    else:
        monkeypatch.setattr("qwen_aiml._engine.stream.wait_for", interrupted)
    rows = client.embed_iter(TEXTS)
    with pytest.raises(KeyboardInterrupt):
        next(rows)
    monkeypatch.undo()

    assert list(rows) == []


def test_interrupted_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interrupt while it is being closed, an iterator can be closed again."""
    emulator = Emulator()
    emulator.script(*[Fault(hang=True)] * 99)
    client = make("with", emulator)
    assert isinstance(client, EmbeddingClient)
    rows = client.embed_iter(map("text {}".format, count()), look_ahead=30)
    rows._begin_blocks()
    begun = list(rows._running.values())

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(BackgroundCall, "cancel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows.close()
    rows.close()

    assert [running._has_ended for running in begun] == [True] * 2
    assert list(rows) == []


def test_continued_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a child process, a stream that its parent has started raises, then ends; it never hangs."""
    client = make("with", Emulator(latency=0.2))
    assert isinstance(client, EmbeddingClient)
    rows = client.embed_iter(TEXTS)
    rows._begin_blocks()
    begun = list(rows._running.values())
    with monkeypatch.context() as child:
        child.setattr(runner._background, "parents", [begun[0]._loop])
        with pytest.raises(ConfigurationError, match="started before a fork"):
            next(rows)
        assert list(rows) == []

    for running in begun:
        running.cancel()
        running.join()


def test_no_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """If sync calls are impossible, the first `next` raises."""

    def refuse() -> None:
        raise ConfigurationError("no sockets")

    rows = EmbeddingClient(EmbeddingConfig(api_key=KEY)).embed_iter(TEXTS)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "background_loop", refuse)
        with pytest.raises(ConfigurationError, match="no sockets"):
            next(rows)
    assert next(rows, None) is None


def test_closed_by_another_thread() -> None:
    """Closing in another thread ends the iteration of the thread that waits for a row."""
    emulator = Emulator(latency=0.3)
    client = make("with", emulator)
    assert isinstance(client, EmbeddingClient)
    rows = client.embed_iter(TEXTS)
    timer = threading.Timer(0.1, rows.close)
    timer.start()
    assert list(rows) == []
    timer.join()


def test_an_iterator_that_nobody_closes() -> None:
    """An iterator that is never closed does not keep the program from ending."""
    program = """
        from itertools import count
        from qwen_aiml import EmbeddingClient, EmbeddingConfig
        client = EmbeddingClient(EmbeddingConfig(dimensions=64))
        rows = client.embed_iter(map(str, count()), look_ahead=30)
        print(next(rows)[0])
    """
    with serve(Emulator()) as url:
        environment = {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "AIMLAPI_API_KEY": KEY,
            "AIMLAPI_BASE_URL": url,
        }
        done = subprocess.run(  # noqa: S603 (our own program)
            [sys.executable, "-c", textwrap.dedent(program)],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environment},
        )

    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("texts", [TEXTS, ["same"] * 20])
async def test_array(way: Way, texts: list[str]) -> None:
    """`embed_array` returns one float32 array with a row per text; identical texts are sent once."""
    emulator = Emulator()
    result = await array_of(make(way, emulator), iter(texts))

    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert result.tolist() == [row.tolist() for row in expected(texts)]
    assert emulator.texts_billed.total() == len(set(texts))


async def test_options_of_an_array(way: Way) -> None:
    """Role, custom rate limiter and progress apply to `embed_array` as to `embed`."""
    emulator, admitted, reports = Emulator(), list[int](), list[Progress]()

    async def admit(tokens: int) -> None:
        admitted.append(tokens)

    client = make(way, emulator, query_instruction="Find")
    limiter = admitted.append if isinstance(client, EmbeddingClient) else admit
    await array_of(client, ["q"], role="query", admit=limiter, progress=reports.append)

    assert [request.texts for request in emulator.requests] == [("Instruct: Find\nQuery:q",)]
    assert len(admitted) == 1
    assert reports[-1].done == 1


@pytest.mark.parametrize(("dimensions", "model", "shape"), [(64, "text-embedding-v4", 64), (None, "new", 0)])
async def test_empty_array(way: Way, dimensions: int | None, model: str, shape: int) -> None:
    """Without texts the array has no rows, and as many columns as are known."""
    client = make(way, Emulator(), dimensions=dimensions, model=model)

    assert (await array_of(client, [])).shape == (0, shape)


async def test_array_in_part(way: Way) -> None:
    """The error of a partial failure carries the completed embeddings, packed."""
    emulator = Emulator(refuses=lambda text: text.endswith(" 3"))
    with pytest.raises(EmbeddingBatchError) as caught:
        await array_of(make(way, emulator), TEXTS[:10], role="query")

    rows: list[Any] = expected(TEXTS[:10])
    assert caught.value.embeddings == [*rows[:3], None, *rows[4:]]
    assert list(caught.value.failures) == [3]


async def test_array_without_numpy(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NumPy, `embed_array` raises before anything is sent."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    emulator = Emulator()
    with pytest.raises(ConfigurationError, match=r"numpy: pip install \"qwen-aiml\[numpy\]\""):
        await array_of(make(way, emulator), TEXTS)

    assert emulator.request_count == 0


FLAT = """
    import resource, sys
    import anyio, httpx, orjson
    from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient, EmbeddingConfig

    way, number, dimensions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

    def most():
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit

    def answer(request):
        texts = orjson.loads(request.content)["input"]
        return httpx.Response(200, content=orjson.dumps({"data": [{"embedding": written} for _ in texts]}))

    async def answer_too(request):
        return answer(request)

    written = orjson.Fragment(orjson.dumps([1 / 3] * dimensions))
    config = EmbeddingConfig(api_key="k", model="unknown", dimensions=dimensions)
    texts = (f"text {at}" for at in range(number))
    before, seen = most(), 0
    if way == "with":
        with httpx.Client(transport=httpx.MockTransport(answer)) as http:
            for _ in EmbeddingClient(config, http_client=http).embed_iter(texts):
                seen += 1
    else:
        async def main():
            global seen
            async with httpx.AsyncClient(transport=httpx.MockTransport(answer_too)) as http:
                async with AsyncEmbeddingClient(config, http_client=http).embed_iter(texts) as rows:
                    async for _ in rows:
                        seen += 1
        anyio.run(main)
    print(seen, most() - before)
"""


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="it does not tell how much memory a process had")
@pytest.mark.parametrize(
    ("way", "number", "dimensions", "most"),
    [
        pytest.param("with", 100_000, 64, 50, marks=pytest.mark.long),
        ("with", 10_000, 1024, 110),
        ("async with", 10_000, 1024, 110),
    ],
)
def test_flat_memory(way: Way, number: int, dimensions: int, most: int) -> None:
    """However many texts there are, only those of the look-ahead are in memory."""
    done = subprocess.run(  # noqa: S603 (our own program)
        [sys.executable, "-c", textwrap.dedent(FLAT), way, str(number), str(dimensions)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    seen, megabytes = map(int, done.stdout.split())

    assert seen == number
    assert megabytes < most


@pytest.mark.anyio
async def test_interrupted_while_awaited() -> None:
    """After an interrupt has ended an iteration, the interrupted block is not awaited."""

    async def interrupt(_: Job) -> None:
        raise KeyboardInterrupt

    def make(texts: list[str], first: int) -> Job:
        return Job(texts, "document", Harness().new_call(packed=True), first=first)

    rows = AsyncEmbeddingIterator(TEXTS, Blocks(make, 6, in_order=True, overlap=False), interrupt)
    with pytest.raises(KeyboardInterrupt):
        await anext(rows)
    with anyio.fail_after(5), pytest.raises(StopAsyncIteration):
        await anext(rows)
