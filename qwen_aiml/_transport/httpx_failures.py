"""What the errors of httpx and httpx2 mean; classes are told by name, since neither is imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from . import failures
from .base import CONNECT_TIMEOUT, TransportFailure

if TYPE_CHECKING:
    from .base import FailureKind

# What comes out of a client raw, though it means the connection; `ssl.SSLError` is an OSError.
RAW = (OSError, anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError)


def names_of(error: BaseException) -> list[str]:
    """Name the classes of an error."""
    return [base.__name__ for base in type(error).__mro__]


def failure(
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
    if "RequestError" not in names and not isinstance(error, RAW):
        return None
    kind, text = type(error).__name__, str(error)
    broken: FailureKind = "proxy" if proxied else "connection"
    if "ProxyError" in names:
        # What the proxy responded with; it begins with the status.
        return TransportFailure("refused" if text.startswith("4") else "proxy", f"{kind}: {text}")
    if "LocalProtocolError" in names:
        return TransportFailure("local", kind)  # its text may hold a header
    if "ConnectTimeout" in names:
        limit = min(timeout, CONNECT_TIMEOUT)
        told = TransportFailure("connection", f"no connection within {limit:.3g} s")
    elif "TimeoutException" in names:
        told = failures.no_response_in_time(timeout)
    elif "CERTIFICATE_VERIFY_FAILED" in text:
        told = failures.bad_certificate(error)
    elif "ConnectError" in names:
        told = failures.no_connection(first_cause(_below(error)))
    elif size is not None:
        told = failures.cut_body(size)
    elif "RemoteProtocolError" in names:
        # Not its text, which may repeat what came.
        told = TransportFailure("connection", failures.CLOSED if "disconnect" in text else failures.NOT_HTTP)
    else:
        told = failures.no_response(first_cause(error))
    return TransportFailure(broken, told.detail) if told.kind == "connection" else told


def _below(error: BaseException) -> BaseException:
    # Why there is no connection is what httpcore hides.
    below = error.__cause__
    return (below.__cause__ or below.__context__ if below else None) or error


def first_cause(error: BaseException) -> Exception:
    """Give what the system said, which httpcore and anyio put into words of their own."""
    while True:
        # Of a host's several addresses the first.
        cause = next(iter(getattr(error, "exceptions", ())), error.__cause__)
        if not isinstance(cause, Exception):
            return error  # type: ignore[return-value]
        error = cause
