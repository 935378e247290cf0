"""Integration with the framework: spans, events, dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from llama_index.core.base.embeddings.base import BaseEmbedding, dispatcher
from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.schema import BaseComponent
from llama_index.core.storage.kvstore.types import BaseKVStore

from qwen_aiml import AdapterBase, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

# Fields that the framework sets on existing models, and that copies share.
MUTABLE_FIELDS = ("callback_manager", "embeddings_cache", "num_workers", "rate_limiter")
_Method = TypeVar("_Method", bound=Callable[..., Any])


def is_unobserved(model: BaseEmbedding) -> bool:
    """
    Return whether the framework would only create events that no handler receives.

    Creating them takes as long as parsing the embeddings.
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
    """Return a method of `BaseEmbedding` without its span, since the framework also decorates overrides."""
    plain: _Method = unwrap(method)
    return plain


def undecorate(kind: type[BaseEmbedding], *names: str) -> None:
    """Remove the spans of methods that are only called by other methods with a span."""
    for name in names:
        setattr(kind, name, unwrap(getattr(kind, name)))


class FrameworkBase(AdapterBase, BaseComponent):
    """The framework's interface of a component: options, dictionaries."""

    _shared: ClassVar = (*AdapterBase._shared, *MUTABLE_FIELDS)  # noqa: SLF001 (of its base)

    @classmethod
    def _mask(cls, options: dict[str, Any]) -> None:
        super()._mask(options)
        if options.get("class_name") == cls.class_name():  # as model_dump writes it
            del options["class_name"]
        check_parts(options)

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Serialise the settings that affect the vectors, without the API key."""
        # Includes the emulator, since pipelines look up cached vectors by this dictionary.
        emulator = self._client._engine.emulator  # noqa: SLF001 (of this project)
        named = {} if emulator is None else {"emulator": emulator}
        return {**super().to_dict(**kwargs), **named}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Create a model from the result of `to_dict`; *kwargs* are more arguments, such as ``api_key``."""
        return super().from_dict({name: data[name] for name in data.keys() - {"emulator"}}, **kwargs)


def check_parts(parts: Mapping[str, Any]) -> None:
    """
    Reject framework objects of the wrong type, which would otherwise only fail at the first call.

    Raises:
        ConfigurationError: If one of *parts* can't be used.
    """
    limiter, cache = parts.get("rate_limiter"), parts.get("embeddings_cache")
    methods = [getattr(limiter, name, None) for name in ("acquire", "async_acquire")]
    if limiter is not None and not all(map(callable, methods)):
        raise ConfigurationError(
            f"rate_limiter must have the methods acquire and async_acquire, not be {type(limiter).__name__}. "
            "For a fixed rate, set requests_per_minute"
        )
    if cache is not None and not isinstance(cache, BaseKVStore):
        raise ConfigurationError(
            f"embeddings_cache must be a BaseKVStore of LlamaIndex, not {type(cache).__name__}. For the path "
            "of a file, set cache"
        )
    if not isinstance(workers := parts.get("num_workers"), int | None):
        raise ConfigurationError(f"num_workers must be a whole number or None, not {type(workers).__name__}")
    manager = parts.get("callback_manager")
    if not isinstance(manager, CallbackManager | None):
        raise ConfigurationError(
            f"callback_manager must be a CallbackManager of LlamaIndex, not {type(manager).__name__}. "
            "Handlers go into one: CallbackManager([...])"
        )
