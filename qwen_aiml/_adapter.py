"""What the classes of all frameworks share: a sync and an async client, usage, closing, error messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._config import unknown_settings
from ._errors import ConfigurationError
from ._keys import wrapped
from ._progress import Bar
from ._texts.validation import check_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from typing_extensions import Self

    from ._client import AsyncEmbeddingClient, EmbeddingClient
    from ._config import EmbeddingConfig
    from ._engine.limiter import Limits
    from ._results import Usage
    from ._texts.validation import Role


_OF_ONE_NAME = (
    "dimensions",
    "max_concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "max_retries",
    "timeout",
    "total_timeout",
    "query_instruction",
    "on_blank",
    "on_too_long",
    "tokenizer",
    "encoding_format",
    "default_headers",
    "transport",
    "allow_http",
)


class AdapterBase:
    """A base for a class that holds an `EmbeddingClient` and an `AsyncEmbeddingClient`."""

    if TYPE_CHECKING:
        _client: EmbeddingClient
        _async_client: AsyncEmbeddingClient
        http_client: Any
        http_async_client: Any

        def _admission(self) -> tuple[Any, Any]:
            """Give the framework's rate limiter as a sync and an async function; None for none."""
            ...

    def _make_clients(self, config: EmbeddingConfig, cache: Any) -> None:
        """Create a sync and an async client, which share a cache and a limiter."""
        # Half of what importing a framework's class would take, and not needed before one is made.
        from ._client import AsyncEmbeddingClient, EmbeddingClient  # noqa: PLC0415

        self._client = EmbeddingClient(config, http_client=self.http_client, cache=cache)
        self._async_client = AsyncEmbeddingClient(
            config,
            http_client=self.http_async_client,
            cache=self._client.cache,
            limiter=self._client.limiter,
        )

    def _embed(
        self, texts: Iterable[str], role: Role = "document", bar: Bar | None = None
    ) -> list[list[float]]:
        progress = None if bar is None else bar.part()
        admit = self._admission()[0]
        return self._client.embed(texts, role=role, admit=admit, progress=progress).embeddings

    def _embed_one(self, text: str, role: Role = "document") -> list[float]:
        return self._embed([check_text(text)], role)[0]

    async def _aembed_one(self, text: str, role: Role = "document") -> list[float]:
        return (await self._aembed([check_text(text)], role))[0]

    async def _aembed(
        self, texts: Iterable[str], role: Role = "document", bar: Bar | None = None
    ) -> list[list[float]]:
        progress = None if bar is None else bar.part()
        admit = self._admission()[1]
        result = await self._async_client.embed(texts, role=role, admit=admit, progress=progress)
        return result.embeddings

    @staticmethod
    def _progress_bar(*, show: bool, total: int | None = None) -> Bar:
        """
        Give a bar to show calls in, as a context; see `Bar`.

        Raises:
            ConfigurationError: If one is to be shown and tqdm is not installed.
        """
        return Bar(show=show, total=total)

    @staticmethod
    def _mask(options: dict[str, Any], *names: str) -> None:
        """Wrap the key among the arguments, before anything can raise and a traceback print it."""
        for name in names:
            if name in options:
                options[name] = wrapped(options[name])

    def _settings_of_one_name(self) -> dict[str, Any]:
        """Give the settings that every framework's class has under the core's own name."""
        return {name: getattr(self, name) for name in _OF_ONE_NAME}

    def _refusal(self, errors: Iterable[Mapping[str, Any]]) -> ConfigurationError:
        """Put what pydantic found wrong with the arguments into words; no value is shown, it may be a key."""
        wrong, unknown = [], []
        for error in errors:
            name = ".".join(map(str, error["loc"]))
            if error["type"] == "extra_forbidden":
                unknown.append(name)
            else:
                wrong.append(f"{name}: {error['msg']}")
        if unknown:
            wrong.append(unknown_settings(unknown, self._setting_names()))
        return ConfigurationError(f"{type(self).__name__}: {'; '.join(wrong)}")

    @classmethod
    def _setting_names(cls) -> list[str]:
        """Give the names of the arguments, but for some second ones."""
        fields: Mapping[str, Any] = cls.model_fields  # type: ignore[attr-defined] # of pydantic
        return [field.alias or name for name, field in fields.items()]

    # Type checkers keep the signatures of pydantic, which stands behind this class and is unknown here.
    if not TYPE_CHECKING:  # pragma: no branch

        def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
            """Give a copy, with some fields, by name, changed by *update* and checked again."""
            fields = type(self).model_fields.keys()
            if unknown := (update or {}).keys() - fields:
                message = f"{unknown_settings(unknown, fields)}; copies go by field names"
                raise ConfigurationError(f"{type(self).__name__}: {message}")
            made = super().model_copy(update=update, deep=deep)
            made._connect()  # noqa: SLF001 (of this class)
            return made

        def copy(self, **changes: Any) -> Self:
            """Copy as ``model_copy`` does; pydantic's older method would keep the clients of the original."""
            return self.model_copy(**changes)

    @property
    def usage(self) -> Usage:
        """Usage of all calls of this object so far."""
        return self._client.usage + self._async_client.usage

    @property
    def limits(self) -> Limits:
        """Estimates of the service's limits so far, from sync and async calls together."""
        return self._client.limits

    @property
    def texts_in_flight(self) -> int:
        """Maximum number of texts in flight."""
        config = self._client.config
        return config.rows * config.concurrency

    @property
    def cache_namespace(self) -> str:
        """
        Everything that affects document embeddings, as a prefix for caches that use only the text as a key.

        Letters, digits, ``_``, ``.`` and ``-``: the model, the dimensions, and a hash of all settings.
        """
        return self._client.cache_namespace("document")

    @property
    def query_cache_namespace(self) -> str:
        """The same for queries, which ``query_instruction`` makes differ from documents."""
        return self._client.cache_namespace("query")

    def close(self) -> None:
        """Close the connections of the synchronous methods; a later call opens new ones."""
        self._client.close()

    async def aclose(self) -> None:
        """Close all connections but those of other event loops, which end with them."""
        from ._engine.runner import in_thread  # noqa: PLC0415

        await in_thread(self._client.close)  # which waits for another event loop
        await self._async_client.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
