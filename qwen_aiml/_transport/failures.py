"""
What errors of the network mean, in words, and what to do; the same for every transport.

The errors of httpx and httpx2 are told by the names of their classes, since neither is imported here.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from .base import CONNECT_TIMEOUT, TransportFailure
from .environment import proxy_variable

if TYPE_CHECKING:
    from .base import FailureKind

# What comes out of a client raw, though it means the connection; `ssl.SSLError` is an OSError.
RAW = (OSError, anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)

CLOSED = "the connection was closed without a response"
LONG_HEAD = "the headers are longer than 64 KiB"
TOO_LONG = "what comes with the response body is longer than the body may be"
NOT_HTTP = "the response is not HTTP"

# What asyncio says of a user's client that an earlier or another loop of asyncio has used.
_OTHER_LOOP = r"Event loop is closed|different (event )?loop"


_ADVICE: dict[FailureKind, str] = {
    "connection": "check the network and base_url; behind a proxy, set HTTPS_PROXY",
    "timeout": "check the network; raise timeout if the service is slow",
    "local": "check default_headers",
    "loop": (
        "create one AsyncClient of httpx in each event loop, and an object with it; or leave http_client "
        "(http_async_client) out: the default clients serve any number of event loops"
    ),
    "certificate": (
        "behind a proxy that inspects TLS, set SSL_CERT_FILE to its CA bundle (PEM); the sign-in page of a "
        "network and a wrong clock look the same"
    ),
}


def advice(kind: FailureKind, url: str) -> str:
    """Say what to do where requests to *url* fail in some way."""
    host = urlsplit(url).hostname
    return _ADVICE.get(kind) or (
        f"check the proxy that {proxy_variable(url)} names: that it runs, lets {host} through, and gets user "
        f"and password in its URL if it wants them. To bypass it, add {host} to NO_PROXY"
    )


def no_connection(error: Exception) -> TransportFailure:
    """Say why there is no connection; a RuntimeError says that names can't be looked up at an exit."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return TransportFailure("certificate", f"its certificate can't be verified ({error})")
    if isinstance(error, ssl.SSLError):
        detail = f"the TLS handshake failed; the server may not support https ({error})"
        return TransportFailure("connection", detail)
    return TransportFailure("connection", f"no connection ({_words(error)})")


def no_response(error: Exception) -> TransportFailure:
    """Say why no response came over a connection."""
    return TransportFailure("connection", f"the connection was lost ({_words(error)})")


def no_response_in_time(timeout: float) -> TransportFailure:
    """Say that nothing came for *timeout* seconds."""
    return TransportFailure("timeout", f"no response within {timeout:.3g} s")


def cut_body(size: int) -> TransportFailure:
    """Say that a body ended too early."""
    return TransportFailure(
        "connection", f"the connection was closed after {size} bytes of the response body"
    )


def check_lookup(loop: asyncio.AbstractEventLoop) -> None:
    """
    Check that names can be looked up: asyncio takes nothing for its executor once the main thread has ended.

    Asked all the same, it makes an executor that it can't close any more (Python 3.12).

    Raises:
        RuntimeError: If it can't.
    """
    is_asyncio = getattr(type(loop), "getaddrinfo", None) is asyncio.BaseEventLoop.getaddrinfo
    if is_asyncio and not threading.main_thread().is_alive():
        raise RuntimeError("names can't be looked up after the main thread has ended")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def names_of(error: BaseException) -> list[str]:
    """Name the classes of an error."""
    return [base.__name__ for base in type(error).__mro__]


def httpx_failure(
    error: Exception, timeout: float, *, proxied: bool = False, size: int | None = None
) -> TransportFailure | None:
    """
    Say why no response came through httpx.

    Args:
        error: What a client raised.

        timeout: Seconds that an operation was allowed.

        proxied: Whether it went through a proxy of the environment's.

        size: Bytes of the body that had come, decompressed; None if no status had.

    Returns:
        None if the error has nothing to do with the network.
    """
    names = names_of(error)
    # As the interpreter ends, what looks up names takes no more.
    is_end = isinstance(error, RuntimeError) and "shutdown" in str(error)
    if "ProxyError" in names or "SOCKSError" in names:
        return _proxy_failure(error)
    if isinstance(error, RuntimeError) and re.search(_OTHER_LOOP, str(error)):
        return TransportFailure("loop", "the HTTP client has connections of another event loop")
    if "RequestError" not in names and not isinstance(error, RAW) and not is_end:
        return None
    broken: FailureKind = "proxy" if proxied else "connection"
    if "LocalProtocolError" in names:
        return TransportFailure("local", type(error).__name__)  # its text may hold a header
    if "ConnectTimeout" in names:
        limit = min(timeout, CONNECT_TIMEOUT)
        told = TransportFailure("connection", f"no connection within {limit:.3g} s")
    elif "TimeoutException" in names:
        told = no_response_in_time(timeout)
    elif "ConnectError" in names or is_end:
        told = no_connection(first_cause(error))
    elif size is not None:
        told = cut_body(size)
    elif "RemoteProtocolError" in names:
        # Not its text, which may repeat what came.
        told = TransportFailure("connection", CLOSED if "disconnect" in str(error) else NOT_HTTP)
    else:
        told = no_response(first_cause(error))
    return TransportFailure(broken, told.detail) if told.kind == "connection" else told


def _proxy_failure(error: Exception) -> TransportFailure:
    kind, text = type(error).__name__, str(error)
    if kind == "SOCKSError":  # of socksio, which httpcore does not reword
        return TransportFailure("proxy", text)
    # What the proxy responded with; it begins with the status.
    return TransportFailure("refused" if text.startswith("4") else "proxy", f"{kind}: {text}")


def first_cause(error: BaseException) -> Exception:
    """Give what the system said, which httpcore and anyio reword."""
    while True:
        # Of a host's several addresses the first. What httpcore hides, with "from None", is the context.
        hidden = error.__context__ if error.__suppress_context__ else None
        cause = next(iter(getattr(error, "exceptions", ())), error.__cause__ or hidden)
        if not isinstance(cause, Exception):
            return error  # type: ignore[return-value]
        error = cause
