"""
The service's response to a request: the gateway's checks, then the upstream's.

A pure function of the request: no I/O, no clock, no state. Keys, credits and
rate limits are in `_account`. The gateway's schema accepts much that the
upstream then rejects, a whole batch at a time.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from . import _responses
from ._vectors import lexical

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Collection

    from ._responses import Request, Response
    from ._vectors.semantic import Semantic

Region = Literal["international", "mainland"]

PATH = "/v1/embeddings"
BALANCE_PATH = "/v2/billing"

# Model names in requests, and the upstream's names for them.
# Source: AI/ML API docs, pages of the two models. The shorter names are in the gateway's live catalogue, as
# its staff listed it in its NocoBase plugin; that they are aliases is assumed (probe: price).
MODELS = {
    "alibaba/qwen-text-embedding-v4": "text-embedding-v4",
    "alibaba/qwen-text-embedding-v3": "text-embedding-v3",
    "alibaba/text-embedding-v4": "text-embedding-v4",
    "alibaba/text-embedding-v3": "text-embedding-v3",
}
# Source: AI/ML API's OpenAPI: the gateway checks the range, for v3 as for v4.
_LEAST, _MOST, _DEFAULT = 64, 2048, 1024
# Source: Alibaba Cloud Model Studio, "Text embedding", international and Chinese editions.
_ALL = frozenset({64, 128, 256, 512, 768, 1024, 1536, 2048})
_DIMENSIONS: dict[tuple[str, Region], frozenset[int]] = {
    ("text-embedding-v4", "international"): _ALL,
    ("text-embedding-v4", "mainland"): _ALL,
    ("text-embedding-v3", "international"): frozenset({512, 768, 1024}),
    ("text-embedding-v3", "mainland"): frozenset({64, 128, 256, 512, 768, 1024}),
}
# Source: Alibaba Cloud Model Studio, "Text embedding".
MAX_ROWS = 10
_MAX_TOKENS = 8192
# Credits per hundred tokens. AI/ML API's price is not published. This is Alibaba's, $0.07 per million tokens,
# at 2,000,000 credits per dollar; it agrees with the one published response (4 tokens, 1 credit).
_CREDITS_PER_HUNDRED = 14


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request that passed the gateway's checks."""

    request: Request
    model: str
    texts: list[str]
    dimensions: int
    base64: bool

    @property
    def tokens(self) -> int:
        """The number of tokens billed."""
        return sum(map(estimate_tokens, self.texts))

    @property
    def cost(self) -> int:
        """The cost, in whole credits."""
        return -(-self.tokens * _CREDITS_PER_HUNDRED // 100)


def estimate_tokens(text: str) -> int:
    """
    Estimate the tokens of *text*: one per four bytes of UTF-8, rounded up.

    The service counts with its model's vocabulary, which is not included here.
    Source: assumed (probe: tokens); it agrees with the published response ("Laura is a DJ.": 4).
    """
    return -(-len(text.encode()) // 4)


def read(body: bytes) -> Any:
    """Parse *body*; None if it is not JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def gateway(request: Request, *, api_keys: Collection[str] | None, mount: str) -> Call | Response:
    """
    Check *request* as the gateway does: route, key, JSON, model, schema.

    Args:
        request: The request.

        api_keys: Valid API keys. None means that every key that is not blank is valid.

        mount: The URL path before the service's own.

    Returns:
        The call to pass to the upstream, or an error response.

    Source: AI/ML API's OpenAPI and observed errors. The order of the checks,
    and the messages of 404 and of unreadable bodies, are those of NestJS and
    Express (assumed; probe: model).
    """
    path, _, _ = request.path.partition("?")
    if (request.method, path) != ("POST", mount + PATH):
        message = f"Cannot {request.method} {request.path}"
        if mount:
            message += f"; this is an emulator whose vectors are not Qwen's, and its path is {mount}{PATH}"
        return _responses.gateway_error(request, 404, "NotFoundException", message)
    if (error := key_error(request, api_keys)) is not None:
        return error
    content: Any = {}
    # Express ignores bodies of other types, treats an empty body as an empty object, and rejects bare values.
    if (
        request.body
        and request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
    ):
        content = read(request.body)
        if not isinstance(content, dict | list):
            return _responses.gateway_error(request, 400, "BadRequestException", "Unexpected token in JSON")
    if not isinstance(content, dict):
        return _responses.invalid(request, [_wrong_type("object", content, [])])
    return _check_schema(request, content)


def key_error(request: Request, api_keys: Collection[str] | None) -> Response | None:
    """Return the error response for a missing or invalid API key; None if the key is valid."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return _responses.gateway_error(request, 401, "UnauthorizedException", _responses.NO_KEY)
    if api_keys is not None and key.strip() not in api_keys:
        return _responses.gateway_error(request, 401, "UnauthorizedException", _responses.WRONG_KEY)
    return None


def _check_schema(request: Request, content: dict[str, Any]) -> Call | Response:
    """
    Check *content* against the model's schema; unknown keys are ignored.

    Source: AI/ML API's OpenAPI; issues have zod 3's messages, of which one
    kind was observed. That the model is looked up first is assumed
    (probe: model).
    """
    name = content.get("model", _MISSING)
    if not isinstance(name, str):
        return _responses.invalid(request, [_wrong_type("string", name, ["model"])])
    if name not in MODELS:
        return _responses.gateway_error(request, 404, "NotFoundException", f"Model {name} not found")
    issues = _input_issues(content.get("input", _MISSING))
    issues += _dimensions_issues(content.get("dimensions", _DEFAULT))
    if issues:
        return _responses.invalid(request, issues)
    texts = content["input"]
    return Call(
        request=request,
        model=MODELS[name],
        texts=[texts] if isinstance(texts, str) else texts,
        dimensions=int(content.get("dimensions", _DEFAULT)),
        base64=content.get("encoding_format") == "base64",
    )


_MISSING = object()
_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}


def _wrong_type(expected: str, value: object, path: list[str | int]) -> dict[str, Any]:
    if value is _MISSING:
        received, message = "undefined", "Required"
    else:
        received = "null" if value is None else _TYPES[type(value)]
        message = f"Expected {expected}, received {received}"
    return {
        "code": "invalid_type",
        "expected": expected,
        "received": received,
        "path": path,
        "message": message,
    }


def _input_issues(value: object) -> list[dict[str, Any]]:
    """Check that ``input`` is a string or a list of strings, not empty; maximum sizes are not checked."""
    path: list[str | int] = ["input"]
    if value == "":
        least = {"code": "too_small", "minimum": 1, "type": "string", "inclusive": True, "exact": False}
        return [least | {"message": "String must contain at least 1 character(s)", "path": path}]
    if value == []:
        least = {"code": "too_small", "minimum": 1, "type": "array", "inclusive": True, "exact": False}
        return [least | {"message": "Array must contain at least 1 element(s)", "path": path}]
    if isinstance(value, str):
        return []
    if isinstance(value, list):
        wrong = [
            _wrong_type("string", row, ["input", index])
            for index, row in enumerate(value)
            if not isinstance(row, str)
        ]
        if not wrong:
            return []
    else:
        wrong = [_wrong_type("array", value, path)]
    unions = [
        {"issues": issues, "name": "ZodError"} for issues in ([_wrong_type("string", value, path)], wrong)
    ]
    return [{"code": "invalid_union", "unionErrors": unions, "path": path, "message": "Invalid input"}]


def _dimensions_issues(value: object) -> list[dict[str, Any]]:
    """Check that ``dimensions`` is an integer in range, regardless of the values that the model supports."""
    path: list[str | int] = ["dimensions"]
    if not isinstance(value, int | float) or isinstance(value, bool):
        return [_wrong_type("number", value, path)]
    if value != int(value):
        message = "Expected integer, received float"
        kind = {"code": "invalid_type", "expected": "integer", "received": "float"}
        return [kind | {"message": message, "path": path}]
    if value < _LEAST:
        least = {"code": "too_small", "minimum": _LEAST, "type": "number", "inclusive": True, "exact": False}
        return [least | {"message": f"Number must be greater than or equal to {_LEAST}", "path": path}]
    if value > _MOST:
        most = {"code": "too_big", "maximum": _MOST, "type": "number", "inclusive": True, "exact": False}
        return [most | {"message": f"Number must be less than or equal to {_MOST}", "path": path}]
    return []


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """
    Alibaba's service, which rejects a whole call or returns a vector for each text.

    Args:
        region: The edition of the service.

        max_rows: Maximum number of texts per call.

        refuses: Returns whether the content of a text is rejected, and with
            it the whole call. None means that no text is rejected.

        refusal_status: The status of such a rejection. 400 has the upstream's
            envelope; any other has the gateway's documented one, since
            "partner errors" are documented to show as 500.

        shuffle: Whether to send rows in an order other than that of their
            index.

        base64: Whether to respect ``encoding_format``. Alibaba documents
            lists only; how the gateway treats it is not known.

        semantic: The source of the vectors. None means lexical vectors.

    Raises:
        ValueError: If an argument is out of range.

    Source: Alibaba Cloud Model Studio, "Text embedding"; AI/ML API docs,
    "Errors and messages".
    """

    region: Region
    max_rows: int
    refuses: Callable[[str], bool] | None
    refusal_status: int
    shuffle: bool
    base64: bool
    semantic: Semantic | None

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        if self.region not in get_args(Region):
            raise ValueError(f'region must be "international" or "mainland", not {self.region!r}')
        if self.max_rows < 1:
            raise ValueError(f"max_rows must be 1 or more, not {self.max_rows}")
        if not 400 <= self.refusal_status <= 599:  # noqa: PLR2004 - HTTP's statuses of errors
            raise ValueError(f"refusal_status must be 400 to 599, not {self.refusal_status}")

    @property
    def mount(self) -> str:
        """The URL path before the service's own: the name of the vectors, empty for lexical ones."""
        return "" if self.semantic is None else f"/{self.semantic.name}"

    def respond(self, call: Call) -> Response:
        """
        Create the response to *call*.

        Source: a successful response has the format of the published one.
        """
        error = self._rejection(call)
        if error is not None:
            return error
        space = call.model.removeprefix("text-")
        base64 = self.base64 and call.base64
        if self.semantic is None:
            model = call.model
            vectors = [lexical.embed(text, call.dimensions, space) for text in call.texts]
        else:
            model = f"{self.semantic.name}/{call.model}"
            vectors = self.semantic.embed(call.texts, call.dimensions, space)
        rows = [
            {"embedding": _encode(vector, base64=base64), "index": index, "object": "embedding"}
            for index, vector in enumerate(vectors)
        ]
        if self.shuffle:
            rows = rows[1:] + rows[:1]
        content = {
            "data": rows,
            "model": model,
            "object": "list",
            "usage": {"prompt_tokens": call.tokens, "total_tokens": call.tokens},
            "id": _responses.long_id(call.request),
            "meta": {"usage": {"credits_used": call.cost}},
        }
        return _responses.success(call.request, content, call.cost)

    def _rejection(self, call: Call) -> Response | None:
        """
        Return the upstream's error response to *call*; None if it is accepted.

        Source: Alibaba Cloud Model Studio, "Error codes",
        ``data_inspection_failed``, for rejected content; that it applies to
        embeddings, and through the gateway, is assumed (probe: none).
        """
        problem = self._problem(call)
        if problem is not None:
            return _responses.upstream_error(call.request, "InvalidParameter", problem)
        if self.refuses is None or not any(map(self.refuses, call.texts)):
            return None
        if self.refusal_status == HTTPStatus.BAD_REQUEST:
            message = "Input text data may contain inappropriate content."
            return _responses.upstream_error(call.request, "DataInspectionFailed", message)
        return _responses.documented(call.request, self.refusal_status)

    def _problem(self, call: Call) -> str | None:
        """
        Return the upstream's message, in its own spelling, for an invalid *call*; None if it is valid.

        Source: logs of several public projects. Assumed: the order of the
        checks, that a blank text gets the message for a too long one (whose
        range begins at 1), and the list of dimensions reported for v3.
        """
        if len(call.texts) > self.max_rows:
            limit = f"it should not be larger than {self.max_rows}.: input.contents"
            return f"Value error, batch size is invalid, {limit}"
        if any(not text.strip() or estimate_tokens(text) > _MAX_TOKENS for text in call.texts):
            return f"Range of input length should be [1, {_MAX_TOKENS}]"
        known = _DIMENSIONS[call.model, self.region]
        if call.dimensions not in known:
            listed = sorted(known | {3072}) if known == _ALL else sorted(known)
            return f"Value error, dimension for embedding v3 is invalid, its value shold be in {listed}"
        return None


def _encode(vector: array[float], *, base64: bool) -> list[float] | str:
    """Encode *vector* as JSON numbers, or as base64 of little-endian float32 values."""
    if not base64:
        return vector.tolist()
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
