"""
What goes over the wire and what it means when it comes back: JSON out, JSON in. No I/O here.

Nothing of an answer is trusted but ``index`` and ``embedding``, and those only after they are checked.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import sys
from array import array
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import orjson

from ._errors import ResponseFormatError
from ._result import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._config import EmbeddingConfig

MOST_COUNTED = 2**53

_MEDIA_TYPE = re.compile(r"[a-z]{1,20}/[a-z0-9.+-]{1,40}(; ?charset=[A-Za-z0-9-]{1,20})?")


@dataclass(frozen=True)
class Answer:
    """
    An HTTP answer as plain data.

    Attributes:
        status: The HTTP status.

        headers: By name in lower case.

        body: Decompressed.
    """

    status: int
    # A traceback that prints local variables shows neither, since the service may repeat what it was sent.
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @cached_property
    def json(self) -> Any:
        """The body, parsed once; None if it is no JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    @property
    def outline(self) -> str:
        """What can be said of a body without repeating any of it."""
        kind = self.headers.get("content-type", "")
        return f"{kind if _MEDIA_TYPE.fullmatch(kind) else 'no content type'}, {len(self.body)} bytes"


@dataclass(frozen=True)
class Rows:
    """
    What one good answer holds.

    Attributes:
        embeddings: Shape (texts sent, dimensions), in the order of the texts.

        model: The model's name as the service gives it, or None.

        request_id: The answer's id, or None.
    """

    embeddings: Sequence[Sequence[float]]
    model: str | None
    request_id: str | None


def encode(texts: Sequence[str], config: EmbeddingConfig) -> bytes:
    """
    Write a request body: exactly ``model``, ``input`` as strings, and what the user set.

    Source: AI/ML API's OpenAPI of the endpoint. It refuses null for an option that is not set, and token ids.
    """
    body: dict[str, Any] = {"model": config.model, "input": list(texts)}
    if config.dimensions is not None:
        body["dimensions"] = config.dimensions
    if config.encoding_format is not None:
        body["encoding_format"] = config.encoding_format
    return orjson.dumps(body)


def most_bytes(rows: int) -> int:
    """
    Give how large the body of an answer may be: 1 MiB for each of the *rows*, 16 MiB at least.

    A row of 2,048 numbers takes 45 kB, so what is larger is no answer of the service.
    """
    return max(16, rows) * 2**20


def decode(answer: Answer, expected: int, dimensions: int | None) -> Rows:
    """
    Read the answer to a request that succeeded.

    Args:
        answer: One with a 2xx status.

        expected: Number of texts sent; one embedding each must come back.

        dimensions: Length each embedding must have; None if it is not known, and then all must be alike.

    Raises:
        ResponseFormatError: If the body is not JSON, or does not hold exactly one sound embedding for each
            index from 0 to *expected* - 1. Rows without any index are taken in the order given.

    Source: AI/ML API's OpenAPI (``CreateEmbeddingsResponseDTO``) and its one published recording. ``object``
    and ``model`` differ between the two, so neither is checked; ``usage``, ``meta`` and ``id`` are optional.
    """
    body = answer.json
    if not isinstance(body, dict):
        raise _unsound(f"the body is not a JSON object ({answer.outline})")
    data = body.get("data")
    if not isinstance(data, list):
        said = " and holds an error" if body.get("error") else ""
        raise _unsound(f"the body has no list `data`{said}")
    if len(data) != expected:
        raise _unsound(f"{len(data)} rows for {expected} texts")
    embeddings = [_floats(row, at) for at, row in enumerate(_in_order(data))]
    length = dimensions or len(embeddings[0])
    for at, embedding in enumerate(embeddings):
        if len(embedding) != length:
            raise _unsound(f"row {at} has {len(embedding)} numbers instead of {length}")
    return Rows(embeddings, _string(body, "model"), request_id(body, answer.headers))


def read_usage(answer: Answer) -> Usage:
    """Read what an answer says of the cost of its request, sound or not; what it does not say is unknown."""
    body = answer.json
    usage, meta = (body.get("usage"), body.get("meta")) if isinstance(body, dict) else (None, None)
    credits_used = _count(meta.get("usage") if isinstance(meta, dict) else None, "credits_used")
    header = answer.headers.get("x-aimlapi-credits-used", "")
    if credits_used is None and re.fullmatch("[0-9]{1,18}", header):
        credits_used = int(header)
    return Usage(requests=1, total_tokens=_count(usage, "total_tokens"), credits_used=credits_used)


def request_id(body: Any, headers: Mapping[str, str]) -> str | None:
    """
    Find the id to quote to support, best first.

    Source: AI/ML API docs, "Request tracing and cost"; error answers observed.
    """
    found = (
        _string(body, "requestId"),
        headers.get("x-request-id"),
        headers.get("x-inference-id"),
        _string(body, "request_id"),
        _string(body, "id"),
    )
    return next((value for value in found if value), None)


def _unsound(problem: str) -> ResponseFormatError:
    return ResponseFormatError(f"the service answered with success, but {problem}")


def _in_order(data: list[Any]) -> list[Any]:
    for at, row in enumerate(data):
        if not isinstance(row, dict):
            raise _unsound(f"row {at} is not an object")
    indices = [row.get("index") for row in data]
    if all(index is None for index in indices):
        return data
    # Exact types, since True equals 1 and is no index; 1.0 equals 1 and is one in JSON.
    if not all(type(index) in (int, float) for index in indices) or set(indices) != set(range(len(data))):
        raise _unsound(f"the rows' index values are not 0 to {len(data) - 1}, each once")
    return sorted(data, key=lambda row: row["index"])


def _floats(row: dict[str, Any], at: int) -> list[float]:
    embedding = row.get("embedding")
    if isinstance(embedding, str):
        embedding = _from_base64(embedding, at)
    if not isinstance(embedding, list) or not embedding:
        raise _unsound(f"row {at} holds no embedding")
    kinds = set(map(type, embedding))
    if not kinds <= {float, int}:
        raise _unsound(f"row {at} holds something that is not a number")
    if int in kinds:
        embedding = list(map(float, embedding))
    # One sum finds any NaN or infinity; only a sum that overflows needs the slow look.
    if not math.isfinite(sum(embedding)) and not all(map(math.isfinite, embedding)):
        raise _unsound(f"row {at} holds a number that is not finite")
    if not any(embedding):
        raise _unsound(f"row {at} is all zero")
    return embedding


def _from_base64(text: str, at: int) -> list[float]:
    numbers = array("f")
    try:
        numbers.frombytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise _unsound(f"row {at} is not base64 of float32 numbers") from None
    if sys.byteorder == "big":  # pragma: no cover (no such machine in CI)
        numbers.byteswap()
    return numbers.tolist()


def _count(source: Any, name: str) -> int | None:
    value = source.get(name) if isinstance(source, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # Rates and totals are reckoned with it, so what no request can cost counts as unsaid.
    return value if type(value) is int and 0 <= value < MOST_COUNTED else None


def _string(source: Any, name: str) -> str | None:
    value = source.get(name) if isinstance(source, dict) else None
    return value if isinstance(value, str) else None
