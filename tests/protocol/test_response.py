"""Encoding of requests, decoding and validation of responses."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import struct
import threading
import time
from array import array
from pathlib import Path
from typing import Any

import orjson
import pytest

from qwen_aiml import EmbeddingConfig, EmbeddingResult, ResponseFormatError, Usage
from qwen_aiml._protocol.request import encode
from qwen_aiml._protocol.response import Response, decode

UNKNOWN = Usage(1, None, None, usd_spent=None)
PUBLISHED = Path(__file__).with_name("published_response.json")


def answer(body: Any, **headers: str) -> Response:
    return Response(200, headers, body if isinstance(body, bytes) else orjson.dumps(body))


def row(index: Any, *numbers: Any) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": list(numbers)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, b'{"model":"alibaba/qwen-text-embedding-v4","input":["a","\xc3\xa9\\n"]}'),
        (
            {"model": "text-embedding-v3", "dimensions": 512},
            b'{"model":"alibaba/qwen-text-embedding-v3","input":["a","\xc3\xa9\\n"],"dimensions":512}',
        ),
        (
            {"encoding_format": "float"},
            b'{"model":"alibaba/qwen-text-embedding-v4","input":["a","\xc3\xa9\\n"],"encoding_format":"float"}',
        ),
    ],
)
def test_encode(settings: dict[str, Any], expected: bytes) -> None:
    """The body is exactly model, input as strings, and what the user set."""
    assert expected == encode(["a", "é\n"], EmbeddingConfig(api_key="k", **settings))


def test_published_response() -> None:
    """
    The only real response that AI/ML API has published is decoded exactly.

    Source: AI/ML API docs, page of Qwen Text Embedding v3, added on 2026-01-14; the request was
    "Laura is a DJ." with default dimensions. The hash is that of its 1024 numbers as little-endian float32.
    """
    rows = decode(answer(PUBLISHED.read_bytes()), 1, 1024)

    [embedding] = rows.embeddings
    digest = hashlib.sha256(struct.pack("<1024f", *embedding)).hexdigest()
    assert digest == "b6a14c63095e870809544f0f12176c98570f214a8dfc99faeb93e8d20460622d"
    assert math.isclose(math.hypot(*embedding), 0.9999999929080919, rel_tol=1e-15)
    assert rows.model == "text-embedding-v3"
    assert rows.request_id == "8ef7c577-75e9-9056-ba09-dc4331f81f6d"
    assert answer(PUBLISHED.read_bytes()).usage == Usage(1, 4, 1, usd_spent=None)


def test_base64() -> None:
    """A base64 string of little-endian float32 is decoded like the list that it encodes."""
    published = orjson.loads(PUBLISHED.read_bytes())
    numbers = published["data"][0]["embedding"]
    packed = base64.b64encode(struct.pack("<1024f", *numbers)).decode()
    body = {"data": [{"index": 0, "embedding": packed}]}

    assert numbers == decode(answer(body), 1, 1024).embeddings[0]


@pytest.mark.parametrize("index", [[2, 0, 1], [2.0, 0.0, 1.0]])
def test_order_of_index(index: list[float]) -> None:
    """Rows are put in the order of their index."""
    data = [row(at, float(at), 1.0) for at in index]

    assert decode(answer({"data": data}), 3, None).embeddings == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]


@pytest.mark.parametrize(
    "rows", [[{"embedding": [1.5]}, {"embedding": [2.5]}], [row(None, 1.5), row(None, 2.5)]]
)
def test_no_index(rows: list[dict[str, Any]]) -> None:
    """If no row has an index, the rows are taken in the given order."""
    assert decode(answer({"data": rows}), 2, 1).embeddings == [[1.5], [2.5]]


def test_whole_numbers_become_floats() -> None:
    """JSON may print 0.0 as 0, but users always get floats."""
    [embedding] = decode(answer({"data": [row(0, 1, 0, 0.5)]}), 1, 3).embeddings

    assert embedding == [1.0, 0.0, 0.5]
    assert {type(number) for number in embedding} == {float}


def test_large_numbers() -> None:
    """Large numbers are valid even if their sum overflows."""
    assert decode(answer({"data": [row(0, 1e308, 1e308)]}), 1, 2).embeddings == [[1e308, 1e308]]


MALFORMED: list[tuple[Any, str]] = [
    (b"", "truncated (text/html, 0 bytes)"),
    (b"<html>busy</html>", "malformed: invalid character (byte 0)"),
    (b'{"data": [{"index": 0, "embed', "truncated"),
    (b"[1, 2]", "Expected `object`, got `array`"),
    ({}, "missing required field `data`"),
    ({"data": None}, "Expected `array`, got `null` - at `$.data`"),
    ({"error": {"message": "busy"}}, "missing required field `data`"),
    ({"data": []}, "0 rows for 2 texts"),
    ({"data": [row(0, 1.0)]}, "1 rows for 2 texts"),
    ({"data": [row(0, 1.0), row(1, 1.0), row(2, 1.0)]}, "3 rows for 2 texts"),
    ({"data": [row(0, 1.0), row(0, 1.0)]}, "index values are not 0 to 1"),
    ({"data": [row(1, 1.0), row(2, 1.0)]}, "index values are not 0 to 1"),
    ({"data": [row(0, 1.0), row(None, 1.0)]}, "index values are not 0 to 1"),
    ({"data": [row(False, 1.0), row(True, 1.0)]}, "got `bool` - at `$.data[0].index`"),
    ({"data": [row("0", 1.0), row("1", 1.0)]}, "got `str` - at `$.data[0].index`"),
    ({"data": [row([0], 1.0), row([1], 1.0)]}, "got `array` - at `$.data[0].index`"),
    ({"data": [row(0, 1.0), None]}, "got `null` - at `$.data[1]`"),
    ({"data": [row(0, 1.0), {"index": 1}]}, "missing required field `embedding` - at `$.data[1]`"),
    ({"data": [row(0, 1.0), row(1)]}, "row 1 holds no embedding"),
    ({"data": [row(0, 1.0), {"index": 1, "embedding": {"0": 1.0}}]}, "at `$.data[1].embedding`"),
    ({"data": [row(0, 1.0, 1.0), row(1, 1.0)]}, "row 1 has 1 dimensions instead of 2"),
    ({"data": [row(0, 1.0), row(1, None)]}, "got `null` - at `$.data[1].embedding[0]`"),
    ({"data": [row(0, True), row(1, 1.0)]}, "got `bool` - at `$.data[0].embedding[0]`"),
    ({"data": [row(0, "1.0"), row(1, 1.0)]}, "got `str` - at `$.data[0].embedding[0]`"),
    ({"data": [row(0, [1.0]), row(1, 1.0)]}, "got `array` - at `$.data[0].embedding[0]`"),
    (b'{"data":[{"index":0,"embedding":[NaN]},{"index":1,"embedding":[1.0]}]}', "JSON is malformed"),
    ({"data": [row(0, 0.0, -0.0, 0), row(1, 1.0, 1.0, 1.0)]}, "row 0 is all zero"),
    ({"data": [{"index": 0, "embedding": "AACA"}, row(1, 1.0)]}, "row 0 is not base64 of float32"),
    ({"data": [{"index": 0, "embedding": "not base64!"}, row(1, 1.0)]}, "row 0 is not base64 of float32"),
    ({"data": [{"index": 0, "embedding": "AACA!Pw=="}, row(1, 1.0)]}, "row 0 is not base64 of float32"),
    ({"data": [{"index": 0, "embedding": ""}, row(1, 1.0)]}, "row 0 holds no embedding"),
]


@pytest.mark.parametrize(("body", "problem"), MALFORMED, ids=lambda value: str(value)[:50])
def test_malformed(body: Any, problem: str) -> None:
    """A response without one valid row for each text is rejected, and the error says where it is wrong."""
    with pytest.raises(ResponseFormatError) as caught:
        decode(answer(body, **{"content-type": "text/html"}), 2, None)

    assert problem in str(caught.value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_not_finite(number: float) -> None:
    """NaN and infinity, which only base64 can encode, are rejected."""
    packed = base64.b64encode(array("f", [1.0, number]).tobytes()).decode()

    with pytest.raises(ResponseFormatError, match="row 0 holds a number that is not finite"):
        decode(answer({"data": [{"index": 0, "embedding": packed}]}), 1, 2)


def test_length_asked_for() -> None:
    """Rows of other dimensions than requested are rejected, even if all have the same."""
    with pytest.raises(ResponseFormatError, match="row 0 has 2 dimensions instead of 3"):
        decode(answer({"data": [row(0, 1.0, 1.0), row(1, 1.0, 1.0)]}), 2, 3)


@pytest.mark.parametrize(
    ("extra", "headers", "expected"),
    [
        ({}, {}, UNKNOWN),
        ({"usage": None, "meta": None}, {}, UNKNOWN),
        ({"usage": {"total_tokens": None}}, {}, UNKNOWN),
        ({"usage": {"total_tokens": 7.0}}, {}, Usage(1, 7, None, 0, None)),
        ({"usage": {"total_tokens": 7.5}}, {}, UNKNOWN),
        ({"usage": {"total_tokens": True}}, {}, UNKNOWN),
        ({"usage": {"total_tokens": -7}}, {}, UNKNOWN),
        ({"usage": {"total_tokens": 1e300}}, {}, UNKNOWN),
        ({"usage": [], "meta": {"usage": {"credits_used": 2}}}, {}, Usage(1, None, 2, 0, None)),
        ({"usage": {"total_tokens": 1}}, {"x-aimlapi-credits-used": "3"}, Usage(1, 1, 3, 0, None)),
        ({"meta": {"usage": {}}}, {"x-aimlapi-credits-used": "many"}, UNKNOWN),
        ({}, {"x-aimlapi-credits-used": "9" * 5000}, UNKNOWN),
        ({}, {"x-aimlapi-credits-used": "9" * 18}, UNKNOWN),
        ({"meta": {"usage": {"usd_spent": 0.026}}}, {}, Usage(1, None, None, 0, 0.026)),
        ({"meta": {"usage": {"usd_spent": 1}}}, {}, Usage(1, None, None, 0, 1.0)),
        ({"meta": {"usage": {"usd_spent": -1}}}, {}, UNKNOWN),
        ({"meta": {"usage": {"usd_spent": True}}}, {}, UNKNOWN),
        ({"meta": {"usage": {"usd_spent": "1"}}}, {}, UNKNOWN),
        ({}, {"x-aimlapi-usd-spent": "0.000005500"}, Usage(1, None, None, 0, 0.0000055)),
        ({}, {"x-aimlapi-usd-spent": "1e9"}, UNKNOWN),
        ({}, {"x-aimlapi-usd-spent": "9" * 5000}, UNKNOWN),
    ],
)
def test_usage(extra: dict[str, Any], headers: dict[str, str], expected: Usage) -> None:
    """Usage that a response does not report is unknown, never 0."""
    assert expected == answer({"data": [row(0, 1.0)], **extra}, **headers).usage


def test_usage_of_no_json() -> None:
    """The usage of a response that is not a JSON object is unknown."""
    assert answer(b"<html>").usage == UNKNOWN


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({"requestId": "a", "id": "b"}, {"x-request-id": "c"}, "a"),
        ({"id": "b"}, {"x-request-id": "c", "x-inference-id": "d"}, "c"),
        ({"id": "b"}, {"x-inference-id": "d"}, "d"),
        ({"id": "b", "request_id": "e"}, {}, "e"),
        ({"id": 5}, {}, None),
    ],
)
def test_request_id(body: dict[str, Any], headers: dict[str, str], expected: str | None) -> None:
    """Of several IDs, the one that support asks for is used."""
    assert expected == decode(answer({"data": [row(0, 1.0)], **body}, **headers), 1, 1).request_id


def test_adding_usage() -> None:
    """A sum with an unknown value is unknown."""
    assert Usage(1, 10, 2) + Usage(2, 5, None) == Usage(3, 15, None)
    assert Usage(cached=2) + Usage(1, 1, 1, cached=3) == Usage(1, 1, 1, 5)
    assert Usage(usd_spent=0.5) + Usage(usd_spent=0.25) == Usage(usd_spent=0.75)
    assert Usage(usd_spent=0.5) + UNKNOWN == UNKNOWN


def test_numbers_beyond_measure() -> None:
    """An integer too large for a float is rejected."""
    body = b'{"data": [{"index": 0.0, "embedding": [1' + b"0" * 400 + b"]}]}"
    with pytest.raises(ResponseFormatError, match=r"out of range - at `\$\.data\[0\]\.embedding\[0\]`"):
        decode(answer(body), 1, None)


def test_results_in_short() -> None:
    """The repr of a result shows its usage but no embeddings, since event loops print results in logs."""
    result = EmbeddingResult([[0.25] * 1024] * 100, Usage(1, 2, 3), "m", ("id",) * 100)

    usage = "Usage(requests=1, total_tokens=2, credits_used=3, cached=0, usd_spent=0.0)"
    assert repr(result) == f"EmbeddingResult(usage={usage}, model='m', cached=0, shortened=())"


class Slow(dict[str, str]):
    """Headers whose look-up blocks until it is allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.allowed = threading.Event(), threading.Event()

    def get(self, *_: object) -> Any:
        """Block until the look-up is allowed."""
        self.asked.set()
        self.allowed.wait(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_a_thread_reads_a_response() -> None:
    """A forked child can read a response while a thread of the parent is reading one."""
    headers = Slow()
    thread = threading.Thread(target=lambda: Response(200, headers, b"{}").usage)
    thread.start()
    assert headers.asked.wait(60)
    child = os.fork()
    if child == 0:
        os._exit(Response(200, {}, b"{}").usage != UNKNOWN)
    ended = 0
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.02)
    headers.allowed.set()
    thread.join()
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)

    assert ended == child
    assert status == 0
