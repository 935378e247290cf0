"""Ways to call an emulator, used by all its tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwen_aiml.emulator import Emulator

URL = "https://api.aimlapi.com/v1/embeddings"
V4 = "alibaba/qwen-text-embedding-v4"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run async tests on both event loops."""
    return str(request.param)


@pytest.fixture
def body() -> Callable[..., dict[str, Any]]:
    """Give a function that makes a request's JSON."""

    def make(*texts: str, **more: object) -> dict[str, Any]:
        return {"model": V4, "input": list(texts or ["Laura is a DJ."]), "dimensions": 64, **more}

    return make


@pytest.fixture
def post() -> Callable[..., httpx.Response]:
    """Give a function that calls an emulator through its sync transport."""

    def send(emulator: Emulator, body: object = None, **headers: str) -> httpx.Response:
        if body is None:
            body = {"model": V4, "input": ["Laura is a DJ."], "dimensions": 64}
        content = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        sent = {"authorization": "Bearer key", "content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        with httpx.Client(transport=emulator.transport()) as client:
            return client.post(URL, content=content, headers=sent)

    return send
