"""The framework's instrumentation records one span per call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.instrumentation.span import SimpleSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index_instrumentation import get_dispatcher
from pydantic import PrivateAttr

from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Spans(BaseSpanHandler[SimpleSpan]):
    """Records the method of each span."""

    _seen: list[str] = PrivateAttr(default_factory=list)

    def new_span(self, id_: str, *_: Any, **__: Any) -> SimpleSpan:
        """Record the method."""
        self._seen.append(id_.partition("-")[0].rpartition(".")[2])
        return SimpleSpan(id_=id_)

    def prepare_to_exit_span(self, id_: str, *_: Any, **__: Any) -> SimpleSpan | None:
        """Return the open span."""
        return self.open_spans.get(id_)

    def prepare_to_drop_span(self, id_: str, *_: Any, **__: Any) -> SimpleSpan | None:
        """Return the open span."""
        return self.open_spans.get(id_)


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Handle the spans of this process."""
    handler, dispatcher = Spans(), get_dispatcher()
    dispatcher.add_span_handler(handler)
    yield handler
    dispatcher.span_handlers.remove(handler)


CALLS: dict[str, Callable[[QwenAIMLEmbedding], Any]] = {
    "get_text_embedding_batch": lambda model: model.get_text_embedding_batch(["a", "b"]),
    "get_text_embedding": lambda model: model.get_text_embedding("a"),
    "get_query_embedding": lambda model: model.get_query_embedding("a"),
    "aget_text_embedding_batch": lambda model: asyncio.run(model.aget_text_embedding_batch(["a", "b"])),
    "aget_text_embedding": lambda model: asyncio.run(model.aget_text_embedding("a")),
    "aget_query_embedding": lambda model: asyncio.run(model.aget_query_embedding("a")),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_span(name: str, spans: Spans) -> None:
    """A call is one span, of the method that was called."""
    model = QwenAIMLEmbedding(**Emulator().client_options(), dimensions=64)
    CALLS[name](model)

    assert spans._seen == [name]
