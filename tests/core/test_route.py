"""Who stands between a program and the network sees our requests: recorders, mocks, tracers, proxies."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import respx
import vcr

from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient, EmbeddingConfig, _route
from qwen_aiml._through_httpx import AsyncHTTPXLine, HTTPXLine
from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_httpx import HTTPXMock

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789abcdef"
ADDRESS = "https://api.aimlapi.com/v1/embeddings"
ANSWER = {"data": [{"index": 0, "embedding": [0.5] * 64}]}
CONFIG = EmbeddingConfig(api_key=KEY, dimensions=64, max_retries=0)
CLIENTS = [EmbeddingClient, AsyncEmbeddingClient]


async def embed(client: Any) -> list[list[float]]:
    """Embed one text in either colour."""
    result = client.embed(["a"])
    if isinstance(client, AsyncEmbeddingClient):
        result = await result
        await client.aclose()
    else:
        client.close()
    embeddings: list[list[float]] = result.embeddings
    return embeddings


@pytest.mark.parametrize("kind", CLIENTS)
async def test_respx(kind: Any) -> None:
    """The mock of respx answers."""
    with respx.mock(assert_all_called=True) as mock:
        mock.post(ADDRESS).respond(json=ANSWER)
        assert await embed(kind(CONFIG)) == [[0.5] * 64]
        [call] = mock.calls

    assert call.request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("kind", CLIENTS)
async def test_pytest_httpx(kind: Any, httpx_mock: HTTPXMock) -> None:
    """The mock of pytest-httpx answers."""
    httpx_mock.add_response(url=ADDRESS, json=ANSWER)
    assert await embed(kind(CONFIG)) == [[0.5] * 64]

    assert len(httpx_mock.get_requests()) == 1


@pytest.mark.parametrize("kind", CLIENTS)
async def test_vcrpy(kind: Any, tmp_path: Path) -> None:
    """A recorder of vcrpy records, and gives the recorded answer when the service is gone."""
    emulator = Emulator()
    path = str(tmp_path / "cassette.yaml")
    with serve(emulator) as url:
        config = EmbeddingConfig(api_key=KEY, base_url=url, dimensions=64, max_retries=0)
        with vcr.use_cassette(path):
            recorded = await embed(kind(config))
    with vcr.use_cassette(path, record_mode="none") as cassette:
        assert await embed(kind(config)) == recorded

    assert cassette.play_count == 1
    assert emulator.request_count == 1


@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_mock_that_begins_later(kind: Any) -> None:
    """Also where the object has connections from before, and has its own again afterwards."""
    emulator = Emulator()
    with serve(emulator) as url:
        config = EmbeddingConfig(api_key=KEY, base_url=url, dimensions=64, max_retries=0)
        client: Any = kind(config)

        async def embed_once() -> None:
            result = client.embed(["a"])
            if isinstance(client, AsyncEmbeddingClient):
                await result

        await embed_once()
        with respx.mock as mock:
            mock.post(f"{url}/embeddings").respond(json=ANSWER)
            await embed_once()
        assert emulator.request_count == 1
        await embed_once()
        assert emulator.request_count == 2
        await embed(client)


async def test_clients_of_the_user() -> None:
    """A client of the user's own is not closed with the connection that it stands for."""
    http, async_http = httpx.Client(), httpx.AsyncClient()
    HTTPXLine(CONFIG, time.monotonic, http).close()
    await AsyncHTTPXLine(CONFIG, async_http).aclose()

    assert not http.is_closed
    assert not async_http.is_closed
    HTTPXLine(CONFIG, time.monotonic, http)._http.close()
    await async_http.aclose()


def test_untouched() -> None:
    """Whether or not httpx was imported, nobody watches it at first."""
    assert not _route.is_watched()


def test_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not imported is not watched."""
    monkeypatch.delitem(sys.modules, "httpx")
    monkeypatch.delitem(sys.modules, "httpcore")

    assert not _route.is_watched()


@pytest.mark.parametrize("function", ["send", "handle_request"])
def test_tracers(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever replaces a function of httpx counts, also with a function that claims to be the original."""
    kind: Any = httpx.Client if function == "send" else httpx.HTTPTransport
    original = getattr(kind, function)

    def traced(*args: Any, **options: Any) -> Any:
        return original(*args, **options)

    traced.__module__, traced.__qualname__ = original.__module__, original.__qualname__
    monkeypatch.setattr(kind, function, traced)
    assert _route.is_watched()

    monkeypatch.setattr(kind, function, object())
    assert _route.is_watched()


@pytest.mark.parametrize(
    ("variable", "base_url", "expected"),
    [
        ("HTTPS_PROXY", "https://api.aimlapi.com/v1", True),
        ("ALL_PROXY", "https://api.aimlapi.com/v1", True),
        ("HTTP_PROXY", "https://api.aimlapi.com/v1", False),
        ("HTTPS_PROXY", "https://127.0.0.1/v1", False),
        ("NO_PROXY", "https://api.aimlapi.com/v1", False),
    ],
)
def test_proxies(variable: str, base_url: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that may be meant sends requests through httpx, which knows proxies."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, "http://127.0.0.1:9")

    assert expected == _route.has_proxy(EmbeddingConfig(api_key=KEY, base_url=base_url))


@pytest.mark.parametrize(("exceptions", "expected"), [("", True), ("other.example,api.aimlapi.com", False)])
def test_proxy_in_the_way(exceptions: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What NO_PROXY names goes past a proxy."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", exceptions)

    assert expected == _route.meets_proxy(EmbeddingConfig(api_key=KEY))
