"""What the framework adds to embedding: a span for each call, events for their handlers, dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import TYPE_CHECKING, Any, TypeVar

from llama_index.core.base.embeddings.base import BaseEmbedding, dispatcher
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.schema import BaseComponent

if TYPE_CHECKING:
    from typing_extensions import Self

    from qwen_aiml import EmbeddingClient

_Method = TypeVar("_Method", bound=Callable[..., Any])


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


def undecorated(method: _Method) -> _Method:
    """Return a method of `BaseEmbedding` without its span: the framework decorates its overrides as well."""
    plain: _Method = unwrap(method)
    return plain


def undecorate(kind: type[BaseEmbedding], *names: str) -> None:
    """Take the spans from methods of a class that are only called by others that have one."""
    for name in names:
        setattr(kind, name, unwrap(getattr(kind, name)))


class NamesEmulator(BaseComponent):
    """A component whose ``to_dict`` names an emulator: pipelines find their cached vectors by it."""

    if TYPE_CHECKING:
        _client: EmbeddingClient

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Serialise what affects the vectors; not the key."""
        emulator = self._client._engine.emulator  # noqa: SLF001 (of this project)
        named = {} if emulator is None else {"emulator": emulator}
        return {**super().to_dict(**kwargs), **named}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Create a model from what `to_dict` gave; *kwargs* are further arguments, such as ``api_key``."""
        return super().from_dict({name: data[name] for name in data.keys() - {"emulator"}}, **kwargs)
