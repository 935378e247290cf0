"""Connections that are awaited: waiting on asyncio and Trio for what connections wait for."""

from __future__ import annotations

import asyncio
from contextlib import closing
from functools import partial
from socket import SOCK_STREAM
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ._event_loops import current_loop
from ._lines import Connection
from ._waits import LookUp

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ._lines import Target
    from ._steps import Outcome, Send
    from ._waits import Ready

_Result = TypeVar("_Result")


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
        return await awaited(self._connection.post(step, limit), self._now)

    async def aclose(self) -> None:
        """Close it, without a word to the other side."""
        self._connection.close()


async def awaited(waits: Generator[Ready | LookUp, Any, _Result], now: Callable[[], float]) -> _Result:
    """
    Take a generator to its end, on asyncio or Trio.

    Args:
        waits: Yields what to await.

        now: Reads the clock that it goes by.
    """
    ready = _ready_on_asyncio if isinstance(current_loop(), asyncio.AbstractEventLoop) else _ready
    outcome: Any = None
    with closing(waits):
        while True:
            try:
                wait = waits.throw(outcome) if isinstance(outcome, OSError) else waits.send(outcome)
            except StopIteration as end:
                result: _Result = end.value
                return result
            seconds = wait.until - now()
            outcome = await (_addresses(wait, seconds) if isinstance(wait, LookUp) else ready(wait, seconds))


async def _addresses(wait: LookUp, seconds: float) -> Any:
    with anyio.move_on_after(seconds):
        try:
            return await anyio.getaddrinfo(wait.host, wait.port, type=SOCK_STREAM)
        except OSError as error:
            return error
    return TimeoutError()


async def _ready(wait: Ready, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        await (anyio.wait_writable if wait.to_write else anyio.wait_readable)(wait.socket)
        return True
    return False


async def _ready_on_asyncio(wait: Ready, seconds: float) -> bool:
    # As `_ready`, for half of what that costs.
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[bool] = loop.create_future()

    def tell(*, came: bool) -> None:
        if not outcome.done():
            outcome.set_result(came)

    add, remove = loop.add_reader, loop.remove_reader
    if wait.to_write:
        add, remove = loop.add_writer, loop.remove_writer
    # Its number, since selectors put into words, each time, that a socket is not registered yet.
    handle = wait.socket.fileno()
    try:
        add(handle, partial(tell, came=True))
    except NotImplementedError:  # pragma: no cover (asyncio's usual loop on Windows)
        return await _ready(wait, seconds)
    timer = loop.call_later(seconds, partial(tell, came=False))
    try:
        return await outcome
    finally:
        timer.cancel()
        remove(handle)
