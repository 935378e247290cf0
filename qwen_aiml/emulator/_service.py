"""
What the service answers to a request: the gateway's checks, then the upstream's.

A pure function of the request: no I/O, no clock, no state. Accounts (keys,
credits, rates) are the emulator's. The gateway's schema lets much through
that the upstream then refuses, whole batches at a time.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from . import _answers
from ._vectors import lexical

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Collection

    from ._answers import Answer, Request
    from ._vectors.semantic import Semantic

Region = Literal["international", "mainland"]

PATH = "/v1/embeddings"
BALANCE_PATH = "/v2/billing"

# Names a request may use, and what the upstream calls the model.
# Source: AI/ML API docs, pages of the two models; the shorter names are in the gateway's live catalogue as
# its staff listed it in its NocoBase plugin, and are taken for aliases (assumed; probe: price).
MODELS = {
    "alibaba/qwen-text-embedding-v4": "text-embedding-v4",
    "alibaba/qwen-text-embedding-v3": "text-embedding-v3",
    "alibaba/text-embedding-v4": "text-embedding-v4",
    "alibaba/text-embedding-v3": "text-embedding-v3",
}
# Source: AI/ML API's OpenAPI: the gateway checks the range, for v3 as for v4.
_LEAST, _MOST, _DEFAULT = 64, 2048, 1024
# Source: Alibaba Cloud Model Studio, "Text embedding", its international and its Chinese edition.
_ALL = frozenset({64, 128, 256, 512, 768, 1024, 1536, 2048})
_DIMENSIONS: dict[tuple[str, Region], frozenset[int]] = {
    ("text-embedding-v4", "international"): _ALL,
    ("text-embedding-v4", "mainland"): _ALL,
    ("text-embedding-v3", "international"): frozenset({512, 768, 1024}),
    ("text-embedding-v3", "mainland"): frozenset({64, 128, 256, 512, 768, 1024}),
}
# Source: Alibaba Cloud Model Studio, "Text embedding".
MOST_ROWS = 10
_MOST_TOKENS = 8192
# Credits a hundred tokens cost. AI/ML API's price is not published: this is Alibaba's, $0.07 a million,
# at 2,000,000 credits a dollar, and agrees with the one published answer (4 tokens, 1 credit).
_CREDITS_A_HUNDRED = 14


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request that met the gateway's schema."""

    request: Request
    model: str
    texts: list[str]
    dimensions: int
    base64: bool

    @property
    def tokens(self) -> int:
        """How many tokens it is billed for."""
        return sum(map(estimate_tokens, self.texts))

    @property
    def cost(self) -> int:
        """What it costs, in whole credits."""
        return -(-self.tokens * _CREDITS_A_HUNDRED // 100)


def estimate_tokens(text: str) -> int:
    """
    Estimate the tokens of *text*: one for every four bytes of UTF-8 begun.

    The service counts with its model's vocabulary, which is not here. Source:
    assumed (probe: tokens); it agrees with the published answer ("Laura is a DJ.": 4).
    """
    return -(-len(text.encode()) // 4)


def read(body: bytes) -> Any:
    """Parse *body*, None if it is no JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def gateway(request: Request, *, api_keys: Collection[str] | None, mount: str) -> Call | Answer:
    """
    Check *request* as the gateway does: route, key, JSON, model, schema.

    Args:
        request: What came in.

        api_keys: The keys that are known; None: all that are not blank.

        mount: What is before the service's own path.

    Returns:
        The call to hand to the upstream, or the refusal.

    Source: AI/ML API's OpenAPI and observed errors. The order, the texts of
    404 and those for unreadable bodies are NestJS's and Express's (assumed;
    probe: model).
    """
    asked, _, _ = request.path.partition("?")
    if (request.method, asked) != ("POST", mount + PATH):
        message = f"Cannot {request.method} {request.path}"
        if mount:
            message += f"; this is an emulator whose vectors are not Qwen's, and its path is {mount}{PATH}"
        return _answers.refusal(request, 404, "NotFoundException", message)
    if (refusal := key_refusal(request, api_keys)) is not None:
        return refusal
    content: Any = {}
    # Express reads no body of another type, takes an empty one for an empty object, and knows no bare values.
    if (
        request.body
        and request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
    ):
        content = read(request.body)
        if not isinstance(content, dict | list):
            return _answers.refusal(request, 400, "BadRequestException", "Unexpected token in JSON")
    if not isinstance(content, dict):
        return _answers.invalid(request, [_wrong_type("object", content, [])])
    return _against_schema(request, content)


def key_refusal(request: Request, api_keys: Collection[str] | None) -> Answer | None:
    """Give what a request gets whose key is missing or unknown; None if its key is known."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return _answers.refusal(request, 401, "UnauthorizedException", _answers.NO_KEY)
    if api_keys is not None and key.strip() not in api_keys:
        return _answers.refusal(request, 401, "UnauthorizedException", _answers.WRONG_KEY)
    return None


def _against_schema(request: Request, content: dict[str, Any]) -> Call | Answer:
    """
    Check *content* against the model's schema; unknown keys are dropped.

    Source: AI/ML API's OpenAPI; issues have the words of zod 3, of which one
    kind was observed. That the model is looked up first is assumed
    (probe: model).
    """
    name = content.get("model", _MISSING)
    if not isinstance(name, str):
        return _answers.invalid(request, [_wrong_type("string", name, ["model"])])
    if name not in MODELS:
        return _answers.refusal(request, 404, "NotFoundException", f"Model {name} not found")
    issues = _input_issues(content.get("input", _MISSING))
    issues += _dimensions_issues(content.get("dimensions", _DEFAULT))
    if issues:
        return _answers.invalid(request, issues)
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
    """Check ``input``: a string or a list of strings, not empty; how long or how many is not asked."""
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
    """Check ``dimensions``: whole, in range, never null; which of them a model knows is not asked."""
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
    Alibaba's service, which refuses all of a call or gives a vector for each text.

    Args:
        region: Which edition of it answers.

        max_rows: The most texts of a call.

        refuses: Says of a text whether its content is refused, and with it
            the whole call. None: no content is.

        refusal_status: The status of such a refusal. 400 comes in the
            upstream's envelope; any other in the gateway's, as documented
            for it: "partner errors" are said to show as 500.

        shuffle: Whether rows come in an order other than that of their index.

        base64: Whether ``encoding_format`` is obeyed. Alibaba documents
            lists only, and what the gateway makes of it is not known.

        semantic: What makes the vectors; None: they are lexical.

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
        """Refuse settings out of range."""
        if self.region not in get_args(Region):
            raise ValueError(f'region must be "international" or "mainland", not {self.region!r}')
        if self.max_rows < 1:
            raise ValueError(f"max_rows must be 1 or more, not {self.max_rows}")
        if not 400 <= self.refusal_status <= 599:  # noqa: PLR2004 - HTTP's statuses of errors
            raise ValueError(f"refusal_status must be 400 to 599, not {self.refusal_status}")

    @property
    def mount(self) -> str:
        """What is before the service's own paths: the name of the vectors, if they are not lexical."""
        return "" if self.semantic is None else f"/{self.semantic.name}"

    def answer(self, call: Call) -> Answer:
        """
        Answer *call*.

        Source: the shape of a good answer is that of the one published.
        """
        refusal = self._refusal(call)
        if refusal is not None:
            return refusal
        space = call.model.removeprefix("text-")
        base64 = self.base64 and call.base64
        if self.semantic is None:
            model = call.model
            vectors = [lexical.embed(text, call.dimensions, space) for text in call.texts]
        else:
            model = f"{self.semantic.name}/{call.model}"
            vectors = self.semantic.embed(call.texts, call.dimensions, space)
        rows = [
            {"embedding": _written(vector, base64=base64), "index": index, "object": "embedding"}
            for index, vector in enumerate(vectors)
        ]
        if self.shuffle:
            rows = rows[1:] + rows[:1]
        content = {
            "data": rows,
            "model": model,
            "object": "list",
            "usage": {"prompt_tokens": call.tokens, "total_tokens": call.tokens},
            "id": _answers.long_id(call.request),
            "meta": {"usage": {"credits_used": call.cost}},
        }
        return _answers.success(call.request, content, call.cost)

    def _refusal(self, call: Call) -> Answer | None:
        """
        Give what the upstream refuses *call* with, if it does.

        Source: Alibaba Cloud Model Studio, "Error codes",
        ``data_inspection_failed``, for refused content; that embeddings get
        it, and through the gateway, is assumed (probe: none).
        """
        problem = self._problem(call)
        if problem is not None:
            return _answers.refused_upstream(call.request, "InvalidParameter", problem)
        if self.refuses is None or not any(map(self.refuses, call.texts)):
            return None
        if self.refusal_status == HTTPStatus.BAD_REQUEST:
            message = "Input text data may contain inappropriate content."
            return _answers.refused_upstream(call.request, "DataInspectionFailed", message)
        return _answers.documented(call.request, self.refusal_status)

    def _problem(self, call: Call) -> str | None:
        """
        Say what parameter of *call* the upstream refuses, in its words and spelling.

        Source: logs of several public projects. Assumed: the order of the
        checks, that a blank row gets the text of a too long one (whose range
        begins at 1), and the list of lengths given for v3.
        """
        if len(call.texts) > self.max_rows:
            limit = f"it should not be larger than {self.max_rows}.: input.contents"
            return f"Value error, batch size is invalid, {limit}"
        if any(not text.strip() or estimate_tokens(text) > _MOST_TOKENS for text in call.texts):
            return f"Range of input length should be [1, {_MOST_TOKENS}]"
        known = _DIMENSIONS[call.model, self.region]
        if call.dimensions not in known:
            listed = sorted(known | {3072}) if known == _ALL else sorted(known)
            return f"Value error, dimension for embedding v3 is invalid, its value shold be in {listed}"
        return None


def _written(vector: array[float], *, base64: bool) -> list[float] | str:
    """Write *vector* as JSON numbers, or as base64 of its little-endian float32 numbers."""
    if not base64:
        return vector.tolist()
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
