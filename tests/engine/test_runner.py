"""The background event loop of sync calls: real threads and processes."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Queue, SimpleQueue
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
import sniffio

from qwen_aiml import ConfigurationError
from qwen_aiml._engine import runner
from qwen_aiml._engine.runner import BackgroundCall, wait_for
from qwen_aiml._utils.threads import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LONG = 30.0  # seconds; no test waits that long


def outcome(function: Callable[[], Awaitable[Any]]) -> Any:
    """Run a coroutine function and return its result."""
    found: list[Any] = []

    async def main() -> None:
        found.append(await function())

    BackgroundCall(main).run()
    return found[0]


async def ident() -> int:
    await anyio.lowlevel.checkpoint()
    return threading.get_ident()


async def fail() -> None:
    await anyio.lowlevel.checkpoint()
    raise ZeroDivisionError


def test_one_loop() -> None:
    """Calls from any number of threads run concurrently in one other thread."""
    both = threading.Barrier(8)

    async def meet() -> int:
        await run_in_thread(partial(both.wait, LONG))
        return await ident()

    with ThreadPoolExecutor(8) as pool:
        idents = {found.result() for found in [pool.submit(outcome, meet) for _ in range(8)]}

    assert len(idents) == 1
    assert threading.get_ident() not in idents


@pytest.mark.anyio
async def test_inside_a_running_loop() -> None:
    """A sync call works inside a running event loop of asyncio or Trio, and runs on asyncio."""

    async def library() -> str:
        await anyio.sleep(0.001)
        return sniffio.current_async_library()

    assert outcome(library) == "asyncio"


def test_context_variables() -> None:
    """The coroutine sees the caller's context variables, and does not change them."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("caller's")

    async def main() -> str:
        seen = variable.get()
        variable.set("its own")
        return f"{seen} {await run_in_thread(variable.get)}"

    assert outcome(main) == "caller's its own"
    assert variable.get() == "caller's"


def test_without_sniffio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call works if nothing has imported sniffio."""
    monkeypatch.delitem(sys.modules, "sniffio")
    assert outcome(ident) != threading.get_ident()


def test_exception() -> None:
    """An exception is raised unchanged, with its original traceback."""
    with pytest.raises(ZeroDivisionError) as caught:
        BackgroundCall(fail).run()

    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "fail"
    assert "run" in names


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, None])
def test_loop_that_is_ended(ending: type[BaseException] | None) -> None:
    """A task of a user's function that would end the event loop does not: the call continues."""

    async def end() -> None:
        if ending is not None:
            raise ending
        asyncio.get_running_loop().stop()

    async def main() -> int:
        task = asyncio.create_task(end())
        with suppress(BaseException):
            await task
        return await ident()

    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(outcome(main)), daemon=True)
    thread.start()
    thread.join(LONG)

    assert runner._background.loop is not None
    assert found == [runner._background.loop.thread.ident]


def test_call() -> None:
    """Functions are called in the waiting thread, in order, and may make sync calls themselves."""
    called: list[Any] = []

    async def main() -> None:
        for at in range(3):
            running.call(partial(called.append, at))
            await anyio.lowlevel.checkpoint()
        running.call(lambda: called.append((threading.get_ident(), outcome(ident))))

    running = BackgroundCall(main)
    running.run()

    assert called[:3] == [0, 1, 2]
    assert called[3][0] == threading.get_ident() != called[3][1]


def test_call_that_raises() -> None:
    """An exception of a function in the waiting thread cancels the coroutine, and is raised at its end."""
    ended: list[bool] = []

    async def main() -> None:
        running.call(lambda: 1 // 0)
        try:
            await anyio.sleep(LONG)
        finally:
            ended.append(True)

    running = BackgroundCall(main)
    with pytest.raises(ZeroDivisionError):
        running.run()
    assert ended == [True]


def test_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled coroutine ends after its cleanup; `on_end` is called once it has."""
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

    running = BackgroundCall(main, partial(ended.put, "told"))
    running.cancel()  # no effect yet
    running.start()
    assert began.wait(LONG)
    running.join(0.0)
    assert ended.empty()
    running.cancel()
    running.join()

    assert (ended.get(), ended.get()) == ("coroutine", "told")
    assert running.error is None


def test_cancelled_before_it_begins() -> None:
    """A coroutine cancelled before the event loop starts it does not get past its first checkpoint."""
    got = []

    async def main() -> None:
        await anyio.lowlevel.checkpoint()
        got.append("beyond")

    running = BackgroundCall(main)
    blocked = threading.Event()
    blocker = BackgroundCall(partial(hold, blocked))
    blocker.start()
    running.start()
    running.cancel()
    blocked.set()
    running.join()
    blocker.join()

    assert got == []


async def hold(until: threading.Event) -> None:
    """Block the event loop."""
    assert until.wait(LONG)


def test_join_in_the_loops_own_thread() -> None:
    """An iterator that is dropped in the loop's own thread does not wait for itself."""

    async def main() -> None:
        running.join()

    running = BackgroundCall(main)
    running.run()
    assert running.error is None


def test_wait_for() -> None:
    """A wait continues beyond the interval at which signals are checked."""
    inbox: SimpleQueue[int] = SimpleQueue()
    timer = threading.Timer(0.05, partial(inbox.put, 7))
    timer.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "SIGNAL_SECONDS", 0.01)
        assert wait_for(inbox) == 7
    timer.join()


def test_call_in_the_loops_own_thread() -> None:
    """A sync call in the loop's own thread would deadlock, and raises instead."""

    async def main() -> None:
        BackgroundCall(ident).run()

    with pytest.raises(ConfigurationError, match="in the thread that runs synchronous calls"):
        BackgroundCall(main).run()


@pytest.fixture
def no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the background event loop, as in a process that has made no sync call."""
    monkeypatch.setattr(runner, "_background", runner._Background())


@pytest.mark.usefixtures("no_loop")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(), r"can't be created \(PermissionError\).*--allow-unix"),
        (OSError(errno.EMFILE, "Too many open files"), r"created \(Too many open files\).*ulimit -n"),
    ],
    ids=["blocked", "limit"],
)
def test_blocked_sockets(error: OSError, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no socket can be created, the error says why, and what to do."""

    def blocked(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "socketpair", blocked)
    with pytest.raises(ConfigurationError, match=message):
        BackgroundCall(ident).run()


@pytest.fixture
def no_thread(no_loop: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make thread starts fail, as during interpreter shutdown."""
    del no_loop

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.usefixtures("no_thread")
def test_no_thread() -> None:
    """If no thread can be started, everything runs in the calling thread."""
    called: list[int] = []

    async def main() -> None:
        running.call(lambda: called.append(threading.get_ident()))
        called.append(await run_in_thread(threading.get_ident))
        called.append((await anyio.getaddrinfo("127.0.0.1", 80))[0][4][1])
        await anyio.sleep(0.001)

    running = BackgroundCall(main)
    running.run()
    running.cancel()
    running.join()
    assert called == [threading.get_ident(), threading.get_ident(), 80]
    with pytest.raises(ZeroDivisionError):
        BackgroundCall(fail).run()
    with pytest.raises(ZeroDivisionError):
        BackgroundCall(partial(run_in_thread, lambda: 1 // 0)).run()


@pytest.mark.usefixtures("no_thread")
def test_no_thread_in_a_running_loop() -> None:
    """If no thread can be started inside a running event loop, the error says why."""

    async def main() -> None:
        BackgroundCall(ident).run()

    with pytest.raises(ConfigurationError, match="the interpreter is shutting down"):
        anyio.run(main)


@pytest.mark.parametrize("start", [True, False])
def test_interpreter_shutdown(monkeypatch: pytest.MonkeyPatch, *, start: bool) -> None:
    """At interpreter shutdown, when daemon threads no longer run, starting and waiting raise."""
    monkeypatch.setattr(runner, "SIGNAL_SECONDS", 0.01)
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)

    with pytest.raises(ConfigurationError, match=r"the interpreter is shutting down.*not in __del__"):
        BackgroundCall(ident).start() if start else wait_for(SimpleQueue())


@pytest.mark.anyio
async def test_in_thread() -> None:
    """A blocking function runs in a thread; its exceptions are raised, even a RuntimeError."""
    assert await run_in_thread(threading.get_ident) != threading.get_ident()

    def broken() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await run_in_thread(broken)


@pytest.mark.anyio
@pytest.mark.parametrize("reason", ["can't start new thread", "can't create one at interpreter shutdown"])
async def test_in_thread_without_threads(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If no thread can be started, a function blocks the event loop, which is logged, except at shutdown."""

    async def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(anyio.to_thread, "run_sync", exhausted)
    assert await run_in_thread(threading.get_ident) == threading.get_ident()
    assert ("a function blocks the event loop" in caplog.text) == ("shutdown" not in reason)


@pytest.mark.anyio
async def test_in_thread_cancelled() -> None:
    """A function that does not return is abandoned when its caller is cancelled."""
    began, released, ended = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        began.set()
        released.wait(LONG)
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run_in_thread, block)
        while not began.is_set():  # noqa: ASYNC110 (set in another thread)
            await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    released.set()
    assert ended.wait(LONG)


@pytest.mark.anyio
async def test_in_thread_while_all_others_are_busy() -> None:
    """A function does not wait for the threads that the caller's program may have."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 1
    async with limiter:
        with anyio.fail_after(LONG):
            assert await run_in_thread(threading.get_ident) != threading.get_ident()


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
        BackgroundCall(main).run()
    assert ended == [True]


def test_interrupt_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt during the start is raised at once, and nothing runs."""
    running = BackgroundCall(fail)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "copy_context", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.run()
    monkeypatch.undo()
    outcome(ident)  # creates the event loop
    loop = runner._background.loop
    assert loop is not None
    monkeypatch.setattr(loop, "call_soon_threadsafe", Once(loop.call_soon_threadsafe))
    with pytest.raises(KeyboardInterrupt):
        running.run()
    assert running.error is None


class Once:
    """Raises KeyboardInterrupt in place of the first call of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._is_first = True

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function, except the first time."""
        if self._is_first:
            self._is_first = False
            raise KeyboardInterrupt
        return self._function(*arguments, **options)


PROGRAM = """
    import anyio, os, threading
    from qwen_aiml._engine import runner
    from qwen_aiml._engine.runner import BackgroundCall
    from qwen_aiml._utils.threads import run_in_thread

    async def work():
        await anyio.sleep(0.001)
        found = await anyio.getaddrinfo("localhost", 80)
        said = await run_in_thread(lambda: "done")
        print(said, bool(found), flush=True)

    def call():
        BackgroundCall(work).run()
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
            self.running = BackgroundCall(anyio.sleep_forever)
            self.running.start()

        def __del__(self):
            self.running.cancel()
            self.running.join()
    dropped = Dropped()
    call()
    """,
    "a daemon left behind": """
    BackgroundCall(anyio.sleep_forever).start()
    call()
    """,
}


def output_of(program: str) -> list[str]:
    """Run a program and return the lines that it printed; it must not print errors."""
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
    """A call works during interpreter shutdown, with or without an earlier one, and does not block it."""
    program = PROGRAM + (EARLIER if earlier else "") + ENDINGS[ending]
    assert output_of(program) == ["done True"] * (2 if earlier else 1)


def test_fork_of_a_process_without_a_loop() -> None:
    """After a fork, the background loop is kept as the parent's, if there is one."""
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
    """A child process creates its own event loop, and the parent's continues."""
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
    assert output_of(program) == ["done True"] * 3


def test_what_a_parent_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork, the parent's calls are neither awaited nor cancelled; continuing one raises."""
    begun = threading.Event()

    async def function() -> None:
        begun.set()
        await anyio.sleep(LONG)

    running = BackgroundCall(function)
    running.start()
    running.check_not_forked()
    assert begun.wait(LONG)
    with monkeypatch.context() as child:
        child.setattr(runner._background, "parents", [running._loop])
        running.cancel()
        running.join()
        with pytest.raises(ConfigurationError, match=r"started before a fork.*Start another one"):
            running.check_not_forked()
        assert not running._has_ended

    running.cancel()
    running.join(LONG)
    assert running._has_ended


@pytest.mark.once
def test_interrupts_at_each_moment() -> None:
    """An interrupt at any point of a call leaves the event loop usable for the next call."""
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
            BackgroundCall(function).run()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    call()
    for function in (short, long):
        at = 1
        while at < 300 and interrupted(at, function):
            BackgroundCall(short).run()
            at += 1
        print(1 < at < 300)
    """
    )
    assert output_of(program) == ["done True", "True", "True"]
