"""The event loop in the background that synchronous calls run on: real threads, and processes of its own."""

from __future__ import annotations

import contextvars
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Queue, SimpleQueue
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
import sniffio

from qwen_aiml import ConfigurationError
from qwen_aiml._engine import runner
from qwen_aiml._engine.runner import Running, wait_for
from qwen_aiml._utils.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LONG = 30.0  # seconds; no test waits so long


def outcome(function: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine function and return what it returns."""
    found: list[Any] = []

    async def main() -> None:
        found.append(await function())

    Running(main).run()
    return found[0]


async def ident() -> int:
    await anyio.lowlevel.checkpoint()
    return threading.get_ident()


async def fail() -> None:
    await anyio.lowlevel.checkpoint()
    raise ZeroDivisionError


def test_one_loop() -> None:
    """Calls of any number of threads run side by side in one other thread."""
    both = threading.Barrier(8)

    async def meet() -> int:
        await in_thread(partial(both.wait, LONG))
        return await ident()

    with ThreadPoolExecutor(8) as pool:
        idents = {found.result() for found in [pool.submit(outcome, meet) for _ in range(8)]}

    assert len(idents) == 1
    assert threading.get_ident() not in idents


@pytest.mark.anyio
async def test_inside_a_running_loop() -> None:
    """A synchronous call works inside a running event loop of asyncio, or of Trio, and runs on asyncio."""

    async def library() -> str:
        await anyio.sleep(0.001)
        return sniffio.current_async_library()

    assert outcome(library) == "asyncio"


def test_context_variables() -> None:
    """The coroutine sees the caller's context variables, and leaves them as they are."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("caller's")

    async def main() -> str:
        seen = variable.get()
        variable.set("its own")
        return f"{seen} {await in_thread(variable.get)}"

    assert outcome(main) == "caller's its own"
    assert variable.get() == "caller's"


def test_without_sniffio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing has imported sniffio there is nothing to forget."""
    monkeypatch.delitem(sys.modules, "sniffio")
    assert outcome(ident) != threading.get_ident()


def test_exception() -> None:
    """An exception comes out as it is, with the traceback of where it was raised."""
    with pytest.raises(ZeroDivisionError) as caught:
        Running(fail).run()

    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "fail"
    assert "run" in names


def test_call() -> None:
    """Functions are called in the thread that waits, in order, and may make synchronous calls themselves."""
    called: list[Any] = []

    async def main() -> None:
        for at in range(3):
            running.call(partial(called.append, at))
            await anyio.lowlevel.checkpoint()
        running.call(lambda: called.append((threading.get_ident(), outcome(ident))))

    running = Running(main)
    running.run()

    assert called[:3] == [0, 1, 2]
    assert called[3][0] == threading.get_ident() != called[3][1]


def test_call_that_raises() -> None:
    """What a function raises in the thread that waits cancels the coroutine, and is raised after its end."""
    ended: list[bool] = []

    async def main() -> None:
        running.call(lambda: 1 // 0)
        try:
            await anyio.sleep(LONG)
        finally:
            ended.append(True)

    running = Running(main)
    with pytest.raises(ZeroDivisionError):
        running.run()
    assert ended == [True]


def test_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coroutine that is cancelled ends after what it does then; `on_end` is called once it has."""
    monkeypatch.setattr(runner, "SIGNAL_SECONDS", 0.001)
    began, ended = threading.Event(), Queue[str]()

    async def main() -> None:
        began.set()
        try:
            await anyio.sleep(LONG)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            ended.put("coroutine")

    running = Running(main, partial(ended.put, "told"))
    running.cancel()  # nothing yet
    running.start()
    assert began.wait(LONG)
    running.join(0.0)
    assert ended.empty()
    running.cancel()
    running.join()

    assert (ended.get(), ended.get()) == ("coroutine", "told")
    assert running.error is None


def test_cancelled_before_it_begins() -> None:
    """What is cancelled before the event loop comes to it does not get beyond its first wait."""
    got = []

    async def main() -> None:
        await anyio.lowlevel.checkpoint()
        got.append("beyond")

    running = Running(main)
    blocked = threading.Event()
    blocker = Running(partial(hold, blocked))
    blocker.start()
    running.start()
    running.cancel()
    blocked.set()
    running.join()
    blocker.join()

    assert got == []


async def hold(until: threading.Event) -> None:
    """Hold up the event loop."""
    assert until.wait(LONG)


def test_join_in_the_loops_own_thread() -> None:
    """An iterator that is dropped there does not wait for itself."""

    async def main() -> None:
        running.join()

    running = Running(main)
    running.run()
    assert running.error is None


def test_wait_for() -> None:
    """A wait of longer than the look for signals goes on."""
    inbox: SimpleQueue[int] = SimpleQueue()
    timer = threading.Timer(0.05, partial(inbox.put, 7))
    timer.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "SIGNAL_SECONDS", 0.01)
        assert wait_for(inbox) == 7
    timer.join()


def test_call_in_the_loops_own_thread() -> None:
    """A synchronous call there would wait for itself, and is rejected."""

    async def main() -> None:
        Running(ident).run()

    with pytest.raises(ConfigurationError, match="in the thread that runs synchronous calls"):
        Running(main).run()


@pytest.fixture
def no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the event loop, as in a process that has made no synchronous call."""
    monkeypatch.setattr(runner, "_background", runner._Background())


@pytest.mark.usefixtures("no_loop")
def test_blocked_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no socket can be made the error says what to do."""

    def blocked(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(socket, "socketpair", blocked)
    with pytest.raises(ConfigurationError, match=r"can't be created \(PermissionError\).*--allow-unix"):
        Running(ident).run()


@pytest.fixture
def no_thread(no_loop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no thread, as when the interpreter shuts down."""
    del no_loop

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.usefixtures("no_thread")
def test_no_thread() -> None:
    """Where no thread can be started, all of it runs here."""
    called: list[int] = []

    async def main() -> None:
        running.call(lambda: called.append(threading.get_ident()))
        called.append(await in_thread(threading.get_ident))
        called.append((await anyio.getaddrinfo("127.0.0.1", 80))[0][4][1])
        await anyio.sleep(0.001)

    running = Running(main)
    running.run()
    running.cancel()
    running.join()
    assert called == [threading.get_ident(), threading.get_ident(), 80]
    with pytest.raises(ZeroDivisionError):
        Running(fail).run()
    with pytest.raises(ZeroDivisionError):
        Running(partial(in_thread, lambda: 1 // 0)).run()


@pytest.mark.usefixtures("no_thread")
def test_no_thread_in_a_running_loop() -> None:
    """Inside a running event loop it can't, and the error says why."""

    async def main() -> None:
        Running(ident).run()

    with pytest.raises(ConfigurationError, match="the interpreter is shutting down"):
        anyio.run(main)


@pytest.mark.anyio
async def test_in_thread() -> None:
    """A function that blocks runs in a thread; what it raises comes out, also a RuntimeError."""
    assert await in_thread(threading.get_ident) != threading.get_ident()

    def broken() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await in_thread(broken)


@pytest.mark.anyio
async def test_in_thread_cancelled() -> None:
    """A function that does not return is left alone when its caller is cancelled."""
    began, goes_on, ended = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        began.set()
        goes_on.wait(LONG)
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(in_thread, block)
        while not began.is_set():  # noqa: ASYNC110 (set in another thread)
            await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    goes_on.set()
    assert ended.wait(LONG)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="only there can a thread be interrupted")
@pytest.mark.usefixtures("interruptible")
def test_interrupt() -> None:
    """Ctrl-C cancels the coroutine, waits for its end, and is raised."""
    ended = []

    async def main() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        try:
            await anyio.sleep(LONG)
        finally:
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        Running(main).run()
    assert ended == [True]


def test_interrupt_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt in the moment of the start is raised at once, and nothing runs."""
    running = Running(fail)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "copy_context", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.run()
    monkeypatch.undo()
    outcome(ident)  # there is an event loop now
    loop = runner._background.loop
    assert loop is not None
    monkeypatch.setattr(loop, "call_soon_threadsafe", Once(loop.call_soon_threadsafe))
    with pytest.raises(KeyboardInterrupt):
        running.run()
    assert running.error is None


class Once:
    """An interrupt in the place of the first call of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._is_first = True

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call it."""
        if self._is_first:
            self._is_first = False
            raise KeyboardInterrupt
        return self._function(*arguments, **options)


PROGRAM = """
    import anyio, os, threading
    from qwen_aiml._engine import runner
    from qwen_aiml._engine.runner import Running
    from qwen_aiml._utils.threads import in_thread

    async def work():
        await anyio.sleep(0.001)
        found = await anyio.getaddrinfo("localhost", 80)
        said = await in_thread(lambda: "done")
        print(said, bool(found), flush=True)

    def call():
        Running(work).run()
"""

EARLIER = "    call()\n"

ENDINGS = {
    "atexit": """
    import atexit
    atexit.register(call)
    """,
    "a thread that outlives the main thread": """
    def outlive():
        threading.main_thread().join()
        call()
    threading.Thread(target=outlive).start()
    """,
    "dropped by the interpreter": """
    class Dropped:
        def __init__(self):
            self.running = Running(anyio.sleep_forever)
            self.running.start()

        def __del__(self):
            self.running.cancel()
            self.running.join()
    dropped = Dropped()
    call()
    """,
    "a daemon left behind": """
    Running(anyio.sleep_forever).start()
    call()
    """,
}


def said(program: str) -> list[str]:
    """Run a program, and return the lines that it printed; it may print no error."""
    done = subprocess.run(  # noqa: S603 (our own program)
        [sys.executable, "-c", textwrap.dedent(program)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_end_of_the_program(ending: str, earlier: bool) -> None:
    """A call works as the interpreter ends, whether or not there was one before, and holds up no end."""
    program = PROGRAM + (EARLIER if earlier else "") + ENDINGS[ending]
    assert said(program) == ["done True"] * (2 if earlier else 1)


def test_fork_of_a_process_without_a_loop() -> None:
    """A child whose parent made no synchronous call has nothing to leave alone; else it keeps the loop."""
    background = runner._Background()
    background.after_fork()
    assert not background.parents

    outcome(ident)
    background.loop = loop = runner._background.loop
    background.after_fork()
    assert (background.loop, background.parents) == (None, [loop])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork() -> None:
    """A child process makes an event loop of its own, and the parent's goes on."""
    program = (
        PROGRAM
        + """
    import sys, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    call()
    parents = runner._background.loop
    child = os.fork()
    result = os.waitpid(child, 0)[1] if child else 0
    call()
    assert (runner._background.loop is parents) == bool(child)
    if not child:
        os._exit(0)
    sys.exit(result)
    """
    )
    assert said(program) == ["done True"] * 3


def test_what_a_parent_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork nothing waits for what the parent runs, or cancels it; a call that is continued fails."""
    begun = threading.Event()

    async def function() -> None:
        begun.set()
        await anyio.sleep(LONG)

    running = Running(function)
    running.start()
    running.check_process()
    assert begun.wait(LONG)
    with monkeypatch.context() as child:
        child.setattr(runner._background, "parents", [running._loop])
        running.cancel()
        running.join()
        with pytest.raises(ConfigurationError, match=r"begun before a fork.*Begin another call"):
            running.check_process()
        assert not running._has_ended

    running.cancel()
    running.join(LONG)
    assert running._has_ended


@pytest.mark.once
def test_interrupts_at_each_moment() -> None:
    """An interrupt, wherever in a call it comes, leaves the event loop usable for the next call."""
    program = (
        PROGRAM
        + """
    import sys

    FILES = ("queue.py", "threading.py", "runner.py")

    async def short():
        await anyio.sleep(0.001)

    async def long():
        await anyio.sleep(0.2)

    def interrupted(at, function):
        moments = 0

        def trace(frame, event, arg):
            nonlocal moments
            # Python looks for signals as a function begins, and after calls, not at each line.
            if event != "line" and frame.f_code.co_filename.endswith(FILES):
                moments += 1
                if moments == at:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            Running(function).run()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    call()
    for function in (short, long):
        at = 1
        while at < 300 and interrupted(at, function):
            Running(short).run()
            at += 1
        print(1 < at < 300)
    """
    )
    assert said(program) == ["done True", "True", "True"]
