"""The TLS context, and the certificates it trusts."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from qwen_aiml._errors import ConfigurationError
from qwen_aiml._transport.environment import _tls_context, tls_context

CERTIFICATE = Path(__file__).parent.parent / "matrix" / "self_signed.pem"


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start with the default certificates."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


def test_default() -> None:
    """The default certificates are read once."""
    context = tls_context()

    assert context is tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.get_ca_certs()


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment may name a folder; a file takes precedence."""
    monkeypatch.setenv("SSL_CERT_DIR", f"/nonexistent{os.pathsep}{tmp_path}")
    assert tls_context().get_ca_certs() == []

    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    assert len(tls_context().get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("SSL_CERT_FILE", "/nonexistent.pem"), ("SSL_CERT_FILE", __file__), ("SSL_CERT_DIR", "/nonexistent")],
)
def test_unreadable(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error about unreadable certificates names the variable."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{name} in the environment can't be used"):
        tls_context()


def test_certifi_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error about certifi's certificates does not blame a variable that is not set."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("certifi.where", lambda: "/nonexistent.pem")
    _tls_context.cache_clear()
    with pytest.raises(ConfigurationError, match="the CA certificates of certifi can't be read"):
        tls_context()


def test_key_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unwritable key log is not reported as unreadable certificates."""
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(CERTIFICATE.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("SSLKEYLOGFILE", "/nonexistent/keys.log")
    with pytest.raises(ConfigurationError, match="SSLKEYLOGFILE in the environment can't be used"):
        tls_context()


def test_truststore() -> None:
    """A class that replaces `ssl.SSLContext` is used from then on."""
    truststore = pytest.importorskip("truststore")
    plain = tls_context()
    truststore.inject_into_ssl()
    try:
        assert isinstance(tls_context(), truststore.SSLContext)
    finally:
        truststore.extract_from_ssl()
    assert tls_context() is plain
