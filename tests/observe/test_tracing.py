"""Tracing: spans and metrics that follow OpenTelemetry's GenAI conventions."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry import metrics, trace
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.trace import SpanKind, StatusCode

from fakes import After, Harness, status
from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    AsyncEmbeddingClient,
    AuthenticationError,
    BudgetError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    QwenAIMLError,
    track_usage,
)
from qwen_aiml._observe import tracing
from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

KEY = "sk-test-0123456789abcdef"
PRIVATE = "a text that nobody else should read"

# Source: the semantic conventions 1.44, span "Embeddings", of which the first three are required, and
# `error.type` where there is an error.
SPAN_NAMES = {
    "gen_ai.operation.name": str,
    "gen_ai.provider.name": str,
    "gen_ai.request.model": str,
    "gen_ai.response.model": str,
    "gen_ai.embeddings.dimension.count": int,
    "gen_ai.request.encoding_formats": tuple,
    "gen_ai.usage.input_tokens": int,
    "server.address": str,
    "server.port": int,
    "error.type": str,
}
# Source: the same, "Generative AI metrics", ExplicitBucketBoundaries.
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
OUR_NAMES = {"qwen_aiml.texts": int, "qwen_aiml.requests": int, "qwen_aiml.cached": int}
HTTP_NAMES = {
    "http.request.method": str,
    "http.response.status_code": int,
    "url.full": str,
    "server.address": str,
    "server.port": int,
    "error.type": str,
}


def client_of(emulator: Emulator, **settings: Any) -> EmbeddingClient:
    config = EmbeddingConfig(**{"api_key": KEY, "dimensions": 64, **settings})
    return EmbeddingClient(config, http_client=emulator.client_options()["http_client"])


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def check(span: ReadableSpan, names: dict[str, type]) -> None:
    """Check a span against the conventions: kind, names and types, and both indications of an error."""
    assert span.kind is SpanKind.CLIENT
    for name, value in attributes(span).items():
        assert isinstance(value, names[name]), name
    assert (span.status.status_code is StatusCode.ERROR) == ("error.type" in attributes(span))
    assert not span.events  # exceptions may quote the response


def test_a_call(recorded: Any) -> None:
    """A call is one span with a child span per request, retries included; names and values conform."""
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
        "gen_ai.response.model": "text-embedding-v4",
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


def enum_of(module: Any, name: str) -> set[str]:
    return {member.value for member in getattr(module, name)}


def test_conventions(recorded: Any) -> None:
    """Each recorded name, enum value and unit is OpenTelemetry's, except ``qwen_aiml.*``."""
    emulator = Emulator()
    emulator.script(Fault(status=503))
    with client_of(emulator, encoding_format="float") as client:
        client.embed(["a"])
        emulator.script(Fault(status=401))
        with pytest.raises(AuthenticationError):
            client.embed(["b"])
    found = recorded.metrics()
    points = [point.attributes for metric in found.values() for point in metric]
    written = [*map(attributes, recorded.spans), *points]
    modules = (gen_ai, error_attributes, http_attributes, server_attributes, url_attributes)
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    enums = {
        "gen_ai.operation.name": enum_of(gen_ai, "GenAiOperationNameValues"),
        "gen_ai.token.type": enum_of(gen_ai, "GenAiTokenTypeValues"),
        "http.request.method": enum_of(http_attributes, "HttpRequestMethodValues"),
    }
    meter: Any = SimpleNamespace(create_histogram=lambda name, unit, **_: f"{name} {unit}")
    duration: Any = gen_ai_metrics.create_gen_ai_client_operation_duration(meter)
    tokens: Any = gen_ai_metrics.create_gen_ai_client_token_usage(meter)

    assert {name for some in written for name in some if not name.startswith("qwen_aiml.")} <= known
    assert all(some[name] in values for some in written for name, values in enums.items() if name in some)
    assert found.keys() == {duration, tokens}
    for call in recorded.calls:
        values = attributes(call)
        assert call.name == f"{values['gen_ai.operation.name']} {values['gen_ai.request.model']}"


def test_metrics(recorded: Any) -> None:
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
    assert durations[0].explicit_bounds == SECONDS
    assert tokens[0].explicit_bounds == COUNTS
    assert (tokens[0].count, tokens[0].sum) == (2, 11)
    assert tokens[0].attributes == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "aimlapi",
        "gen_ai.request.model": "alibaba/qwen-text-embedding-v4",
        "gen_ai.response.model": "text-embedding-v4",
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
def test_errors(recorded: Any, faults: list[Any], error: str) -> None:
    """The span of a call that fails, in part or as a whole, has the name of its error."""
    emulator = Emulator()
    emulator.script(*faults)
    with client_of(emulator, max_concurrency=1) as client, pytest.raises(QwenAIMLError) as caught:
        client.embed([f"{at}" for at in range(20)])

    [call] = recorded.calls
    check(call, SPAN_NAMES | OUR_NAMES)
    assert type(caught.value).__name__ == attributes(call)["error.type"] == error
    assert isinstance(caught.value, EmbeddingBatchError) == (error == "EmbeddingBatchError")


def test_first_failure() -> None:
    """If nothing was embedded, the call and its span end with the failure that occurred first."""
    outcomes = {"a": After(2.0, status(503)), "b": After(1.0, status(401))}
    harness = Harness(
        service=lambda texts: outcomes[texts[0]], batch_size=1, max_concurrency=2, max_retries=0
    )
    job = harness.job(["a", "b"])
    with pytest.raises(AuthenticationError):
        job.result()

    assert isinstance(job.error(), AuthenticationError)


def test_budget(recorded: Any) -> None:
    """The span of a call that a bound ended says so, even if nothing was sent; unknown tokens are omitted."""
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


def test_cancelled(recorded: Any) -> None:
    """The spans of a cancelled call record the cancellation."""
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
def test_frameworks(recorded: Any, kind: Any) -> None:
    """Calls of both frameworks are children of the current span, sync and async."""
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


def test_instrumented_httpx(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If httpx is instrumented, the package records no spans for requests."""
    monkeypatch.setattr(tracing, "patched_library", lambda: "httpx")
    with client_of(Emulator()) as client:
        client.embed(["a"])

    assert (len(recorded.calls), len(recorded.requests)) == (1, 0)


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
@pytest.mark.parametrize("own", [False, True], ids=["default", "own-client"])
def test_real_instrumentation(recorded: Any, library: str, own: bool) -> None:
    """Spans of OpenTelemetry's instrumentation of httpx are children of the call's, one per attempt."""
    module = pytest.importorskip("opentelemetry.instrumentation.httpx")
    name = "HTTPXClientInstrumentor" if library == "httpx" else "HTTPX2ClientInstrumentor"
    if not hasattr(module, name):
        pytest.skip("not in this version")
    instrumentor: Any = getattr(module, name)()
    emulator = Emulator()
    instrumentor.instrument(tracer_provider=recorded.provider)
    try:
        with serve(emulator) as url:
            config = EmbeddingConfig(api_key=KEY, base_url=url)
            clients = sys.modules[library]

            def embed() -> None:
                with (
                    clients.Client() as given,
                    EmbeddingClient(config, http_client=given if own else None) as client,
                ):
                    client.embed(["a"])

            async def aembed() -> None:
                async with (
                    clients.AsyncClient() as given,
                    AsyncEmbeddingClient(config, http_client=given if own else None) as client,
                ):
                    await client.embed(["b"])

            emulator.script(Fault(status=503))
            embed()
            asyncio.run(aembed())
    finally:
        instrumentor.uninstrument()

    theirs = [span for span in recorded.spans if span not in recorded.calls]
    parents = [span.parent.span_id for span in theirs if span.parent is not None]
    first, second = (span.context.span_id for span in recorded.calls)
    assert parents == [first, first, second]
    scopes = [span.instrumentation_scope for span in theirs]
    assert [scope.name for scope in scopes if scope] == [module.__name__] * 3


def test_unhashable_provider(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A meter provider that is not hashable, such as Logfire's, gets its instruments, and only once."""
    created: list[str] = []

    class Unhashable(metrics.NoOpMeterProvider):
        __hash__ = None  # type: ignore[assignment]

        def get_meter(self, name: str, *arguments: Any, **options: Any) -> Any:
            created.append(name)
            return super().get_meter(name, *arguments, **options)

    provider = Unhashable()
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    with client_of(Emulator()) as client:
        client.embed(["a"])
        client.embed(["b"])

    assert created == ["qwen_aiml"]
    assert len(recorded.calls) == 2


def test_not_recorded(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no provider is set, or OpenTelemetry is not imported, nothing is recorded."""
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
    """If buckets can't be advised, as before 1.30, the metrics are still created."""

    class Meter:
        def create_histogram(self, *arguments: str) -> tuple[str, ...]:
            return arguments

    assert tracing._histogram(Meter(), "a", "s", "b", (1.0,)) == ("a", "s", "b")
