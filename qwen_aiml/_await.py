"""Connections that are awaited: waiting on asyncio and Trio for what connections wait for."""

from __future__ import annotations

import asyncio
from contextlib import closing
from contextvars import Context
from socket import SOCK_STREAM
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from msgspec import Struct

from ._event_loops import current_loop
from ._lines import Connection
from ._waits import LookUp, Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import TypeGuard

    from ._lines import Target
    from ._steps import Outcome, Send

Waits: TypeAlias = "Generator[Ready | LookUp, Any, Outcome]"


class _End(Struct, frozen=True, eq=False):
    """What a generator has returned."""

    outcome: Outcome


class AsyncConnection:
    """
    A connection that is awaited, on asyncio or Trio.

    Args:
        target: Where it goes.
    """

    through_httpx = False

    def __init__(self, target: Target) -> None:
        self._now = target.now
        self._connection = Connection(target)
        loop = current_loop()
        # asyncio's usual loop on Windows can't tell of sockets; anyio has a thread that does.
        tells = isinstance(loop, asyncio.AbstractEventLoop) and _tells_of_sockets(loop)
        self._reader = _Reader(loop, target.now) if tells else None

    @property
    def is_reusable(self) -> bool:
        """Whether it can carry another request, by what was said on it."""
        return self._connection.is_reusable

    @property
    def is_open(self) -> bool:
        """Whether it still stands."""
        return self._connection.is_open

    async def post(self, step: Send, limit: float) -> Outcome:
        """Post, with at most *limit* seconds of silence, until the deadline at the latest."""
        with closing(self._connection.post(step, limit)) as waits:
            wait = _go_on(waits, None)
            while not isinstance(wait, _End):
                if self._reader is not None and _is_to_read(wait):
                    wait = await self._reader.read(waits, wait)
                else:
                    wait = _go_on(waits, await _outcome(wait, wait.until - self._now()))
            return wait.outcome

    async def aclose(self) -> None:
        """Close it, without a word to the other side."""
        if self._reader is not None:
            self._reader.end()
        self._connection.close()


class _Reader:
    """
    Takes a connection on as its socket can be read, when asyncio tells so.

    asyncio is asked to tell once, not for each answer, and the same timer serves all: to ask, and to make a
    timer, would take as long as all else that is done for a request. It is let go of by `end`.

    Args:
        loop: The event loop.

        now: Reads the clock that waits go by.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float]) -> None:
        self._loop = loop
        self._now = now
        self._handle: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._reading: tuple[Waits, asyncio.Future[Ready | LookUp | _End]] | None = None
        self._until = 0.0

    async def read(self, waits: Waits, wait: Ready) -> Ready | LookUp | _End:
        """Go on from one wait to read to another kind of wait, or to the end."""
        outcome: asyncio.Future[Ready | LookUp | _End] = self._loop.create_future()
        self._reading = waits, outcome
        self._watch(wait)
        try:
            return await outcome
        finally:
            self._reading = None

    def end(self) -> None:
        """Have asyncio tell nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stop_watching()

    def _watch(self, wait: Ready) -> None:
        self._until = wait.until
        if self._handle is None:
            # In a context of its own, lest what is in the first caller's live as long as the connection.
            self._handle = wait.socket.fileno()
            Context().run(self._loop.add_reader, self._handle, self._on_readable)
        if self._timer is None or wait.until < self._rings_at:
            self._set_timer()

    def _stop_watching(self) -> None:
        if self._handle is not None:
            self._loop.remove_reader(self._handle)
            self._handle = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = self._until
        self._timer = Context().run(self._loop.call_later, self._until - self._now(), self._on_time)

    def _on_readable(self) -> None:
        if not self._take_on(came=True):
            # Nobody reads: most likely the other side has closed it. It would be told again and again.
            self._stop_watching()

    def _on_time(self) -> None:
        self._timer = None
        if self._reading is not None and self._until > self._now():
            self._set_timer()
        else:
            self._take_on(came=False)

    def _take_on(self, *, came: bool) -> bool:
        """Take the connection on, if somebody waits for that."""
        if self._reading is None or self._reading[1].done():
            return False
        waits, outcome = self._reading
        try:
            wait = _go_on(waits, came)
        except BaseException as error:  # noqa: BLE001 (raised where it is awaited)
            outcome.set_exception(error)
            return True
        if _is_to_read(wait):
            self._watch(wait)
        else:
            outcome.set_result(wait)
        return True


def _go_on(waits: Waits, came: Any) -> Ready | LookUp | _End:
    try:
        return waits.throw(came) if isinstance(came, OSError) else waits.send(came)
    except StopIteration as end:
        return _End(end.value)


def _is_to_read(wait: Ready | LookUp | _End) -> TypeGuard[Ready]:
    return isinstance(wait, Ready) and not wait.to_write


def _tells_of_sockets(loop: asyncio.AbstractEventLoop) -> bool:
    return type(loop).add_reader is not asyncio.AbstractEventLoop.add_reader


async def _outcome(wait: Ready | LookUp, seconds: float) -> Any:
    with anyio.move_on_after(seconds):
        if isinstance(wait, LookUp):
            try:
                return await anyio.getaddrinfo(wait.host, wait.port, type=SOCK_STREAM)
            except OSError as error:
                return error
        await (anyio.wait_writable if wait.to_write else anyio.wait_readable)(wait.socket)
        return True
    return TimeoutError() if isinstance(wait, LookUp) else False
