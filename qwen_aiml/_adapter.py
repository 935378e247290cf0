"""Base of all framework classes: a sync and an async client, usage, closing, error messages."""

from __future__ import annotations

import re
import textwrap
from inspect import cleandoc, isfunction
from typing import TYPE_CHECKING, Any, ClassVar

from ._config import SETTINGS, EmbeddingConfig, conversion
from ._errors import ConfigurationError
from ._keys import Secret, wrap_key
from ._progress import Bar
from ._texts.validation import ON_BLANK
from ._utils.frames import hide_locals
from ._utils.unknown_settings import unknown_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Self

    from ._client import AsyncEmbeddingClient, EmbeddingClient
    from ._observe.estimate import Estimate
    from ._results import Limits, Usage
    from ._texts.validation import Role


# Names of arguments, here and in other packages' classes, whose values may be secret.
_SENSITIVE = r"(?i)key|secret|passw|token$"
_SETTINGS = "\n\nSettings:"
_WRAPPER = textwrap.TextWrapper(
    width=100,
    initial_indent=" " * 4,
    subsequent_indent=" " * 8,
    break_long_words=False,
    break_on_hyphens=False,
)


class AdapterBase:
    """Base class for framework classes, with an `EmbeddingClient` and an `AsyncEmbeddingClient`."""

    if TYPE_CHECKING:
        _client: EmbeddingClient
        _async_client: AsyncEmbeddingClient
        http_client: Any
        http_async_client: Any
        # Fields that hold a setting under another name, by the name of the setting.
        _renamed: ClassVar[dict[str, str]]

        def _limiter_functions(self) -> tuple[Any, Any]:
            """Return the framework's rate limiter as a sync and an async function, or two Nones."""
            ...

        def _connect(self) -> None:
            """Check the framework's objects, and call `_make_clients`; after creation and by copies."""
            ...

    def _make_clients(self, cache: Any, key_type: Callable[[str], Any]) -> None:
        """
        Create a sync and an async client, with the settings in the fields, that share a cache and a limiter.

        The defaults are stored in the fields, and the key as *key_type*, a masked string.
        """
        # Imported here: it takes half of an adapter's import time, and only instances need it.
        from ._client import AsyncEmbeddingClient, EmbeddingClient  # noqa: PLC0415

        names = {name: self._renamed.get(name, name) for name in SETTINGS}
        config = EmbeddingConfig(**{name: getattr(self, field) for name, field in names.items()})
        for name in ("model", "base_url", "batch_size", "timeout"):
            self.__dict__[names[name]] = getattr(config, name)
        self.__dict__[names["api_key"]] = config.masked_key(key_type)
        self._client = EmbeddingClient(config, http_client=self.http_client, cache=cache)
        self._async_client = AsyncEmbeddingClient(
            config,
            http_client=self.http_async_client,
            cache=self._client.cache,
            limiter=self._client.limiter,
        )

    # Fields whose values deep copies share.
    _shared: ClassVar[tuple[str, ...]] = ("http_client", "http_async_client", "cache", "rate_limiter")

    # A context manager for a progress bar.
    _progress_bar = Bar

    def _embed(self, texts: Iterable[str], role: Role = "document", **options: Any) -> list[list[float]]:
        """Embed texts, with *options* of `EmbeddingClient.embed`."""
        admit, _ = self._limiter_functions()
        return self._client.embed(texts, role=role, admit=admit, **options).embeddings

    async def _aembed(
        self, texts: Iterable[str], role: Role = "document", **options: Any
    ) -> list[list[float]]:
        """Async version of `_embed`."""
        _, admit = self._limiter_functions()
        result = await self._async_client.embed(texts, role=role, admit=admit, **options)
        return result.embeddings

    @classmethod
    def _mask(cls, options: dict[str, Any]) -> None:
        """
        Wrap keys among the arguments before anything can raise, so that no traceback prints them.

        Raises:
            ConfigurationError: If one setting is given under two names.
        """
        for name in filter(re.compile(_SENSITIVE).search, options):
            options[name] = wrap_key(options[name])
        fields: Mapping[str, Any] = cls.model_fields  # type: ignore[attr-defined] # from pydantic
        for field_name, field in fields.items():
            alias = field.validation_alias
            names = dict.fromkeys([*getattr(alias, "choices", [alias]), field_name])
            given = [name for name in names if name in options]
            if len(given) <= 1:
                continue
            unset = [name for name in given if options[name] in (None, Secret(""))]
            if len(given) - len(unset) > 1:
                raise ConfigurationError(
                    f"{cls.__name__}: {' and '.join(given)} are the same setting; give one"
                )
            for name in unset[0 if len(given) > len(unset) else 1 :]:
                del options[name]

    def _configuration_error(self, errors: Iterable[Mapping[str, Any]]) -> ConfigurationError:
        """Convert pydantic's errors to a `ConfigurationError`."""
        wrong, unknown = [], []
        for error in errors:
            name = ".".join(map(str, error["loc"]))
            if error["type"] == "extra_forbidden":
                unknown.append(name)
            elif name == "on_blank":
                wrong.append(ON_BLANK)
            else:
                wrong.append(f"{name}: {error['msg']}{_unconverted(error)}")
        if unknown:
            fields: Mapping[str, Any] = type(self).model_fields  # type: ignore[attr-defined] # from pydantic
            known = [field.alias or name for name, field in fields.items()]
            wrong.append(unknown_settings(unknown, known))
        return ConfigurationError(f"{type(self).__name__}: {'; '.join(wrong)}")

    # Hidden from type checkers, so that subclasses keep the signatures of pydantic, their other base.
    if not TYPE_CHECKING:  # pragma: no branch

        @hide_locals
        def __init__(self, **options: Any) -> None:
            from pydantic_core import ValidationError  # noqa: PLC0415 (needs pydantic)

            self._mask(options)
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise self._configuration_error(error.errors()) from None
            self._connect()

        @hide_locals
        def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
            """Return a copy, changed by *update* (field names, not aliases) and validated."""
            fields, update = type(self).model_fields.keys(), dict(update or {})
            self._mask(update)
            if unknown := update.keys() - fields:
                message = f"{unknown_settings(unknown, fields)}; model_copy takes field names"
                raise ConfigurationError(f"{type(self).__name__}: {message}")
            copied = super().model_copy(update=update, deep=deep)
            copied._connect()  # noqa: SLF001 (of this class)
            return copied

        def copy(self, **changes: Any) -> Self:
            """Call ``model_copy``; pydantic's deprecated method would keep the clients of the original."""
            return self.model_copy(**changes)

        def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
            shared = [getattr(self, name) for name in self._shared]
            return super().__deepcopy__({**(memo or {}), **{id(item): item for item in shared}})

        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            """Hide the settings, which may contain a key, in errors of models that contain this one."""
            from ._utils.hidden_inputs import hide_input  # noqa: PLC0415 (needs pydantic)

            return hide_input(handler(source))

        @classmethod
        def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
            """Remove the settings from the class description, since each has its own description."""
            schema = super().__get_pydantic_json_schema__(core_schema, handler)
            described = handler.resolve_ref_schema(schema)
            if "description" in described:
                described["description"] = described["description"].partition(_SETTINGS)[0]
            return schema

        @classmethod
        def __pydantic_init_subclass__(cls, **options: Any) -> None:
            """
            Keep texts and misplaced keys out of the tracebacks of a subclass's methods.

            Also append the settings to the class docstring, which ``help`` shows.
            """
            super().__pydantic_init_subclass__(**options)
            for name, method in list(vars(cls).items()):
                is_public = "embed" in name and not name.startswith("_")
                if isfunction(method) and (is_public or name == "__init__"):
                    setattr(cls, name, hide_locals(method))
            if cls.__doc__ is not None:
                described = {name: field.description for name, field in cls.model_fields.items()}
                settings = [f"{name}: {text}" for name, text in described.items() if text]
                parts = [_WRAPPER.fill(" ".join(text.split())) for text in settings]
                cls.__doc__ = "\n\n".join([f"{cleandoc(cls.__doc__)}{_SETTINGS}", *parts])

    @property
    def usage(self) -> Usage:
        """Usage of all calls of this object so far."""
        return self._client.usage + self._async_client.usage

    @property
    def max_input_tokens(self) -> int | None:
        """Maximum number of tokens per text; None if it is unknown."""
        return self._client.max_input_tokens

    @hide_locals
    def count_tokens(self, text: str) -> int:
        """Count the tokens of a document, as `EmbeddingClient.count_tokens` does."""
        return self._client.count_tokens(text)

    @hide_locals
    def estimate(self, texts: Iterable[str], *, usd_per_million_tokens: float | None = None) -> Estimate:
        """Estimate what embedding documents will use, as `EmbeddingClient.estimate` does."""
        return self._client.estimate(texts, usd_per_million_tokens=usd_per_million_tokens)

    @property
    def limits(self) -> Limits:
        """Current estimates of the service's limits, from sync and async calls together."""
        return self._client.limits

    @property
    def texts_in_flight(self) -> int:
        """Maximum number of texts in flight."""
        config = self._client.config
        return config.rows * config.concurrency

    @property
    def cache_namespace(self) -> str:
        """
        Prefix for caches that use only the text as a key; identifies what affects document embeddings.

        Letters, digits, ``_``, ``.`` and ``-``: the model, the dimensions, and a hash of all settings.
        """
        return self._client.cache_namespace("document")

    @property
    def query_cache_namespace(self) -> str:
        """Like `cache_namespace`, for queries; it also depends on ``query_instruction``."""
        return self._client.cache_namespace("query")

    def close(self) -> None:
        """Close the connections of the synchronous methods; a later call opens new ones."""
        self._client.close()

    async def aclose(self) -> None:
        """Close all connections except those of other event loops, which close with their loop."""
        await self._client.aclose()
        await self._async_client.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _unconverted(error: Mapping[str, Any]) -> str:
    """Describe a value that is not a number or flag: itself if it can be converted, otherwise its type."""
    if error["type"] not in ("int_type", "float_type", "bool_type"):
        return ""
    cure = conversion(error["input"], error["type"].removesuffix("_type"))
    kind = type(error["input"]).__name__
    given = f"{error['input']!r} ({kind})" if cure else kind
    return f", not {given}{cure}"
