"""
Qwen Text Embedding v4 and v3, served by AI/ML API: the core under the LangChain and LlamaIndex adapters.

It knows the service and no framework.
"""

from ._client import AsyncEmbeddingClient, EmbeddingClient
from ._config import EmbeddingConfig
from ._errors import (
    APIStatusError,
    AuthenticationError,
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
from ._holder import ClientHolder
from ._models import DEFAULT_MODEL, ModelFacts, register_model
from ._result import EmbeddingResult, Usage
from ._texts import check_texts
from ._version import __version__

__all__ = [
    "DEFAULT_MODEL",
    "APIStatusError",
    "AsyncEmbeddingClient",
    "AuthenticationError",
    "ClientHolder",
    "ConfigurationError",
    "DeadlineError",
    "EmbeddingBatchError",
    "EmbeddingClient",
    "EmbeddingConfig",
    "EmbeddingResult",
    "InputError",
    "InputTypeError",
    "InputValueError",
    "InsufficientCreditsError",
    "ModelFacts",
    "QwenAIMLError",
    "RateLimitError",
    "ResponseFormatError",
    "TransportError",
    "Usage",
    "__version__",
    "check_texts",
    "register_model",
]
