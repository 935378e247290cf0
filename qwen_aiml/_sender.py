"""Keeping connections and posting over them, in both colours; what is sent is decided elsewhere."""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from . import _anyio as anyio
from ._errors import ConfigurationError
from ._route import has_proxy, is_watched
from ._transport.override import meant
from ._steps import LATE
from ._engine.queue import Turns

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ._config import EmbeddingConfig
    from ._engine.request import Clock
    from ._lines import Target
    from ._engine.pace import Pace
    from ._steps import Outcome, Send
    from ._waits import AnyWait


class _Kept(Protocol):
    """What a connection of either colour tells of itself."""

    @property
    def through_httpx(self) -> bool:
        """Whether it is one of httpx."""
        ...

    @property
    def is_reusable(self) -> bool:
        """Whether it can carry another request, by what was said on it."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether it still stands."""
        ...


class Line(_Kept, Protocol):
    """A connection for one request at a time; `Connection` and `HTTPXLine`."""

    def post(self, step: Send, limit: float) -> Generator[AnyWait, Any, Outcome]:
        """Post, with at most *limit* seconds of silence."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class AsyncLine(_Kept, Protocol):
    """The same, awaited; `AsyncConnection` and `AsyncHTTPXLine`."""

    async def post(self, step: Send, limit: float) -> Outcome:
        """Post, with at most *limit* seconds of silence."""
        ...

    async def aclose(self) -> None:
        """Close it."""
        ...


class _Idle:
    """Connections that are open and not in use; `generation` goes up when all are closed."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.generation = 0

    def close(self) -> None:
        """Close them, and those in use as soon as they come back."""
        self.generation += 1
        lines, self.lines = self.lines, []
        for line in lines:
            line.close()


class Sender:
    """
    The connections of one process, each for one request at a time.

    Args:
        config: The settings.

        clock: What deadlines are read from.

        pace: Tells how many requests may be in flight.

        given: The user's own ``httpx.Client``; None makes what is needed.

    Attributes:
        turns: The line in which requests wait.
    """

    def __init__(self, config: EmbeddingConfig, clock: Clock, pace: Pace, given: Any) -> None:
        self._config = config
        self._clock = clock
        self._given = given
        self._target: Target | None = None
        self._idle = _Idle()
        # Few people close an embeddings object; its sockets end with it all the same.
        self._end = weakref.finalize(self, self._idle.close)
        self._lock = threading.Lock()
        self.turns = Turns(lambda: pace.window)

    def send(self, step: Send) -> Generator[AnyWait, Any, Outcome]:
        """Post, until the deadline; a client of the user's is only looked after between reads."""
        limit = _silence(self._config, step, self._clock)
        config, given = meant(self._config, self._given, "Client")
        if given is not None:
            return (yield from _httpx_line(config, self._clock, given).post(step, limit))
        watched = is_watched()
        with self._lock:
            generation = self._idle.generation
        line = self._reused(watched=watched) or self._open(watched=watched)
        keep = False
        try:
            outcome = yield from line.post(step, limit)
            with self._lock:
                keep = generation == self._idle.generation and line.is_reusable
                if keep:
                    self._idle.lines.append(line)
        finally:
            if not keep:
                line.close()
        return outcome

    def close(self) -> None:
        """Close the connections, those in use as soon as they are free; the next request opens new ones."""
        with self._lock:
            self._idle.close()

    def abandon(self) -> None:
        """Leave the connections to the parent, in a forked process; their locks may be held for ever."""
        self._end.detach()

    def _reused(self, *, watched: bool) -> Line | None:
        while True:
            with self._lock:
                if not self._idle.lines:
                    return None
                line = self._idle.lines.pop()
            if line.is_open and (line.through_httpx or not watched):
                return line
            line.close()

    def _open(self, *, watched: bool) -> Line:
        with _readable_certificates():
            if watched or has_proxy(self._config):
                return _httpx_line(self._config, self._clock, None)
            with self._lock:
                # Threads that begin at once do not all read the certificates.
                self._target = self._target or _target(self._config, self._clock)
            return _connection(self._target)


class AsyncSender:
    """
    The connections of one event loop, each for one request at a time.

    Args:
        config: The settings.

        clock: What deadlines are read from.

        pace: Tells how many requests may be in flight.

        given: The user's own ``httpx.AsyncClient``; None makes what is needed.

    Attributes:
        turns: The line in which requests wait.
    """

    def __init__(self, config: EmbeddingConfig, clock: Clock, pace: Pace, given: Any) -> None:
        self._config = config
        self._clock = clock
        self._given = given
        self._target: Target | None = None
        self._idle: list[AsyncLine] = []
        self.closed = False
        self.turns = Turns(lambda: pace.window)

    async def send(self, step: Send) -> Outcome:
        """Post, until the deadline."""
        config, given = meant(self._config, self._given, "AsyncClient")
        if given is not None:
            return await self._post(_async_httpx_line(config, given), step)
        watched = is_watched()
        line = await self._reused(watched=watched) or self._open(watched=watched)
        keep = False
        try:
            outcome = await self._post(line, step)
            keep = not self.closed and line.is_reusable
        finally:
            if keep:
                self._idle.append(line)
            else:
                # Also when cancelled in the middle of a request.
                await _closed(line)
        return outcome

    async def aclose(self) -> None:
        """Close the connections, those in use as soon as they are free."""
        self.closed = True
        interruption: BaseException | None = None
        while self._idle:
            try:
                await self._idle.pop().aclose()
            except BaseException as error:  # noqa: BLE001 (raised below)
                # An event loop that ends cancels what it still runs, and would leave the other sockets open.
                interruption = error
        if interruption is not None:
            raise interruption

    async def _post(self, line: AsyncLine, step: Send) -> Outcome:
        limit = _silence(self._config, step, self._clock)
        if not line.through_httpx or step.deadline is None:
            return await line.post(step, limit)
        with anyio.move_on_after(step.deadline - self._clock.now()):
            return await line.post(step, limit)
        return LATE

    async def _reused(self, *, watched: bool) -> AsyncLine | None:
        while self._idle:
            line = self._idle.pop()
            if line.is_open and (line.through_httpx or not watched):
                return line
            await _closed(line)
        return None

    def _open(self, *, watched: bool) -> AsyncLine:
        with _readable_certificates():
            if watched or has_proxy(self._config):
                return _async_httpx_line(self._config, None)
            self._target = self._target or _target(self._config, self._clock)
            return _async_connection(self._target)


async def _closed(line: AsyncLine) -> None:
    with anyio.CancelScope(shield=True):
        await line.aclose()


def _silence(config: EmbeddingConfig, step: Send, clock: Clock) -> float:
    """Say how many seconds of silence a request allows."""
    if step.deadline is None:
        return config.silence
    return max(0.001, min(config.silence, step.deadline - clock.now()))


@contextmanager
def _readable_certificates() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = (
            f"SSL_CERT_FILE or SSL_CERT_DIR in the environment can't be used: {error}. What to do: let "
            "it name CA certificates (PEM), or unset it"
        )
        raise ConfigurationError(message) from None


# What connects is imported when it is needed: sockets, TLS and certificates take a third of the time that the
# whole package takes, httpx much longer than that.


def _target(config: EmbeddingConfig, clock: Clock) -> Target:
    from ._lines import Target  # noqa: PLC0415

    return Target(config, clock.now)


def _connection(target: Target) -> Line:
    from ._lines import Connection  # noqa: PLC0415

    return Connection(target)


def _async_connection(target: Target) -> AsyncLine:
    from ._await import AsyncConnection  # noqa: PLC0415

    return AsyncConnection(target)


def _httpx_line(config: EmbeddingConfig, clock: Clock, given: Any) -> Line:
    from ._through_httpx import HTTPXLine  # noqa: PLC0415

    return HTTPXLine(config, clock.now, given)


def _async_httpx_line(config: EmbeddingConfig, given: Any) -> AsyncLine:
    from ._through_httpx import AsyncHTTPXLine  # noqa: PLC0415

    return AsyncHTTPXLine(config, given)


def check_given(given: Any, kind: Literal["Client", "AsyncClient"]) -> None:
    """
    Refuse an HTTP client of the other colour or of another library; None is fine.

    Raises:
        ConfigurationError: If it can't be used.
    """
    if given is not None:
        from ._through_httpx import check_http  # noqa: PLC0415

        check_http(given, kind)
