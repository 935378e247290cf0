"""Embeddings as float32: packed rows, numbers beyond its range, and the matrix of the rows."""

from __future__ import annotations

import sys
import tracemalloc
from array import array
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import orjson
import pytest

from fakes import FakeStore, Harness
from qwen_aiml import ConfigurationError, EmbeddingBatchError, ResponseFormatError
from qwen_aiml._protocol.arrays import load_numpy, matrix, packed
from qwen_aiml._protocol.response import Response, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwen_aiml._engine.job import Job

TEXTS = [f"{at} text" for at in range(10)]


def test_packed() -> None:
    """A row is rounded to float32, and a packed row is returned unchanged."""
    row = packed([0.1, 1, -2.5])

    assert row == array("f", [0.1, 1.0, -2.5])
    assert packed(row) is row


def test_packed_in_numpy() -> None:
    """NumPy uses a row without copying it."""
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
    """A number that would become infinite is a malformed response."""
    with pytest.raises(ResponseFormatError, match="beyond float32"):
        packed([0.5, number])


def test_too_small_for_float32() -> None:
    """A row that would become all zero is a malformed response; a single number is rounded."""
    with pytest.raises(ResponseFormatError, match="beyond float32"):
        packed([1e-60, -1e-50])

    assert packed([1e-60, 1.0]) == array("f", [0.0, 1.0])


@pytest.mark.parametrize("count", [1, 3])
def test_matrix(count: int) -> None:
    """Packed rows are copied into one writable array."""
    rows = [packed([float(at), 1.0]) for at in range(count)]
    result = matrix(rows, 64, load_numpy())

    assert result.tolist() == [[float(at), 1.0] for at in range(count)]
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert result.shape == (count, 2)


def test_empty_matrix() -> None:
    """Without rows, the matrix has the given dimensions."""
    assert matrix([], 64, np).shape == (0, 64)


def test_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NumPy, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(ConfigurationError, match=r"numpy: pip install \"qwen-aiml\[numpy\]\""):
        load_numpy()


def embed(number: Callable[[str], float], store: FakeStore | None = None) -> tuple[Job, list[list[str]]]:
    """Run a job; return it and the batches sent. *number* returns the second number of a text's embedding."""

    def respond(texts: list[str]) -> Response:
        data = [{"embedding": [1.0, number(text)]} for text in texts]
        return Response(200, {}, orjson.dumps({"data": data}))

    harness = Harness(service=respond, batch_size=10, options={"packed": True})
    cache = None if store is None else harness.cache(store.load, store.store)
    return harness.job(TEXTS, cache=cache), harness.sent


@pytest.mark.parametrize("store", [None, FakeStore()])
def test_a_packed_job(store: FakeStore | None) -> None:
    """Rows are arrays, whether from the service or from the cache."""
    expected: list[Any] = [array("f", [1.0, len(text) / 3]) for text in TEXTS]

    job, sent = embed(lambda text: len(text) / 3, store)
    assert (job.rows(), len(sent)) == (expected, 1)
    job, sent = embed(lambda text: len(text) / 3, store)
    assert (job.rows(), len(sent)) == (expected, 1 if store is None else 0)


@pytest.mark.parametrize("store", [None, FakeStore()])
def test_what_float32_cannot_hold(store: FakeStore | None) -> None:
    """A text whose row exceeds float32 is isolated like any malformed row; the others are embedded."""
    job, _ = embed(lambda text: 1e39 if text == TEXTS[6] else 0.5, store)
    with pytest.raises(EmbeddingBatchError) as caught:
        job.result()

    assert list(caught.value.failures) == [6]
    assert isinstance(caught.value.failures[6], ResponseFormatError)
    assert [row is None for row in caught.value.embeddings] == [at == 6 for at in range(10)]
    assert store is None or len(store.kept) == 9


def test_a_transient_number_beyond_float32() -> None:
    """Texts whose rows exceed float32 only once are embedded after a retry."""
    numbers = iter([1e39] * 10)

    assert all(embed(lambda _: next(numbers, 0.5))[0].rows())


def test_the_mean_of_pieces_is_packed() -> None:
    """A text that is embedded in pieces also gets a packed row."""
    job, _ = embed(lambda _: 0.5)
    anyio.run(job.store, [0], Rows([[0.25, 0.5]], None, None), "split_mean:bytes")

    assert job.rows()[0] == array("f", [0.25, 0.5])
