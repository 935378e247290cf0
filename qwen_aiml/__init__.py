"""
Qwen Text Embedding v4 and v3, served by AI/ML API: the core under the LangChain and LlamaIndex adapters.

It knows the service and no framework.
"""

from ._cache import Cache
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
from ._holder import ClientHolder
from ._iterate import AsyncEmbeddingIterator, EmbeddingIterator
from ._learned import Learned
from ._models import DEFAULT_MODEL, ModelFacts, register_model
from ._progress import Progress
from ._result import EmbeddingResult, Usage
from ._sqlite import SQLiteCache
from ._texts import check_texts
from ._version import __version__

__all__ = [
    "DEFAULT_MODEL",
    "APIStatusError",
    "AsyncEmbeddingClient",
    "AsyncEmbeddingIterator",
    "AuthenticationError",
    "Cache",
    "CacheError",
    "ClientHolder",
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
    "Learned",
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
