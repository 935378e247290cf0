"""
Qwen Text Embedding v4 and v3, served by AI/ML API: the core under the LangChain and LlamaIndex adapters.

It knows the service and no framework. What it offers is imported when it is first asked for.
"""

import importlib
import typing

from ._version import __version__

if typing.TYPE_CHECKING:
    from ._cache.protocol import Cache
    from ._client import AsyncEmbeddingClient, EmbeddingClient
    from ._config import EmbeddingConfig
    from ._errors import (
        APIStatusError,
        AuthenticationError,
        CacheError,
        ConfigurationError,
        DeadlineError,
        EmbeddingBatchError,
        InputError,
        InputTypeError,
        InputValueError,
        InsufficientCreditsError,
        QwenAIMLError,
        RateLimitError,
        ResponseFormatError,
        TransportError,
    )
    from ._extras import refer_to_extra
    from ._adapter import AdapterBase
    from ._engine.stream import AsyncEmbeddingIterator, EmbeddingIterator
    from ._engine.limiter import Limiter
    from ._models import DEFAULT_MODEL, ModelFacts, register_model
    from ._progress import Progress
    from ._results import EmbeddingResult, Usage
    from ._cache.sqlite import SQLiteCache
    from ._texts.validation import check_texts

__all__ = [
    "DEFAULT_MODEL",
    "APIStatusError",
    "AdapterBase",
    "AsyncEmbeddingClient",
    "AsyncEmbeddingIterator",
    "AuthenticationError",
    "Cache",
    "CacheError",
    "ConfigurationError",
    "DeadlineError",
    "EmbeddingBatchError",
    "EmbeddingClient",
    "EmbeddingConfig",
    "EmbeddingIterator",
    "EmbeddingResult",
    "InputError",
    "InputTypeError",
    "InputValueError",
    "InsufficientCreditsError",
    "Limiter",
    "ModelFacts",
    "Progress",
    "QwenAIMLError",
    "RateLimitError",
    "ResponseFormatError",
    "SQLiteCache",
    "TransportError",
    "Usage",
    "__version__",
    "check_texts",
    "refer_to_extra",
    "register_model",
]

_HOMES = {
    "DEFAULT_MODEL": "_models",
    "APIStatusError": "_errors",
    "AdapterBase": "_adapter",
    "AsyncEmbeddingClient": "_client",
    "AsyncEmbeddingIterator": "_engine.stream",
    "AuthenticationError": "_errors",
    "Cache": "_cache.protocol",
    "CacheError": "_errors",
    "ConfigurationError": "_errors",
    "DeadlineError": "_errors",
    "EmbeddingBatchError": "_errors",
    "EmbeddingClient": "_client",
    "EmbeddingConfig": "_config",
    "EmbeddingIterator": "_engine.stream",
    "EmbeddingResult": "_results",
    "InputError": "_errors",
    "InputTypeError": "_errors",
    "InputValueError": "_errors",
    "InsufficientCreditsError": "_errors",
    "Limiter": "_engine.limiter",
    "ModelFacts": "_models",
    "Progress": "_progress",
    "QwenAIMLError": "_errors",
    "RateLimitError": "_errors",
    "ResponseFormatError": "_errors",
    "SQLiteCache": "_cache.sqlite",
    "TransportError": "_errors",
    "Usage": "_results",
    "check_texts": "_texts.validation",
    "refer_to_extra": "_extras",
    "register_model": "_models",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    globals()[name] = found = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
