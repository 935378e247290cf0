"""The framework's instrumentation: one span for each call, and no events that nobody handles."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding, dispatcher
from llama_index.core.instrumentation.event_handlers import NullEventHandler


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


class _Undecorated:
    """The methods of `BaseEmbedding` without their spans, for overrides, which the framework decorates, too."""

    def __getattr__(self, name: str) -> Any:
        return unwrap(getattr(BaseEmbedding, name))


undecorated = _Undecorated()


def undecorate(kind: type[BaseEmbedding], *names: str) -> None:
    """Take the spans from methods of a class that are only called by others that have one."""
    for name in names:
        setattr(kind, name, unwrap(getattr(kind, name)))
