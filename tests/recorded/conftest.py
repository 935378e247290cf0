"""
Cassettes: what they contain, how they state their origin, and how they are re-recorded.

Replayed by default, with no network. `make record` records them from the emulator, which responds through an
httpx transport under the service's real URL; `make record-live` from the service, with a key.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from vcr.serializers import yamlserializer

from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

# Read before a fixture empties the environment.
LIVE_KEY = os.environ.get("AIMLAPI_API_KEY", "") if os.environ.get("QWEN_AIML_RECORD_LIVE") else ""

EMULATOR_ORIGIN = """\
# Recorded from qwen_aiml.emulator, answering under the service's address: it proves what the client sends and
# how it reads the answer, not what the service does. `make record` records it again.
"""
LIVE_ORIGIN = """\
# Recorded from the service, https://api.aimlapi.com, by `make record-live`.
"""


def pytest_recording_configure(config: pytest.Config, vcr: Any) -> None:  # noqa: ARG001 (the hook's signature)
    """State the origin of each cassette in its first lines."""
    origin = LIVE_ORIGIN if LIVE_KEY else EMULATOR_ORIGIN
    serializer = SimpleNamespace(
        serialize=lambda cassette: origin + yamlserializer.serialize(cassette),
        deserialize=yamlserializer.deserialize,
    )
    vcr.register_serializer("yaml", serializer)


def _keep(headers: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name.lower() in names}


def _request(request: Any) -> Any:
    # With the content type, vcrpy compares bodies as JSON.
    request.headers = _keep(request.headers, "content-type")
    return request


def _response(response: dict[str, Any]) -> dict[str, Any]:
    response["headers"] = _keep(response["headers"], "content-type", "retry-after")
    return response


@pytest.fixture(scope="module")
def vcr_config() -> dict[str, Any]:
    """Keep the bodies and two headers; only the command line sets the record mode."""
    return {
        "before_record_request": _request,
        "before_record_response": _response,
        "decode_compressed_response": True,
        "match_on": ["method", "uri", "body"],
    }


@pytest.fixture(autouse=True)
def _all_played(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that no longer sends all requests of its cassette."""
    yield
    replayed = "vcr" in request.fixturenames and request.getfixturevalue("vcr")
    if replayed and request.config.getoption("--record-mode") == "none":
        assert replayed.all_played


@pytest.fixture
def origins() -> tuple[str, str]:
    """Return the first lines that a cassette may have."""
    return EMULATOR_ORIGIN, LIVE_ORIGIN


@pytest.fixture
def options(request: pytest.FixtureRequest) -> Any:
    """Return a function that creates options for a model, which use an emulator when recording."""

    def make(emulator: Emulator | None = None) -> dict[str, Any]:
        if LIVE_KEY:
            return {"api_key": LIVE_KEY}
        if request.config.getoption("--record-mode") == "none":
            return {"api_key": "replayed"}
        service = emulator or Emulator()
        return {
            "api_key": "recorded",
            "http_client": httpx.Client(transport=service.transport()),
            "http_async_client": httpx.AsyncClient(transport=service.async_transport()),
        }

    return make
