"""
Qwen Text Embedding v4 and v3, served by AI/ML API: the core of the LangChain and LlamaIndex adapters.

It does not depend on a framework. Clients, streams and the SQLite cache are imported on first use, since they
pull in event loops, HTTP and a database.
"""

import importlib
import typing

from ._adapter import AdapterBase
from ._cache.protocol import Cache
from ._config import EmbeddingConfig
from ._engine.limiter import Limiter
from ._errors import (
    APIStatusError,
    AuthenticationError,
    BudgetError,
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
from ._models import DEFAULT_MODEL, ModelFacts, register_model
from ._progress import Progress
from ._results import EmbeddingResult, Limits, Usage
from ._texts.validation import check_texts
from ._utils.extras import refer_to_extra
from ._version import __version__

if typing.TYPE_CHECKING:
    from ._cache.sqlite import SQLiteCache
    from ._client import AsyncEmbeddingClient, EmbeddingClient
    from ._engine.stream import AsyncEmbeddingIterator, EmbeddingIterator
    from ._observe.estimate import Estimate
    from ._observe.usage import TrackedUsage, track_usage

__all__ = [
    "DEFAULT_MODEL",
    "APIStatusError",
    "AdapterBase",
    "AsyncEmbeddingClient",
    "AsyncEmbeddingIterator",
    "AuthenticationError",
    "BudgetError",
    "Cache",
    "CacheError",
    "ConfigurationError",
    "DeadlineError",
    "EmbeddingBatchError",
    "EmbeddingClient",
    "EmbeddingConfig",
    "EmbeddingIterator",
    "EmbeddingResult",
    "Estimate",
    "InputError",
    "InputTypeError",
    "InputValueError",
    "InsufficientCreditsError",
    "Limiter",
    "Limits",
    "ModelFacts",
    "Progress",
    "QwenAIMLError",
    "RateLimitError",
    "ResponseFormatError",
    "SQLiteCache",
    "TrackedUsage",
    "TransportError",
    "Usage",
    "__version__",
    "check_texts",
    "refer_to_extra",
    "register_model",
    "track_usage",
]

_MODULES = {
    "AsyncEmbeddingClient": "_client",
    "AsyncEmbeddingIterator": "_engine.stream",
    "EmbeddingClient": "_client",
    "EmbeddingIterator": "_engine.stream",
    "Estimate": "_observe.estimate",
    "SQLiteCache": "_cache.sqlite",
    "TrackedUsage": "_observe.usage",
    "track_usage": "_observe.usage",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
