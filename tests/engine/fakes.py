"""Test doubles for the engine: scripted transport, limiter, cache, and a harness on virtual time."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio
import orjson
import trio
from msgspec import Struct
from trio.testing import MockClock

from qwen_aiml import EmbeddingConfig
from qwen_aiml._cache.access import CacheAccess
from qwen_aiml._engine.job import Job
from qwen_aiml._engine.limiter import Start
from qwen_aiml._engine.queue import Queue
from qwen_aiml._engine.request import Call, Clock, embed_texts
from qwen_aiml._protocol.response import Response
from qwen_aiml._results import Limits

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from qwen_aiml._keys import Secret
    from qwen_aiml._protocol.response import Rows
    from qwen_aiml._transport.base import Post

_Result = TypeVar("_Result")

DATE = datetime(2026, 11, 22, tzinfo=timezone.utc)


class After(Struct):
    """An outcome after some seconds; with a shield it arrives despite cancellation."""

    seconds: float
    outcome: Outcome = None
    shield: bool = False


# None means a valid response; a function gets the texts of the request and returns an outcome.
Outcome: TypeAlias = Response | Exception | After | Callable[[list[str]], "Outcome"] | None

HANG = After(float("inf"))


def status(code: int, message: str = "no", **headers: str) -> Response:
    """Create an error response; header names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(code, named, orjson.dumps({"message": message}))


def vector(text: str) -> list[float]:
    """Return the embedding of a text, exact in float32."""
    return [float(zlib.crc32(text.encode()) % 2**20), 1.0]


def accepted(texts: Sequence[str], dimensions: int = 2) -> Response:
    """Create a valid response."""
    data = [
        {"index": at, "embedding": (vector(text) * dimensions)[:dimensions]} for at, text in enumerate(texts)
    ]
    usage = {"total_tokens": len(texts)}
    return Response(200, {}, orjson.dumps({"data": data, "usage": usage, "model": "m", "id": texts[0]}))


class FakeTransport:
    """
    Returns the outcomes of a script, then those of *service*.

    Attributes:
        sent: The texts of each request.

        times: The time at which each was posted, in virtual seconds.
    """

    def __init__(
        self,
        script: Sequence[Outcome],
        service: Callable[[list[str]], Outcome],
        now: Callable[[], float],
        secret: Secret,
    ) -> None:
        self._secret = secret
        self._script = deque(script)
        self._service = service
        self._now = now
        self.posts: list[Post] = []
        self.sent: list[list[str]] = []
        self.times: list[float] = []
        self.most = self._in_flight = 0

    async def post(self, request: Post) -> Response:
        """Record a request, and return or raise its outcome."""
        request.secret = self._secret
        texts = orjson.loads(request.body)["input"]
        self.posts.append(request)
        self.sent.append(texts)
        self.times.append(round(self._now(), 6))
        self._in_flight += 1
        self.most = max(self.most, self._in_flight)
        try:
            return await self._respond(self._script.popleft() if self._script else self._service, texts)
        finally:
            self._in_flight -= 1

    async def _respond(self, outcome: Outcome, texts: list[str]) -> Response:
        if isinstance(outcome, After):
            with anyio.CancelScope(shield=outcome.shield):
                await anyio.sleep(outcome.seconds)
            return await self._respond(outcome.outcome, texts)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, Response):
            # A copy for each request, since responses are modified.
            return Response(outcome.status, outcome.headers, outcome.body)
        if outcome is None:
            return accepted(texts)
        return await self._respond(outcome(texts), texts)


class FakeLimiter:
    """
    Lets every request start, except during pauses.

    Attributes:
        window: Maximum number of requests in flight.

        most: Ceiling of the window.

        paused_until: Time from which the next request may start.

        reports: Outcomes of requests.

        limits: The estimates that users see.
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        self.limits = Limits(None, 1, 10)
        self.rows = config.rows
        self.window = self.most = config.concurrency
        self.paused_until = 0.0
        self.reports: list[tuple[Any, ...]] = []

    def expected_tokens(self, size: int) -> float:
        """Estimate the tokens of a request."""
        return size / 3

    def take(self, now: float, tokens: float, queue: object) -> Start | float:
        """Start, or return the seconds to wait."""
        del queue
        return self.paused_until - now if now < self.paused_until else Start(now, tokens, 1.0)

    def accepted(self, start: Start, now: float, size: int, tokens: int | None) -> None:
        """Record an accepted request."""
        del start, now, size
        self.reports.append(("accepted", tokens))

    def lost(self, start: Start) -> None:
        """Record a request whose outcome says nothing about limits."""
        del start
        self.reports.append(("lost",))

    def refused(self, start: Start, now: float, advised: float | None, jitter: float) -> None:
        """Pause for the advised time."""
        del start
        self.paused_until = now + (advised or 0.0) * (1 + jitter)
        self.reports.append(("refused", advised, jitter))


class Harness:
    """
    One call with its clock, queue, limiter and transport; virtual time starts at 0.

    Args:
        script: Outcomes of the first requests.

        service: Returns the outcomes of later requests.

        backend: The event loop; with ``asyncio`` time is real.

        limiter: Creates the limiter from the settings.

        options: Options of `Call`.

        settings: Settings of `EmbeddingConfig`.
    """

    def __init__(
        self,
        *script: Outcome,
        service: Callable[[list[str]], Outcome] = accepted,
        backend: str = "trio",
        limiter: Callable[[EmbeddingConfig], Any] = FakeLimiter,
        options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.clock = MockClock(autojump_threshold=0)
        self.now = self.clock.current_time if backend == "trio" else time.monotonic
        self._backend = backend
        self.config = EmbeddingConfig(
            **{"api_key": "sk-test-0123456789abcdef", "model": "unknown", **settings}
        )
        self.limiter = limiter(self.config)
        self.transport = FakeTransport(script, service, self.now, self.config.secret)
        self.queue = Queue(self.limiter, self.now)
        self.call = self.new_call(**options or {})

    @property
    def sent(self) -> list[list[str]]:
        """The texts of each request."""
        return self.transport.sent

    @property
    def times(self) -> list[float]:
        """The time at which each request was posted."""
        return self.transport.times

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight or waits to start."""
        return not (self.queue.in_flight or self.queue._starting.statistics().locked)

    def new_call(self, **options: Any) -> Call:
        """Create another call that shares the queue; its deadline counts from now."""
        call = Call(self.config, Clock(self.now, lambda: DATE, lambda: 1.0), self.limiter, **options)
        call.begin(self.queue, self.transport.post)
        return call

    def run(self, function: Callable[..., Awaitable[_Result]], *arguments: Any) -> _Result:
        """Run a coroutine function in an event loop; afterwards nothing may be in flight or waiting."""

        async def main() -> _Result:
            return await function(*arguments)

        try:
            if self._backend == "trio":
                return trio.run(main, clock=self.clock)  # anyio 4.7 ignores the clock
            return anyio.run(main)
        finally:
            assert self.is_idle

    async def attempt(self, text: str = "text", call: Call | None = None, retries: int | None = None) -> Rows:
        """Embed one text."""
        most = self.config.max_retries if retries is None else retries
        return await embed_texts([text], call or self.call, retries=most)

    def embed(self, text: str = "text") -> Rows:
        """Embed one text, in an event loop."""
        return self.run(self.attempt, text)

    def cache(self, load: Any, store: Any) -> CacheAccess:
        """Create a cache from two coroutine functions."""
        return CacheAccess(load, store, "n", self.call.seconds_left)

    def job(
        self, texts: Any, role: Any = "document", cache: CacheAccess | None = None, first: int = 0
    ) -> Job:
        """Create a job of the call, and run it."""
        job = Job(texts, role, self.call, cache, first=first)
        self.run(job.run)
        return job


class FakeStore:
    """
    A cache in memory.

    Attributes:
        kept: Entries by key.

        before_load: Awaited before each look-up.

        before_store: Awaited before each write.
    """

    def __init__(self, before_load: Any = None, before_store: Any = None) -> None:
        self.kept: dict[str, bytes] = {}
        self.before_load = before_load
        self.before_store = before_store
        self.times: list[float] = []

    async def load(self, keys: Sequence[str]) -> list[bytes | None]:
        """Look up."""
        if self.before_load is not None:
            await self.before_load()
        return [self.kept.get(key) for key in keys]

    async def store(self, entries: dict[str, bytes]) -> None:
        """Store."""
        self.times.append(anyio.current_time())
        if self.before_store is not None:
            await self.before_store()
        self.kept.update(entries)
