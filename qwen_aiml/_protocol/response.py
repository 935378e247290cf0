"""
Responses as plain data, and the decoding and validation of their embeddings. No I/O here.

Of a response, only ``index`` and ``embedding`` are trusted, and only after validation.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from .._errors import ResponseFormatError
from .._results import Usage
from .._utils.lazy import lazy_property
from .arrays import packed
from .schema import Hidden, Row, Success, members

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


MAX_COUNT = 2**53

_DECIMAL = r"[0-9]{1,15}(\.[0-9]{1,15})?"
_MEDIA_TYPE = r"[a-z]{1,20}/[a-z0-9.+-]{1,40}(; ?charset=[A-Za-z0-9-]{1,20})?"


_INDEX, _EMBEDDING = attrgetter("index"), attrgetter("embedding")
_SUCCESS = msgspec.json.Decoder(Success)
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Response(Hidden, dict=True):
    """
    An HTTP response as plain data.

    Attributes:
        status: The HTTP status.

        headers: The headers, by lower-case name.

        body: The decompressed body.

        packed: Whether to decode embeddings into float32 arrays.

        problem: Why `success` is None, once it was read; names a position in the body and types, no values.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    packed: bool = False
    problem: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx. AI/ML API documents 200; 201 is assumed (probe: status)."""
        return 200 <= self.status < 300  # noqa: PLR2004 (HTTP's success statuses)

    @lazy_property
    def json(self) -> Any:
        """The body, parsed once; None if it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except _NO_JSON:
            return None

    @lazy_property
    def success(self) -> Success | None:
        """The body, parsed once; None if it does not have the documented shape."""
        if self.packed:
            from .simd import packed_success  # noqa: PLC0415 (rarely needed)

            if (success := packed_success(self.body)) is not None:
                return success
        try:
            return _SUCCESS.decode(self.body)
        except _NO_JSON as error:
            self.problem = str(error)
            return None

    def member(self, name: str) -> Any:
        """Return the body's member *name*, a field of `Success` except ``data``; None if it is missing."""
        if self.success is not None:
            return getattr(self.success, name)
        return members(self.json).get(name)

    def text_member(self, name: str) -> str | None:
        """Return the body's member *name* if it is a string; otherwise None."""
        value = self.member(name)
        return value if isinstance(value, str) else None

    @lazy_property
    def usage(self) -> Usage:
        """
        The reported usage of the request, even if the response is malformed; None for missing values.

        Failed requests are not billed, malformed successes are. Source: AI/ML API docs, "API keys".
        """
        if not self.is_success:
            return Usage(requests=1)
        billed, charged = members(self.member("usage")), members(members(self.member("meta")).get("usage"))
        credits_used, usd_spent = _count(charged.get("credits_used")), _dollars(charged.get("usd_spent"))
        header = self.headers.get("x-aimlapi-credits-used")
        if credits_used is None and header and re.fullmatch("[0-9]{1,18}", header):
            credits_used = _count(int(header))
        header = self.headers.get("x-aimlapi-usd-spent")
        if usd_spent is None and header and re.fullmatch(_DECIMAL, header):
            usd_spent = float(header)
        return Usage(1, _count(billed.get("total_tokens")), credits_used, usd_spent=usd_spent)

    @property
    def request_id(self) -> str | None:
        """
        The ID to quote to support, the most useful one available; None if there is none.

        Source: AI/ML API docs, "Request tracing and cost"; error responses observed.
        """
        return (
            self.text_member("requestId")
            or self.headers.get("x-request-id")
            or self.headers.get("x-inference-id")
            or self.text_member("request_id")
            or self.text_member("id")
            or None
        )

    @property
    def description(self) -> str:
        """A description of the body that repeats none of it: media type and size."""
        kind = self.headers.get("content-type", "")
        return f"{kind if re.fullmatch(_MEDIA_TYPE, kind) else 'no content type'}, {len(self.body)} bytes"


class Rows(Hidden):
    """
    The content of one valid response.

    Attributes:
        embeddings: Shape (texts sent, dimensions), in the order of the texts.

        model: The model's name as reported by the service, or None.

        request_id: The response's ID, or None.

        tokens: Tokens billed for the request, or None.
    """

    embeddings: Sequence[Sequence[float]]
    model: str | None
    request_id: str | None
    tokens: int | None = None


def decode(response: Response, expected: int, dimensions: int | None) -> Rows:
    """
    Decode and validate the response to a successful request.

    Args:
        response: A response with a 2xx status.

        expected: Number of texts sent; the response must have one embedding for each.

        dimensions: Required dimensions; None if unknown, in which case all embeddings must have the same.

    Raises:
        ResponseFormatError: If the body is not JSON, or does not contain exactly one valid embedding for each
            index from 0 to *expected* - 1; a packed one must also fit float32. If no row has an index, the
            rows are taken in the given order.

    Source: AI/ML API's OpenAPI (``CreateEmbeddingsResponseDTO``) and its one published recording. ``object``
    and ``model`` differ between the two, so neither is checked; ``usage``, ``meta`` and ``id`` are optional.
    """
    success = response.success
    if success is None:
        problem = f"{response.problem} ({response.description}). What to do: check base_url, and any proxy"
        raise _invalid(f"the body is not as documented: {problem}")
    rows = success.data
    if len(rows) != expected:
        raise _invalid(f"{len(rows)} rows for {expected} texts")
    if list(map(_INDEX, rows)) != list(range(expected)):
        rows = _in_order(rows)
    embeddings: list[Any] = list(map(_EMBEDDING, rows))
    if str in set(map(type, embeddings)):
        embeddings = [_decoded(embedding, at) for at, embedding in enumerate(embeddings)]
    length = dimensions or len(embeddings[0])
    if set(map(len, embeddings)) != {length} or not all(map(any, embeddings)):
        raise _invalid_row(embeddings, length)
    if response.packed:
        embeddings = list(map(packed, embeddings))
    tokens = response.usage.total_tokens
    return Rows(embeddings, response.text_member("model"), response.request_id, tokens)


def _invalid(problem: str) -> ResponseFormatError:
    return ResponseFormatError(f"the service responded with success, but {problem}")


def _in_order(rows: list[Row]) -> list[Row]:
    indices = set(map(_INDEX, rows))
    if indices == {None}:
        return rows
    if indices != set(range(len(rows))):
        raise _invalid(f"the rows' index values are not 0 to {len(rows) - 1}, each once")
    return sorted(rows, key=_INDEX)


def _invalid_row(embeddings: Sequence[Sequence[float]], length: int) -> ResponseFormatError:
    """Return the error for the first invalid row; there must be one."""
    at = next(at for at, row in enumerate(embeddings) if len(row) != length or not any(row))
    row = embeddings[at]
    if not any(row):
        return _invalid(f"row {at} {'is all zero' if row else 'holds no embedding'}")
    return _invalid(
        f"row {at} has {len(row)} dimensions instead of {length}. What to do: check model, dimensions and "
        "base_url"
    )


def _decoded(embedding: list[float] | str, at: int) -> list[float]:
    """Decode an embedding that may be a base64 string."""
    if isinstance(embedding, list):
        return embedding
    try:
        data = base64.b64decode(embedding, validate=True)
        numbers = struct.unpack(f"<{len(data) // 4}f", data)
    except (ValueError, struct.error):
        raise _invalid(f"row {at} is not base64 of float32 numbers") from None
    if not all(map(math.isfinite, numbers)):
        raise _invalid(f"row {at} holds a number that is not finite")
    return list(numbers)


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # Rates and totals are computed from it, so an impossible value counts as missing.
    return value if type(value) is int and 0 <= value < MAX_COUNT else None


def _dollars(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value < MAX_COUNT else None
