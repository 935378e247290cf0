"""Spans and metrics by the GenAI conventions, in the memory of OpenTelemetry's SDK."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    AsyncEmbeddingClient,
    BudgetError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    QwenAIMLError,
    track_usage,
)
from qwen_aiml._observe import tracing
from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

KEY = "sk-test-0123456789abcdef"
PRIVATE = "a text that nobody else should read"

# Source: semantic-conventions-genai 0.1.0, span "Embeddings" and its metrics, of which the first three are
# required, and `error.type` where there is an error.
SPAN_NAMES = {
    "gen_ai.operation.name": str,
    "gen_ai.provider.name": str,
    "gen_ai.request.model": str,
    "gen_ai.embeddings.dimension.count": int,
    "gen_ai.request.encoding_formats": tuple,
    "gen_ai.usage.input_tokens": int,
    "server.address": str,
    "server.port": int,
    "error.type": str,
}
OUR_NAMES = {"qwen_aiml.texts": int, "qwen_aiml.requests": int, "qwen_aiml.cached": int}
HTTP_NAMES = {
    "http.request.method": str,
    "http.response.status_code": int,
    "url.full": str,
    "server.address": str,
    "server.port": int,
    "error.type": str,
}


class Recorded:
    """What was recorded so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._reader = InMemoryMetricReader()
        meters = MeterProvider([self._reader])
        # The global ones can be set once in a process.
        monkeypatch.setattr(trace, "get_tracer", self.provider.get_tracer)
        monkeypatch.setattr(metrics, "get_meter_provider", lambda: meters)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All spans, in the order of their ends."""
        return self.exporter.get_finished_spans()

    @property
    def calls(self) -> list[ReadableSpan]:
        """Those of calls."""
        return [span for span in self.spans if span.name.startswith("embeddings ")]

    @property
    def requests(self) -> list[ReadableSpan]:
        """Those of HTTP requests."""
        return [span for span in self.spans if span.name == "POST"]

    def metrics(self) -> dict[str, list[Any]]:
        """Give the points of each metric, by name and unit."""
        data = self._reader.get_metrics_data()
        found = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return {f"{metric.name} {metric.unit}": list(metric.data.data_points) for metric in found}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Record what happens in a test."""
    return Recorded(monkeypatch)


def client_of(emulator: Emulator, **settings: Any) -> EmbeddingClient:
    config = EmbeddingConfig(**{"api_key": KEY, "dimensions": 64, **settings})
    return EmbeddingClient(config, http_client=emulator.client_options()["http_client"])


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def check(span: ReadableSpan, names: dict[str, type]) -> None:
    """Check a span against the conventions: kind, names and types, and that an error is said in both ways."""
    assert span.kind is SpanKind.CLIENT
    for name, value in attributes(span).items():
        assert isinstance(value, names[name]), name
    assert (span.status.status_code is StatusCode.ERROR) == ("error.type" in attributes(span))
    assert not span.events  # exceptions may quote what came


def test_a_call(recorded: Recorded) -> None:
    """A call is one span, its requests are its children, retries too; names and values are as specified."""
    emulator = Emulator()
    emulator.script(Fault(status=503), Fault(reset="before"))
    with client_of(emulator, encoding_format="float") as client:
        client.embed([PRIVATE, "b"])

    [call] = recorded.calls
    check(call, SPAN_NAMES | OUR_NAMES)
    assert call.name == "embeddings alibaba/qwen-text-embedding-v4"
    assert attributes(call) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "aimlapi",
        "gen_ai.request.model": "alibaba/qwen-text-embedding-v4",
        "gen_ai.embeddings.dimension.count": 64,
        "gen_ai.request.encoding_formats": ("float",),
        "gen_ai.usage.input_tokens": 10,
        "server.address": "api.aimlapi.com",
        "server.port": 443,
        "qwen_aiml.texts": 2,
        "qwen_aiml.requests": 3,
        "qwen_aiml.cached": 0,
    }
    for request in recorded.requests:
        check(request, HTTP_NAMES)
        assert request.parent is not None
        assert request.parent.span_id == call.context.span_id
    assert [attributes(each).get("error.type") for each in recorded.requests] == ["503", "connection", None]
    assert [attributes(each).get("http.response.status_code") for each in recorded.requests] == [
        503,
        None,
        200,
    ]
    everything = "".join(span.to_json() for span in recorded.spans)
    assert PRIVATE not in everything
    assert KEY not in everything


def test_metrics(recorded: Recorded) -> None:
    """Each call is counted in both metrics, with the buckets that the conventions advise."""
    emulator = Emulator()
    with client_of(emulator, max_retries=0) as client:
        client.embed(["a"])
        client.embed(["b" * 40])
        emulator.script(Fault(status=503))
        with pytest.raises(QwenAIMLError):
            client.embed(["c"])
    found = recorded.metrics()
    durations, tokens = (
        found["gen_ai.client.operation.duration s"],
        found["gen_ai.client.token.usage {token}"],
    )

    assert [(point.count, point.attributes.get("error.type")) for point in durations] == [
        (2, None),
        (1, "APIStatusError"),
    ]
    assert durations[0].explicit_bounds == tracing.SECONDS
    assert tokens[0].explicit_bounds == tracing.COUNTS
    assert (tokens[0].count, tokens[0].sum) == (2, 11)
    assert tokens[0].attributes == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "aimlapi",
        "gen_ai.request.model": "alibaba/qwen-text-embedding-v4",
        "gen_ai.token.type": "input",
        "server.address": "api.aimlapi.com",
        "server.port": 443,
    }


@pytest.mark.parametrize(
    ("faults", "error"),
    [
        ([Fault(status=401)], "AuthenticationError"),
        ([None, Fault(status=401)], "EmbeddingBatchError"),
    ],
)
def test_errors(recorded: Recorded, faults: list[Any], error: str) -> None:
    """A call that fails, in part or as a whole, has the name of its error."""
    emulator = Emulator()
    emulator.script(*faults)
    with client_of(emulator, max_concurrency=1) as client, pytest.raises(QwenAIMLError) as caught:
        client.embed([f"{at}" for at in range(20)])

    [call] = recorded.calls
    check(call, SPAN_NAMES | OUR_NAMES)
    assert type(caught.value).__name__ == attributes(call)["error.type"] == error
    assert isinstance(caught.value, EmbeddingBatchError) == (error == "EmbeddingBatchError")


def test_budget(recorded: Recorded) -> None:
    """A call that a bound ended says so, also if it sent nothing; unknown tokens are left out."""
    emulator = Emulator()
    emulator.script(Fault(edit=lambda body: {"data": body["data"]}))
    with client_of(emulator, model="text-embedding-v3", dimensions=None) as client, track_usage(max_tokens=1):
        client.embed(["a" * 20])
        with pytest.raises(BudgetError):
            client.embed(["b"])

    first, second = recorded.calls
    assert "gen_ai.usage.input_tokens" not in attributes(first)
    assert attributes(first)["gen_ai.embeddings.dimension.count"] == 1024
    assert attributes(second)["error.type"] == "BudgetError"
    assert "gen_ai.client.token.usage {token}" not in recorded.metrics()


def test_cancelled(recorded: Recorded) -> None:
    """A call that is cancelled has a span that says so."""
    is_sent = asyncio.Event()

    class Silent(httpx.AsyncBaseTransport):
        async def handle_async_request(self, _: httpx.Request) -> httpx.Response:
            is_sent.set()
            return await asyncio.Future()

    config = EmbeddingConfig(api_key=KEY, model="unknown")
    client = AsyncEmbeddingClient(config, http_client=httpx.AsyncClient(transport=Silent()))

    async def main() -> None:
        task = asyncio.create_task(client.embed(["a"]))
        await asyncio.wait_for(is_sent.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.aclose()

    asyncio.run(main())

    assert [attributes(span)["error.type"] for span in recorded.spans] == ["CancelledError"] * 2
    assert "gen_ai.embeddings.dimension.count" not in attributes(recorded.calls[0])


@pytest.mark.parametrize("kind", [QwenAIMLEmbeddings, QwenAIMLEmbedding])
def test_frameworks(recorded: Recorded, kind: Any) -> None:
    """Calls of both frameworks are children of the span that they are made in, sync and async."""
    model = kind(dimensions=64, **Emulator().client_options())
    with recorded.provider.get_tracer("test").start_as_current_span("mine") as mine:
        if isinstance(model, QwenAIMLEmbeddings):
            model.embed_documents(["a"])
            asyncio.run(model.aembed_documents(["b"]))
        else:
            model.get_text_embedding_batch(["a"])
            asyncio.run(model.aget_text_embedding_batch(["b"]))

    assert len(recorded.calls) == 2
    for call in recorded.calls:
        assert call.parent is not None
        assert call.parent.span_id == mine.get_span_context().span_id


def test_instrumented_httpx(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where httpx is instrumented, its spans are the requests', and none of ours."""
    monkeypatch.setattr(tracing, "watched_library", lambda: "httpx")
    with client_of(Emulator()) as client:
        client.embed(["a"])

    assert (len(recorded.calls), len(recorded.requests)) == (1, 0)


def test_not_recorded(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no provider is set, and where OpenTelemetry is not imported, nothing is recorded."""
    with client_of(Emulator()) as client:
        monkeypatch.setattr(trace, "get_tracer", trace.NoOpTracerProvider().get_tracer)
        monkeypatch.delitem(sys.modules, "opentelemetry.metrics")
        client.embed(["a"])
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
        assert not tracing.is_traced()
        client.embed(["b"])

    assert recorded.spans == ()
    assert recorded.metrics() == {}


def test_older_opentelemetry() -> None:
    """Without advice on buckets, as before 1.30, the metrics are made all the same."""

    class Meter:
        def create_histogram(self, *arguments: str) -> tuple[str, ...]:
            return arguments

    assert tracing._histogram(Meter(), "a", "s", "b", (1.0,)) == ("a", "s", "b")
