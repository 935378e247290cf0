"""Fixtures that call an emulator."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

URL = "https://api.aimlapi.com/v1/embeddings"
V4 = "alibaba/qwen-text-embedding-v4"
HEADERS = {"authorization": "Bearer key"}


@pytest.fixture
def body() -> Callable[..., dict[str, Any]]:
    """Return a function that creates a request's JSON."""

    def make(*texts: str, **more: object) -> dict[str, Any]:
        return {"model": V4, "input": list(texts or ["Laura is a DJ."]), "dimensions": 64, **more}

    return make


@pytest.fixture
def post() -> Callable[..., httpx.Response]:
    """Return a function that sends a request to an emulator through its sync transport."""

    def send(
        emulator: Emulator, body: object = None, timeout: float | None = 5, **headers: str
    ) -> httpx.Response:
        if body is None:
            body = {"model": V4, "input": ["Laura is a DJ."], "dimensions": 64}
        content = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        sent = {"authorization": "Bearer key", "content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        with httpx.Client(transport=emulator.transport()) as client:
            return client.post(URL, content=content, headers=sent, timeout=timeout)

    return send


@pytest.fixture(params=["http_client", "http_async_client"])
def send(
    request: pytest.FixtureRequest, body: Callable[..., Any]
) -> Callable[..., Awaitable[httpx.Response]]:
    """Return a function that sends a request with a sync or an async client."""

    async def post(emulator: Emulator, timeout: float | None = 5) -> httpx.Response:
        client = emulator.client_options()[request.param]
        try:
            answer = client.post(URL, json=body(), headers=HEADERS, timeout=timeout)
            response: httpx.Response = await answer if inspect.isawaitable(answer) else answer
        finally:
            closing = client.close() if request.param == "http_client" else client.aclose()
            if inspect.isawaitable(closing):
                await closing
        return response

    return post


@pytest.fixture
def emulator() -> Emulator:
    """Return an emulator with one valid API key and some credits."""
    return Emulator(api_keys=["key"], credits=100_000)


@pytest.fixture
def url(emulator: Emulator) -> Iterator[str]:
    """Serve the emulator and yield its base URL."""
    with serve(emulator) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    """Yield an HTTP client for the served emulator."""
    with httpx.Client(base_url=url, headers=HEADERS, timeout=10, trust_env=False) as client:
        yield client
