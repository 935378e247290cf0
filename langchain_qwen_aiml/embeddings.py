"""The LangChain class: declares fields, maps them to the core's settings, and forwards calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from langchain_core.embeddings import Embeddings
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.stores import BaseStore
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from qwen_aiml import DEFAULT_MODEL, AdapterBase, ConfigurationError

from ._fields import ApiKey, RateLimiter  # noqa: TC001 (pydantic reads them)
from .cache import ByteStoreCache

if TYPE_CHECKING:
    from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient

# Options of OpenAIEmbeddings and AimlapiEmbeddings that must be off, and why.
_SWITCHED_OFF = {
    "skip_empty": "skipped texts would shift the embeddings of the others; blank texts raise an error",
    "check_embedding_ctx_length": "it sends token ids, which the service does not accept",
    "model_kwargs": "pass its entries as arguments",
}


class QwenAIMLEmbeddings(AdapterBase, BaseModel, Embeddings):
    """
    Qwen Text Embedding v4 and v3, served by AI/ML API.

    Setup:
        ```bash
        pip install "qwen-aiml[langchain]"
        export AIMLAPI_API_KEY="..."
        ```

    Instantiate:
        ```python
        from langchain_qwen_aiml import QwenAIMLEmbeddings

        embeddings = QwenAIMLEmbeddings(model="text-embedding-v4", dimensions=1024)
        ```

    Embed single text:
        ```python
        embeddings.embed_query("What is a vector store?")
        ```

    Embed multiple texts:
        ```python
        embeddings.embed_documents(["First text", "Second text"])
        ```

    Async:
        ```python
        await embeddings.aembed_documents(["First text", "Second text"])
        ```

    Safe to use from several threads and event loops at once. A pickle contains the settings, but not the API
    key: an unpickled copy reads it from its environment.

    Raises:
        ConfigurationError: If an option is unknown, invalid or missing.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        hide_input_in_errors=True,
        populate_by_name=True,
        protected_namespaces=(),
        strict=True,
        use_attribute_docstrings=True,
    )

    model: str = DEFAULT_MODEL
    """Model id or short name, such as ``text-embedding-v4``. Unknown ids are sent unchecked."""

    dimensions: int | None = None
    """Dimensions of the vectors; None uses the service's default (1024 for v4 and v3)."""

    aimlapi_api_key: ApiKey = Field(default=None, alias="api_key", exclude=True, repr=False)
    """Also ``api_key``. A string, a ``SecretStr``, or a sync or async function that is called before each
    request. None reads AIMLAPI_API_KEY, AIML_API_KEY or AIMLAPI_KEY from the environment."""

    aimlapi_api_base: str | None = Field(default=None, alias="base_url")
    """Also ``base_url``. URL of the service. None reads AIMLAPI_BASE_URL, AIMLAPI_API_BASE or AIML_API_BASE
    from the environment; the default is ``https://api.aimlapi.com/v1``."""

    chunk_size: int | None = Field(default=None, validation_alias=AliasChoices("chunk_size", "batch_size"))
    """Also ``batch_size``. Texts per request, 1 to 10 for v4 and v3; None means 10."""

    max_concurrency: int | None = None
    """Maximum number of requests in flight, 1 or more, for all threads together, and for each event loop.
    None starts at 6 and grows up to 32, adapting to the service's rate limit."""

    requests_per_minute: float | None = None
    """Maximum requests per minute, evenly spaced; None means as many as the service accepts."""

    tokens_per_minute: float | None = None
    """Maximum tokens per minute, evenly spaced, estimated from the texts; None means no limit."""

    rate_limiter: RateLimiter = Field(default=None, exclude=True, repr=False)
    """A LangChain rate limiter; it is called before each request, retries included."""

    max_retries: int = 5
    """Maximum number of retries per request; 0 disables retries."""

    timeout: float | None = Field(default=None, validation_alias=AliasChoices("timeout", "request_timeout"))
    """Also ``request_timeout``. Seconds per network operation (sending or waiting for data); None means
    60."""

    total_timeout: float | None = None
    """Seconds for one whole call, retries and waits included; None means no limit."""

    query_instruction: str | None = None
    """Task description, in English, prepended to queries (v4 only), never to documents; None means no
    instruction."""

    cache: Any = Field(default=None, exclude=True, repr=False)
    """Cache that is looked up first and updated as soon as embeddings arrive: the path of an SQLite file,
    a `SQLiteCache`, or a LangChain ``ByteStore``; None means no cache."""

    on_blank: Literal["raise", "replace"] = "raise"
    """``raise`` rejects blank texts before anything is sent; ``replace`` embeds ``blank_replacement``
    instead."""

    blank_replacement: str | None = None
    """Text that ``on_blank="replace"`` embeds instead of blank ones; otherwise it must be None."""

    on_too_long: Literal["raise", "truncate", "split_mean"] = "raise"
    """How to handle a text with too many tokens: ``raise`` raises an error, ``truncate`` embeds a beginning
    that fits, ``split_mean`` embeds its pieces and returns their mean."""

    tokenizer: Literal["qwen"] | None = None
    """``qwen`` counts tokens before anything is sent, which requires the extra ``tokenizer``; None leaves the
    token limit to the service."""

    encoding_format: Literal["float", "base64"] | None = None
    """``float`` or ``base64``, sent with each request; None omits it."""

    show_progress_bar: bool = False
    """Show a progress bar while documents are embedded, in the terminal or notebook: texts, texts per second,
    tokens. Requires the extra ``progress``."""

    default_headers: dict[str, str] | None = Field(default=None, exclude=True, repr=False)
    """Additional headers for each request; None adds no headers."""

    transport: Literal["auto", "httpx"] = "auto"
    """``httpx`` sends every request with httpx; ``auto`` does so only on Trio, behind a proxy, with a custom
    client, and while httpx is instrumented, recorded or mocked."""

    allow_http: bool | None = None
    """Whether to accept an unencrypted ``base_url`` that is not a loopback address. None reads
    AIMLAPI_ALLOW_HTTP from the environment; the default is False."""

    http_client: Any = Field(default=None, exclude=True, repr=False)
    """A custom httpx or httpx2 ``Client`` for the sync methods; never closed here, and not picklable."""

    http_async_client: Any = Field(default=None, exclude=True, repr=False)
    """A custom httpx or httpx2 ``AsyncClient`` for the async methods, in one event loop only."""

    _renamed: ClassVar[dict[str, str]] = {
        "api_key": "aimlapi_api_key",
        "base_url": "aimlapi_api_base",
        "batch_size": "chunk_size",
    }
    _client: EmbeddingClient = PrivateAttr()
    _async_client: AsyncEmbeddingClient = PrivateAttr()

    # Hidden from type checkers, which use the signature that pydantic derives from the fields.
    if not TYPE_CHECKING:  # pragma: no branch

        def __init__(self, **options: Any) -> None:
            for name, reason in _SWITCHED_OFF.items():
                if options.pop(name, None):
                    raise ConfigurationError(f"{name} is not supported: {reason}")
            super().__init__(**options)

    def _connect(self) -> None:
        if not isinstance(limiter := self.rate_limiter, BaseRateLimiter | None):
            raise ConfigurationError(
                f"rate_limiter must be a BaseRateLimiter of langchain-core, not {type(limiter).__name__}. "
                "For a fixed rate, set requests_per_minute"
            )
        stored = isinstance(self.cache, BaseStore)
        self._make_clients(ByteStoreCache(self.cache) if stored else self.cache, SecretStr)
        self._progress_bar(show=self.show_progress_bar)  # raises if the extra is missing

    @property
    def api_key(self) -> Any:
        """The API key as a ``SecretStr``, or the function that returns it, masked."""
        return self.aimlapi_api_key

    @property
    def base_url(self) -> str | None:
        """The URL of the service."""
        return self.aimlapi_api_base

    @property
    def batch_size(self) -> int | None:
        """Texts per request."""
        return self.chunk_size

    @property
    def request_timeout(self) -> float | None:
        """Seconds per network operation."""
        return self.timeout

    def _limiter_functions(self) -> tuple[Any, Any]:
        if (limiter := self.rate_limiter) is None:
            return None, None
        return (lambda _: limiter.acquire(blocking=True)), (lambda _: limiter.aacquire(blocking=True))

    def embed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        """
        Embed documents: shape (texts, dimensions), row i for text i. See `EmbeddingClient.embed`.

        *chunk_size* is the texts per request of this call, at most the setting; None means the setting.
        """
        with self._progress_bar(show=self.show_progress_bar) as bar:
            return self._embed(texts, progress=bar.callback(), batch_size=chunk_size)

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, with ``query_instruction`` prepended if set. See `EmbeddingClient.embed`."""
        return self._embed([text], "query")[0]

    async def aembed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        """Async version of `embed_documents`, for asyncio and Trio."""
        with self._progress_bar(show=self.show_progress_bar) as bar:
            return await self._aembed(texts, progress=bar.callback(), batch_size=chunk_size)

    async def aembed_query(self, text: str) -> list[float]:
        """Async version of `embed_query`, for asyncio and Trio."""
        return (await self._aembed([text], "query"))[0]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in QwenAIMLEmbeddings.model_fields:
            message = f"{name} can't be changed; create another object, or use model_copy(update=...)"
            raise ConfigurationError(message)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[Any, Any]:
        # The core's clients are pickled, too, and raise an error if they have a custom HTTP client.
        state = super().__getstate__()
        left_behind = {"aimlapi_api_key": None, "http_client": None, "http_async_client": None}
        return {**state, "__dict__": {**state["__dict__"], **left_behind}}
