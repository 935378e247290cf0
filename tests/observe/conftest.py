"""Fixtures that record OpenTelemetry's spans and metrics in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Recorded:
    """The spans and metrics recorded so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._reader = InMemoryMetricReader()
        meters = MeterProvider([self._reader])
        # The global providers can be set only once per process.
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: self.provider)
        monkeypatch.setattr(metrics, "get_meter_provider", lambda: meters)

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """All spans, in the order of their ends."""
        return self.exporter.get_finished_spans()

    @property
    def calls(self) -> list[ReadableSpan]:
        """Spans of calls."""
        return [span for span in self.spans if span.name.startswith("embeddings ")]

    @property
    def requests(self) -> list[ReadableSpan]:
        """Spans of HTTP requests."""
        return [span for span in self.spans if span.name == "POST"]

    def metrics(self) -> dict[str, list[Any]]:
        """Return the points of each metric, by name and unit."""
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
    """Record the spans and metrics of a test."""
    return Recorded(monkeypatch)
