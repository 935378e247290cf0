"""Whether anybody sees the framework's events of embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_index.core.base.embeddings.base import dispatcher
from llama_index.core.instrumentation.event_handlers import NullEventHandler

if TYPE_CHECKING:
    from llama_index.core.callbacks import CallbackManager


def are_seen(callbacks: CallbackManager) -> bool:
    """
    Tell whether a handler is there for them, in the callbacks or the instrumentation.

    An event copies each number of each embedding, which takes as long as it took to read them.

    Args:
        callbacks: Those of the model.
    """
    if callbacks.handlers:
        return True
    sender = dispatcher
    while True:
        if any(not isinstance(handler, NullEventHandler) for handler in sender.event_handlers):
            return True
        if not sender.propagate:
            return False
        sender = sender.parent
