"""Selection of the transport: overrides, users' clients, patched libraries, proxies, event loops."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import respx
import vcr

from qwen_aiml._config import EmbeddingConfig
from qwen_aiml._errors import ConfigurationError
from qwen_aiml._transport.asyncio_transport import AsyncioTransport
from qwen_aiml._transport.base import Post
from qwen_aiml._transport.httpx_library import check_client, patched_library
from qwen_aiml._transport.httpx_transport import HTTPXTransport, ThreadedHTTPXTransport
from qwen_aiml._transport.selection import SelectedTransport

if TYPE_CHECKING:
    from pathlib import Path

httpx2 = pytest.importorskip("httpx2")

pytestmark = pytest.mark.anyio

POST = Post(b"{}", 1000)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
URL = "https://service.example/v1"


def chosen(config: Any, given: Any = None, *, sync: bool = False) -> Any:
    return SelectedTransport(config, given, sync=sync)._select(config, given)


@pytest.fixture(params=[True, False], ids=["sync", "async"])
def sync(request: pytest.FixtureRequest) -> bool:
    """Serve sync and async callers."""
    return bool(request.param)


async def test_default(config: Any, sync: bool, anyio_backend_name: str) -> None:
    """By default, the asyncio transport is used on asyncio, and httpx on Trio."""
    settings = config(URL)
    selected = SelectedTransport(settings, sync=sync)
    transport = selected._select(settings, None)
    assert selected._select(settings, None) is transport
    assert type(transport) is (AsyncioTransport if anyio_backend_name == "asyncio" else HTTPXTransport)
    await selected.aclose()


@pytest.mark.parametrize("setting", ["auto", "httpx"])
async def test_closed_before_a_request(config: Any, sync: bool, serving: Any, setting: Any) -> None:
    """A request of a transport that another task has closed meanwhile leaves no connection open."""
    with serving(OK) as server:
        settings = replace(config(server.url), transport=setting)
        selected = SelectedTransport(settings, sync=sync)
        await selected.aclose()
        assert (await selected.post(POST)).body == b"{}"
        transport: Any = selected._select(settings, None)

    assert not transport._idle


async def test_setting(sync: bool) -> None:
    """The setting `transport="httpx"` selects httpx."""
    settings = EmbeddingConfig(api_key="sk-test-0123456789", base_url=URL, transport="httpx")
    transport = chosen(settings, sync=sync)
    assert type(transport) is HTTPXTransport
    assert transport._library is httpx


async def test_proxy(config: Any, sync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment selects httpx."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert type(chosen(config(URL), sync=sync)) is HTTPXTransport


async def test_override(config: Any, sync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An override replaces everything except clients of a stand-in."""

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=request.headers["authorization"])

    mock = httpx.MockTransport(handle)
    client, async_client = httpx.Client(transport=mock), httpx.AsyncClient(transport=mock)

    def override(settings: EmbeddingConfig, sync: bool) -> tuple[EmbeddingConfig, Any]:
        return replace(settings, api_key="own"), client if sync else async_client

    monkeypatch.setattr("qwen_aiml._transport.selection.override", override)
    selected = SelectedTransport(config(URL), sync=sync)
    for _ in range(2):
        assert (await selected.post(POST)).body == b"Bearer own"

    given: Any = SimpleNamespace(qwen_aiml_service="emulator", is_closed=False)
    with pytest.raises(AttributeError):
        await SelectedTransport(config(URL), given, sync=sync).post(POST)
    client.close()  # noqa: ASYNC212 (nothing is open)
    await async_client.aclose()


def test_clients_accepted() -> None:
    """Only clients of either library are accepted, including subclasses."""
    openai = pytest.importorskip("openai", minversion="2")
    for client in (httpx.Client(), httpx2.Client(), openai.DefaultHttpxClient()):
        check_client(client, sync=True)
        with pytest.raises(ConfigurationError, match=r"http_async_client must be an httpx.AsyncClient or"):
            check_client(client, sync=False)
        client.close()
    for kind in (httpx.AsyncClient, httpx2.AsyncClient, openai.DefaultAsyncHttpxClient):
        check_client(kind(), sync=False)
    check_client(None, sync=True)
    with pytest.raises(
        ConfigurationError, match=r"http_client must be an httpx.Client or httpx2.Client, not builtins"
    ):
        check_client(object(), sync=True)


async def test_clients_of_users(config: Any, serving: Any) -> None:
    """Users' clients are used, and stay open."""
    openai = pytest.importorskip("openai")
    with serving(OK, OK, OK, OK) as server:
        for client in (httpx2.Client(), openai.DefaultHttpxClient()):
            selected = SelectedTransport(config(server.url), client, sync=True)
            assert (await selected.post(POST)).body == b"{}"
            await selected.aclose()
            assert not client.is_closed
            client.close()
        for client in (httpx2.AsyncClient(), openai.DefaultAsyncHttpxClient()):
            selected = SelectedTransport(config(server.url), client, sync=False)
            assert (await selected.post(POST)).body == b"{}"
            await selected.aclose()
            assert not client.is_closed
            await client.aclose()


async def watching(config: Any, library: str) -> None:
    """Check that sync and async callers use the patched library."""
    assert patched_library() == library
    for sync, kind in ((True, ThreadedHTTPXTransport), (False, HTTPXTransport)):
        transport = chosen(config(URL), sync=sync)
        assert type(transport) is kind
        assert transport._library is sys.modules[library]


async def test_respx(config: Any) -> None:
    """A mock of respx receives the requests."""
    assert patched_library() is None
    for using in ("httpcore", "httpx"):
        with respx.mock(using=using) as mock:
            mock.post(f"{URL}/embeddings").respond(content=b"mocked")
            await watching(config, "httpx")
            for sync in (True, False):
                selected = SelectedTransport(config(URL), sync=sync)
                assert (await selected.post(POST)).body == b"mocked"
                await selected.aclose()
    assert patched_library() is None


async def test_pytest_httpx(config: Any, request: pytest.FixtureRequest) -> None:
    """A mock of pytest-httpx receives the requests."""
    mock = request.getfixturevalue("httpx_mock")
    mock.add_response(url=f"{URL}/embeddings", content=b"mocked", is_reusable=True)
    await watching(config, "httpx")
    for sync in (True, False):
        selected = SelectedTransport(config(URL), sync=sync)
        assert (await selected.post(POST)).body == b"mocked"
        await selected.aclose()


@pytest.mark.httpx_mock(assert_all_requests_were_expected=False)
async def test_pytest_httpx_without_a_response(config: Any, request: pytest.FixtureRequest) -> None:
    """A request that the test does not mock raises the error of pytest-httpx, which explains it."""
    mock = request.getfixturevalue("httpx_mock")
    for sync in (True, False):
        selected = SelectedTransport(config(URL), sync=sync)
        with pytest.raises(httpx.TimeoutException, match="No response can be found for POST request on"):
            await selected.post(POST)
        await selected.aclose()
    assert len(mock.get_requests()) == 2


async def test_pytest_httpx2(config: Any, request: pytest.FixtureRequest) -> None:
    """A mock of pytest-httpx2 receives the requests."""
    pytest.importorskip("pytest_httpx2")
    mock = request.getfixturevalue("httpx2_mock")
    mock.post(f"{URL}/embeddings").respond(content=b"mocked")
    await watching(config, "httpx2")
    for sync in (True, False):
        selected = SelectedTransport(config(URL), sync=sync)
        assert (await selected.post(POST)).body == b"mocked"
        await selected.aclose()


async def test_vcrpy(config: Any, sync: bool, serving: Any, tmp_path: Path) -> None:
    """A cassette of vcrpy records the requests, and replays them."""
    path = str(tmp_path / "cassette.yaml")
    with serving(OK) as server, vcr.use_cassette(path):
        await watching(config, "httpx")
        selected = SelectedTransport(config(server.url), sync=sync)
        assert (await selected.post(POST)).body == b"{}"
        await selected.aclose()
    with vcr.use_cassette(path, record_mode="none") as cassette:
        selected = SelectedTransport(config(server.url), sync=sync)
        assert (await selected.post(POST)).body == b"{}"
        await selected.aclose()
    assert cassette.play_count == 1
    assert patched_library() is None


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_opentelemetry(config: Any, library: str) -> None:
    """OpenTelemetry's wrappers, which pass `isinstance` checks for functions, are detected until removed."""
    module = pytest.importorskip("opentelemetry.instrumentation.httpx")
    name = "HTTPXClientInstrumentor" if library == "httpx" else "HTTPX2ClientInstrumentor"
    if not hasattr(module, name):
        pytest.skip("not in this version")
    instrumentor: Any = getattr(module, name)()
    assert patched_library() is None
    instrumentor.instrument()
    try:
        await watching(config, library)
    finally:
        instrumentor.uninstrument()
    assert patched_library() is None


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_sentry(config: Any, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentry's patched functions are detected."""
    module = sys.modules[library]
    for kind in (module.Client, module.AsyncClient):
        monkeypatch.setattr(kind, "send", kind.send)  # restored afterwards
    integration = pytest.importorskip(f"sentry_sdk.integrations.{library}")
    getattr(integration, f"{library.capitalize()}Integration").setup_once()
    await watching(config, library)


async def test_replaced_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replaced class counts as a patch; a missing one, or a library that is not imported, does not."""
    assert patched_library() is None
    with monkeypatch.context() as patch:
        patch.setattr(httpx, "Client", SimpleNamespace(send=None))
        assert patched_library() == "httpx"
    with monkeypatch.context() as patch:
        patch.delattr(httpx, "Client")
        assert patched_library() is None
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "httpx")
        assert patched_library() is None
    assert patched_library() is None


async def test_closing(config: Any) -> None:
    """All transports are closed, even if closing one of them fails."""
    selected = SelectedTransport(config(URL), sync=False)

    async def fail() -> None:
        raise KeyboardInterrupt

    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    first, second = SimpleNamespace(aclose=fail), SimpleNamespace(aclose=close)
    selected._transports = {("httpx", False): first, ("httpx2", False): second}
    with pytest.raises(KeyboardInterrupt):
        await selected.aclose()
    assert closed
