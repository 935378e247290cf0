"""Proxies in the environment: which URLs use them, and invalid values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwen_aiml._errors import ConfigurationError
from qwen_aiml._transport.base import Post, TransportFailure
from qwen_aiml._transport.environment import proxy_for, proxy_variable
from qwen_aiml._transport.selection import SelectedTransport

pytestmark = pytest.mark.anyio

CERTIFICATE = Path(__file__).parent.parent / "matrix" / "self_signed.pem"
URL = "https://api.aimlapi.com/v1/embeddings"


@pytest.mark.parametrize(
    ("variable", "url", "expected"),
    [
        ("HTTPS_PROXY", URL, True),
        ("https_proxy", URL, True),
        ("ALL_PROXY", URL, True),
        ("HTTP_PROXY", URL, False),
        ("HTTP_PROXY", "http://service.example/v1", True),
        ("HTTPS_PROXY", "https://127.0.0.1/v1", False),
        ("HTTPS_PROXY", "https://localhost/v1", False),
        ("NO_PROXY", URL, False),
    ],
)
def test_proxies(variable: str, url: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy is used for URLs of its scheme, but not for loopback addresses."""
    monkeypatch.setenv(variable, "127.0.0.1:9\n")

    assert (proxy_for(url) is not None) == expected
    assert proxy_for(url) == ("http://127.0.0.1:9" if expected else None)


@pytest.mark.parametrize(("system", "expected"), [("linux", None), ("darwin", "http://127.0.0.1:9")])
def test_system_settings(system: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a variable, the settings of Windows and macOS are used."""
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "127.0.0.1:9"})

    assert proxy_for(URL) == expected


@pytest.mark.parametrize(
    ("exceptions", "url", "expected"),
    [
        ("", URL, True),
        ("other.example, api.aimlapi.com", URL, False),
        ("aimlapi.com", URL, False),
        (".aimlapi.com", URL, False),
        ("lapi.com", URL, True),
        ("*", URL, False),
        ("api.aimlapi.com:443", URL, False),
        ("api.aimlapi.com:8443", URL, True),
        ("localhost,[::1],fd00::/8,nonsense[,:,", URL, True),
        ("localhost,fd00::5", "https://[fd00::5]:8443/v1", False),
        ("api.aimlapi.com:8443", "https://api.aimlapi.com:8443/v1", False),
    ],
)
def test_exceptions(exceptions: str, url: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts in NO_PROXY bypass the proxy; invalid entries are ignored."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", exceptions)

    assert (proxy_for(url) is not None) == expected


async def test_tls_to_a_proxy(config: Any, serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate of a proxy with https is verified with the CA certificates of the environment."""
    with serving(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", tls=True) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        selected = SelectedTransport(config("http://service.example", allow_http=True), sync=False)
        with pytest.raises(TransportFailure, match="certificate can't be verified") as caught:
            await selected.post(Post(b"{}", 1000))
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        response = await selected.post(Post(b"{}", 1000))
        await selected.aclose()

    assert caught.value.kind == "certificate"
    assert response.body == b"{}"


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("http://user:hidden@proxy.example:port", "HTTPS_PROXY in the environment can't be used"),
        ("http://user:hidden@proxy.example:99999", "HTTPS_PROXY in the environment can't be used"),
        ("http://user:hid\nden@proxy.example:1", "HTTPS_PROXY in the environment can't be used"),
        ("ftp://user:hidden@127.0.0.1:9", "HTTPS_PROXY in the environment can't be used"),
        ("socks5://user:hidden@127.0.0.1:9", r"pip install 'httpx\[socks\]'"),
    ],
)
async def test_unusable(
    value: str, message: str, sync: bool, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error about an invalid proxy names the variable, and does not show the password."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(ConfigurationError, match=message) as caught:
        await SelectedTransport(config("https://service.example"), sync=sync).post(Post(b"{}", 1000))

    assert "hid" not in str(caught.value)
    assert str(caught.value).endswith(". To bypass the proxy, add service.example to NO_PROXY")


@pytest.mark.parametrize(("status", "kind"), [(407, "refused"), (502, "proxy")])
async def test_refusing(
    status: int, kind: str, config: Any, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that rejects a request is distinguished from one that fails."""

    def answer(connection: Any, _: Any) -> None:
        connection.sendall(b"HTTP/1.1 %d No\r\ncontent-length: 0\r\n\r\n" % status)

    with serving(always=answer) as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url)
        selected = SelectedTransport(config("https://service.example"), sync=False)
        with pytest.raises(TransportFailure, match=str(status)) as caught:
            await selected.post(Post(b"{}", 1000))
        await selected.aclose()

    assert caught.value.kind == kind


async def test_not_there(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that can't be reached is a failure of the proxy."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    selected = SelectedTransport(config("https://service.example"), sync=False)
    with pytest.raises(TransportFailure, match=r"no connection") as caught:
        await selected.post(Post(b"{}", 1000))
    await selected.aclose()

    assert caught.value.kind == "proxy"


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages name the variable, or the system's settings if there is none."""
    assert proxy_variable(URL) == "the proxy of the system's settings"
    monkeypatch.setenv("ALL_PROXY", "x")
    assert proxy_variable(URL) == "ALL_PROXY"
