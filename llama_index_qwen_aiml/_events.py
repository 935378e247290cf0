"""Whether anybody sees the framework's events, which copy each number of each embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_index.core.base.embeddings.base import dispatcher
from llama_index.core.instrumentation.event_handlers import NullEventHandler

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding


def is_left_alone(model: BaseEmbedding) -> bool:
    """
    Tell whether all that the framework would do with a batch is to make events that nobody sees.

    They take as long as it took to read the embeddings.
    """
    return model.embeddings_cache is None and not model.callback_manager.handlers and not _is_dispatched()


def _is_dispatched() -> bool:
    sender = dispatcher
    while True:
        if not all(isinstance(handler, NullEventHandler) for handler in sender.event_handlers):
            return True
        if not sender.propagate:
            return False
        sender = sender.parent
