"""All settings, with their defaults, units and validation. Reads the environment; no other I/O here."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field, fields
from functools import wraps
from numbers import Number
from typing import TYPE_CHECKING, Any, Literal

from ._errors import ConfigurationError, advised
from ._keys import KEY_VARIABLES, KeySource, Secret, find_key, wrap_key
from ._models import DEFAULT_MODEL, DEFAULT_ROWS, ModelFacts, model_facts
from ._texts.tokens import load
from ._texts.validation import check_blank, check_role
from ._urls import check_base_url, check_headers, http_allowed
from ._utils.unknown_settings import unknown_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._texts.validation import Role

DEFAULT_CONCURRENCY = 32
DEFAULT_TIMEOUT = 60.0
MAX_SECONDS = 1_000_000
CLIENT_SETTINGS = ("cache", "http_client", "limiter")  # those that are not of a config
_NOT_A_KEY = r"(?s).{0,7}|[a-z_]{1,15}|[0-9.]{1,15}"  # too short or too simple to be a key
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """
    The settings of a client, validated on creation. ``dataclasses.replace`` returns a changed copy.

    Attributes:
        model: Model id or short name, such as ``text-embedding-v4``. Unknown ids are sent unchecked.

        dimensions: Dimensions of the vectors; None uses the service's default (1024 for v4 and v3).

        api_key: A string, a pydantic ``SecretStr``, or a sync or async function that is called before each
            request and returns one of these. None reads the first of the environment variables
            AIMLAPI_API_KEY, AIML_API_KEY and AIMLAPI_KEY that is not blank.

        base_url: URL of the service; ``/v1`` is appended if it has no path. None reads the first of
            AIMLAPI_BASE_URL, AIMLAPI_API_BASE and AIML_API_BASE that is not blank; the default is
            ``https://api.aimlapi.com/v1``.

        batch_size: Texts per request, from 1 to the model's limit (10 for v4 and v3); None means that limit.

        max_concurrency: Maximum number of requests in flight, 1 or more, for all threads of one client
            together, and for each event loop. None starts at 6 and grows up to 32, adapting to the service's
            rate limit. A number is also the starting point.

        requests_per_minute: Maximum requests per minute, above 0, evenly spaced; None means as many as the
            service accepts.

        tokens_per_minute: Maximum tokens per minute, above 0, evenly spaced; estimated from the length of the
            texts, and corrected by the usage in the response. None means no limit.

        max_retries: Maximum number of retries per request; 0 disables retries.

        timeout: Seconds per network operation (sending or waiting for data), above 0; connecting gets at
            most 10. None means 60.

        total_timeout: Seconds for one whole call, above 0; None means no limit.

        query_instruction: Task description, in English, prepended to queries as ``Instruct: {task}`` and
            ``Query:{query}`` on two lines, never to documents. None means no instruction.

        on_blank: How to handle an empty or blank text: ``raise`` rejects it before anything is sent;
            ``replace`` embeds *blank_replacement* instead.

        blank_replacement: Text that ``on_blank="replace"`` embeds instead of blank ones; otherwise it must be
            None.

        on_too_long: How to handle a text that is too long according to the service or the *tokenizer*:
            ``raise`` raises an error; ``truncate`` embeds a beginning that fits; ``split_mean`` embeds its
            pieces and returns their mean, weighted by length and normalised.

        tokenizer: ``qwen`` counts tokens before anything is sent, which requires the extra ``tokenizer``;
            None leaves the token limit to the service.

        encoding_format: ``float`` or ``base64``, sent with each request; None omits it. Responses in either
            format are accepted.

        default_headers: Additional headers for each request; None adds no headers.

        transport: HTTP library. ``auto``: asyncio with httptools; httpx on Trio, behind a proxy, and
            while httpx is instrumented, recorded or mocked. ``httpx``: always httpx.

        allow_http: Whether to accept an unencrypted URL that is not a loopback address. None reads the
            environment variable AIMLAPI_ALLOW_HTTP (``1``, ``true``, ``yes``); the default is False.

        facts: Known properties of the model, looked up by name; `register_model` adds models.

    Raises:
        ConfigurationError: If a setting is invalid, or no key is found.

    Source: variables, AI/ML API docs and SDKs. Prefix, Qwen's README of Qwen3-Embedding; that the hosted v4
    supports it is assumed (probe: prefix). ``encoding_format`` is not in AI/ML API's schema of these models;
    ``float`` is the one value that Alibaba documents (probe: encoding).
    """

    model: str = DEFAULT_MODEL
    dimensions: int | None = None
    api_key: Any = field(default=None, repr=False)
    base_url: str | None = None
    batch_size: int | None = None
    max_concurrency: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_retries: int = 5
    timeout: float | None = None
    total_timeout: float | None = None
    query_instruction: str | None = None
    on_blank: Literal["raise", "replace"] = "raise"
    blank_replacement: str | None = None
    on_too_long: Literal["raise", "truncate", "split_mean"] = "raise"
    tokenizer: Literal["qwen"] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    default_headers: Mapping[str, str] | None = field(default=None, repr=False)
    transport: Literal["auto", "httpx"] = "auto"
    allow_http: bool | None = None
    facts: ModelFacts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        facts = model_facts(_text("model (model_name)", self.model).strip())
        self._set("facts", facts)
        self._set("model", facts.name)
        _check_dimensions(self.dimensions, facts)
        self._set("api_key", find_key(self.api_key))
        allowed = http_allowed() if self.allow_http is None else _flag("allow_http", self.allow_http)
        self._set("allow_http", allowed)
        self._set("base_url", check_base_url(self.base_url, allow_http=allowed))
        self._set("batch_size", _batch_size(self.batch_size, facts))
        if self.max_concurrency is not None:
            check_integer("max_concurrency", self.max_concurrency, least=1)
        for name in ("requests_per_minute", "tokens_per_minute"):
            check_positive(name, getattr(self, name))
        check_integer("max_retries", self.max_retries, least=0)
        self._set("timeout", DEFAULT_TIMEOUT if self.timeout is None else _seconds("timeout", self.timeout))
        if self.total_timeout is not None:
            self._set("total_timeout", _seconds("total_timeout", self.total_timeout))
        _check_instruction(self.query_instruction, facts)
        check_blank(self.on_blank, self.blank_replacement)
        _one_of("on_too_long", self.on_too_long, ("raise", "truncate", "split_mean"))
        _one_of("tokenizer", self.tokenizer, (None, "qwen"))
        _check_tokenizer(self.tokenizer, facts)
        _one_of("encoding_format", self.encoding_format, (None, "float", "base64"))
        _one_of("transport", self.transport, ("auto", "httpx"))
        self._set("default_headers", check_headers(self.default_headers))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def length(self) -> int | None:
        """Dimensions of an embedding; None if they are unknown."""
        return self.dimensions or self.facts.default_dimensions

    def instruction(self, role: Role) -> str | None:
        """Return the task to prepend to texts of a role; None if there is none."""
        return self.query_instruction if check_role(role) == "query" else None

    @property
    def rows(self) -> int:
        """Texts per request."""
        return self.batch_size or DEFAULT_ROWS

    def checked_batch_size(self, batch_size: int | None) -> int:
        """
        Return the texts per request of one call, validated; None means the setting.

        Raises:
            ConfigurationError: If it is not a number that the model accepts.
        """
        return self.rows if batch_size is None else _batch_size(batch_size, self.facts)

    @property
    def concurrency(self) -> int:
        """Maximum number of requests in flight."""
        return self.max_concurrency or DEFAULT_CONCURRENCY

    @property
    def operation_timeout(self) -> float:
        """Maximum seconds per network operation."""
        return self.timeout or DEFAULT_TIMEOUT

    @property
    def endpoint(self) -> str:
        """URL that requests are posted to."""
        return f"{self.base_url}/embeddings"

    @property
    def secret(self) -> Secret:
        """
        The API key.

        Raises:
            ConfigurationError: If this is an unpickled copy and the environment contains no key, or if the
                key is returned by a function.
        """
        if isinstance(self.api_key, KeySource):
            raise ConfigurationError("api_key is a function, which is called before each request")
        if not isinstance(self.api_key, Secret):
            raise ConfigurationError(
                "no API key: this is an unpickled copy, and pickles never contain the key. Set "
                f"{KEY_VARIABLES[0]} in the environment of this process"
            )
        return self.api_key

    def masked_key(self, kind: Callable[[str], Any]) -> Any:
        """Return the key as *kind*, another masked string type, or the masked function that returns it."""
        return self.api_key if isinstance(self.api_key, KeySource) else kind(self.secret.reveal())

    def __copy__(self) -> EmbeddingConfig:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> EmbeddingConfig:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "api_key"}

    def __setstate__(self, settings: dict[str, Any]) -> None:
        # A missing key raises no error here, since an error during unpickling ends or hangs the worker
        # processes of multiprocessing. `secret` raises it at the first request.
        try:
            key = find_key(Secret(""))
        except ConfigurationError:
            key = None
        vars(self).update(settings, api_key=key)


SETTINGS = {item.name for item in fields(EmbeddingConfig) if item.init}


def conversion(value: object, kind: str) -> str:
    """Return advice on converting a value to an int, float or bool; empty if there is none."""
    if isinstance(value, Number) and not isinstance(value, bool | int | float | complex):
        return f". Convert it with {kind}()"
    if not isinstance(value, str):
        return ""
    if kind == "bool":
        given = _FLAGS.get(value.strip().lower())
        return "" if given is None else f". It is a string; give {given}"
    if re.fullmatch(r"\s*(\d{1,7}|\d{0,7}\.\d{1,7})\s*", value):
        return f". It is a string; give {'float' if '.' in value else 'int'}({value!r})"
    return ""


def _refuse(name: str, value: object, allowed: str, cure: str = "") -> ConfigurationError:
    kind = type(value).__name__
    if isinstance(value, (int, float)) or re.fullmatch(_NOT_A_KEY, str(value)):
        return ConfigurationError(f"{name} must be {allowed}, not {value!r} ({kind}){cure}")
    # The value may be a misplaced key.
    return ConfigurationError(f"{name} must be {allowed}, not the value given ({kind}){cure}")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _refuse(name, value, "a string that is not blank")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "True or False", conversion(value, "bool"))
    return value


def check_integer(name: str, value: object, *, least: int) -> None:
    """Raise `ConfigurationError` unless a value is a whole number, *least* or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _refuse(name, value, f"a whole number, {least} or more", conversion(value, "int"))


def _number(name: str, value: object, *, most: float, allowed: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= most:
        raise _refuse(name, value, allowed, conversion(value, "float"))
    return float(value)


def _seconds(name: str, value: object) -> float:
    allowed = f"a number of seconds above 0, at most {MAX_SECONDS}"
    return _number(name, value, most=MAX_SECONDS, allowed=allowed)


def check_positive(name: str, value: object) -> None:
    """Raise `ConfigurationError` unless a value is a number above 0 or None."""
    if value is not None:
        _number(name, value, most=sys.float_info.max, allowed="a number above 0, or None")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise _refuse(name, value, f"one of {', '.join(map(repr, allowed))}")


def _check_dimensions(value: object, facts: ModelFacts) -> None:
    if value is None:
        return
    if facts.dimensions and value not in facts.dimensions:
        allowed = ", ".join(map(str, facts.dimensions))
        raise _refuse("dimensions", value, f"one of {allowed} for {facts.name}", conversion(value, "int"))
    check_integer("dimensions", value, least=1)


def _batch_size(value: int | None, facts: ModelFacts) -> int:
    if value is None:
        return facts.max_rows or DEFAULT_ROWS
    check_integer("batch_size (chunk_size, embed_batch_size)", value, least=1)
    if facts.max_rows is not None and value > facts.max_rows:
        raise ConfigurationError(
            f"batch_size (chunk_size, embed_batch_size) must be at most {facts.max_rows}, not {value}: "
            f"{facts.name} accepts no more texts per request. Lists of any length are split automatically"
        )
    return value


def _check_instruction(value: object, facts: ModelFacts) -> None:
    if value is None:
        return
    if facts.query_instruction is False:
        raise ConfigurationError(
            f"query_instruction must be None for {facts.name}: the model was not trained to read one, "
            "and would embed it as part of the query"
        )
    _text("query_instruction", value)


def _check_tokenizer(value: str | None, facts: ModelFacts) -> None:
    if value is None:
        return
    if facts.max_tokens is None:
        raise ConfigurationError(
            f"tokenizer must be None for {facts.name}: its token limit is not known. "
            "Register the model with max_tokens: register_model(ModelFacts(...))"
        )
    load()


def _guarded(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def guarding(self: EmbeddingConfig, **settings: Any) -> None:
        for name in {"api_key", *(settings.keys() - SETTINGS)}:
            settings[name] = wrap_key(settings.get(name))
        if unknown := settings.keys() - SETTINGS:
            message = f"EmbeddingConfig: {unknown_settings(unknown, SETTINGS)}"
            of_client = ", ".join(name for name in CLIENT_SETTINGS if name in unknown)
            raise ConfigurationError(advised(message, of_client and f"pass {of_client} to the client"))
        try:
            init(self, **settings)
        except ConfigurationError as error:
            # A value may be a misplaced key, so no frame keeps it.
            settings.clear()
            self.__dict__.clear()
            raise error.with_traceback(None)  # noqa: B904 (the same error)

    return guarding


# Wraps the generated method, whose arguments would show in a traceback that prints local variables.
EmbeddingConfig.__init__ = _guarded(EmbeddingConfig.__init__)  # type: ignore[method-assign]
