"""The TLS context: the certificates that the environment names, or else certifi's."""

from __future__ import annotations

import os
import ssl
from functools import cache

import certifi

from .._errors import ConfigurationError

_FILE, _FOLDER = "SSL_CERT_FILE", "SSL_CERT_DIR"


def tls_context() -> ssl.SSLContext:
    """
    Give the context for new connections, which is cached.

    It is made again when the environment names other certificates.

    Raises:
        ConfigurationError: If the certificates that the environment names can't be read.
    """
    # The class is part of the key, since `truststore.inject_into_ssl` replaces it.
    return _tls_context(ssl.SSLContext, os.environ.get(_FILE), os.environ.get(_FOLDER))


@cache
def _tls_context(_: type[ssl.SSLContext], file: str | None, folder: str | None) -> ssl.SSLContext:
    # Reading the CA certificates takes some 25 ms, so all connections share one context.
    try:
        if folder and not file:
            if not any(map(os.path.isdir, folder.split(os.pathsep))):
                # OpenSSL would take it without a word, and then trust nobody.
                raise FileNotFoundError("no such directory")
            return ssl.create_default_context(capath=folder)
        return ssl.create_default_context(cafile=file or certifi.where())
    except OSError as error:
        message = (
            f"{_FILE if file else _FOLDER} in the environment can't be used: {error}. What to do: set it "
            "to CA certificates (PEM), or unset it"
        )
    raise ConfigurationError(message)
