"""Every setting, with its default, its unit and its check. Reads the environment; no other I/O here."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

from ._errors import ConfigurationError
from ._keys import KEY_VARIABLES, KeySource, Secret, find_key, wrapped
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
MOST_SECONDS = 1_000_000
_TELLS_NOTHING = r"(?s).{0,7}|[a-z_]{1,15}|[0-9.]{1,15}"  # what is too short, or too plain, to be a key
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """
    The settings of a client, checked when they are given.

    Attributes:
        model: Model id or short name, such as ``text-embedding-v4``. Unknown models pass through unchecked.

        dimensions: Dimensions of the vectors; None leaves them to the service (1024 for v4 and v3).

        api_key: A string, a ``SecretStr`` of pydantic, or a function, sync or async, that is called before
            each request and returns one of these. None takes the first of the environment variables
            AIMLAPI_API_KEY, AIML_API_KEY and AIMLAPI_KEY that is not blank.

        base_url: URL of the service, with or without ``/v1``. None takes the first of AIMLAPI_BASE_URL,
            AIMLAPI_API_BASE and AIML_API_BASE that is not blank, else ``https://api.aimlapi.com/v1``.

        batch_size: Texts per request, from 1 to the limit of the model (10 for v4 and v3); None means that
            limit.

        max_concurrency: Maximum number of requests in flight, 1 or more, for all threads of one client
            together, and in each event loop. None means to start with 6 and to grow up to 32, adapting to the
            rate limit of the service. A number is the starting point as well.

        requests_per_minute: Requests per minute, evenly spaced, above 0; None means as many as the service
            accepts.

        tokens_per_minute: Tokens per minute, evenly spaced, above 0; they are estimated from the length of
            the texts, and corrected when the response reports what was billed. None means no limit.

        max_retries: Maximum number of retries per request; 0 disables retries.

        timeout: Seconds per network operation (sending, or waiting for data), above 0; connecting gets at
            most 10. None means 60.

        total_timeout: Seconds for one whole call, above 0; None means no limit.

        query_instruction: Task description, in English, put before queries as ``Instruct: {task}`` and
            ``Query:{query}`` on two lines, never before documents. None means none.

        on_blank: What becomes of an empty or blank text: ``raise`` rejects it before anything is sent;
            ``replace`` embeds *blank_replacement* in its place.

        blank_replacement: The text that ``on_blank="replace"`` embeds in place of blank ones, else None.

        on_too_long: What happens to a text that the service rejects as too long, or that is according to the
            *tokenizer*: ``raise``; ``truncate`` embeds its beginning, as long as is accepted; ``split_mean``
            embeds its pieces and returns their mean, weighted by length and normalised.

        tokenizer: ``qwen`` counts tokens before anything is sent, with the extra ``tokenizer``; None leaves
            the decision to the service.

        encoding_format: Sent if given; None sends none. Responses of both forms are read in any case.

        default_headers: Sent with each request; None means none.

        transport: HTTP library. ``auto``: asyncio with httptools; httpx on Trio, behind a proxy, and
            while httpx is instrumented, recorded or mocked. ``httpx``: always httpx.

        allow_http: Accept an unencrypted URL that is not a loopback address. None takes the environment
            variable AIMLAPI_ALLOW_HTTP (``1``, ``true``, ``yes``), else False.

        facts: What is known of the model, looked up by its name; `register_model` adds to it.

    Raises:
        ConfigurationError: If a setting is wrong, or no key is found.

    Source: variables, AI/ML API docs and SDKs. Prefix, Qwen's README of Qwen3-Embedding; that the hosted v4
    reads it so is assumed (probe: prefix). ``encoding_format`` is not in AI/ML API's schema of these models;
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
            whole("max_concurrency", self.max_concurrency, least=1)
        for name in ("requests_per_minute", "tokens_per_minute"):
            above_zero(name, getattr(self, name))
        whole("max_retries", self.max_retries, least=0)
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
        """Dimensions of an embedding; None if they are not known."""
        return self.dimensions or self.facts.default_dimensions

    def instruction(self, role: Role) -> str | None:
        """Give the task to put before each text; None for none."""
        return self.query_instruction if check_role(role) == "query" else None

    @property
    def rows(self) -> int:
        """Texts in one request."""
        return self.batch_size or DEFAULT_ROWS

    def rows_of(self, batch_size: int | None) -> int:
        """
        Check the texts in one request of a single call; None takes the setting.

        Raises:
            ConfigurationError: If it is no number that the model takes.
        """
        return self.rows if batch_size is None else _batch_size(batch_size, self.facts)

    @property
    def concurrency(self) -> int:
        """Maximum number of requests in flight."""
        return self.max_concurrency or DEFAULT_CONCURRENCY

    @property
    def silence(self) -> float:
        """Seconds one network operation may take."""
        return self.timeout or DEFAULT_TIMEOUT

    @property
    def endpoint(self) -> str:
        """Where requests are posted."""
        return f"{self.base_url}/embeddings"

    @property
    def secret(self) -> Secret:
        """
        The key.

        Raises:
            ConfigurationError: If this is an unpickled copy and the environment holds no key, or if the key
                is given by a function.
        """
        if isinstance(self.api_key, KeySource):
            raise ConfigurationError("api_key is a function, which is called before each request")
        if not isinstance(self.api_key, Secret):
            raise ConfigurationError(
                "no API key: this is an unpickled copy, and pickles never contain the key. Set "
                f"{KEY_VARIABLES[0]} in the environment of this process"
            )
        return self.api_key

    def shown_key(self, kind: Callable[[str], Any]) -> Any:
        """Return the key as another masked *kind* of string, or the function that gives it, masked too."""
        return self.api_key if isinstance(self.api_key, KeySource) else kind(self.secret.reveal())

    def __copy__(self) -> EmbeddingConfig:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> EmbeddingConfig:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "api_key"}

    def __setstate__(self, settings: dict[str, Any]) -> None:
        # A missing key is not an error here: one raised while a pickle is read ends or hangs the worker
        # processes of multiprocessing. It is raised by `secret`, at the first request.
        try:
            key = find_key(Secret(""))
        except ConfigurationError:
            key = None
        vars(self).update(settings, api_key=key)


def conversion(value: object, *, is_flag: bool = False) -> str:
    """Say how to convert a string, as from the environment, to a number or a flag; empty for other values."""
    if not isinstance(value, str):
        return ""
    if is_flag:
        given = _FLAGS.get(value.strip().lower())
        return "" if given is None else f". It is a string; give {given}"
    if re.fullmatch(r"\s*(\d{1,7}|\d{0,7}\.\d{1,7})\s*", value):
        return f". It is a string; give {'float' if '.' in value else 'int'}({value!r})"
    return ""


def _refuse(name: str, value: object, allowed: str, cure: str = "") -> ConfigurationError:
    kind = type(value).__name__
    if isinstance(value, (int, float)) or re.fullmatch(_TELLS_NOTHING, str(value)):
        return ConfigurationError(f"{name} must be {allowed}, not {value!r} ({kind}){cure}")
    # It may be a key in the wrong place.
    return ConfigurationError(f"{name} must be {allowed}, not the value given ({kind}){cure}")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _refuse(name, value, "a string that is not blank")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "True or False", conversion(value, is_flag=True))
    return value


def whole(name: str, value: object, *, least: int) -> None:
    """Refuse what is not a whole number, *least* or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _refuse(name, value, f"a whole number, {least} or more", conversion(value))


def _number(name: str, value: object, *, most: float, allowed: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= most:
        raise _refuse(name, value, allowed, conversion(value))
    return float(value)


def _seconds(name: str, value: object) -> float:
    allowed = f"a number of seconds above 0, at most {MOST_SECONDS}"
    return _number(name, value, most=MOST_SECONDS, allowed=allowed)


def above_zero(name: str, value: object) -> None:
    """Refuse what is neither a number above 0 nor None."""
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
        raise _refuse("dimensions", value, f"one of {allowed} for {facts.name}", conversion(value))
    whole("dimensions", value, least=1)


def _batch_size(value: int | None, facts: ModelFacts) -> int:
    if value is None:
        return facts.max_rows or DEFAULT_ROWS
    whole("batch_size (chunk_size, embed_batch_size)", value, least=1)
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
    known = {item.name for item in fields(EmbeddingConfig) if item.init}

    @wraps(init)
    def guarding(self: EmbeddingConfig, **settings: Any) -> None:
        for name in {"api_key", *(settings.keys() - known)}:
            settings[name] = wrapped(settings.get(name))
        if unknown := settings.keys() - known:
            raise ConfigurationError(f"EmbeddingConfig: {unknown_settings(unknown, known)}")
        try:
            init(self, **settings)
        except ConfigurationError as error:
            # What was given may be a key in the wrong place, so no frame keeps it.
            settings.clear()
            self.__dict__.clear()
            raise error.with_traceback(None)  # noqa: B904 (it is the same)

    return guarding


# Around the generated one, whose argument would stand bare in a traceback that prints local variables.
EmbeddingConfig.__init__ = _guarded(EmbeddingConfig.__init__)  # type: ignore[method-assign]
