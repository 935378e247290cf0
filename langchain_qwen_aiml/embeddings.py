"""The LangChain class: declares fields, maps them to the core's settings, and forwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from langchain_core.embeddings import Embeddings
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.stores import BaseStore
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)

from qwen_aiml import (
    DEFAULT_MODEL,
    AdapterBase,
    ConfigurationError,
    EmbeddingConfig,
)

from ._fields import ApiKey, RateLimiter  # noqa: TC001 (pydantic reads them)
from .cache import ByteStoreCache

if TYPE_CHECKING:
    from typing_extensions import Self

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

    Safe in several threads and event loops at once. A pickle contains the settings, but not the API key: an
    unpickled copy reads it from its environment.

    Raises:
        ConfigurationError: If an option is unknown, wrong or missing.
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
    """Model id or short name, such as ``text-embedding-v4``. Unknown models pass through unchecked."""

    dimensions: int | None = None
    """Dimensions of the vectors; None leaves them to the service (1024 for v4 and v3)."""

    aimlapi_api_key: ApiKey = Field(default=None, alias="api_key", exclude=True, repr=False)
    """Also ``api_key``. A function, sync or async, is called before each request. None takes AIMLAPI_API_KEY,
    AIML_API_KEY or AIMLAPI_KEY from the environment."""

    aimlapi_api_base: str | None = Field(default=None, alias="base_url")
    """Also ``base_url``. None takes AIMLAPI_BASE_URL, AIMLAPI_API_BASE or AIML_API_BASE from the environment,
    else ``https://api.aimlapi.com/v1``."""

    chunk_size: int | None = Field(default=None, validation_alias=AliasChoices("chunk_size", "batch_size"))
    """Also ``batch_size``. Texts per request, 1 to 10 for v4 and v3; None means 10."""

    max_concurrency: int | None = None
    """Maximum number of requests in flight, 1 or more, for all threads together, and in each event loop. None
    means to start with 6 and to grow up to 32, adapting to the rate limit of the service."""

    requests_per_minute: float | None = None
    """Requests per minute, evenly spaced; None means as many as the service accepts."""

    tokens_per_minute: float | None = None
    """Tokens per minute, evenly spaced, estimated from the texts; None means no limit."""

    rate_limiter: RateLimiter = Field(default=None, exclude=True, repr=False)
    """LangChain's limiter; it is called once per request, retries included."""

    max_retries: int = 5
    """Maximum number of retries per request; 0 disables retries."""

    timeout: float | None = Field(default=None, validation_alias=AliasChoices("timeout", "request_timeout"))
    """Also ``request_timeout``. Seconds per network operation (sending, waiting for data); None means 60."""

    total_timeout: float | None = None
    """Seconds for one whole call; None means no bound."""

    query_instruction: str | None = None
    """The task, in English, put before queries (v4 only), never before documents; None means none."""

    cache: Any = Field(default=None, exclude=True, repr=False)
    """Where embeddings are looked up first and stored as soon as they arrive: the path of an SQLite file,
    a `SQLiteCache`, a ``ByteStore`` of LangChain; None means no cache."""

    on_blank: Literal["raise", "replace"] = "raise"
    """``raise`` rejects blank texts before anything is sent; ``replace`` embeds ``blank_replacement`` in
    their place."""

    blank_replacement: str | None = None
    """The text that ``on_blank="replace"`` embeds in place of blank ones; None without it."""

    on_too_long: Literal["raise", "truncate", "split_mean"] = "raise"
    """What happens to a text with too many tokens: an error, its beginning, or the mean of its pieces."""

    tokenizer: Literal["qwen"] | None = None
    """``qwen`` counts tokens before anything is sent, with the extra ``tokenizer``; None leaves it to the
    service."""

    encoding_format: Literal["float", "base64"] | None = None
    """Sent if given; None sends none."""

    show_progress_bar: bool = False
    """Show a progress bar while documents are embedded, on the terminal or in the notebook, with the extra
    ``progress``: texts, texts per second, tokens."""

    default_headers: dict[str, str] | None = Field(default=None, exclude=True, repr=False)
    """Sent with each request."""

    transport: Literal["auto", "httpx"] = "auto"
    """``httpx`` posts every request with httpx; ``auto`` does so only where it is needed, see the docs."""

    allow_http: bool | None = None
    """Accept a ``base_url`` without TLS that is not a loopback address. None takes AIMLAPI_ALLOW_HTTP from
    the environment, else False."""

    http_client: Any = Field(default=None, exclude=True, repr=False)
    """Your own ``Client`` of httpx or httpx2 for the sync methods; never closed here, and not picklable."""

    http_async_client: Any = Field(default=None, exclude=True, repr=False)
    """Your own ``AsyncClient`` of httpx or httpx2 for the async methods."""

    _client: EmbeddingClient = PrivateAttr()
    _async_client: AsyncEmbeddingClient = PrivateAttr()

    # Type checkers keep the signature that pydantic derives from the fields.
    if not TYPE_CHECKING:  # pragma: no branch

        def __init__(self, **options: Any) -> None:
            self._mask(options)
            for name, reason in _SWITCHED_OFF.items():
                if options.pop(name, None):
                    raise ConfigurationError(f"{name} is not supported: {reason}")
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise self._refusal(error.errors(), options) from None
            self._connect()

    def _connect(self) -> None:
        if not isinstance(limiter := self.rate_limiter, BaseRateLimiter | None):
            raise ConfigurationError(
                f"rate_limiter must be a BaseRateLimiter of langchain-core, not {type(limiter).__name__}. "
                "For a fixed rate, set requests_per_minute"
            )
        config = EmbeddingConfig(
            model=self.model,
            api_key=self.aimlapi_api_key,
            base_url=self.aimlapi_api_base,
            batch_size=self.chunk_size,
            **self._settings_of_one_name(),
        )
        self.__dict__.update(
            model=config.model,
            aimlapi_api_key=config.shown_key(SecretStr),
            aimlapi_api_base=config.base_url,
            chunk_size=config.batch_size,
            timeout=config.timeout,
        )
        self._progress_bar(show=self.show_progress_bar)  # which may need to be installed
        stored = isinstance(self.cache, BaseStore)
        self._make_clients(config, ByteStoreCache(self.cache) if stored else self.cache)

    @property
    def api_key(self) -> Any:
        """The key as a ``SecretStr``, or the function that gives it, masked."""
        return self.aimlapi_api_key

    @property
    def base_url(self) -> str | None:
        """The URL of the service."""
        return self.aimlapi_api_base

    @property
    def batch_size(self) -> int | None:
        """Texts in one request."""
        return self.chunk_size

    @property
    def request_timeout(self) -> float | None:
        """Seconds of silence allowed while sending or reading."""
        return self.timeout

    def _admission(self) -> tuple[Any, Any]:
        if (limiter := self.rate_limiter) is None:
            return None, None
        return (lambda _: limiter.acquire(blocking=True)), (lambda _: limiter.aacquire(blocking=True))

    def embed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        """
        Embed documents: shape (texts, dimensions), row i for text i. See `EmbeddingClient.embed`.

        *chunk_size* is that of this call, as in ``OpenAIEmbeddings``, at most the setting; None for that.
        """
        with self._progress_bar(show=self.show_progress_bar) as bar:
            return self._embed(texts, progress=bar.part(), batch_size=chunk_size)

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, with ``query_instruction`` before it if set. See `EmbeddingClient.embed`."""
        return self._embed_one(text, "query")

    async def aembed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        """Embed documents as `embed_documents` does, awaited; on asyncio or Trio."""
        with self._progress_bar(show=self.show_progress_bar) as bar:
            return await self._aembed(texts, progress=bar.part(), batch_size=chunk_size)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query as `embed_query` does, awaited; on asyncio or Trio."""
        return await self._aembed_one(text, "query")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in QwenAIMLEmbeddings.model_fields:
            message = f"{name} can't be changed; create another object, or use model_copy(update=...)"
            raise ConfigurationError(message)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[Any, Any]:
        # The core's clients, which travel along, refuse if they were given an HTTP client.
        state = super().__getstate__()
        left_behind = {"aimlapi_api_key": None, "http_client": None, "http_async_client": None}
        return {**state, "__dict__": {**state["__dict__"], **left_behind}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        shared = (self.http_client, self.http_async_client, self.cache, self.rate_limiter)
        return super().__deepcopy__({**(memo or {}), **{id(item): item for item in shared}})
