"""Embeddings as float32: what is packed, what float32 can't hold, and the matrix that is made of it."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from array import array
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from qwen_aiml import ConfigurationError, EmbeddingBatchError, EmbeddingConfig, ResponseFormatError
from qwen_aiml._protocol.arrays import load_numpy, matrix, packed
from qwen_aiml._engine.request import Call, Clock
from qwen_aiml._engine.job import Job
from qwen_aiml._learned import Learned
from qwen_aiml._steps import Load, Outcome, Send, Store
from qwen_aiml._engine.queue import Turns
from qwen_aiml._protocol.response import Response, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

CLOCK = Clock(lambda: 100.0, lambda: datetime(2026, 11, 22, tzinfo=timezone.utc), lambda: 0.0)
TEXTS = [f"{at} text" for at in range(10)]


def test_packed() -> None:
    """A row keeps its numbers, rounded to float32, and is not packed twice."""
    row = packed([0.1, 1, -2.5])

    assert row == array("f", [0.1, 1.0, -2.5])
    assert packed(row) is row


def test_packed_in_numpy() -> None:
    """NumPy takes a row without copying it."""
    row = packed([0.5, 1.0])
    taken = np.asarray(row)
    row[0] = 0.25

    assert taken.dtype == np.float32
    assert taken.tolist() == [0.25, 1.0]


def test_size() -> None:
    """A row of 1,024 numbers takes little more than 4 KB."""
    embedding = [float(at) for at in range(1024)]
    tracemalloc.start()
    try:
        row = packed(embedding)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert sys.getsizeof(row) < 4096 + 200
    assert kept < 4096 + 1000


@pytest.mark.parametrize("number", [1e39, -3.5e38, 1.7e308])
def test_beyond_float32(number: float) -> None:
    """A number that would become infinite is an unsound answer."""
    with pytest.raises(ResponseFormatError, match="beyond float32"):
        packed([0.5, number])


def test_too_small_for_float32() -> None:
    """A row that would become all zero is an unsound answer; a single number is rounded."""
    with pytest.raises(ResponseFormatError, match="beyond float32"):
        packed([1e-60, -1e-50])

    assert packed([1e-60, 1.0]) == array("f", [0.0, 1.0])


@pytest.mark.parametrize("count", [1, 3])
def test_matrix(count: int) -> None:
    """Packed rows become one array, and leave their list as they do."""
    rows = [packed([float(at), 1.0]) for at in range(count)]
    made = matrix(rows, 64, load_numpy())

    assert made.tolist() == [[float(at), 1.0] for at in range(count)]
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    assert made.shape == (count, 2)
    assert rows == []


def test_empty_matrix() -> None:
    """Without rows there is nothing but the length."""
    assert matrix([], 64, np).shape == (0, 64)


def test_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no NumPy is told how to get it."""
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(ConfigurationError, match=r"numpy: pip install \"qwen-aiml\[numpy\]\""):
        load_numpy()


class Kept:
    """What a cache would hold, behind a job driven by hand."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.sent: list[list[str]] = []

    def run(self, number: Callable[[str], float], *, cached: bool, **settings: Any) -> Job:
        """Take a job to its end; *number* gives a text's second number."""
        config = EmbeddingConfig(**{"api_key": "k", "model": "unknown", "batch_size": 10, **settings})
        call = Call(config, CLOCK, Learned(config), Turns(lambda: 99), threading.Event(), packed=True)
        job = Job(TEXTS, "document", call, "service" if cached else None)
        flows = [job.look_up()]
        while flows:
            outcome: Outcome = None
            for _ in range(1000):  # bounded, should it never end
                try:
                    step = flows[-1].send(outcome)
                except StopIteration:
                    break
                outcome = None
                if isinstance(step, Load):
                    outcome = [self.entries.get(key) for key in step.keys]
                elif isinstance(step, Store):
                    self.entries.update(step.entries)
                elif isinstance(step, Send):
                    self.sent.append(orjson.loads(step.body)["input"])
                    data = [{"embedding": [1.0, number(text)]} for text in self.sent[-1]]
                    outcome = Response(200, {}, orjson.dumps({"data": data}))
            flows.pop()
            if (flow := job.next_flow()) is not None:
                flows.append(flow)
        return job


@pytest.mark.parametrize("cached", [False, True])
def test_a_packed_job(cached: bool) -> None:
    """Rows are arrays, from the service and from the cache alike."""
    kept = Kept()
    expected = [array("f", [1.0, len(text) / 3]) for text in TEXTS]

    for _ in range(2):
        assert kept.run(lambda text: len(text) / 3, cached=cached).rows() == expected
    assert len(kept.sent) == (1 if cached else 2)


@pytest.mark.parametrize("cached", [False, True])
def test_what_float32_cannot_hold(cached: bool) -> None:
    """One text's number beyond float32 is looked for like any unsound row; the others are embedded."""
    kept = Kept()
    job = kept.run(lambda text: 1e39 if text == TEXTS[6] else 0.5, cached=cached)
    with pytest.raises(EmbeddingBatchError) as caught:
        job.result()

    assert list(caught.value.failures) == [6]
    assert isinstance(caught.value.failures[6], ResponseFormatError)
    assert [row is None for row in caught.value.embeddings] == [at == 6 for at in range(10)]
    assert len(kept.entries) == (9 if cached else 0)


def test_a_passing_number_beyond_float32() -> None:
    """It is asked for again."""
    numbers = iter([1e39] * 10)

    assert all(Kept().run(lambda _: next(numbers, 0.5), cached=False).rows())


def test_the_mean_of_pieces_is_packed() -> None:
    """A text that is embedded in pieces gets a packed row as well."""
    kept = Kept()
    job = kept.run(lambda _: 0.5, cached=False)
    assert list(job.keep([0], Rows([[0.25, 0.5]], None, None), "split_mean:bytes")) == []

    assert job.rows()[0] == array("f", [0.25, 0.5])
