"""Proxies and CA certificates, as configured in the environment."""

from __future__ import annotations

import os
import ssl
import sys
from functools import cache
from urllib.parse import urlsplit

from .._errors import ConfigurationError, advised
from .._urls import DEFAULT_PORTS, first_set, is_loopback

_FILE, _FOLDER, _KEY_LOG = "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"


def proxy_for(url: str) -> str | None:
    """
    Return the URL of the proxy for *url*, not validated; None if there is none.

    Loopback addresses bypass the proxy, which would see the key in plain text.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    is_named = any(name.lower().endswith("_proxy") for name in os.environ)
    if is_loopback(host) or not (is_named or sys.platform in ("win32", "darwin")):
        return None
    import urllib.request  # noqa: PLC0415 (slow to import)

    # If the environment names none, these are the system's settings on Windows and macOS.
    proxies = urllib.request.getproxies()
    proxy = (proxies.get(parts.scheme) or proxies.get("all") or "").strip()
    port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    # NO_PROXY, as the standard library and requests read it.
    bypasses = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined] # (not in typeshed)
    if not proxy or bypasses(f"{host}:{port}", proxies):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def proxy_variable(url: str) -> str:
    """Return the name of the environment variable that sets the proxy of *url*, for messages."""
    name = f"{urlsplit(url).scheme}_proxy"
    variables = (name, name.upper(), "all_proxy", "ALL_PROXY")
    return first_set(variables) or "the proxy of the system's settings"


def tls_context() -> ssl.SSLContext:
    """
    Return the TLS context for new connections, which is cached.

    A new one is created when the environment names other certificates.

    Raises:
        ConfigurationError: If the certificates that the environment names can't be read.
    """
    # The class is part of the cache key, since `truststore.inject_into_ssl` replaces it.
    return _tls_context(ssl.SSLContext, os.environ.get(_FILE), os.environ.get(_FOLDER))


@cache
def _tls_context(_: type[ssl.SSLContext], file: str | None, folder: str | None) -> ssl.SSLContext:
    # Reading the CA certificates takes about 25 ms, so all connections share one context.
    try:
        if folder and not file:
            if not any(map(os.path.isdir, folder.split(os.pathsep))):
                # OpenSSL would accept it silently, and then trust no certificate.
                raise FileNotFoundError("no such directory")
            return ssl.create_default_context(capath=folder)
        if not file:
            import certifi  # noqa: PLC0415 (only needed here)

            file = certifi.where()
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        variable, what = _FOLDER if folder and not file else _FILE, "CA certificates (PEM)"
        if error.filename and error.filename == os.environ.get(_KEY_LOG):
            variable, what = _KEY_LOG, "a file that can be written"
        message = f"{variable} in the environment can't be used: {error}"
        advice = f"set it to {what}, or unset it"
        if not os.environ.get(variable):
            message = f"the CA certificates of certifi can't be read: {error}"
            advice = f"install certifi again, or set {_FILE} in the environment to {what}"
    raise ConfigurationError(advised(message, advice))
