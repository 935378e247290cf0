"""
Exceptions for error responses: in either envelope of AI/ML API, in Alibaba's, or in none. No I/O here.

Source: AI/ML API docs, "Errors and messages"; responses observed from January to August 2026. Alibaba's
envelope has not been observed through AI/ML API; it is parsed in case it is passed on.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from .._errors import (
    APIStatusError,
    AuthenticationError,
    InsufficientCreditsError,
    RateLimitError,
    ResponseFormatError,
    advised,
)
from .._models import known_models
from .._urls import DEFAULT_BASE_URL
from .masking import mask_message
from .schema import members

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._config import EmbeddingConfig
    from .._errors import Reason
    from .._keys import Secret
    from .response import Response

# Not "quota": Alibaba's throttle says "Allocated quota exceeded", which is transient.
_NO_CREDITS = r"(?i)credits|funds|\bbalance\b|subscription|free[- ]tier"
_NO_CREDITS_KIND = "err_insufficent_credits"  # the service's spelling
_TOO_LONG = r"(?i)Range of input length|token limit|too long|maximum context length"
_DIMENSION = r"(?i)dimension for embedding"
# The limit of texts per request, as worded by the upstream, or by the gateway's schema if it had a limit.
_MAX_ROWS = (
    r"(?i)batch size is invalid, it should not be larger than (\d{1,6})|"
    r"Array must contain at most (\d{1,6}) element"
)
_OF_THE_REQUEST = r"(?i)\bdimensions?\b|\bmodel\b|\bencoding_format\b"
# Source: Alibaba Cloud Model Studio, "Error codes": DataInspectionFailed.
_INSPECTED = r"(?i)DataInspectionFailed|data_inspection_failed|inappropriate content"

# The status for an error that comes with 200 and does not name one; the first match applies.
_IN_SUCCESS = (
    (_NO_CREDITS, HTTPStatus.PAYMENT_REQUIRED),
    (r"(?i)api[ _-]?key|unauthori[sz]ed|authenticat", HTTPStatus.UNAUTHORIZED),
    (r"(?i)too many requests|\brate[ _-]?limit|\bthrottl|quota exceeded", HTTPStatus.TOO_MANY_REQUESTS),
)
_LATER = "try again later, or raise max_retries (and total_timeout, if set) to wait longer"

_KINDS: dict[int, type[APIStatusError]] = {401: AuthenticationError, 429: RateLimitError}

# Each is omitted if the service's own message names that page.
_PAGES = ("; create one at https://aimlapi.com/app/keys", "top up at https://aimlapi.com/app/billing")

_ADVICE: dict[type[APIStatusError] | int, str] = {
    AuthenticationError: f"check the key (api_key, or AIMLAPI_API_KEY in the environment){_PAGES[0]}",
    InsufficientCreditsError: _PAGES[1],
    RateLimitError: "lower max_concurrency, or raise max_retries (and total_timeout, if set)",
    HTTPStatus.FORBIDDEN: "the key may lack the scope model:embeddings, or have reached its spending limit",
    HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED: "sign in to the network",
}


def is_retried(status: int) -> bool:
    """
    Return whether a request with an error status is retried: 408, 409, 429, and 500 and above except 511.

    Source: openai's client (``_should_retry`` of its ``_base_client.py``), except for 511, with which a
    network asks to sign in. AI/ML API documents retries for 429 and 5xx; that the others are transient is
    assumed (probe: none).
    """
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS):
        return True
    return HTTPStatus.INTERNAL_SERVER_ERROR <= status != HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED


def error_from(
    response: Response, texts: Sequence[str], config: EmbeddingConfig, secret: Secret
) -> APIStatusError | ResponseFormatError | None:
    """
    Return the error that a response reports, possibly with a 2xx status instead of embeddings.

    Args:
        response: A response in any envelope, or not in JSON; without details, the status decides.

        texts: The texts of the request, to mask them if the service repeats them.

        config: The settings, for the advice.

        secret: The API key of the request, masked as well.

    Returns:
        None if there is no error. Otherwise an error whose message contains the status, the service's message
        (at most 300 characters) and what to do. In a 2xx, an error about the key, the credits or the rate has
        that type; any other makes the response malformed, and is retried.

    Source: for errors in a 2xx, assumed (probe: none). Gateways such as OpenRouter's are known to send them.
    """
    in_success = response.is_success
    if in_success and response.success:
        return None
    # The envelope and its ``error``; each is empty if it is not an object.
    outer = members(response.json)
    inner = members(outer.get("error"))
    message = _message(outer, inner)
    if in_success and (not message or isinstance(outer.get("data"), list)):
        return None
    status = _status_in(outer, inner, message) if in_success else response.status
    kind = _kind(status, message, inner)
    quoted = message or f"no message from the service ({response.description})"
    shown = mask_message(quoted, texts, config.query_instruction, secret)
    if in_success and kind is APIStatusError and status != HTTPStatus.FORBIDDEN:
        summary = f"HTTP {response.status}, but the body holds an error: {shown}"
        return ResponseFormatError(advised(summary, _LATER))
    advice = _advice(kind, response, message, config, status)
    for part in _PAGES:
        if part[part.index("https:") :] in message:
            advice = advice.replace(part, "")
    most_rows = re.search(_MAX_ROWS, message)
    return kind(
        advised(f"HTTP {response.status}: {shown}", advice),
        status_code=response.status,
        request_id=secret.scrub(response.request_id or "") or None,
        reason=_reason(kind, status, message),
        max_rows=int(most_rows[1] or most_rows[2]) if most_rows else None,
    )


def _status_in(outer: dict[str, Any], inner: dict[str, Any], message: str) -> int:
    """Return the HTTP status that an envelope names or implies; 200 if it does neither."""
    for value in [part.get(name) for part in (outer, inner) for name in ("status", "statusCode", "code")]:
        if type(value) is int and value in range(400, 600):
            return value
    names = [part.get(name) for part in (outer, inner) for name in ("code", "type")]
    everything = " ".join([message, *(name for name in names if isinstance(name, str))])
    return next((status for pattern, status in _IN_SUCCESS if re.search(pattern, everything)), 200)


def _reason(kind: type[APIStatusError], status: int, message: str) -> Reason:
    if kind is RateLimitError:
        return "rate"
    if kind is not APIStatusError or status == HTTPStatus.FORBIDDEN:
        return "account"
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return "length"
    if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
        rules: tuple[tuple[str, Reason], ...] = (
            (_MAX_ROWS, "rows"),
            (_TOO_LONG, "length"),
            (_INSPECTED, "content"),
            (_OF_THE_REQUEST, "request"),
        )
        return next((reason for pattern, reason in rules if re.search(pattern, message)), "text")
    return "service" if is_retried(status) else "request"


def _message(outer: dict[str, Any], inner: dict[str, Any]) -> str:
    """Return the human-readable message of any envelope; empty if there is none."""
    for found in (outer.get("message"), inner.get("message"), outer.get("error"), outer.get("title")):
        if isinstance(found, list):
            found = "; ".join(map(_plain, found))  # noqa: PLW2901 (one shape from here on)
        if isinstance(found, str) and found.strip():
            return "; ".join([found.strip(), *_issues(inner.get("data"))])
    return ""


def _issues(data: Any) -> list[str]:
    """Return the validation issues of the current envelope: each field, and what is wrong with it."""
    if not isinstance(data, list):
        return []
    return [
        f"{'.'.join(map(_plain, issue.get('path') or ['body']))}: {_plain(issue.get('message'))}"
        for issue in data
        if isinstance(issue, dict) and isinstance(issue.get("path") or [], list)
    ]


def _plain(value: object) -> str:
    # Python can't print values nested a thousand levels deep.
    return str(value) if isinstance(value, (str, int)) else "..."


def _kind(status: int, message: str, inner: dict[str, Any]) -> type[APIStatusError]:
    kind = members(inner.get("data")).get("kind")
    if kind == _NO_CREDITS_KIND or status == HTTPStatus.PAYMENT_REQUIRED:
        return InsufficientCreditsError
    if status in (HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS) and re.search(_NO_CREDITS, message):
        return InsufficientCreditsError
    return _KINDS.get(status, APIStatusError)


def _advice(
    kind: type[APIStatusError], response: Response, message: str, config: EmbeddingConfig, status: int
) -> str:
    facts = config.facts
    own = "" if config.base_url == DEFAULT_BASE_URL else f"; the service's own is {DEFAULT_BASE_URL}"
    address = f"base_url ({config.base_url}{own})"
    known = known_models()
    others = "" if config.model in known else f"; known models: {', '.join(known)}"
    is_page = response.body[:100].lstrip().startswith(b"<")  # HTML or XML, which the service does not send
    rules = (
        (kind in _ADVICE, _ADVICE.get(kind)),
        (
            HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST,
            "redirects are not followed, to protect the key; check base_url, or sign in to the network",
        ),
        (is_retried(status), _LATER),
        (
            is_page,
            (
                f"the response is a web page: check base_url ({config.base_url}) and what is in between: "
                "a proxy, a firewall, or the sign-in page of a network"
            ),
        ),
        (status in _ADVICE, _ADVICE.get(status)),
        (status == HTTPStatus.NOT_FOUND, f"check the model ({config.model}{others}) and {address}"),
        (status == HTTPStatus.METHOD_NOT_ALLOWED, f"check {address}"),
        (
            re.search(_TOO_LONG, message),
            f"shorten or split the text that has more than {facts.max_tokens} tokens, or set on_too_long",
        ),
        (
            re.search(_DIMENSION, message) and config.dimensions in facts.regional_dimensions,
            f"{config.model} offers {config.dimensions} dimensions in some regions only; ask for more",
        ),
    )
    return next((advice for applies, advice in rules if applies and advice), "")
