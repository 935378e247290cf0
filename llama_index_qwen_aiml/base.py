"""The LlamaIndex class: declares fields, maps them to the core's settings, and forwards calls."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.storage.kvstore.types import BaseKVStore
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from qwen_aiml import DEFAULT_MODEL, ConfigurationError, check_texts

from ._fields import ApiKey  # noqa: TC001 (pydantic reads them)
from ._framework import MUTABLE_FIELDS, FrameworkBase, check_parts, is_unobserved, undecorate, undecorated
from .cache import KVStoreCache, NamespacedKVStore

if TYPE_CHECKING:
    from typing_extensions import Self

    from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient


class QwenAIMLEmbedding(FrameworkBase, BaseEmbedding):
    """
    Qwen Text Embedding v4 and v3, served by AI/ML API.

    ```python
    from llama_index.core import Settings
    from llama_index_qwen_aiml import QwenAIMLEmbedding

    Settings.embed_model = QwenAIMLEmbedding(dimensions=1024)
    ```

    Safe to use from several threads and event loops at once. ``to_dict`` contains only the settings that
    affect the vectors. A pickle contains the settings, but not the API key: an unpickled copy reads it from
    its environment.

    Lists of any length are passed whole to the core, which sends several requests at a time. If
    ``num_workers`` is set, the framework splits the lists of async calls into parts of ``embed_batch_size``
    texts, each of which is one request.

    Raises:
        ConfigurationError: If an option is unknown, invalid or missing.
    """

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, strict=True, use_attribute_docstrings=True
    )

    model_name: str = Field(default=DEFAULT_MODEL, validation_alias=AliasChoices("model_name", "model"))
    """Also ``model``. Model id or short name, such as ``text-embedding-v4``. Unknown ids are sent
    unchecked."""

    dimensions: int | None = None
    """Dimensions of the vectors; None uses the service's default (1024 for v4 and v3)."""

    query_instruction: str | None = None
    """Task description, in English, prepended to queries (v4 only), never to texts; None means no
    instruction."""

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

    api_base: str | None = None
    """URL of the service. None reads AIMLAPI_BASE_URL, AIMLAPI_API_BASE or AIML_API_BASE from the
    environment; the default is ``https://api.aimlapi.com/v1``."""

    api_key: ApiKey = Field(default=None, exclude=True, repr=False)
    """A string, a ``SecretStr``, or a sync or async function that is called before each request. None reads
    AIMLAPI_API_KEY, AIML_API_KEY or AIMLAPI_KEY from the environment."""

    embed_batch_size: int = Field(default=10, exclude=True)
    """Texts per request, 1 to 10 for v4 and v3."""

    max_concurrency: int | None = Field(default=None, exclude=True)
    """Maximum number of requests in flight, 1 or more, for all threads together, and for each event loop.
    None starts at 6 and grows up to 32, adapting to the service's rate limit."""

    requests_per_minute: float | None = Field(default=None, exclude=True)
    """Maximum requests per minute, evenly spaced; None means as many as the service accepts."""

    tokens_per_minute: float | None = Field(default=None, exclude=True)
    """Maximum tokens per minute, evenly spaced, estimated from the texts; None means no limit."""

    max_retries: int = Field(default=5, exclude=True)
    """Maximum number of retries per request; 0 disables retries."""

    timeout: float | None = Field(default=None, exclude=True)
    """Seconds per network operation (sending or waiting for data); None means 60."""

    total_timeout: float | None = Field(default=None, exclude=True)
    """Seconds for one whole call, retries and waits included; None means no limit."""

    encoding_format: Literal["float", "base64"] | None = Field(default=None, exclude=True)
    """``float`` or ``base64``, sent with each request; None omits it."""

    default_headers: dict[str, str] | None = Field(default=None, exclude=True, repr=False)
    """Additional headers for each request; None adds no headers."""

    transport: Literal["auto", "httpx"] = Field(default="auto", exclude=True)
    """``httpx`` sends every request with httpx; ``auto`` does so only on Trio, behind a proxy, with a custom
    client, and while httpx is instrumented, recorded or mocked."""

    allow_http: bool | None = Field(default=None, exclude=True)
    """Whether to accept an unencrypted ``api_base`` that is not a loopback address. None reads
    AIMLAPI_ALLOW_HTTP from the environment; the default is False."""

    http_client: Any = Field(default=None, exclude=True, repr=False)
    """A custom httpx or httpx2 ``Client`` for the sync methods; never closed here, and not picklable."""

    http_async_client: Any = Field(default=None, exclude=True, repr=False)
    """A custom httpx or httpx2 ``AsyncClient`` for the async methods, in one event loop only."""

    cache: Any = Field(default=None, exclude=True, repr=False)
    """Cache that is looked up first and updated as soon as embeddings arrive: the path of an SQLite file,
    a `SQLiteCache`, or a LlamaIndex ``BaseKVStore``; None means no cache."""

    num_workers: int | None = Field(default=None, exclude=True)
    """Number of parts of an async call that the framework embeds concurrently; None lets the core split the
    call, with up to ``max_concurrency`` requests in flight."""

    embeddings_cache: Any = Field(default=None, exclude=True, repr=False)
    """The framework's cache, a ``BaseKVStore``; keys are prefixed with ``cache_namespace``. Prefer ``cache``,
    which stores each response as it arrives."""

    rate_limiter: Any = Field(default=None, exclude=True, repr=False)
    """A LlamaIndex rate limiter; it is called before each request, retries included, with the request's
    expected tokens."""

    _renamed: ClassVar[dict[str, str]] = {
        "model": "model_name",
        "base_url": "api_base",
        "batch_size": "embed_batch_size",
    }
    _client: EmbeddingClient = PrivateAttr()
    _async_client: AsyncEmbeddingClient = PrivateAttr()
    _limiter: Any = PrivateAttr(default=None)
    _bar: Any = PrivateAttr(default=None)

    def _connect(self) -> None:
        stored = isinstance(self.cache, BaseKVStore)
        self._make_clients(KVStoreCache(self.cache) if stored else self.cache, SecretStr)

    @property
    def model(self) -> str:
        """The model id."""
        return self.model_name

    def _limiter_functions(self) -> tuple[Any, Any]:
        limiter = self._limiter if self.rate_limiter is None else self.rate_limiter
        return (None, None) if limiter is None else (limiter.acquire, limiter.async_acquire)

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which the model is serialised."""
        return "QwenAIMLEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, progress=self._bar and self._bar.callback())

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed([query], "query")[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._aembed(texts, progress=self._bar and self._bar.callback())

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aembed([text]))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._aembed([query], "query"))[0]

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """
        Embed texts: shape (texts, dimensions), row i for text i. See `EmbeddingClient.embed`.

        *show_progress* shows a progress bar: texts, texts per second, tokens.
        """
        texts = check_texts(texts, blank_replacement=self.blank_replacement)
        with self._progress_bar(show=show_progress, total=len(texts)) as bar:
            twin = self._for_batch(len(texts), bar)
            if is_unobserved(self):
                return twin._get_text_embeddings(texts)  # noqa: SLF001 (of this class)
            return undecorated(BaseEmbedding.get_text_embedding_batch)(twin, texts, **kwargs)

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """Async version of `get_text_embedding_batch`."""
        texts = check_texts(texts, blank_replacement=self.blank_replacement)
        with self._progress_bar(show=show_progress, total=len(texts)) as bar:
            twin = self._twin(bar) if self.num_workers else self._for_batch(len(texts), bar)
            if is_unobserved(self) and not self.num_workers:
                return await twin._aget_text_embeddings(texts)  # noqa: SLF001 (of this class)
            return await undecorated(BaseEmbedding.aget_text_embedding_batch)(twin, texts, **kwargs)

    def get_text_embedding(self, text: str) -> list[float]:
        """Embed one text."""
        return undecorated(BaseEmbedding.get_text_embedding)(self._twin(), text)

    async def aget_text_embedding(self, text: str) -> list[float]:
        """Async version of `get_text_embedding`."""
        return await undecorated(BaseEmbedding.aget_text_embedding)(self._twin(), text)

    def get_query_embedding(self, query: str) -> list[float]:
        """Embed a query, with ``query_instruction`` prepended if set. See `EmbeddingClient.embed`."""
        return undecorated(BaseEmbedding.get_query_embedding)(self._twin(query=True), query)

    async def aget_query_embedding(self, query: str) -> list[float]:
        """Async version of `get_query_embedding`."""
        return await undecorated(BaseEmbedding.aget_query_embedding)(self._twin(query=True), query)

    def _for_batch(self, texts: int, bar: Any) -> Self:
        """Return a twin for which the framework splits lists only where it must."""
        # The framework fills its cache once for each of these parts.
        size = max(1, texts) if self.embeddings_cache is None else self.texts_in_flight
        return self._twin(bar, embed_batch_size=size)

    def _twin(self, bar: Any = None, *, query: bool = False, **fields: Any) -> Self:
        """
        Return a copy whose rate limiter and progress bar are used by the core, not by the framework.

        The framework's cache uses only the text as a key, so the copy sees only the entries of this model.
        """
        twin, cache = copy(self), self.embeddings_cache
        if cache is not None:
            cache = NamespacedKVStore(cache, self.query_cache_namespace if query else self.cache_namespace)
        limiter = self._limiter if self.rate_limiter is None else self.rate_limiter
        twin._limiter = limiter  # noqa: SLF001 (of this class)
        twin._bar = bar  # noqa: SLF001 (of this class)
        twin.__dict__.update(rate_limiter=None, embeddings_cache=cache, **fields)
        return twin

    def __setattr__(self, name: str, value: Any) -> None:
        if name in QwenAIMLEmbedding.model_fields and name not in MUTABLE_FIELDS:
            message = f"{name} can't be changed; create another object, or use model_copy(update=...)"
            raise ConfigurationError(message)
        check_parts({name: value})
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # The framework removes what can't be pickled from the object itself, with a warning. It gets a copy
        # without the core's clients, which are pickled too, and raise an error if they have an HTTP client.
        twin = copy(self)
        twin.__dict__.update(api_key=None, http_client=None, http_async_client=None)
        object.__setattr__(twin, "__pydantic_private__", None)
        private = self.__pydantic_private__
        return {**super(QwenAIMLEmbedding, twin).__getstate__(), "__pydantic_private__": private}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Not the framework's method, which calls __init__ and so requires a key during unpickling.
        BaseModel.__setstate__(self, state)
        for name, field in type(self).model_fields.items():
            self.__dict__.setdefault(name, field.get_default(call_default_factory=True))


undecorate(QwenAIMLEmbedding, "_get_query_embedding", "_aget_query_embedding", "_get_text_embedding")
