"""A service by script, and virtual time: what the tests of the engine run on."""

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

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from qwen_aiml._keys import Secret
    from qwen_aiml._protocol.response import Rows
    from qwen_aiml._transport.base import Post

_Result = TypeVar("_Result")

DATE = datetime(2026, 11, 22, tzinfo=timezone.utc)


class After(Struct):
    """An outcome that takes some seconds; with a shield it comes although it was cancelled."""

    seconds: float
    outcome: Outcome = None
    shield: bool = False


# None is a valid response; a function is given the texts of the request.
Outcome: TypeAlias = Response | Exception | After | Callable[[list[str]], "Outcome"] | None

HANG = After(float("inf"))


def status(code: int, message: str = "no", **headers: str) -> Response:
    """Make an error response; header names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(code, named, orjson.dumps({"message": message}))


def vector(text: str) -> list[float]:
    """Return the embedding of a text, which float32 holds exactly."""
    return [float(zlib.crc32(text.encode()) % 2**20), 1.0]


def accepted(texts: Sequence[str], dimensions: int = 2) -> Response:
    """Make a valid response."""
    data = [
        {"index": at, "embedding": (vector(text) * dimensions)[:dimensions]} for at, text in enumerate(texts)
    ]
    usage = {"total_tokens": len(texts)}
    return Response(200, {}, orjson.dumps({"data": data, "usage": usage, "model": "m", "id": texts[0]}))


class FakeTransport:
    """
    Returns what a script says, then what *service* says.

    Attributes:
        sent: The texts of each request.

        times: When each was posted, in virtual seconds.
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
        """Post."""
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
            # Of each request its own, since it is written to.
            return Response(outcome.status, outcome.headers, outcome.body)
        if outcome is None:
            return accepted(texts)
        return await self._respond(outcome(texts), texts)


class FakeLimiter:
    """
    Lets every request start, but for pauses.

    Attributes:
        window: How many requests may be in flight.

        most: Its ceiling.

        paused_until: When the next may start.

        reports: What became of requests.
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        self.rows = config.rows
        self.window = self.most = config.concurrency
        self.paused_until = 0.0
        self.reports: list[tuple[Any, ...]] = []

    def expected_tokens(self, size: int) -> float:
        """Estimate."""
        return size / 3

    def take(self, now: float, tokens: float) -> Start | float:
        """Start, or return the seconds to wait."""
        return self.paused_until - now if now < self.paused_until else Start(now, tokens, 1.0)

    def accepted(self, start: Start, now: float, size: int, tokens: int | None) -> None:
        """Count a response."""
        del start, now, size
        self.reports.append(("accepted", tokens))

    def lost(self, start: Start) -> None:
        """Count a request that tells nothing."""
        del start
        self.reports.append(("lost",))

    def refused(self, start: Start, now: float, advised: float | None, jitter: float) -> None:
        """Pause, as is advised."""
        del start
        self.paused_until = now + (advised or 0.0) * (1 + jitter)
        self.reports.append(("refused", advised, jitter))


class Harness:
    """
    One call, and what it runs on; virtual time begins at 0.

    Args:
        script: What becomes of the first requests.

        service: What becomes of those after them.

        backend: The event loop; with ``asyncio`` time is real.

        limiter: Makes another limiter from the settings.

        options: For `Call`.

        settings: For `EmbeddingConfig`.
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
        """When each request was posted."""
        return self.transport.times

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight or waits to start."""
        return not (self.queue.in_flight or self.queue._starting.statistics().locked)

    def new_call(self, **options: Any) -> Call:
        """Make another call that shares the queue; its deadline counts from now."""
        call = Call(self.config, Clock(self.now, lambda: DATE, lambda: 1.0), self.limiter, **options)
        call.begin(self.queue, self.transport.post)
        return call

    def run(self, function: Callable[..., Awaitable[_Result]], *arguments: Any) -> _Result:
        """Run a coroutine function in an event loop; in the end nothing may be in flight or waiting."""

        async def main() -> _Result:
            return await function(*arguments)

        try:
            if self._backend == "trio":
                return trio.run(main, clock=self.clock)  # anyio 4.7 leaves out the clock
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
        """Make a cache of two coroutine functions."""
        return CacheAccess(load, store, "n", self.call.seconds_left)

    def job(
        self, texts: Any, role: Any = "document", cache: CacheAccess | None = None, first: int = 0
    ) -> Job:
        """Make a job of the call, and run it to its end."""
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
