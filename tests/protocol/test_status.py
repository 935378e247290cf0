"""Exceptions for error responses: type, message, advice and masking."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from qwen_aiml import (
    APIStatusError,
    AuthenticationError,
    EmbeddingConfig,
    InsufficientCreditsError,
    QwenAIMLError,
    RateLimitError,
    ResponseFormatError,
)
from qwen_aiml._engine.retry import is_transient
from qwen_aiml._protocol.response import Response
from qwen_aiml._protocol.status import error_from
from qwen_aiml._texts.validation import prepare_texts

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk-test-0123456789abcdef"
CONFIG = EmbeddingConfig(api_key=KEY)


def error(status: int, body: Any, texts: tuple[str, ...] = ("some text",), **settings: Any) -> APIStatusError:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    config = EmbeddingConfig(**{"api_key": KEY, **settings})
    headers = {"content-type": "text/html", "x-request-id": "from-header"}
    raised = error_from(Response(status, headers, content), texts, config, config.secret)
    assert isinstance(raised, APIStatusError)
    return raised


def current(status: int, message: Any, data: Any = None, **more: Any) -> dict[str, Any]:
    """Return the current envelope of AI/ML API, as observed from January to August 2026."""
    inner = {"name": "SomeException", "message": message, **({"data": data} if data else {})}
    return {"title": "Some Title", "status": status, "message": message, "error": inner, **more}


def legacy(status: int, message: str) -> dict[str, Any]:
    """Return the older envelope of AI/ML API."""
    return {"requestId": "legacy-id", "statusCode": status, "path": "/v1/embeddings", "message": message}


def upstream(message: str, code: str = "InvalidParameter") -> dict[str, Any]:
    """Return the envelope of Alibaba."""
    return {"error": {"message": message, "type": code, "param": None, "code": code}, "request_id": "up-id"}


NO_CREDITS = "You've run out of credits. Please top up your balance or update your payment method to continue"
FREE_TIER = "Free-tier limit: You've reached your free limit for the hour"
TOO_MANY_ROWS = (
    "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, "
    "it should not be larger than 10.: input.contents"
)
TOO_LONG = "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 8192]"
PAGE = b"\n<!DOCTYPE html><title>Sign in</title>"
BAD_DIMENSION = "Value error, dimension for embedding v3 is invalid, its value shold be in [64, 128]"


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (
            401,
            current(401, "You provided an empty string"),
            AuthenticationError,
            "an empty string. What to do: check",
        ),
        (
            401,
            legacy(401, "This request requires a valid API key"),
            AuthenticationError,
            "requires a valid API key",
        ),
        (
            401,
            upstream("Incorrect API key provided. ", "invalid_api_key"),
            AuthenticationError,
            "Incorrect API key",
        ),
        (401, b"", AuthenticationError, "no message from the service (text/html, 0 bytes)"),
        (
            403,
            current(403, NO_CREDITS, {"kind": "err_insufficent_credits"}),
            InsufficientCreditsError,
            "top up at",
        ),
        (403, current(403, "Stop", {"kind": "err_insufficent_credits"}), InsufficientCreditsError, "Stop"),
        (403, legacy(403, "You've run out of funds."), InsufficientCreditsError, "out of funds"),
        (403, upstream("Access denied"), APIStatusError, "may lack the scope model:embeddings"),
        (402, b"pay first", InsufficientCreditsError, "no message from the service (text/html, 9 bytes)"),
        (429, current(429, "Too Many Requests"), RateLimitError, "Too Many Requests. What to do: lower max"),
        (429, upstream("Allocated quota exceeded", "limit_requests"), RateLimitError, "quota exceeded"),
        (429, legacy(429, FREE_TIER), InsufficientCreditsError, "Free-tier limit"),
        (429, legacy(429, "Your subscription has ended"), InsufficientCreditsError, "top up"),
        (500, legacy(500, "Your balance could not be read"), APIStatusError, "HTTP 500: Your balance"),
        (
            404,
            current(404, "Cannot POST /v1/embeddings"),
            APIStatusError,
            "check the model (alibaba/qwen-text-embedding-v4) and base_url (https://api.aimlapi.com/v1)",
        ),
        (405, b"", APIStatusError, "check base_url (https://api.aimlapi.com/v1)"),
        (
            404,
            PAGE,
            APIStatusError,
            "the response is a web page: check base_url (https://api.aimlapi.com/v1)",
        ),
        (403, PAGE, APIStatusError, "a proxy, a firewall, or the sign-in page of a network"),
        (511, PAGE, APIStatusError, "the sign-in page of a network"),
        (511, b"", APIStatusError, "sign in to the network"),
        (503, PAGE, APIStatusError, "try again later, or raise max_retries"),
        (400, upstream(TOO_MANY_ROWS), APIStatusError, TOO_MANY_ROWS),
        (400, upstream(TOO_LONG), APIStatusError, "the text that has more than 8192 tokens"),
        (
            502,
            b"<html>Bad Gateway secret page</html>",
            APIStatusError,
            "no message from the service (text/html",
        ),
        (302, b"", APIStatusError, "redirects are not followed"),
        (500, [1, 2], APIStatusError, "no message"),
        (500, {"error": {}}, APIStatusError, "no message"),
        (500, {"message": " ", "error": "busy"}, APIStatusError, "HTTP 500: busy"),
        (500, {"data": [{"index": 0, "embedding": [1.0]}]}, APIStatusError, "no message"),
        (500, {"error": "plain text"}, APIStatusError, "HTTP 500: plain text"),
        (500, {"title": "Only a title"}, APIStatusError, "Only a title"),
        (
            400,
            current(400, ["input is empty", "model is unknown"]),
            APIStatusError,
            "input is empty; model is unknown",
        ),
    ],
)
def test_kinds(status: int, body: Any, kind: type[APIStatusError], said: str) -> None:
    """Each envelope and each status is converted to the error that says what to do."""
    raised = error(status, body)

    assert type(raised) is kind
    assert said in str(raised)
    assert raised.status_code == status


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"path": ["input", 0], "message": "Required"}], "Invalid payload provided; input.0: Required"),
        (
            [{"message": "Expected object"}, "odd", {"path": "x"}],
            "Invalid payload provided; body: Expected object",
        ),
    ],
)
def test_validation_issues(data: list[Any], message: str) -> None:
    """The validation issues that the gateway lists are part of the message."""
    raised = error(400, current(400, "Invalid payload provided", data))

    assert str(raised) == f"HTTP 400: {message}"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "account"),
        (402, "account"),
        (403, "account"),
        (404, "request"),
        (408, "service"),
        (409, "service"),
        (413, "length"),
        (429, "rate"),
        (500, "service"),
        (511, "request"),
    ],
)
def test_reason(status: int, reason: str) -> None:
    """Errors of the account or of any request name no text; transient ones name texts and attempts."""
    raised = error(status, b"")
    raised.indices, raised.attempts = (0,), 2

    assert raised.reason == reason
    assert ("text 0, 2 attempts" in str(raised)) == (reason not in ("account", "request"))


@pytest.mark.parametrize("depth", [900, 1010, 200_000])
def test_nested_beyond_measure(depth: int) -> None:
    """Values too deeply nested for Python are left out of the message; the limit depends on the version."""
    deep = b"[" * depth + b'"x"' + b"]" * depth
    message = str(error(429, b'{"message": ["slow down", ' + deep + b"]}"))
    assert message.startswith(("HTTP 429: slow down; ...", "HTTP 429: no message from the service"))
    issues = b'{"error": {"message": "no", "data": [{"path": [' + deep + b'], "message": ' + deep + b"}]}}"
    message = str(error(400, issues))
    assert message.startswith(("HTTP 400: no; ...: ...", "HTTP 400: no message from the service"))


def test_unknown_model() -> None:
    """If an unknown model is not found, the error lists the known models."""
    shown = str(error(404, current(404, "Model x not found"), model="x"))

    assert "check the model (x; known models: alibaba/qwen-text-embedding-v4, alibaba/qwen-text-emb" in shown


@pytest.mark.parametrize(
    ("status", "page"), [(401, "https://aimlapi.com/app/keys"), (402, "https://aimlapi.com/app/billing")]
)
@pytest.mark.parametrize("message", ["No. See {}.", "No."])
def test_page_is_named_once(status: int, page: str, message: str) -> None:
    """The page that resolves an error is named once, by the service or by us."""
    assert str(error(status, current(status, message.format(page)))).count(page) == 1


def test_url_is_named_once() -> None:
    """The service's own URL is named only beside another one."""
    shown = str(error(404, b"", base_url="https://gateway.example/v1"))

    assert str(error(404, b"")).count("https://api.aimlapi.com/v1") == 1
    assert "base_url (https://gateway.example/v1; the service's own is https://api.aimlapi.com/v1)" in shown


def test_regional_dimension() -> None:
    """Dimensions that only some regions offer are explained when they are rejected."""
    refused = upstream(BAD_DIMENSION)

    assert "in some regions only" in str(error(400, refused, model="text-embedding-v3", dimensions=64))
    assert "regions" not in str(error(400, refused, model="text-embedding-v3", dimensions=512))


@pytest.mark.parametrize(
    ("body", "expected"),
    [(legacy(500, "x"), "legacy-id"), (upstream("x"), "from-header"), (b"", "from-header")],
)
def test_request_id(body: Any, expected: str) -> None:
    """The error contains the ID to quote to support."""
    assert expected == error(500, body).request_id


def test_masked() -> None:
    """A key or a text that the service repeats is masked in the error."""
    raised = error(400, legacy(400, f"bad key {KEY} for input 'my diary' here"), texts=("my diary",))

    assert str(raised) == "HTTP 400: bad key [key] for input '[text]' here"


DIARY = "Dear diary, today my diagnosis was confirmed: stage II.\nI told nobody at work yet."


@pytest.mark.parametrize(
    ("echo", "shown"),
    [
        ("bad input near 'my diagnosis was confirmed' here", "bad input near '[text]' here"),
        (f"cut: '{DIARY[21:37]}'", "cut: '[text]'"),
        (f"cut: {DIARY[20:35]} of", f"cut: {DIARY[20:35]} of"),
        (f"as JSON: {json.dumps(DIARY)[43:70]}!", "as JSON: [text]!"),
        (f"twice: '{DIARY[5:40]}{DIARY[3:30]}' & '{DIARY}'", "twice: '[text]' & '[text]'"),
    ],
)
def test_runs_of_a_text_are_masked(echo: str, shown: str) -> None:
    """A run of 16 or more consecutive characters of a text is masked as a whole."""
    assert str(error(400, legacy(400, echo), texts=("another text", DIARY))) == f"HTTP 400: {shown}"


@pytest.mark.parametrize("query", ["my own secret illness and what follows", "my diary"])
def test_query_without_its_instruction(query: str) -> None:
    """A query is masked whether the service repeats it with its instruction or without."""
    sent = prepare_texts([query], "Find the article")
    body = legacy(400, f"bad input: '{query}', '{sent[0]}'")
    raised = error(400, body, texts=tuple(sent), query_instruction="Find the article")

    assert query not in str(raised)
    assert "[text]" in str(raised)


@pytest.mark.parametrize("cut", [KEY, KEY[1:], KEY[:-1], KEY[3:11], f"{KEY[:9]}***"])
def test_parts_of_the_key_are_masked(cut: str) -> None:
    """A truncated key is masked as well."""
    shown = str(error(401, legacy(401, f"bad key {cut}. "), texts=()))

    assert shown.startswith(
        f"HTTP 401: bad key [key]{'***' if '*' in cut else ''}. What to do: check the key"
    )


def test_short_key() -> None:
    """A key of a few letters is not masked, since it would match in ordinary words."""
    assert "HTTP 429: Rate limit exceeded. What" in str(
        error(429, legacy(429, "Rate limit exceeded."), api_key="x")
    )


def test_short_texts() -> None:
    """A text of four letters is masked where it is a separate word; one of three letters is not masked."""
    body = legacy(400, "bad input: cats, not scats or cat")

    assert str(error(400, body, texts=("cats", "cat"))) == "HTTP 400: bad input: [text], not scats or cat"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message", "start"),
    [
        (lambda size: "a" * 25 * size, lambda size: "a" * size, "[text]"),
        (lambda size: "a" * 125 * size, lambda size: ("b" + "a" * 15) * (size // 16), "baaaaaaaaaaaaaaab"),
        (lambda size: "abcdefgh" * 3 * size, lambda size: "bcdefghabcdefgha." * (size // 20), "[text]"),
        (lambda size: "        x       " * size, lambda size: "y        z" * (size // 10), "y        zy"),
        (
            lambda size: "".join(map(str, range(5 * size))),
            lambda _: "the input is too long",
            "the input is too long",
        ),
        (
            lambda size: "".join(map(str, range(5 * size))),
            lambda size: "".join(map(str, range(4 * size, 5 * size))),
            "[text]",
        ),
    ],
)
def test_masking_takes_linear_time(
    text: Callable[[int], str], message: Callable[[int], str], start: str
) -> None:
    """Masking takes linear time: 16 times the text takes about 16 times as long, even if it is repetitive."""

    def seconds(size: int) -> float:
        body, texts = legacy(400, message(size)), (text(size),) * 10
        begun = time.process_time()
        assert str(error(400, body, texts=texts)).startswith(f"HTTP 400: {start}")
        return time.process_time() - begun

    seconds(100)
    assert min(seconds(4000) for _ in range(3)) < 64 * min(seconds(250) for _ in range(3))


def test_texts_are_escaped_only_for_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a message has no backslash, it can't quote an escaped text, and none is escaped to compare."""
    body, text = legacy(400, "the input is too long"), "\u4e2d" * 1000

    def dumps(*_: object, **__: object) -> str:
        raise AssertionError

    monkeypatch.setattr("qwen_aiml._protocol.masking.json.dumps", dumps)
    assert str(error(400, body, texts=(text,))).startswith("HTTP 400: the input is too long")


@pytest.mark.parametrize("message", ["Slow down.", "Slow down. ", "Slow down"])
def test_full_stops(message: str) -> None:
    """A message that ends with a full stop does not get a second one."""
    assert str(error(429, legacy(429, message))).startswith("HTTP 429: Slow down. What to do: ")
    assert str(error(429, legacy(429, "Slow down!"))).startswith("HTTP 429: Slow down! What to do: ")


@pytest.mark.parametrize("status", [409, 501, 505, 525, 529, 530, 599])
def test_advice_has_effect(status: int) -> None:
    """A status whose advice is to raise max_retries is retried."""
    raised = error(status, legacy(status, "no"))

    assert "raise max_retries" in str(raised)
    assert is_transient(raised)


@pytest.mark.parametrize(
    ("body", "kind", "transient"),
    [
        ({"error": {"message": NO_CREDITS}}, InsufficientCreditsError, False),
        ({"error": NO_CREDITS}, InsufficientCreditsError, False),
        (current(403, "Stop", {"kind": "err_insufficent_credits"}), InsufficientCreditsError, False),
        (
            {"error": {"message": "Stop", "data": {"kind": "err_insufficent_credits"}}},
            InsufficientCreditsError,
            0,
        ),
        ({"error": {"message": "Pay first", "code": 402}}, InsufficientCreditsError, False),
        (upstream("Incorrect API key provided. ", "invalid_api_key"), AuthenticationError, False),
        (upstream("No", "invalid_api_key"), AuthenticationError, False),
        (legacy(401, "No"), AuthenticationError, False),
        (legacy(403, "Scope is missing"), APIStatusError, False),
        (legacy(429, "Later"), RateLimitError, True),
        ({"error": {"message": "Too many requests"}}, RateLimitError, True),
        ({"error": {"message": "Too many requests", "code": 7}}, RateLimitError, True),
        ({"code": "Throttling.RateQuota", "message": "Allocated quota exceeded"}, RateLimitError, True),
        ({"error": {"message": "Load balancer is down", "code": 503}}, ResponseFormatError, True),
        ({"error": {"message": "Your balance could not be read", "code": 500}}, ResponseFormatError, True),
        ({"error": {"message": "Something in the load balancer broke"}}, ResponseFormatError, True),
        ({"message": "Internal error"}, ResponseFormatError, True),
    ],
)
def test_error_in_success(body: Any, kind: type[QwenAIMLError], transient: bool) -> None:
    """An error with status 200 has its own type or is retried, and its message gives the cause."""
    response = Response(200, {}, orjson.dumps(body))
    raised = error_from(response, ("some text",), CONFIG, CONFIG.secret)

    assert type(raised) is kind
    assert is_transient(raised) == bool(transient)
    assert str(raised).startswith("HTTP 200")
    assert "What to do: " in str(raised)
    assert ".." not in str(raised)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"<html>",
        b'{"data": null}',
        b'{"error": {}}',
        b'{"data": [], "error": "busy"}',
        b'{"data": [7], "error": {"message": "Too many requests", "code": 429}}',
    ],
)
def test_no_error_in_success(body: bytes) -> None:
    """A body with `data`, or without an error message, is left to the validation of embeddings."""
    response = Response(200, {}, body)

    assert error_from(response, (), CONFIG, CONFIG.secret) is None


def test_error_in_success_is_masked() -> None:
    """The message of an error with status 200 is masked like any other."""
    response = Response(200, {}, orjson.dumps({"error": {"message": f"{KEY} can't embed my diary"}}))
    shown = str(error_from(response, ("my diary",), CONFIG, CONFIG.secret))

    assert shown.startswith(
        "HTTP 200, but the body holds an error: [key] can't embed [text]. What to do: try"
    )


@pytest.mark.parametrize("text", ["a", "val", "invalid_"])
def test_words_are_not_masked(text: str) -> None:
    """A short text that is part of a word of the message is not masked."""
    assert str(error(400, legacy(400, "a value is invalid"), texts=(text,))) == "HTTP 400: a value is invalid"


def test_advice_survives_masking() -> None:
    """The advice depends on the service's message before masking."""
    raised = error(400, upstream(TOO_LONG), texts=("Range of input length should",))

    assert "[text] be [1, 8192]" in str(raised)
    assert "more than 8192 tokens" in str(raised)


@pytest.mark.parametrize(
    ("text", "echo"),
    [
        ("line one\nline two of a diary", "line one\\nline two of a diary"),
        ("我的秘密诊断", "输入我的秘密诊断无效"),
        ("My diagnosis is confidential: stage II", "My diagnosis is confid... (truncated)"),
        ("naïve “quotes” and more of them", json.dumps("naïve “quotes” and more of them")),
        ('我的"诊断"是"秘密"', json.dumps('我的"诊断"是"秘密"', ensure_ascii=False)),
        ("My diagnosis is confidential", "My diagnosis is confidential, My diagnosis is confidential"),
    ],
)
def test_echoes_are_masked(text: str, echo: str) -> None:
    """A text that is quoted escaped, between other letters, truncated or twice is masked too."""
    shown = str(error(400, legacy(400, f"bad input: {echo}"), texts=(text,)))

    assert "[text]" in shown
    for part in ("diary", "秘密", "diagnosis", "quotes"):
        assert part not in shown


def test_json_is_masked_from_its_first_letter() -> None:
    """A text that is quoted as JSON is masked completely, except for the quotation marks."""
    body = legacy(400, f"bad input: {json.dumps('naïve “quotes” and more')}")

    assert str(error(400, body, texts=("naïve “quotes” and more",))) == 'HTTP 400: bad input: "[text]"'


def test_key_as_request_id() -> None:
    """A key that is returned as the request ID is masked."""
    assert error(400, {"requestId": KEY, "message": "x"}).request_id == "[key]"


def test_cut() -> None:
    """A long message is truncated to 300 characters."""
    raised = error(400, legacy(400, "x" * 1000))

    assert str(raised) == f"HTTP 400: {'x' * 299}…"


def test_a_text_repeated_without_end() -> None:
    """A message that repeats a text many times is masked as a whole, and read only up to a limit."""
    text = "My diagnosis is confidential. " * 100
    shown = str(error(400, legacy(400, text * 100 + "END"), texts=(text,)))

    assert shown == "HTTP 400: [text]"


def test_masked_before_cut() -> None:
    """A key is masked before the message is truncated, so that no part of it remains."""
    raised = error(400, legacy(400, "x" * 290 + KEY))

    assert KEY[:6] not in str(raised)


@pytest.mark.parametrize(
    ("status", "expected"), [(199, False), (200, True), (201, True), (299, True), (300, False)]
)
def test_success(status: int, expected: bool) -> None:
    """Any 2xx counts as success."""
    assert expected == Response(status, {}, b"").is_success
