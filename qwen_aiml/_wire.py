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
from functools import cached_property
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from ._errors import ResponseFormatError
from ._result import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._config import EmbeddingConfig

MOST_COUNTED = 2**53

_MEDIA_TYPE = r"[a-z]{1,20}/[a-z0-9.+-]{1,40}(; ?charset=[A-Za-z0-9-]{1,20})?"


class Row(msgspec.Struct, gc=False):
    """One embedding, as the service documents it."""

    embedding: list[float]
    index: int | None = None


class Success(msgspec.Struct):
    """
    The body of an answer that holds embeddings, as the service documents it.

    To read it like this, types and all, takes two thirds of what it takes to read it first and look then.
    """

    data: list[Row]
    model: Any = None
    usage: Any = None
    meta: Any = None
    id: Any = None
    request_id: Any = None
    requestId: Any = None  # noqa: N815 (the service's spelling)


_INDEX, _EMBEDDING = attrgetter("index"), attrgetter("embedding")
_SUCCESS = msgspec.json.Decoder(Success)
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Answer(msgspec.Struct, frozen=True, dict=True):
    """
    An HTTP answer as plain data.

    Attributes:
        status: The HTTP status.

        headers: By name in lower case.

        body: Decompressed.

        packed: Whether embeddings are to be arrays of float32, where that is cheaper than lists.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    packed: bool = False

    def __repr__(self) -> str:
        # A traceback that prints local variables shows no more: the service may repeat what it was sent.
        return f"Answer(status={self.status})"

    @cached_property
    def json(self) -> Any:
        """The body, parsed once; None if it is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except _NO_JSON:
            return None

    @cached_property
    def success(self) -> Success | None:
        """The body, parsed once; None if it is not what the service documents."""
        if self.packed:
            from ._simd import packed_success  # noqa: PLC0415 (rarely needed)

            if (success := packed_success(self.body)) is not None:
                return success
        try:
            return _SUCCESS.decode(self.body)
        except _NO_JSON:
            return None

    def said(self, name: str) -> Any:
        """Give what the body says under a name, one of those of `Success` but ``data``; None for nothing."""
        if self.success is not None:
            return getattr(self.success, name)
        return self.json.get(name) if isinstance(self.json, dict) else None

    def said_text(self, name: str) -> str | None:
        """Give the same if it is a string, else None."""
        value = self.said(name)
        return value if isinstance(value, str) else None

    @cached_property
    def usage(self) -> Usage:
        """What the body says of the cost of its request, sound or not; what it does not say is unknown."""
        usage, meta = self.said("usage"), self.said("meta")
        credits_used = _count(meta.get("usage") if isinstance(meta, dict) else None, "credits_used")
        header = self.headers.get("x-aimlapi-credits-used", "")
        if credits_used is None and re.fullmatch("[0-9]{1,18}", header):
            credits_used = int(header)
        return Usage(requests=1, total_tokens=_count(usage, "total_tokens"), credits_used=credits_used)

    @property
    def request_id(self) -> str | None:
        """
        The id to quote to support, the best one there is; None if there is none.

        Source: AI/ML API docs, "Request tracing and cost"; error answers observed.
        """
        return (
            self.said_text("requestId")
            or self.headers.get("x-request-id")
            or self.headers.get("x-inference-id")
            or self.said_text("request_id")
            or self.said_text("id")
            or None
        )

    @property
    def is_page(self) -> bool:
        """Whether the body is HTML or XML, which the service does not answer with."""
        return self.body[:100].lstrip().startswith(b"<")

    @property
    def outline(self) -> str:
        """What can be said of a body without repeating any of it."""
        kind = self.headers.get("content-type", "")
        return f"{kind if re.fullmatch(_MEDIA_TYPE, kind) else 'no content type'}, {len(self.body)} bytes"


class Rows(msgspec.Struct, frozen=True):
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
    return msgspec.json.encode(body)


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
    data = _data(answer)
    if len(data) != expected:
        raise _unsound(f"{len(data)} rows for {expected} texts")
    if answer.success is not None and list(map(_INDEX, data)) == list(range(expected)):
        # As most are, and to look closer takes longer than all other checks.
        embeddings = list(map(_EMBEDDING, data))
    else:
        embeddings = [
            row.embedding if isinstance(row, Row) else _read_floats(row.get("embedding"), at)
            for at, row in enumerate(_in_order(data))
        ]
    length = dimensions or len(embeddings[0])
    if set(map(len, embeddings)) != {length} or not all(map(any, embeddings)):
        raise _unsound_row(embeddings, length)
    return Rows(embeddings, answer.said_text("model"), answer.request_id)


def _unsound(problem: str) -> ResponseFormatError:
    return ResponseFormatError(f"the service answered with success, but {problem}")


def _data(answer: Answer) -> Sequence[Row | dict[str, Any]]:
    if answer.success is not None:
        return answer.success.data
    # Whatever else may be meant by it is read with patience, or refused with the reason.
    body = answer.json
    if not isinstance(body, dict):
        raise _unsound(f"the body is not a JSON object ({answer.outline})")
    data = body.get("data")
    if not isinstance(data, list):
        said = " and holds an error" if body.get("error") else ""
        raise _unsound(f"the body has no list `data`{said}")
    return data


def _in_order(data: Sequence[Row | dict[str, Any]]) -> Sequence[Row | dict[str, Any]]:
    for at, row in enumerate(data):
        if not isinstance(row, (Row, dict)):
            raise _unsound(f"row {at} is not an object")
    indices = [row.index if isinstance(row, Row) else row.get("index") for row in data]
    if all(index is None for index in indices):
        return data
    # Exact types, since True equals 1 and is no index; 1.0 equals 1 and is one in JSON.
    if not all(type(index) in (int, float) for index in indices) or set(indices) != set(range(len(data))):
        raise _unsound(f"the rows' index values are not 0 to {len(data) - 1}, each once")
    return [row for _, row in sorted(zip(indices, data, strict=True), key=itemgetter(0))]


def _unsound_row(embeddings: Sequence[Sequence[float]], length: int) -> ResponseFormatError:
    """Say which is the first that is unsound, one of them being so, and why."""
    at = next(at for at, row in enumerate(embeddings) if len(row) != length or not any(row))
    row = embeddings[at]
    if not any(row):
        return _unsound(f"row {at} {'is all zero' if row else 'holds no embedding'}")
    return _unsound(
        f"row {at} has {len(row)} numbers instead of {length}. What to do: check model, dimensions and "
        "base_url"
    )


def _read_floats(embedding: Any, at: int) -> list[float]:
    if isinstance(embedding, str):
        embedding = _from_base64(embedding, at)
    if not isinstance(embedding, list):
        raise _unsound(f"row {at} holds no embedding")
    if not set(map(type, embedding)) <= {float, int}:
        raise _unsound(f"row {at} holds something that is not a number")
    try:
        floats = list(map(float, embedding))
    except OverflowError:
        floats = [math.inf]
    if not all(map(math.isfinite, floats)):
        raise _unsound(f"row {at} holds a number that is not finite")
    return floats


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
