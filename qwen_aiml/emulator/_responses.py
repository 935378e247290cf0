"""
The service's responses: envelopes, headers, ids and documented messages.

No I/O and no decisions here: `_service` decides how to respond to a request.

The gateway is AI/ML API's, the upstream is Alibaba's. In docstrings,
"observed" means seen in a real response; "assumed" is our guess.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, field
from hashlib import blake2b
from http import HTTPStatus
from http.client import responses
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

# Error bodies always have the timestamp of one observed response. A response depends on its request alone, so
# that re-recording gives the same cassettes.
TIMESTAMP = "2026-08-30T18:23:01.734Z"

# Source: observed without a key at api.aimlapi.com, 2026-08-30.
NO_KEY = (
    "You provided an empty string instead of valid API key. "
    "You can create a new API key on the Billing page: https://aimlapi.com/app/keys"
)
# Source: AI/ML API docs, "Errors and messages"; observed 2025-12-05. That a wrong key gets it now is assumed
# (probe: wrong-key).
WRONG_KEY = (
    "This request requires a valid API key. "
    "You can create a new API key on the Billing page: https://aimlapi.com/app/keys"
)
# Source: observed 2026-04-14, including the spelling of the kind.
NO_CREDITS = (
    "You've run out of credits. Please top up your balance or update your payment method to continue: "
    "https://aimlapi.com/app/billing/"
)
NO_CREDITS_DATA = {"kind": "err_insufficent_credits"}
# Source: observed 2026-01-22, with a list of zod's issues as its data.
BAD_PAYLOAD = "Invalid payload provided"

# Source: AI/ML API docs, "Errors and messages", except the messages above. The exception names are NestJS's;
# those of 400, 401, 403 and 404 were observed.
_DOCUMENTED: dict[int, tuple[str, str]] = {
    400: ("BadRequestException", BAD_PAYLOAD),
    401: ("UnauthorizedException", WRONG_KEY),
    403: ("ForbiddenException", NO_CREDITS),
    429: ("TooManyRequestsException", "Too Many Requests"),
    500: ("InternalServerErrorException", "Internal server error"),
    502: ("BadGatewayException", "Bad Gateway"),
    503: ("ServiceUnavailableException", "Service unavailable"),
    504: ("GatewayTimeoutException", "Generation timeout"),
}
# Statuses of the proxy in front of the gateway, sent as HTML. Source: Cloudflare's docs, "5xx errors".
_PROXY = {
    520: "Web server returned an unknown error",
    521: "Web server is down",
    522: "Connection timed out",
    523: "Origin is unreachable",
    524: "A timeout occurred",
}
# Responses with these statuses have no body. Source: RFC 9110, sections 15.3.5 and 15.4.5.
BODILESS = frozenset({204, 304})

_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ID_ALPHABET = "useandom-26T198340PX75pxJACKVERYMINDBUSHWOLF_GQZbfghjklqvwyzrict"  # nanoid's
_NANODOLLARS_PER_CREDIT = 500  # Source: AI/ML API's FAQ: a dollar is 2,000,000 credits


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as received; header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes

    def identify(self, purpose: str, size: int) -> bytes:
        """Return *size* bytes derived from the request except its headers, which contain the API key."""
        name = f"{purpose} {self.method} {self.path} ".encode()
        return blake2b(name + self.body, digest_size=size).digest()

    @property
    def client_request_id(self) -> str | None:
        """
        The client's own request id, if the gateway accepts it.

        Source: AI/ML API docs, "Request tracing and cost".
        """
        sent = self.headers.get("x-client-request-id", "")
        return sent if _CLIENT_REQUEST_ID.fullmatch(sent) else None


@dataclass(frozen=True, kw_only=True)
class Response:
    """A complete response; header names are lower case, ``content-length`` is not included."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def framed(self) -> dict[str, str]:
        """The headers, with ``content-length`` if the status allows a body."""
        if self.status in BODILESS:
            return self.headers
        return {**self.headers, "content-length": str(len(self.body))}

    def compressed(self) -> Response:
        """Return a copy with the body compressed by gzip, deterministically."""
        headers = self.headers | {"content-encoding": "gzip"}
        return Response(status=self.status, headers=headers, body=gzip.compress(self.body, mtime=0))


def short_id(request: Request, purpose: str) -> str:
    """Return an id in the gateway's format, such as ``V1StGXR8Z5jdHi6BmyT8k``."""
    return "".join(_ID_ALPHABET[byte % 64] for byte in request.identify(purpose, 21))


def long_id(request: Request) -> str:
    """Return an id in the upstream's format, such as ``8ef7c577-75e9-9056-ba09-dc4331f81f6d``."""
    return str(UUID(bytes=request.identify("upstream", 16)))


def _headers(request: Request, content_type: str, **more: str) -> dict[str, str]:
    headers = {"content-type": content_type, "x-request-id": short_id(request, "request")}
    if request.client_request_id is not None:
        headers["x-client-request-id"] = request.client_request_id
    return headers | {name.replace("_", "-"): value for name, value in more.items()}


def success(request: Request, content: dict[str, Any], credits_used: int) -> Response:
    """
    Create a 200 response with *content* and its cost.

    Numbers are in JavaScript's shortest form, since the gateway runs on it:
    ``0.00005``, where the published sample, printed by Python, has ``5e-05``.
    ``x-aimlapi-model`` and ``-provider`` are omitted: they are documented for
    newer kinds of models only.

    Source: AI/ML API docs, "Request tracing and cost".
    """
    dollars, rest = divmod(credits_used * _NANODOLLARS_PER_CREDIT, 10**9)
    headers = _headers(
        request,
        "application/json; charset=utf-8",
        x_inference_id=short_id(request, "inference"),
        x_aimlapi_credits_used=str(credits_used),
        x_aimlapi_usd_spent=f"{dollars}.{rest:09d}",
    )
    return Response(status=200, headers=headers, body=msgspec.json.encode(content))


def balance(request: Request, credits_left: int | None) -> Response:
    """
    Create a response with the balance in dollars; an unlimited one is reported as 1000.

    Source: AI/ML API docs, ``GET /v2/billing``.
    """
    dollars = 1000.0 if credits_left is None else credits_left * _NANODOLLARS_PER_CREDIT / 10**9
    body = msgspec.json.encode({"current_balance": dollars, "currency": "USD"})
    return Response(status=200, headers=_headers(request, "application/json; charset=utf-8"), body=body)


def gateway_error(request: Request, status: int, name: str, message: str, data: object = None) -> Response:
    """
    Create an error response of the gateway, in its current envelope.

    Source: observed at api.aimlapi.com, 2026-01-22 to 2026-08-30.
    """
    error: dict[str, object] = {"name": name, "message": message}
    if data is not None:
        error["data"] = data
    content = {
        "title": responses.get(status, "Unknown"),
        "status": status,
        "message": message,
        "instance": request.path,
        "requestId": short_id(request, "request"),
        "timestamp": TIMESTAMP,
        "error": error,
    }
    headers = _headers(request, "application/problem+json; charset=utf-8")
    return Response(status=status, headers=headers, body=msgspec.json.encode(content))


def invalid(request: Request, issues: list[dict[str, Any]]) -> Response:
    """Create the gateway's 400 for a body that violates its schema, with zod's *issues*."""
    return gateway_error(request, 400, "BadRequestException", BAD_PAYLOAD, issues)


def upstream_error(request: Request, kind: str, problem: str) -> Response:
    """
    Create the upstream's 400, in its own envelope, for a *problem* of the given *kind*.

    Source: observed at Alibaba's endpoint; that the gateway passes it on
    unchanged, including the status, is assumed (probe: long).
    """
    request_id = long_id(request)
    message = f"<400> InternalError.Algo.{kind}: {problem}"
    content = {
        "error": {"message": message, "type": kind, "param": None, "code": kind},
        "id": request_id,
        "request_id": request_id,
    }
    return Response(
        status=400, headers=_headers(request, "application/json"), body=msgspec.json.encode(content)
    )


def throttled(request: Request, retry_after: float | None) -> Response:
    """
    Create the upstream's 429.

    Args:
        request: The request.

        retry_after: Seconds in the ``retry-after`` header, rounded to
            milliseconds. None means no such header.

    Source: observed at Alibaba's endpoint, without the header; the gateway's
    own 429 was never seen. That the gateway passes this one on is assumed
    (probe: burst).
    """
    message = "You have exceeded your current request limit."
    content = {"error": {"message": message, "type": "limit_requests", "code": "limit_requests"}}
    advice = {} if retry_after is None else {"retry_after": f"{retry_after:.3f}".rstrip("0").rstrip(".")}
    headers = _headers(request, "application/json", **advice)
    return Response(status=429, headers=headers, body=msgspec.json.encode(content))


def documented(request: Request, status: int) -> Response:
    """Create a response with the body documented for *status*, or a similar one if none is documented."""
    if status in BODILESS:
        return Response(status=status, headers={"x-request-id": short_id(request, "request")}, body=b"")
    if status in _PROXY:
        title = f"api.aimlapi.com | {status}: {_PROXY[status]}"
        page = f"<!DOCTYPE html>\n<html><title>{title}</title><body><h1>{title}</h1></body></html>\n"
        return Response(
            status=status, headers={"content-type": "text/html; charset=UTF-8"}, body=page.encode()
        )
    phrase = responses.get(status, "Unknown")
    name, message = _DOCUMENTED.get(status, (phrase.replace(" ", "") + "Exception", phrase))
    return gateway_error(
        request, status, name, message, NO_CREDITS_DATA if status == HTTPStatus.FORBIDDEN else None
    )
