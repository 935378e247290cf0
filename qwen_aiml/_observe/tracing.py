"""
OpenTelemetry spans and metrics, in programs that have imported it; it is never imported here.

Names are those of OpenTelemetry's semantic conventions 1.44 (GenAI: in development; HTTP: stable), which
tests/observe/test_tracing.py checks. No text, embedding or key is in a span.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .._transport.base import TransportFailure
from .._transport.httpx_library import patched_library
from .._urls import DEFAULT_PORTS
from .._version import __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from .._config import EmbeddingConfig
    from .._protocol.response import Response
    from .._results import Usage
    from .._transport.base import Post

# All attribute and metric names, so that a new version of the conventions changes one table.
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
DIMENSIONS = "gen_ai.embeddings.dimension.count"
ENCODINGS = "gen_ai.request.encoding_formats"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 (a name)
DURATION = "gen_ai.client.operation.duration"
TOKENS = "gen_ai.client.token.usage"
ERROR = "error.type"
HOST, PORT = "server.address", "server.port"
METHOD, STATUS, URL = "http.request.method", "http.response.status_code", "url.full"
TEXTS, REQUESTS, CACHED = "qwen_aiml.texts", "qwen_aiml.requests", "qwen_aiml.cached"  # ours

# Source: the bucket boundaries that the conventions advise for the two metrics.
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
COUNTS = tuple(4**power for power in range(14))


def is_traced() -> bool:
    """Return whether the program has imported OpenTelemetry, as every program that records spans does."""
    # Another thread may be in the middle of importing it.
    return hasattr(sys.modules.get("opentelemetry.trace"), "get_tracer")


@contextmanager
def call_span(
    config: EmbeddingConfig, texts: int, outcome: Callable[[], tuple[Usage, str | None, BaseException | None]]
) -> Iterator[None]:
    """
    Create a span for the call made in a ``with`` block, and record its metrics.

    Args:
        config: The settings.

        texts: Number of texts in the call.

        outcome: Called at the end; returns the usage, the model that responses name, and the error that the
            call will raise. The model and the error may be None.
    """
    attributes = {OPERATION: "embeddings", PROVIDER: "aimlapi", MODEL: config.model, **_server(config)}
    more: dict[str, Any] = {TEXTS: texts}  # on spans only, not on metrics
    if config.length is not None:
        more[DIMENSIONS] = config.length
    if config.encoding_format is not None:
        more[ENCODINGS] = [config.encoding_format]
    began = time.perf_counter()
    raised: str | None = None
    with _span(_tracer(), f"embeddings {config.model}", attributes | more) as span:
        try:
            yield
        except BaseException as error:
            raised = type(error).__name__
            raise
        finally:
            usage, model, failure = outcome()
            span.set_attributes({REQUESTS: usage.requests, CACHED: usage.cached})
            if model is not None:
                span.set_attribute(RESPONSE_MODEL, model)
                attributes[RESPONSE_MODEL] = model
            if usage.total_tokens is not None:
                span.set_attribute(INPUT_TOKENS, usage.total_tokens)
            if raised or failure:
                attributes[ERROR] = raised or type(failure).__name__
                _fail(span, attributes[ERROR])
            _measure(usage, attributes, time.perf_counter() - began)


def traced(
    post: Callable[[Post], Awaitable[Response]], config: EmbeddingConfig
) -> Callable[[Post], Awaitable[Response]]:
    """Wrap *post* in a span per request, if the call's span is recorded and httpx is not instrumented."""
    if patched_library() is not None or not _trace().get_current_span().is_recording():
        return post
    tracer = _tracer()
    attributes = {METHOD: "POST", URL: config.endpoint, **_server(config)}

    async def post_traced(request: Post) -> Response:
        with _span(tracer, "POST", attributes) as span:
            try:
                response = await post(request)
            except BaseException as error:
                _fail(span, error.kind if isinstance(error, TransportFailure) else type(error).__name__)
                raise
            span.set_attribute(STATUS, response.status)
            if response.status >= HTTPStatus.BAD_REQUEST:
                _fail(span, str(response.status))
            return response

    return post_traced


def _server(config: EmbeddingConfig) -> dict[str, Any]:
    url = urlsplit(config.endpoint)
    return {HOST: url.hostname or "", PORT: url.port or DEFAULT_PORTS[url.scheme]}


def _trace() -> Any:
    return sys.modules["opentelemetry.trace"]


def _tracer() -> Any:
    return _trace().get_tracer("qwen_aiml", __version__)


def _span(tracer: Any, name: str, attributes: dict[str, Any]) -> Any:
    return tracer.start_as_current_span(
        name,
        kind=_trace().SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    )


def _fail(span: Any, kind: str) -> None:
    span.set_attribute(ERROR, kind)
    span.set_status(_trace().Status(_trace().StatusCode.ERROR))


def _measure(usage: Usage, attributes: dict[str, Any], seconds: float) -> None:
    metrics: Any = sys.modules.get("opentelemetry.metrics")
    if not hasattr(metrics, "get_meter_provider"):
        return
    provider = metrics.get_meter_provider()
    creator, duration, tokens = _latest[0]
    if creator is not provider:
        meter = provider.get_meter("qwen_aiml", __version__)
        duration = _histogram(meter, DURATION, "s", "Duration of a call", SECONDS)
        tokens = _histogram(meter, TOKENS, "{token}", "Tokens billed for a call", COUNTS)
        _latest[0] = provider, duration, tokens
    duration.record(seconds, attributes)
    if usage.requests and usage.total_tokens is not None:
        tokens.record(usage.total_tokens, {**attributes, TOKEN_TYPE: "input"})


# The meter provider seen last and its instruments: OpenTelemetry warns if one is created twice. Compared by
# identity, since Logfire's provider is not hashable.
_latest: list[tuple[Any, Any, Any]] = [(None, None, None)]


def _histogram(meter: Any, name: str, unit: str, description: str, buckets: tuple[float, ...]) -> Any:
    try:
        return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=buckets)
    except TypeError:  # OpenTelemetry before 1.30
        return meter.create_histogram(name, unit, description)
