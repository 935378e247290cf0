"""Instrumentation of httpx, each in a process of its own, since it can't be removed completely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.once, pytest.mark.slow]

CALLS = """
import asyncio

with EmbeddingClient(CONFIG) as client:
    print(len(client.embed(TEXTS).embeddings))

async def main():
    async with AsyncEmbeddingClient(CONFIG) as client:
        print(len((await client.embed(TEXTS)).embeddings))

asyncio.run(main())
"""


class Observed(Emulator):
    """
    An emulator that records whether requests continue a trace.

    Attributes:
        traced: Whether each request has the header ``traceparent``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.traced: list[bool] = []

    def answering(self, request: Any) -> Any:
        """Decide how to respond to *request*."""
        self.traced.append("traceparent" in request.headers)
        return super().answering(request)


@pytest.fixture
def emulator() -> Observed:
    """Return the emulator that the programs use."""
    return Observed()


def test_logfire(run: Callable[..., str], emulator: Observed) -> None:
    """Logfire sees all requests, and its meter provider, which is not hashable, gets the metrics."""
    pytest.importorskip("logfire")
    instrument = """
import httpx, logfire

logfire.configure(send_to_logfire=False, console=False)
logfire.instrument_httpx()
"""
    assert run(instrument + CALLS, "-W", "ignore") == "37\n37\n"
    assert emulator.traced == [True] * 8


def test_elastic_apm(run: Callable[..., str], emulator: Observed) -> None:
    """Elastic APM sees all requests."""
    pytest.importorskip("elasticapm")
    instrument = """
import elasticapm, httpx

options = {"disable_send": True, "metrics_interval": "0s", "central_config": False, "cloud_provider": False}
apm = elasticapm.Client(service_name="test", **options)
elasticapm.instrument()
apm.begin_transaction("test")
"""
    assert run(instrument + CALLS, "-W", "ignore") == "37\n37\n"
    assert emulator.traced == [True] * 8
