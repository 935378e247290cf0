"""Progress of a call: what is reported, when, and the progress bar."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from fakes import Harness, Outcome, status
from qwen_aiml import (
    AsyncEmbeddingClient,
    ConfigurationError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    Progress,
    SQLiteCache,
    Usage,
)
from qwen_aiml._engine.job import Job
from qwen_aiml._progress import Bar, Reporter
from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = [f"text {at}" for at in range(400)]


def embed(
    way: str, emulator: Emulator, report: Callable[[Progress], object], cache: SQLiteCache | None = None
) -> None:
    options = emulator.client_options()
    config = EmbeddingConfig(api_key=options["api_key"], dimensions=64)
    if way == "sync":
        EmbeddingClient(config, http_client=options["http_client"], cache=cache).embed(TEXTS, progress=report)
        return
    client = AsyncEmbeddingClient(config, http_client=options["http_async_client"], cache=cache)
    if way == "async":
        asyncio.run(client.embed(TEXTS, progress=report))
    else:
        asyncio.run(client.embed_array(TEXTS, progress=report))


def run(report: Callable[[Progress], object], texts: list[str], *script: Outcome) -> Job:
    """Run a call that reports its progress; two texts per request, one request at a time."""
    harness = Harness(*script, batch_size=2, max_concurrency=1)
    job = Job(texts, "document", harness.call)
    job.call.reporter = Reporter(report, job.items, lambda call: call())
    harness.run(job.run)
    return job


def test_what_is_reported() -> None:
    """The start and each batch are reported; progress counts texts, duplicates included."""
    reports: list[Progress] = []
    run(reports.append, ["a", "b", "a", "c"])

    assert reports == [
        Progress(0, 4, 0, Usage()),
        Progress(3, 4, 0, Usage(1, 2, None, 0, None)),
        Progress(4, 4, 0, Usage(2, 3, None, 0, None)),
    ]


def test_waits_are_reported() -> None:
    """A wait of more than a second is reported once, when it begins."""
    reports: list[Progress] = []
    run(reports.append, ["a", "b", "c"], None, status(503, retry_after="8"), status(503, retry_after="0.5"))

    assert [(progress.done, progress.waiting > 8.0) for progress in reports] == [
        (0, False),
        (2, False),
        (2, True),
        (3, False),
    ]


def test_what_failed_is_not_done() -> None:
    """Failed texts do not count as done."""
    reports: list[Progress] = []
    job = run(reports.append, ["a", "b", "c"], None, status(401))

    assert [progress.done for progress in reports] == [0, 2]
    with pytest.raises(EmbeddingBatchError):
        job.result()


@pytest.mark.parametrize("way", ["sync", "async", "async array"])
def test_once_at_a_time(way: str) -> None:
    """However many requests are in flight, reports arrive one at a time, with increasing counts."""
    reports: list[int] = []
    inside = threading.Lock()

    def report(progress: Progress) -> None:
        assert inside.acquire(blocking=False)
        reports.append(progress.done)
        inside.release()

    emulator = Emulator(latency=0.3)
    embed(way, emulator, report)

    assert emulator.peak_in_flight > 1
    assert reports == list(range(0, 401, 10))


@pytest.mark.parametrize("way", ["sync", "async"])
def test_cached(way: str, tmp_path: Path) -> None:
    """Cached texts count as done, and are also reported separately."""
    emulator = Emulator()
    reports: list[Progress] = []
    with SQLiteCache(tmp_path / "cache.db") as cache:
        for _ in range(2):
            reports.clear()
            embed(way, emulator, reports.append, cache)

    assert [(progress.done, progress.total, progress.cached) for progress in reports] == [
        (0, 400, 0),
        (400, 400, 400),
    ]
    assert reports[-1].usage == Usage(cached=reports[-1].cached)


def test_what_it_raises(caplog: pytest.LogCaptureFixture) -> None:
    """If the function raises, this is logged, reports stop, and the call continues."""
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if progress.done:
            raise ZeroDivisionError

    with caplog.at_level(logging.WARNING, "qwen_aiml"):
        job = run(report, ["a", "b", "c", "d"])

    assert len(job.result().embeddings) == 4
    assert len(reports) == 2
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_no_function() -> None:
    """A progress argument that can't be called raises."""
    given: Any = True
    with pytest.raises(ConfigurationError, match=r"progress must be a function that takes a .*Progress"):
        Reporter(given, [0], print)


def test_async_function() -> None:
    """An async progress function raises, since nothing would await it."""

    async def report(progress: Progress) -> None:
        raise AssertionError(progress)

    with pytest.raises(ConfigurationError, match="progress must be a function that is not async"):
        Reporter(report, [0], print)


def test_async_object() -> None:
    """So does an object whose ``__call__`` is async."""

    class Report:
        async def __call__(self, progress: Progress) -> None:
            raise AssertionError(progress)

    with pytest.raises(ConfigurationError, match="progress must be a function that is not async"):
        Reporter(Report(), [0], print)


def frames(err: str) -> list[str]:
    """Return the successive states of a bar."""
    return [re.sub(r"\|.*\|", "|", frame).strip() for frame in re.split(r"[\r\n]", err) if frame.strip()]


def show(bar: Bar, *reports: Progress) -> None:
    part = bar.callback()
    assert part is not None
    for progress in reports:
        part(progress)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep bars at full length: tqdm cuts them to the width that the environment sets."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.mark.usefixtures("wide")
def test_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """The bar shows texts, texts per second, cached texts and tokens, on stderr, and ends its line."""
    with Bar(show=True) as bar:
        show(
            bar,
            Progress(0, 5000, 0, Usage()),
            Progress(1000, 5000, 1000, Usage()),
            Progress(5000, 5000, 1000, Usage(400, 12345)),
        )
    output = capsys.readouterr()

    assert not output.out
    assert output.err.endswith("\n")
    assert frames(output.err)[0].startswith("Embedding:   0%| 0/5000 [")
    assert re.match(
        r"Embedding: 100%\| 5000/5000 \[.* texts/s, 1,000 cached, 12,345 tokens\]", frames(output.err)[-1]
    )


@pytest.mark.usefixtures("wide")
def test_bar_that_waits(capsys: pytest.CaptureFixture[str]) -> None:
    """A long wait is shown at once, until the next texts are done."""
    with Bar(show=True) as bar:
        show(bar, Progress(0, 30, 0, Usage()), Progress(10, 30, 0, Usage(1, 5)))
        show(bar, Progress(10, 30, 0, Usage(1, 5), waiting=8.2))
        waiting = frames(capsys.readouterr().err)[-1]
        show(bar, Progress(30, 30, 0, Usage(2, 9)))

    assert waiting.endswith("waiting 8 s]")
    assert "cached" not in waiting
    assert "waiting" not in frames(capsys.readouterr().err)[-1]


def test_speed_is_without_the_cached(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """Cached texts do not increase the speed."""
    monkeypatch.setattr("tqdm.std.time", iter(float(at) for at in range(1000)).__next__)
    with Bar(show=True) as bar:
        show(bar, Progress(0, 5000, 0, Usage()), Progress(4000, 5000, 4000, Usage()))
        show(bar, Progress(8, 5000, 0, Usage()))
    speeds = [float(found) for found in re.findall(r"([\d.]+) texts/s", capsys.readouterr().err)]

    assert speeds
    assert max(speeds) <= 8


@pytest.mark.usefixtures("wide")
def test_bar_of_several_calls(capsys: pytest.CaptureFixture[str]) -> None:
    """Concurrent calls share one bar; texts that none of them reported count as cached."""
    with Bar(show=True, total=100) as bar:
        one, two = bar.callback(), bar.callback()
        assert one is not None
        assert two is not None
        one(Progress(10, 50, 0, Usage(1, 7)))
        two(Progress(20, 40, 0, Usage(2, 8)))
        one(Progress(50, 50, 0, Usage(5, 10)))
        two(Progress(40, 40, 0, Usage(4, 20)))

    assert re.match(
        r"Embedding: 100%\| 100/100 \[.*, 10 cached, 30 tokens\]", frames(capsys.readouterr().err)[-1]
    )


def test_bar_without_calls(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar without calls ends at its total; without texts nothing is shown."""
    with Bar(show=True, total=100):
        pass
    assert "100/100" in frames(capsys.readouterr().err)[-1]

    with Bar(show=True) as bar:
        show(bar, Progress(0, 0, 0, Usage()))
    with Bar(show=True):
        pass
    assert not capsys.readouterr().err


def test_unknown_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    """Token counts that a response does not report are not shown."""
    with Bar(show=True) as bar:
        show(bar, Progress(10, 30, 0, Usage(1, 5)), Progress(20, 30, 0, Usage(2, None)))
        show(bar, Progress(10, 30, 0, Usage(1, 5)))

    assert "tokens" not in frames(capsys.readouterr().err)[-1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_bar_of_what_fails(error: type[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    """After an error the bar keeps its position, and its line is ended."""
    bar = Bar(show=True)
    show(bar, Progress(10, 30, 0, Usage(1, 5)))
    with pytest.raises(error), bar:
        raise error
    output = capsys.readouterr().err

    assert "10/30" in frames(output)[-1]
    assert output.endswith("\n")


def test_no_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a bar nothing is reported, and tqdm is not needed."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with Bar(show=False, total=5) as bar:
        assert bar.callback() is None

    assert not capsys.readouterr().err
    with pytest.raises(
        ConfigurationError, match=r'a progress bar needs tqdm: pip install "qwen-aiml\[progress\]"'
    ):
        Bar(show=True)


@pytest.mark.parametrize(("value", "shown"), [("", True), ("1", False)])
def test_disabled(value: str, shown: bool) -> None:
    """TQDM_DISABLE in the environment disables bars."""
    program = """
from qwen_aiml import Progress, Usage
from qwen_aiml._progress import Bar
with Bar(show=True) as bar:
    part = bar.callback()
    for done in (0, 10, 30):
        part(Progress(done, 30, 10, Usage(1, 5)))
"""
    done = subprocess.run(  # noqa: S603 (our own program)
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TQDM_DISABLE": value, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )

    assert ("30/30" in done.stderr) is shown
    assert not done.stdout
