"""Connections that are awaited on asyncio: what it is asked for, how often, and that it is let go of."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml import EmbeddingConfig, _await
from qwen_aiml._await import AsyncConnection
from qwen_aiml._lines import Connection, Target
from qwen_aiml._steps import Fault, Send
from qwen_aiml._wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
STEP = Send(b"{}", None, 1_000_000)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.timers: list[asyncio.TimerHandle] = []

    def add_reader(self, *args: Any) -> Any:  # type: ignore[override]
        """Note it."""
        self.asked.append("add")
        return super().add_reader(*args)

    def remove_reader(self, *args: Any) -> Any:
        """Note it."""
        self.asked.append("remove")
        return super().remove_reader(*args)

    def call_later(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        """Note it."""
        self.timers.append(super().call_later(*args, **options))
        return self.timers[-1]


class Line:
    """A connection between two sockets that are there already, and what its event loop was asked for."""

    def __init__(self, loop: Loop) -> None:
        config = EmbeddingConfig(api_key="sk-test-0123456789", base_url="http://127.0.0.1")
        self.loop = loop
        self.ours = AsyncConnection(Target(config, time.monotonic))
        self.ours._connection._socket, self.theirs = socket.socketpair()
        self.ours._connection._socket.settimeout(0.0)
        self.theirs.settimeout(5.0)

    async def post(self, *answer: bytes, limit: float = 5.0) -> Any:
        """Post, and have the parts of an answer come, each a moment after the one before."""
        posting = asyncio.ensure_future(self.ours.post(STEP, limit))
        for part in answer:
            await asyncio.sleep(0.02)
            self.theirs.send(part)
        return await posting


def run(test: Callable[[Line], Awaitable[None]]) -> Line:
    """Run a test with a line in a loop of its own, for ten seconds at the most, and close both."""

    async def main() -> Line:
        line = Line(loop)
        await asyncio.wait_for(test(line), 10)
        await line.ours.aclose()
        line.theirs.close()
        return line

    loop = Loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def test_asked_once() -> None:
    """However many answers come, in however many parts, asyncio is asked once, and has one timer."""

    async def test(line: Line) -> None:
        for parts in ((OK,), (OK[:10], OK[10:]), (OK,)):
            assert isinstance(await line.post(*parts), Answer)
        line.loop.timers = [timer for timer in line.loop.timers if "_on_time" in repr(timer)]
        assert line.loop.asked.count("add") == len(line.loop.timers) == 1
        assert "remove" not in line.loop.asked
        assert not line.loop.timers[0].cancelled()

    line = run(test)

    assert line.loop.asked == ["add", "remove"]
    assert line.loop.timers[0].cancelled()


def test_closed_while_nobody_reads() -> None:
    """A connection that the other side closes between two requests is told of once."""

    async def test(line: Line) -> None:
        await line.post(OK)
        line.theirs.close()
        await asyncio.sleep(0.05)
        assert line.loop.asked == ["add", "remove"]
        assert not line.ours.is_open

    assert run(test).loop.asked == ["add", "remove"]


def test_cancelled() -> None:
    """What comes after a request was cancelled is nobody's."""

    async def test(line: Line) -> None:
        posting = asyncio.ensure_future(line.ours.post(STEP, 5.0))
        await asyncio.sleep(0.02)
        # At once, so that asyncio tells of the answer before the task has ended.
        line.theirs.send(OK)
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        await asyncio.sleep(0.02)
        assert not line.ours.is_reusable

    assert run(test).loop.asked == ["add", "remove"]


def test_shorter_silence() -> None:
    """A request that may wait less long than the one before does not wait for that one's timer."""

    async def test(line: Line) -> None:
        await line.post(OK, limit=3600.0)
        assert await line.post(limit=0.05) == Fault("timeout", "silence for 0.05 s")

    run(test)


def test_longer_silence() -> None:
    """A request that may wait longer than the one before is not ended by that one's timer."""

    async def test(line: Line) -> None:
        await line.post(OK, limit=0.1)
        assert isinstance(await line.post(*(bytes([byte]) for byte in OK[:10]), OK[10:]), Answer)

    run(test)


def test_timer_of_a_connection_that_is_kept() -> None:
    """A timer that rings while nobody reads is not set again."""

    async def test(line: Line) -> None:
        await line.post(OK, limit=0.05)
        await asyncio.sleep(0.1)
        assert line.ours._reader is not None
        assert line.ours._reader._timer is None
        assert isinstance(await line.post(OK), Answer)

    run(test)


def test_large_request() -> None:
    """A request that goes out in parts is answered like any other."""

    async def test(line: Line) -> None:
        posting = asyncio.ensure_future(line.ours.post(Send(bytes(3_000_000), None, 1000), 5.0))
        came = 0
        line.theirs.settimeout(0.0)
        while came < 3_000_000:
            came += len(await line.loop.sock_recv(line.theirs, 100_000))
        line.theirs.send(OK)
        assert isinstance(await posting, Answer)

    run(test)


def test_what_breaks_while_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """What breaks is raised where the answer is awaited, not in asyncio."""

    def broken(_: object) -> Any:
        raise ZeroDivisionError

    async def test(line: Line) -> None:
        monkeypatch.setattr(Connection, "_receive", broken)
        with pytest.raises(ZeroDivisionError):
            await line.post(OK)

    run(test)


def test_event_loop_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where asyncio can't tell of sockets, as on Windows, anyio does."""

    async def test(line: Line) -> None:
        assert line.ours._reader is None
        for _ in range(2):
            assert isinstance(await line.post(OK[:10], OK[10:]), Answer)
        assert await line.post(limit=0.05) == Fault("timeout", "silence for 0.05 s")

    assert not _await._tells_of_sockets(asyncio.AbstractEventLoop())  # type: ignore[abstract]
    monkeypatch.setattr(_await, "_tells_of_sockets", lambda _: False)
    run(test)
