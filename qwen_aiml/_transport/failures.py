"""What errors of the network mean, in words; the same for every transport. No I/O here."""

from __future__ import annotations

import ssl

from .base import TransportFailure

CLOSED = "the connection was closed without a response"
NOT_HTTP = "what came is not an HTTP response"


def no_connection(error: Exception) -> TransportFailure:
    """Say why there is no connection."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return bad_certificate(error)
    if isinstance(error, ssl.SSLError):
        detail = f"no connection by https, which it may not speak ({error})"
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


def bad_certificate(error: Exception) -> TransportFailure:
    """Say what is wrong with a certificate."""
    return TransportFailure("certificate", f"its certificate can't be verified ({error})")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
