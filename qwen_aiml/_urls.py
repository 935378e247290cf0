"""Base URLs and headers, validated. Reads the environment; no other I/O here."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ._errors import ConfigurationError

DEFAULT_BASE_URL = "https://api.aimlapi.com/v1"

# Source: all three spellings appear in AI/ML API's own docs and SDKs; the first is the most used.
URL_VARIABLES = ("AIMLAPI_BASE_URL", "AIMLAPI_API_BASE", "AIML_API_BASE")

HTTP_VARIABLE = "AIMLAPI_ALLOW_HTTP"

DEFAULT_PORTS = {"http": 80, "https": 443}

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # Source: RFC 9110, 5.6.2

_HOST = r"(?![0-9.]+\Z)([0-9A-Za-z_-]{1,63}\.)*[0-9A-Za-z_-]{1,63}\.?"  # digits and dots alone are an address

_OWN_HEADERS = {
    "authorization": "give the key as api_key",
    "content-length": "it follows from the request",
    "content-type": "it is always application/json",
    "transfer-encoding": "it follows from the request",
}


def first_set(variables: tuple[str, ...]) -> str | None:
    """Return the name of the first environment variable that is not blank; None if all are."""
    return next((name for name in variables if os.environ.get(name, "").strip()), None)


def http_allowed() -> bool:
    """Return whether the environment allows URLs without TLS."""
    return os.environ.get(HTTP_VARIABLE, "").strip().lower() in ("1", "true", "yes")


def check_base_url(value: object, *, allow_http: bool) -> str:
    """
    Return the base URL, validated: the given one, that of the environment, or the default.

    Raises:
        ConfigurationError: If it is invalid, or a key must not be sent to it.
    """
    # No message shows the URL: people paste keys and passwords into the wrong field.
    given = "base_url (api_base)"
    if value is None or (isinstance(value, str) and not value.strip()):
        variable = first_set(URL_VARIABLES)
        given = f"{variable} in the environment"
        value = os.environ[variable] if variable else DEFAULT_BASE_URL
    if not isinstance(value, str):
        raise ConfigurationError(f"{given} must be a string, not {type(value).__name__}")
    malformed = (
        f"{given} must be an http or https URL such as {DEFAULT_BASE_URL}, whole, with a host name in ASCII, "
        "without quotation marks, user name, ? and #"
    )
    if not re.match(r"(?i)\s*https?://", value):
        raise ConfigurationError(f"{malformed}. It does not begin with https:// or http://")
    try:
        parts = urlsplit(value.strip())
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigurationError(malformed) from None
    # Standards differ on the ASCII form of other names, so the key could go to the wrong host.
    is_host = address(host) or re.fullmatch(_HOST, host)
    has_more = "@" in parts.netloc or parts.query or parts.fragment
    if not is_host or has_more:
        raise ConfigurationError(malformed)
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise ConfigurationError(
            f"{given} would send the key to {host} without encryption; use https, or set allow_http=True "
            f"({HTTP_VARIABLE}=1 in the environment)"
        )
    path = parts.path.rstrip("/").removesuffix("/embeddings").rstrip("/") or "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host as an IP address; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    found = address(host)
    return found.is_loopback if found else host == "localhost" or host.endswith(".localhost")


def check_headers(value: object) -> dict[str, str] | None:
    """
    Return headers as a dictionary, validated; None if there are none.

    Raises:
        ConfigurationError: If they can't be sent, or are reserved.
    """
    if value is None:
        return None
    try:
        headers: dict[Any, Any] = dict(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        message = f"default_headers must be a mapping of names to strings, not {type(value).__name__}"
        raise ConfigurationError(message) from None
    for name, content in headers.items():
        # Values may be secrets, such as a proxy's, so no message shows them.
        if not isinstance(name, str) or not isinstance(content, str):
            raise ConfigurationError(f"default_headers must map strings to strings; {name!r} does not")
        if name.lower() in _OWN_HEADERS:
            raise ConfigurationError(f"default_headers must not set {name!r}: {_OWN_HEADERS[name.lower()]}")
        if not re.fullmatch(_NAME, name) or not content.isascii() or not content.isprintable():
            raise ConfigurationError(f"default_headers: {name!r} holds a character that a header can't carry")
        headers[name] = content.strip()
    return headers
