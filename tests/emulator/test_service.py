"""The service's contract: rejections by the gateway, rejections by the upstream, and the response format."""

# ruff: noqa: SIM300 - expected == actual, in all tests

from __future__ import annotations

import base64
import re
import struct
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    Post = Callable[..., httpx.Response]

URL = "https://api.aimlapi.com/v1/embeddings"
V4 = "alibaba/qwen-text-embedding-v4"

NO_KEY = "You provided an empty string instead of valid API key."
WRONG_KEY = "This request requires a valid API key."
KEYS_PAGE = "You can create a new API key on the Billing page: https://aimlapi.com/app/keys"
TOO_MANY = (
    "<400> InternalError.Algo.InvalidParameter: "
    "Value error, batch size is invalid, it should not be larger than 10.: input.contents"
)
LENGTH = "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 8192]"
DIMENSION = (
    "<400> InternalError.Algo.InvalidParameter: "
    "Value error, dimension for embedding v3 is invalid, its value shold be in "
)


def issues(response: httpx.Response) -> list[Any]:
    """Return the path, code and message of each issue in a gateway's 400."""
    assert (400, "Invalid payload provided") == (response.status_code, response.json()["message"])
    return [(issue["path"], issue["code"], issue["message"]) for issue in response.json()["error"]["data"]]


def test_shape(post: Post, body: Callable[..., Any]) -> None:
    """A response has the keys of the published response, in its order, with usage and cost."""
    answer = post(Emulator(), body("Laura is a DJ.")).json()

    [row] = answer.pop("data")
    assert ["embedding", "index", "object"] == list(row)
    assert (64, 0, "embedding") == (len(row["embedding"]), row["index"], row["object"])
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer.pop("id"))
    assert {
        "model": "text-embedding-v4",
        "object": "list",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
        "meta": {"usage": {"credits_used": 1}},
    } == answer


def test_numbers(post: Post, body: Callable[..., Any]) -> None:
    """Numbers are exact float32 values, printed as the shortest text that parses to the same double."""
    text = post(Emulator(), body(dimensions=2048)).text
    printed = text[text.index("[", 10) + 1 : text.index("]")].split(",")
    values = [float(number) for number in printed]

    assert values == list(struct.unpack("<2048f", struct.pack("<2048f", *values)))
    assert max(map(len, printed)) <= 24
    assert all(len(number.lstrip("-0.").split("e")[0]) <= 17 for number in printed)


def test_headers(post: Post) -> None:
    """A response has the documented headers, with the same cost as the body."""
    response = post(Emulator(), x_client_request_id="job:7")

    assert re.fullmatch(r"[\w-]{21}", response.headers.pop("x-inference-id"))
    assert re.fullmatch(r"[\w-]{21}", response.headers.pop("x-request-id"))
    assert {
        "content-type": "application/json; charset=utf-8",
        "content-length": str(len(response.content)),
        "x-client-request-id": "job:7",
        "x-aimlapi-credits-used": "1",
        "x-aimlapi-usd-spent": "0.000000500",
    } == dict(response.headers)


def test_cost_is_rounded_up(post: Post, body: Callable[..., Any]) -> None:
    """Credits are integers, rounded up per request, and dollars are computed from them."""
    response = post(Emulator(), body(*["a" * 4 * 8192] * 10))

    assert 81920 == response.json()["usage"]["total_tokens"]
    assert 11469 == response.json()["meta"]["usage"]["credits_used"]
    assert "0.005734500" == response.headers["x-aimlapi-usd-spent"]


@pytest.mark.parametrize("sent", ["", "a b", "a/b", "x" * 129])
def test_client_request_id_dropped(post: Post, sent: str) -> None:
    """A client request id that is not 1 to 128 letters, digits and . _ : - is ignored."""
    response = post(Emulator(), x_client_request_id=sent)

    assert (200, False) == (response.status_code, "x-client-request-id" in response.headers)


def test_deterministic(post: Post, body: Callable[..., Any]) -> None:
    """The same body gets the same response, including ids, with any API key; another body gets other ids."""
    first, second = post(Emulator()), post(Emulator(), authorization="Bearer another")
    other = post(Emulator(), body("else"))

    assert (first.content, first.headers) == (second.content, second.headers)
    assert first.json()["id"] != other.json()["id"]
    assert first.headers["x-request-id"] != other.headers["x-request-id"]


@pytest.mark.parametrize(
    ("model", "upstream"),
    [
        ("alibaba/qwen-text-embedding-v4", "text-embedding-v4"),
        ("alibaba/text-embedding-v4", "text-embedding-v4"),
        ("alibaba/qwen-text-embedding-v3", "text-embedding-v3"),
        ("alibaba/text-embedding-v3", "text-embedding-v3"),
    ],
)
def test_models(post: Post, body: Callable[..., Any], model: str, upstream: str) -> None:
    """Each model name and its alias are valid; responses have the upstream's name; v3 and v4 differ."""
    answer = post(Emulator(), body(model=model, dimensions=512)).json()
    vectors = {
        name: post(Emulator(), body(model=f"alibaba/{name}", dimensions=512)).json()["data"]
        for name in ("text-embedding-v3", "text-embedding-v4")
    }

    assert upstream == answer["model"]
    assert [upstream] == [name for name, data in vectors.items() if data == answer["data"]]


@pytest.mark.parametrize("text", ["Laura", ["Laura"]])
def test_input_forms(post: Post, body: Callable[..., Any], text: object) -> None:
    """A bare string is a list of one; dimensions default to 1,024, and 512.0 is 512."""
    default = {"model": V4, "input": text}

    assert 1024 == len(post(Emulator(), default).json()["data"][0]["embedding"])
    assert 512 == len(post(Emulator(), body(input=text, dimensions=512.0)).json()["data"][0]["embedding"])


def test_unknown_keys_are_dropped(post: Post, body: Callable[..., Any]) -> None:
    """Keys that are not in the schema are ignored."""
    plain = post(Emulator(), body())
    extra = post(Emulator(), body(text_type="query", instruct="x", user="u", encoding_format="base64"))

    assert plain.json()["data"] == extra.json()["data"]


def test_base64(post: Post, body: Callable[..., Any]) -> None:
    """With base64 enabled, only requests for it get base64 of little-endian float32."""
    listed = post(Emulator(base64=True), body()).json()["data"][0]["embedding"]
    packed = post(Emulator(base64=True), body(encoding_format="base64")).json()["data"][0]["embedding"]

    assert listed == list(struct.unpack("<64f", base64.b64decode(packed)))


def test_shuffle(post: Post, body: Callable[..., Any]) -> None:
    """No shuffled row is in the place of its index, and each has the right vector."""
    straight = post(Emulator(), body("a", "b", "c")).json()["data"]
    shuffled = post(Emulator(shuffle=True), body("a", "b", "c")).json()["data"]

    assert all(place != row["index"] for place, row in zip(count(), shuffled, strict=False))
    assert straight == sorted(shuffled, key=lambda row: int(row["index"]))


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        ("", NO_KEY),
        ("Bearer", NO_KEY),
        ("Bearer  ", NO_KEY),
        ("Basic key", NO_KEY),
        ("Bearer wrong", WRONG_KEY),
    ],
)
def test_unauthorized(post: Post, authorization: str, message: str) -> None:
    """A missing or invalid API key gets 401 in the gateway's envelope."""
    response = post(Emulator(api_keys=["key"]), authorization=authorization)

    assert (401, "application/problem+json; charset=utf-8") == (
        response.status_code,
        response.headers["content-type"],
    )
    assert {
        "title": "Unauthorized",
        "status": 401,
        "message": f"{message} {KEYS_PAGE}",
        "instance": "/v1/embeddings",
        "requestId": response.headers["x-request-id"],
        "timestamp": "2026-08-30T18:23:01.734Z",
        "error": {"name": "UnauthorizedException", "message": f"{message} {KEYS_PAGE}"},
    } == response.json()


@pytest.mark.parametrize("keys", [None, ["other", "key"]])
def test_authorized(post: Post, keys: list[str] | None) -> None:
    """A valid API key is accepted; without a list of keys, every key that is not blank is valid."""
    assert 200 == post(Emulator(api_keys=keys), authorization="bearer key").status_code


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/embedding"), ("POST", "/v2/embeddings?a=b"), ("GET", "/v1/embeddings"), ("POST", "/")],
)
def test_unknown_route(method: str, path: str) -> None:
    """Another path or method gets 404, even without an API key, and the body names the path."""
    with Emulator().client_options()["http_client"] as client:
        response = client.request(method, URL.replace("/v1/embeddings", path))

    assert (404, path, f"Cannot {method} {path}") == (
        response.status_code,
        response.json()["instance"],
        response.json()["message"],
    )
    assert "NotFoundException" == response.json()["error"]["name"]


def test_query_is_no_part_of_the_route(body: Callable[..., Any]) -> None:
    """A query string does not affect the route."""
    with Emulator().client_options()["http_client"] as client:
        response = client.post(URL + "?a=b", json=body(), headers={"authorization": "Bearer key"})

    assert 200 == response.status_code


def test_unknown_model(post: Post, body: Callable[..., Any]) -> None:
    """An unknown model gets 404."""
    response = post(Emulator(), body(model="openai/text-embedding-3-small"))

    assert (404, "NotFoundException") == (response.status_code, response.json()["error"]["name"])
    assert "openai/text-embedding-3-small" in response.json()["message"]


@pytest.mark.parametrize("content", [b"{", b"null", b'"a"', b"7", b"\xff", b'{"a":NaN}', b'{"a":"\\ud800"}'])
def test_unreadable(post: Post, content: bytes) -> None:
    """A body that is not JSON, or not an object or array, gets 400 without a list of issues."""
    response = post(Emulator(), content)

    assert (400, "Unexpected token in JSON") == (response.status_code, response.json()["message"])
    assert "data" not in response.json()["error"]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [(b"", "application/json"), (b"{}", "application/json"), (b'{"model":"x"}', "text/plain")],
)
def test_no_content(post: Post, content: bytes, content_type: str) -> None:
    """No body, an empty object and a body of another type are reported as missing the model."""
    response = post(Emulator(), content, content_type=content_type)

    assert [(["model"], "invalid_type", "Required")] == issues(response)


REQUIRED = (["input"], "invalid_union", "Invalid input")
BOUNDS = {
    63: "Number must be greater than or equal to 64",
    -1: "Number must be greater than or equal to 64",
    2049: "Number must be less than or equal to 2048",
    64.5: "Expected integer, received float",
    None: "Expected number, received null",
    "64": "Expected number, received string",
    True: "Expected number, received boolean",
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": None}, [(["model"], "invalid_type", "Expected string, received null")]),
        ({"model": 4}, [(["model"], "invalid_type", "Expected string, received number")]),
        ({"input": None}, [REQUIRED]),
        ({"input": 5}, [REQUIRED]),
        ({"input": {"a": "b"}}, [REQUIRED]),
        ({"input": [1, 2]}, [REQUIRED]),
        ({"input": [[1, 2]]}, [REQUIRED]),
        ({"input": ["a", None]}, [REQUIRED]),
        ({"input": ""}, [(["input"], "too_small", "String must contain at least 1 character(s)")]),
        ({"input": []}, [(["input"], "too_small", "Array must contain at least 1 element(s)")]),
        (
            {"input": [], "dimensions": 63},
            [
                (["input"], "too_small", "Array must contain at least 1 element(s)"),
                (["dimensions"], "too_small", BOUNDS[63]),
            ],
        ),
        *(({"dimensions": value}, [(["dimensions"], None, message)]) for value, message in BOUNDS.items()),
    ],
)
def test_schema(post: Post, body: Callable[..., Any], change: dict[str, Any], expected: list[Any]) -> None:
    """A body that violates the gateway's schema gets 400 with an issue per violation, in zod's format."""
    found = issues(post(Emulator(), body() | change))

    assert expected == [
        (path, code and was, text) for (path, was, text), (_, code, _) in zip(found, expected, strict=True)
    ]


def test_missing_input_and_array(post: Post) -> None:
    """A missing input and a body that is an array are reported as issues."""
    assert [REQUIRED] == issues(post(Emulator(), {"model": V4}))
    assert [([], "invalid_type", "Expected object, received array")] == issues(post(Emulator(), []))


def test_token_ids_name_the_row(post: Post, body: Callable[..., Any]) -> None:
    """Token ids are rejected, with the issues for each form of input."""
    [issue] = post(Emulator(), body(input=["a", 7])).json()["error"]["data"]

    assert [[["input"]], [["input", 1]]] == [
        [one["path"] for one in u["issues"]] for u in issue["unionErrors"]
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": ["a"] * 11}, TOO_MANY),
        ({"input": [""] * 11}, TOO_MANY),
        ({"input": [""]}, LENGTH),
        ({"input": " \n"}, LENGTH),
        ({"input": ["a", "\u3000"]}, LENGTH),
        ({"input": "a" * (4 * 8192 + 1)}, LENGTH),
        ({"dimensions": 100}, DIMENSION + "[64, 128, 256, 512, 768, 1024, 1536, 2048, 3072]"),
        ({"dimensions": 2048, "model": "alibaba/qwen-text-embedding-v3"}, DIMENSION + "[512, 768, 1024]"),
        ({"dimensions": 64, "model": "alibaba/text-embedding-v3"}, DIMENSION + "[512, 768, 1024]"),
    ],
)
def test_upstream_refuses(post: Post, body: Callable[..., Any], change: dict[str, Any], message: str) -> None:
    """A request that passes the schema but not the upstream gets the upstream's 400."""
    response = post(Emulator(), body() | change)

    request_id = response.json()["id"]
    error = {"message": message, "type": "InvalidParameter", "param": None, "code": "InvalidParameter"}
    assert (400, "application/json") == (response.status_code, response.headers["content-type"])
    assert {"error": error, "id": request_id, "request_id": request_id} == response.json()


@pytest.mark.parametrize(("rows", "status"), [(3, 200), (4, 400)])
def test_max_rows(post: Post, body: Callable[..., Any], rows: int, status: int) -> None:
    """The maximum number of rows can be set, and the rejection of more names it."""
    response = post(Emulator(max_rows=3), body(*["a"] * rows))

    assert (status, status == 400) == (response.status_code, "not be larger than 3." in response.text)


def test_refused_content(post: Post, body: Callable[..., Any]) -> None:
    """One text with rejected content is a 400 for the whole request, from the upstream."""
    emulator = Emulator(refuses=lambda text: "bad" in text, credits=10)
    response = post(emulator, body("a", "so bad", "b"))

    message = (
        "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content."
    )
    kind = "DataInspectionFailed"
    assert (400, "application/json") == (response.status_code, response.headers["content-type"])
    assert {"message": message, "type": kind, "param": None, "code": kind} == response.json()["error"]
    assert [10, 200] == [emulator.credits, post(emulator, body("a", "b")).status_code]


def test_refused_content_unexplained(post: Post, body: Callable[..., Any]) -> None:
    """Content may be rejected with another status, with the gateway's message, which gives no reason."""
    emulator = Emulator(refuses=lambda text: text == "bad", refusal_status=500, credits=10)
    response = post(emulator, body("a", "bad"))

    assert (500, "Internal server error") == (response.status_code, response.json()["message"])
    assert [10, 200] == [emulator.credits, post(emulator, body("a", "b")).status_code]


def test_parameters_before_content(post: Post, body: Callable[..., Any]) -> None:
    """Parameters are checked before content."""
    response = post(Emulator(refuses=lambda _: True), body("a", dimensions=100))

    assert "InvalidParameter" == response.json()["error"]["code"]


@pytest.mark.parametrize("dimensions", [64, 128, 256, 512, 768, 1024, 1536, 2048])
@pytest.mark.parametrize("region", ["international", "mainland"])
def test_dimensions(post: Post, body: Callable[..., Any], region: Any, dimensions: int) -> None:
    """v4 supports eight dimensions in each region; v3 supports three internationally, and six in China."""
    emulator = Emulator(region=region)
    v4 = post(emulator, body(dimensions=dimensions))
    v3 = post(emulator, body(dimensions=dimensions, model="alibaba/qwen-text-embedding-v3"))

    known = {512, 768, 1024} | ({64, 128, 256} if region == "mainland" else set())
    assert (200, 200 if dimensions in known else 400) == (v4.status_code, v3.status_code)
    assert dimensions == len(v4.json()["data"][0]["embedding"])
