"""The loop that synchronous calls run in: real sockets and threads, no requests."""

from __future__ import annotations

import contextvars
import math
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml._engine.runner import Loop
from qwen_aiml._waits import AnyWait, Called, LookUp, Pause, Ready, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qwen_aiml._engine.runner import Task

LATER = 30.0  # seconds; no test waits so long
BROKEN = RuntimeError("broken")


def new_loop(threads: int = 4) -> Loop:
    return Loop(time.monotonic, threads)


def soon() -> float:
    return time.monotonic() + 0.05


def later() -> float:
    return time.monotonic() + LATER


class Told:
    """What tasks were told, in the order in which that happened."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, Any]] = []

    def task(self, name: str, *waits: Callable[[], AnyWait]) -> Task:
        """Wait for one thing after the other."""
        try:
            for wait in waits:
                self.outcomes.append((name, (yield wait())))
        except Exception as error:  # noqa: BLE001
            self.outcomes.append((name, error))
        finally:
            self.outcomes.append((name, "ended"))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two sockets that are connected with each other."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@contextmanager
def meanwhile(*steps: Callable[[], object]) -> Iterator[None]:
    """Take steps in another thread, each after a while."""

    def take() -> None:
        for step in steps:
            time.sleep(0.05)
            step()

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield
    finally:
        thread.join(LATER)


def handles() -> int:
    """Count what is open, where the system tells."""
    return len(list(Path("/proc/self/fd").glob("*")))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Expect that no thread and no handle is left."""
    threads, before = set(threading.enumerate()), handles()
    yield
    assert set(threading.enumerate()) <= threads
    assert handles() <= before


def nobody(_: Callable[[], None]) -> None:
    """Never call."""


def test_sockets(told: Told, pair: tuple[socket.socket, socket.socket]) -> None:
    """A socket is waited for until it can be read or written, while others are waited for."""
    ours, theirs = pair
    reads = told.task("reads", lambda: Ready(ours, to_write=False, until=later()))
    writes = told.task("writes", lambda: Ready(theirs, to_write=True, until=later()))
    with meanwhile(lambda: theirs.send(b"x")):
        new_loop().run([reads, writes])

    assert told.outcomes == [("writes", True), ("writes", "ended"), ("reads", True), ("reads", "ended")]


def test_time_is_up(told: Told, pair: tuple[socket.socket, socket.socket]) -> None:
    """Whatever is waited for in vain ends in time, the soonest first."""
    tasks = [
        told.task("called", lambda: Called(nobody, soon() + 0.2)),
        told.task("socket", lambda: Ready(pair[0], to_write=False, until=soon() + 0.1)),
        told.task("pause", lambda: Pause(soon())),
    ]
    new_loop().run(tasks)

    assert [each for each in told.outcomes if each[1] != "ended"] == [
        ("pause", False),
        ("socket", False),
        ("called", False),
    ]


def test_called_at_once(told: Told) -> None:
    """Who calls before the wait has begun is heard."""
    new_loop().run([told.task("a", lambda: Called(lambda call: call(), math.inf))])
    assert told.outcomes[0] == ("a", None)


def test_called_from_another_thread(told: Told) -> None:
    """Who calls from another thread wakes the loop, once or many times."""
    calls: list[Callable[[], None]] = []
    task = told.task("a", lambda: Called(calls.append, math.inf), lambda: Pause(soon()))
    with meanwhile(lambda: [call() for call in calls * 10]):
        new_loop().run([task])
    assert told.outcomes == [("a", None), ("a", False), ("a", "ended")]


def test_functions_side_by_side(told: Told) -> None:
    """Functions that block run in threads, at the same time, and see the caller's context variables."""
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("set")
    both = threading.Barrier(2)

    def function() -> str:
        both.wait(LATER)
        return variable.get()

    new_loop(2).run([told.task(name, lambda: Run(function)) for name in "ab"])
    assert sorted(each for each in told.outcomes if each[1] != "ended") == [("a", "set"), ("b", "set")]


def test_one_function_alone(told: Told) -> None:
    """With nothing else to do no thread is begun."""
    new_loop().run([told.task("a", lambda: Run(threading.get_ident))])
    assert told.outcomes[0] == ("a", threading.get_ident())


@pytest.mark.parametrize("tasks", [1, 2])
def test_function_that_raises(tasks: int, told: Told) -> None:
    """What a function raises is raised in its task."""

    def function() -> None:
        raise BROKEN

    new_loop().run([told.task("a", lambda: Run(function)) for _ in range(tasks)])
    assert told.outcomes == [("a", BROKEN), ("a", "ended")] * tasks


def test_look_up(told: Told) -> None:
    """A host is looked up by the system."""
    new_loop().run([told.task("a", lambda: LookUp("127.0.0.1", 80, math.inf))])
    assert told.outcomes[0][1][0][4] == ("127.0.0.1", 80)


def test_broken_off_in_time(told: Told) -> None:
    """A function that can be broken off is, when its time is up, also with nothing else to do."""
    over = threading.Event()
    new_loop().run([told.task("a", lambda: Run(lambda: over.wait(LATER), over.set, soon()))])
    assert told.outcomes[0] == ("a", True)


def test_set(told: Told, pair: tuple[socket.socket, socket.socket]) -> None:
    """The flag ends pauses, those under way and those to come, and nothing else."""
    loop = new_loop()
    tasks = [
        told.task("pause", lambda: Pause(later()), lambda: Pause(later())),
        told.task("socket", lambda: Ready(pair[0], to_write=False, until=later())),
    ]
    with meanwhile(loop.set, lambda: told.outcomes.append(("now", "sent")), lambda: pair[1].send(b"x")):
        loop.run(tasks)

    assert loop.is_set()
    assert told.outcomes == [
        ("pause", False),
        ("pause", False),
        ("pause", "ended"),
        ("now", "sent"),
        ("socket", True),
        ("socket", "ended"),
    ]


def test_set_by_a_task(told: Told) -> None:
    """It may be set in the loop itself."""
    loop = new_loop()

    def sets() -> Task:
        yield Pause(soon())
        loop.set()

    loop.run([told.task("a", lambda: Pause(later())), sets()])
    assert told.outcomes == [("a", False), ("a", "ended")]


def test_interrupt(
    told: Told, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt ends whatever can be ended, also what is to come, and waits for the rest."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(0.2))
    loop = new_loop(8)
    over = threading.Event()
    until = later()
    tasks = [
        told.task("pause", lambda: Pause(until)),
        told.task("called", lambda: Called(nobody, until)),
        told.task("socket", lambda: Ready(pair[0], to_write=False, until=until)),
        told.task("run", lambda: Run(lambda: over.wait(LATER), over.set), lambda: Pause(until)),
        told.task("stored", lambda: Run(lambda: time.sleep(0.2))),
        told.task("looked up", lambda: LookUp("service.example", 443, until)),
    ]
    with meanwhile(loop.interrupt):
        loop.run(tasks)

    outcomes = dict(each for each in told.outcomes if each[1] != "ended")
    assert isinstance(outcomes.pop("socket"), ConnectionAbortedError)
    assert outcomes == {"pause": False, "called": False, "run": False, "stored": None, "looked up": None}
    assert time.monotonic() < until


def test_interrupted_before(told: Told, pair: tuple[socket.socket, socket.socket]) -> None:
    """A loop that was interrupted waits for nothing."""
    loop = new_loop()
    loop.interrupt()
    loop.run([told.task("a", lambda: Ready(pair[0], to_write=False, until=later()))])
    assert isinstance(told.outcomes[0][1], ConnectionAbortedError)


def test_task_that_raises(told: Told, pair: tuple[socket.socket, socket.socket]) -> None:
    """What a task raises ends the others, whatever they wait for, and is raised; the loop can run again."""
    loop = new_loop()
    over = threading.Event()

    def raises() -> Task:
        yield Pause(soon())
        raise BROKEN

    tasks = [
        told.task("socket", lambda: Ready(pair[0], to_write=False, until=later())),
        told.task("run", lambda: Run(lambda: over.wait(LATER), over.set)),
        raises(),
    ]
    with pytest.raises(RuntimeError, match="broken"):
        loop.run(tasks)
    assert sorted(told.outcomes) == [("run", "ended"), ("socket", "ended")]

    loop.run([told.task("again", lambda: Pause(soon()))])
    assert told.outcomes[2:] == [("again", False), ("again", "ended")]


def test_told_after_the_end(told: Told) -> None:
    """What comes when nobody waits any more is let go."""
    loop = new_loop()
    calls: list[Callable[[], None]] = []
    loop.run([told.task("a", lambda: Called(calls.append, soon()))])
    calls[0]()
    loop.run([told.task("b", lambda: Pause(soon()))])
    assert told.outcomes == [("a", False), ("a", "ended"), ("b", False), ("b", "ended")]


def test_nothing_to_do() -> None:
    """No tasks, no time."""
    new_loop().run([])
