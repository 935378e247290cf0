"""Responses decoded into float32 by simdjson: the same as without it, or left to the slower decoders."""

from __future__ import annotations

import json
import sys
import threading
from array import array
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_aiml import ResponseFormatError
from qwen_aiml._protocol import simd as _simd
from qwen_aiml._protocol.arrays import packed
from qwen_aiml._protocol.response import Response, decode
from qwen_aiml._protocol.simd import packed_success

if TYPE_CHECKING:
    from collections.abc import Iterator


class StandIn:
    """The used part of simdjson, for Python versions without wheels of it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __getitem__(self, name: str) -> Any:
        return self.wrapped(self.value[name])

    def get(self, name: str) -> Any:
        """Return a member, or None."""
        return self.wrapped(self.value.get(name))

    def as_dict(self) -> Any:
        """Return the plain object."""
        return self.value

    def __iter__(self) -> Any:
        return map(self.wrapped, self.value)

    def as_buffer(self, *, of_type: str) -> array[float]:
        """Return a list of numbers, or of lists of them, as one flat array."""
        numbers = []
        for one in self.value:
            numbers += one if isinstance(one, list) else [one]
        if set(map(type, numbers)) - {int, float}:
            raise TypeError
        return array(of_type, numbers)

    @classmethod
    def wrapped(cls, value: Any) -> Any:
        """Wrap an object or a list."""
        return cls(value) if isinstance(value, (dict, list)) else value

    @classmethod
    def parse(cls, body: bytes) -> Any:
        """Parse JSON."""
        if b"NaN" in body:
            raise ValueError
        value = json.loads(body)
        json.dumps(value, ensure_ascii=False).encode()  # raises for lone surrogates
        return cls.wrapped(value)


@pytest.fixture(params=["simdjson", "stand-in"], autouse=True)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Use simdjson, if it is installed, and the stand-in."""
    _simd._modules.cache_clear()
    if request.param == "stand-in":
        module = SimpleNamespace(Parser=lambda **_: StandIn)
        monkeypatch.setitem(sys.modules, "simdjson", module)
    else:
        pytest.importorskip("simdjson")
    monkeypatch.setattr(_simd, "_of_thread", threading.local())
    yield str(request.param)
    _simd._modules.cache_clear()


def body(*rows: Any, **others: Any) -> bytes:
    """Encode a body with these embeddings, in order."""
    data = [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(rows)]
    return orjson.dumps({"object": "list", "data": data, **others})


def outcome(text: bytes, *, fast: bool) -> Any:
    """Return the result of decoding a body, with or without simdjson, or the message of the error."""
    answer = Response(200, {}, text, packed=fast)
    try:
        rows = decode(answer, 2, None)
        return list(map(packed, rows.embeddings)), rows.model, rows.request_id, answer.usage
    except ResponseFormatError as error:
        return str(error)


def test_sound() -> None:
    """Numbers are rounded to float32, integers included, and the other members are kept."""
    usage, meta = {"total_tokens": 7}, {"usage": {"credits_used": 5}}
    success = packed_success(
        body([0.1, 1, -2.5e-3], [0, 3.5, 0.0], model="m", id="i", usage=usage, meta=meta)
    )

    assert success is not None
    assert [row.embedding for row in success.data] == [array("f", [0.1, 1, -2.5e-3]), array("f", [0, 3.5, 0])]
    assert [row.index for row in success.data] == [0, 1]
    assert (success.model, success.id, success.usage, success.meta) == ("m", "i", usage, meta)
    assert success.request_id is None


def test_no_list_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other decoder reads the body, so no list of its numbers is created."""
    monkeypatch.setattr("qwen_aiml._protocol.response._SUCCESS", None)
    answer = Response(200, {}, body([0.5] * 1024, [0.25] * 1024, usage={"total_tokens": 7}), packed=True)

    assert set(map(type, decode(answer, 2, 1024).embeddings)) == {array}
    assert answer.usage.total_tokens == 7


UNUSUAL = [
    b"",
    b"[]",
    b"{}",
    b'{"data": 5}',
    b'{"data": []}',
    b'{"data": [5]}',
    b'{"data": [{"index": 0}]}',
    b'{"data": [{"embedding": [0.5]}, {"embedding": [0.5]}]}',
    b'{"data": [{"index": 0, "embedding": "AACAPw=="}, {"index": 1, "embedding": "AACAPw=="}]}',
    b'{"data": [{"index": 1, "embedding": [0.5]}, {"index": 0, "embedding": [0.25]}]}',
    b'{"data": [{"index": 0.0, "embedding": [0.5]}, {"index": 1.0, "embedding": [0.25]}]}',
    b'{"data": [{"index": false, "embedding": [0.5]}, {"index": true, "embedding": [0.25]}]}',
    b'{"data": [{"index": 0, "embedding": [1e999]}, {"index": 1, "embedding": [0.25]}]}',
    b'{"data": [{"index": 0, "embedding": [NaN]}, {"index": 1, "embedding": [0.25]}]}',
    b"\xef\xbb\xbf" + body([0.5], [0.25]),
    body([0.5], [[0.5]]),
    body([0.5, 0.5], [0.5, [0.5]]),
    body([0.5], [0.5], [0.5], note=["["]),
    body([0.5, 0.25], [0.5]),
    body([0.5, None], [0.5, 0.5]),
    body([True, 0.5], [0.5, 0.5]),
    body(["0.5", 0.5], [0.5, 0.5]),
    body([0.5], [0.0]),
    body([0.5], [1e-60]),
    body([0.5], [1e39]),
    body([], []),
]


@pytest.mark.parametrize("text", UNUSUAL)
def test_unusual(text: bytes) -> None:
    """A body that is not valid, in order and uniform has the same outcome by way of the slower decoders."""
    assert packed_success(text) is None
    assert outcome(text, fast=True) == outcome(text, fast=False)


@pytest.mark.parametrize("places", [{"row"}, {"rows"}, {"body"}, {"row", "rows", "body"}], ids=sorted)
def test_members_with_one_name(places: set[str]) -> None:
    """Of members with the same name, the last one counts, as for the other decoders."""
    other_row = b'"index": 1, "embedding": [9.5], ' if "row" in places else b""
    other_rows = b'"data": [], ' if "rows" in places else b""
    other_model = b'"model": "a", ' if "body" in places else b""
    row = b"{" + other_row + b'"index": 0, "embedding": [0.5]}, {"index": 1, "embedding": [1]}'
    text = b"{" + other_model + other_rows + b'"data": [' + row + b'], "model": "b"}'

    assert outcome(text, fast=True) == outcome(text, fast=False)
    assert outcome(text, fast=True)[:2] == ([array("f", [0.5]), array("f", [1.0])], "b")


def test_embeddings_with_one_name() -> None:
    """Of two embeddings in one row, the last one counts, as for the other decoders."""
    text = b'{"data": [{"index": 0, "embedding": [9], "embedding": [0.5]}, {"index": 1, "embedding": [1]}]}'

    assert outcome(text, fast=True) == outcome(text, fast=False)
    assert outcome(text, fast=True)[0] == [array("f", [0.5]), array("f", [1.0])]


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
# Characters with a meaning in JSON, or that are hard to encode; listing all of Unicode takes seconds.
strings = st.lists(st.sampled_from('a1.[{"\\\x00é字\ud800'), max_size=3).map("".join)
oddities = numbers | st.none() | st.booleans() | strings | st.lists(numbers, max_size=2)
embeddings = st.lists(numbers, min_size=2, max_size=2) | st.lists(oddities, max_size=3)
indices = st.sampled_from([0, 1, 0.0, 1.0, True, None, 2])
rows = st.fixed_dictionaries({"embedding": embeddings}, optional={"index": indices, "object": oddities})


@settings(deadline=None)
@given(
    st.lists(rows, max_size=3),
    st.booleans(),
    st.dictionaries(st.sampled_from(["usage", "meta", "model", "id", "x"]), oddities | st.just({"a": [1]})),
)
def test_the_same_as_without(data: list[dict[str, Any]], numbered: bool, others: dict[str, Any]) -> None:
    """Any body is accepted or rejected as it is without simdjson."""
    if numbered:
        data = [{**row, "index": at} for at, row in enumerate(data)]
    text = json.dumps({"data": data, **others}).encode()

    assert outcome(text, fast=True) == outcome(text, fast=False)


def test_without_simdjson(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without simdjson, the result is the same, by way of lists."""
    monkeypatch.setitem(sys.modules, "simdjson", None)
    _simd._modules.cache_clear()
    text = body([0.5, 0.1], [0.25, 3.5])

    assert packed_success(text) is None
    assert outcome(text, fast=True)[0] == [array("f", [0.5, 0.1]), array("f", [0.25, 3.5])]


def test_bounded_memory(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body much larger than ten rows is left to the slower decoders, so that its memory is not kept."""
    if reader == "stand-in":
        pytest.skip("knows no bound")
    text = body([0.5] * 4000, [0.25] * 4000)
    assert packed_success(text) is not None
    monkeypatch.setattr(_simd, "MAX_BYTES", 20_000)
    monkeypatch.setattr(_simd, "_of_thread", threading.local())

    assert packed_success(text) is None
    assert np.array_equal(outcome(text, fast=True)[0], [[0.5] * 4000, [0.25] * 4000])
