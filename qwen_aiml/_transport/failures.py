"""
Descriptions of network errors and advice, shared by all transports.

The exceptions of httpx and httpx2 are recognised by class name, since neither is imported here.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from .._protocol.status import is_retried
from .base import CONNECT_TIMEOUT, TransportFailure
from .environment import proxy_variable

if TYPE_CHECKING:
    from .base import FailureKind

# Connection errors that clients may raise without wrapping them; `ssl.SSLError` is an OSError.
UNWRAPPED = (OSError, anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)

CLOSED = "the connection was closed without a response"
LONG_HEAD = "the headers are longer than 64 KiB"
TOO_LONG = "what comes with the response body is longer than the body may be"
NOT_HTTP = "the response is not HTTP"

# asyncio's messages about an HTTP client with connections of another event loop, or of one that has ended.
_OTHER_LOOP = r"Event loop is closed|different (event )?loop"


_ADVICE: dict[FailureKind, str] = {
    "connection": "check the network and base_url; behind a proxy, set HTTPS_PROXY",
    "timeout": "check the network; raise timeout if the service is slow",
    "local": "check default_headers",
    "loop": (
        "create one AsyncClient of httpx, and one object with it, in each event loop; or omit http_client "
        "(http_async_client): the default clients serve any number of event loops"
    ),
    "certificate": (
        "behind a proxy that inspects TLS, set SSL_CERT_FILE to its CA bundle (PEM); the sign-in page of a "
        "network and a wrong clock look the same"
    ),
}


def advice(kind: FailureKind, url: str) -> str:
    """Return the advice for a failure of requests to *url*."""
    host = urlsplit(url).hostname
    return _ADVICE.get(kind) or (
        f"check the proxy that {proxy_variable(url)} names: that it runs, lets {host} through, and gets user "
        f"and password in its URL if it wants them. To bypass it, add {host} to NO_PROXY"
    )


def no_connection(error: Exception) -> TransportFailure:
    """Convert an error while connecting; a RuntimeError is a failed name look-up at interpreter exit."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return TransportFailure("certificate", f"its certificate can't be verified ({error})")
    if isinstance(error, ssl.SSLError):
        detail = f"the TLS handshake failed; the server may not support https ({error})"
        return TransportFailure("connection", detail)
    return TransportFailure("connection", f"no connection ({_words(error)})")


def no_response(error: Exception) -> TransportFailure:
    """Convert an error of a connection without a response."""
    return TransportFailure("connection", f"the connection was lost ({_words(error)})")


def no_response_in_time(timeout: float) -> TransportFailure:
    """Return the failure for *timeout* seconds without data."""
    return TransportFailure("timeout", f"no response within {timeout:.3g} s")


def cut_body(size: int) -> TransportFailure:
    """Return the failure for a body that ended after *size* bytes."""
    return TransportFailure(
        "connection", f"the connection was closed after {size} bytes of the response body"
    )


def check_lookup(loop: asyncio.AbstractEventLoop) -> None:
    """
    Check that names can be looked up.

    Once the main thread has ended, asyncio can't use its executor for look-ups, but would create one that it
    can't close (Python 3.12).

    Raises:
        RuntimeError: If names can't be looked up.
    """
    is_asyncio = getattr(type(loop), "getaddrinfo", None) is asyncio.BaseEventLoop.getaddrinfo
    if is_asyncio and not threading.main_thread().is_alive():
        raise RuntimeError("names can't be looked up after the main thread has ended")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def class_names(error: BaseException) -> list[str]:
    """Return the names of an exception's class and its bases."""
    return [base.__name__ for base in type(error).__mro__]


def httpx_failure(
    error: Exception, timeout: float, *, proxied: bool = False, size: int | None = None
) -> TransportFailure:
    """
    Convert an exception of an httpx client to a `TransportFailure`.

    Args:
        error: The exception that the client raised.

        timeout: Seconds allowed for one network operation.

        proxied: Whether the request went through a proxy from the environment.

        size: Bytes of the body received, decompressed; None if no status was received.

    Raises:
        Exception: *error* itself, if it is unrelated to the network.
    """
    names = class_names(error)
    # At interpreter exit, the executor for name look-ups accepts no more work.
    is_end = isinstance(error, RuntimeError) and "shutdown" in str(error)
    if "ProxyError" in names or "SOCKSError" in names:
        return _proxy_failure(error)
    if isinstance(error, RuntimeError) and re.search(_OTHER_LOOP, str(error)):
        return TransportFailure("loop", "the HTTP client has connections of another event loop")
    # The second is of pytest-httpx, for a request that the test does not mock.
    is_mocks = names[0] == "TimeoutException" and str(error).startswith("No response can be found for ")
    if is_mocks or ("RequestError" not in names and not isinstance(error, UNWRAPPED) and not is_end):
        raise error
    broken: FailureKind = "proxy" if proxied else "connection"
    if "LocalProtocolError" in names:
        return TransportFailure("local", type(error).__name__)  # its message may contain a header
    if "ConnectTimeout" in names:
        limit = min(timeout, CONNECT_TIMEOUT)
        failure = TransportFailure("connection", f"no connection within {limit:.3g} s")
    elif "TimeoutException" in names:
        failure = no_response_in_time(timeout)
    elif "ConnectError" in names or is_end:
        failure = no_connection(first_cause(error))
    elif size is not None:
        failure = cut_body(size)
    elif "RemoteProtocolError" in names:
        # Not its message, which may quote received data.
        failure = TransportFailure("connection", CLOSED if "disconnect" in str(error) else NOT_HTTP)
    else:
        failure = no_response(first_cause(error))
    return TransportFailure(broken, failure.detail) if failure.kind == "connection" else failure


def _proxy_failure(error: Exception) -> TransportFailure:
    kind, text = type(error).__name__, str(error)
    if kind == "SOCKSError":  # of socksio, which httpcore does not wrap
        return TransportFailure("proxy", text)
    # The proxy's response, which begins with the status.
    is_refused = re.match(r"4\d\d\b", text) and not is_retried(int(text[:3]))
    return TransportFailure("refused" if is_refused else "proxy", f"{kind}: {text}")


def first_cause(error: BaseException) -> Exception:
    """Return the original system error, which httpcore and anyio wrap."""
    while True:
        # For several addresses, the first error. What httpcore hides with "from None" is the context.
        hidden = error.__context__ if error.__suppress_context__ else None
        cause = next(iter(getattr(error, "exceptions", ())), error.__cause__ or hidden)
        if not isinstance(cause, Exception):
            return error  # type: ignore[return-value]
        error = cause
