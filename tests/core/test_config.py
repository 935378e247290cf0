"""Settings: defaults, validation, environment variables, and hiding of the key."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import traceback
from decimal import Decimal
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from qwen_aiml import ConfigurationError, EmbeddingClient, EmbeddingConfig, ModelFacts, register_model
from qwen_aiml import _models as models

KEY = "sk-test-0123456789abcdef"

V4 = "alibaba/qwen-text-embedding-v4"
V3 = "alibaba/qwen-text-embedding-v3"


def make(**settings: Any) -> EmbeddingConfig:
    return EmbeddingConfig(**{"api_key": KEY, **settings})


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("value", [0, -1, True, "60", float("inf"), float("nan")])
def test_rates(name: str, value: object) -> None:
    """A rate is a number above 0, or None."""
    with pytest.raises(ConfigurationError, match=f"{name} must be a number above 0, or None, not"):
        make(**{name: value})


def test_defaults() -> None:
    """Only the key has no default."""
    config = make()

    assert config.model == V4
    assert config.endpoint == "https://api.aimlapi.com/v1/embeddings"
    assert (config.rows, config.concurrency, config.max_retries) == (10, 32, 5)
    assert (config.requests_per_minute, config.tokens_per_minute) == (None, None)
    assert (config.on_blank, config.on_too_long, config.tokenizer) == ("raise", "raise", None)
    assert (config.operation_timeout, config.total_timeout) == (60.0, None)
    assert (config.dimensions, config.query_instruction, config.encoding_format) == (None, None, None)


def test_whole_seconds() -> None:
    """Timeouts are floats, also if they are given as whole numbers."""
    config = make(timeout=5, total_timeout=10)

    assert repr((config.timeout, config.total_timeout)) == "(5.0, 10.0)"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (V4, V4),
        ("text-embedding-v4", V4),
        ("qwen-text-embedding-v4", V4),
        (" Text-Embedding-V3 ", V3),
        ("qwen-text-embedding-v3", V3),
        ("alibaba/text-embedding-v4", "alibaba/text-embedding-v4"),
        ("Some/New-Model", "Some/New-Model"),
    ],
)
def test_model_names(name: str, expected: str) -> None:
    """Short names are expanded to full ones; unknown names are sent unchanged."""
    assert expected == make(model=name).model


@pytest.mark.parametrize(
    ("model", "dimensions"),
    [
        *[(V4, number) for number in (2048, 1536, 1024, 768, 512, 256, 128, 64)],
        *[(V3, number) for number in (1024, 768, 512, 256, 128, 64)],
        ("unknown", 3),
        (V4, None),
    ],
)
def test_dimensions(model: str, dimensions: int | None) -> None:
    """All dimensions that a model supports are accepted; for an unknown model, any."""
    assert dimensions == make(model=model, dimensions=dimensions).dimensions


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": " "}, "model (model_name) must be a string that is not blank, not ' ' (str)"),
    ({"model": 4}, "not 4 (int)"),
    (
        {"dimension": 512, "chunk_size": 3},
        "unknown setting chunk_size (did you mean batch_size?), dimension (did you mean dimensions?)",
    ),
    ({"zzz": 1}, "EmbeddingConfig: unknown setting zzz"),
    ({"AIMLAPI_API_KEY": KEY}, "unknown setting AIMLAPI_API_KEY (did you mean api_key?)"),
    (
        {"url": "x", "rpm": 1, "tpm": 1},
        "rpm (did you mean requests_per_minute?), tpm (did you mean tokens_per_minute?)",
    ),
    ({"max_workers": 4}, "unknown setting max_workers (did you mean max_concurrency?)"),
    ({"http_client": 1, "cache": "x"}, "http_client. What to do: pass cache, http_client to the client"),
    ({"request_timeout": 5}, "unknown setting request_timeout (did you mean timeout?)"),
    ({"headers": {}}, "unknown setting headers (did you mean default_headers?)"),
    ({"facts": ModelFacts(name="x")}, "unknown setting facts"),
    ({"dimensions": 100}, "one of 2048, 1536, 1024, 768, 512, 256, 128, 64"),
    ({"dimensions": "512"}, "not '512' (str). It is a string; give int('512')"),
    ({"dimensions": "x512"}, "not 'x512' (str)"),
    ({"max_retries": "5"}, "not '5' (str). It is a string; give int('5')"),
    ({"total_timeout": "2.5"}, "not '2.5' (str). It is a string; give float('2.5')"),
    ({"max_retries": np.int64(5)}, "(int64). Convert it with int()"),
    ({"timeout": Decimal("2.5")}, "not Decimal('2.5') (Decimal). Convert it with float()"),
    ({"allow_http": np.int64(1)}, "(int64). Convert it with bool()"),
    ({"requests_per_minute": "60"}, "not '60' (str). It is a string; give int('60')"),
    ({"allow_http": "true"}, "must be True or False, not 'true' (str). It is a string; give True"),
    ({"allow_http": "1"}, "must be True or False, not '1' (str). It is a string; give True"),
    ({"allow_http": "yes"}, "must be True or False, not 'yes' (str)"),
    ({"dimensions": 0, "model": "unknown"}, "dimensions must be a whole number, 1 or more"),
    (
        {"dimensions": 2048, "model": V3},
        "one of 1024, 768, 512, 256, 128, 64 for alibaba/qwen-text-embedding-v3",
    ),
    ({"batch_size": 0}, "1 or more"),
    ({"batch_size": 11}, "at most 10, not 11"),
    ({"batch_size": True}, "not True (bool)"),
    ({"max_concurrency": 0}, "max_concurrency must be a whole number, 1 or more"),
    ({"max_retries": -1}, "max_retries must be a whole number, 0 or more"),
    ({"max_retries": 1.5}, "not 1.5 (float)"),
    ({"timeout": 0}, "timeout must be a number of seconds above 0"),
    ({"timeout": "60"}, "not '60' (str)"),
    ({"timeout": float("nan")}, "timeout"),
    ({"timeout": 10**400}, "at most 1000000"),
    ({"total_timeout": 1e10}, "at most 1000000"),
    ({"default_headers": {"X A": "b"}}, "a character that a header can't carry"),
    ({"default_headers": {"": "b"}}, "a character that a header can't carry"),
    ({"base_url": "https://a..b/v1"}, "must be an http or https URL"),
    ({"base_url": "https://straße.example/v1"}, "with a host name in ASCII"),
    ({"base_url": "https://пример.example/v1"}, "with a host name in ASCII"),
    ({"base_url": "https://api。aimlapi.com/v1"}, "with a host name in ASCII"),
    ({"total_timeout": float("inf")}, "total_timeout"),
    ({"total_timeout": True}, "not True (bool)"),
    ({"query_instruction": ""}, "query_instruction must be a string that is not blank"),
    ({"query_instruction": "Find", "model": V3}, "query_instruction must be None for"),
    ({"encoding_format": "binary"}, "one of None, 'float', 'base64'"),
    ({"transport": "requests"}, "transport must be one of 'auto', 'httpx', not 'requests' (str)"),
    ({"on_too_long": "cut"}, "on_too_long must be one of 'raise', 'truncate', 'split_mean', not 'cut' (str)"),
    ({"on_blank": "skip"}, "on_blank must be 'raise' or 'replace'"),
    ({"max_retries": -100_000_000}, "0 or more, not -100000000 (int)"),
    ({"allow_http": 1}, "allow_http must be True or False"),
    ({"default_headers": "X-A: b"}, "a mapping of names to strings"),
    ({"default_headers": 5}, "a mapping of names to strings"),
    ({"default_headers": {"X-A": 5}}, "'X-A' does not"),
    ({"default_headers": {5: "b"}}, "5 does not"),
    ({"default_headers": {"X-A": "straße"}}, "a character that a header can't carry"),
    ({"default_headers": {"Authorization": "Bearer x"}}, "give the key as api_key"),
    ({"default_headers": {"content-type": "text/plain"}}, "always application/json"),
    ({"default_headers": {"Transfer-Encoding": "chunked"}}, "it follows from the request"),
    ({"default_headers": {"X-A": "b\r\nX-C: d"}}, "a character that a header can't carry"),
    ({"base_url": 5}, "must be a string, not int"),
    ({"base_url": "api.aimlapi.com/v1"}, "must be an http or https URL"),
    ({"base_url": "ftp://api.aimlapi.com"}, "must be an http or https URL"),
    *[
        ({"base_url": url}, "user name, ? and #. It does not begin with https:// or http://")
        for url in ("localhost:8000/v1", '"https://host/v1"', "${AIMLAPI_BASE_URL}", "None")
    ],
    ({"base_url": "https://"}, "must be an http or https URL"),
    ({"base_url": "https://host:port/v1"}, "must be an http or https URL"),
    ({"base_url": "https://1.2.3/v1"}, "must be an http or https URL such as https://api.aimlapi.com/v1"),
    (
        {"base_url": "https://api.aiml api.com/v1"},
        "must be an http or https URL such as https://api.aimlapi.com/v1",
    ),
    ({"base_url": "https://user:pass@host/v1"}, "without quotation marks, user name"),
    ({"base_url": "https://host/v1?key=abc"}, "? and #"),
    ({"base_url": "https://host/v1#key"}, "? and #"),
    ({"base_url": "http://example.com/v1"}, "allow_http=True (AIMLAPI_ALLOW_HTTP=1 in the environment)"),
    ({"api_key": 5}, "api_key must be a string, or a function that returns one, not int"),
    ({"api_key": "two words"}, "a space, a line break"),
    ({"api_key": f"'{KEY}'"}, "api_key stands in quotation marks; leave them out"),
    ({"api_key": f"{KEY}\u201d"}, "stands in quotation marks"),
    ({"api_key": f"Bearer {KEY}"}, 'begins with "Bearer"; leave that out'),
    ({"api_key": f"export AIMLAPI_API_KEY={KEY}"}, "begins with the name of a variable; leave that out"),
    ({"api_key": "..."}, "is a placeholder"),
    ({"api_key": "<YOUR_KEY>"}, "is a placeholder"),
    *[
        ({"api_key": key}, "api_key is a placeholder; replace it with your key. Create one")
        for key in ("YOUR_API_KEY", "your-aimlapi-api-key", "my api key", "API_KEY", "sk-...", "[key]")
    ],
    *[
        ({"api_key": key}, "api_key stands for a variable that was not set")
        for key in ("None", "null", "undefined", "${AIMLAPI_API_KEY}", "$KEY", "{{ key }}", "%KEY%", "$(KEY)")
    ],
    ({"api_key": f"{KEY[:5]}\n{KEY[5:]}"}, "copy the key again. Create one at https://"),
    ({"base_url": '"https://host/v1"'}, "without quotation marks"),
    ({"api_key": "ключ"}, "another character that no key has"),
    ({"api_key": None}, "set the environment variable AIMLAPI_API_KEY. Create one at https://"),
    ({"api_key": None}, "To try without one, use qwen_aiml.emulator.Emulator"),
    ({"api_key": " \n"}, "no API key"),
]


@pytest.mark.parametrize(("settings", "expected"), WRONG, ids=lambda value: str(value)[:40])
def test_refused(settings: dict[str, Any], expected: str) -> None:
    """The error names the invalid setting, the value given and the values allowed."""
    with pytest.raises(ConfigurationError) as caught:
        make(**settings)

    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.aimlapi.com", "https://api.aimlapi.com/v1"),
        ("https://api.aimlapi.com/", "https://api.aimlapi.com/v1"),
        ("https://api.aimlapi.com/v1", "https://api.aimlapi.com/v1"),
        (" https://api.aimlapi.com/v1/ ", "https://api.aimlapi.com/v1"),
        ("https://api.aimlapi.com/v1/embeddings", "https://api.aimlapi.com/v1"),
        ("https://proxy.example/aiml/v1", "https://proxy.example/aiml/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://localhost/v1", "http://localhost/v1"),
        ("http://gateway.localhost/v1", "http://gateway.localhost/v1"),
        ("", "https://api.aimlapi.com/v1"),
    ],
)
def test_base_url(base_url: str, expected: str) -> None:
    """/v1 and a trailing slash are optional in the base URL; plain http is for this machine only."""
    assert expected == make(base_url=base_url).base_url


def test_allow_http() -> None:
    """Plain http to other hosts requires allow_http."""
    assert make(base_url="http://gateway.example", allow_http=True).base_url == "http://gateway.example/v1"


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("1", True),
        (" True ", True),
        ("YES", True),
        ("0", False),
        ("no", False),
        ("", False),
        ("maybe", False),
    ],
)
def test_allow_http_from_environment(value: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """AIMLAPI_ALLOW_HTTP allows plain http as well; the argument takes precedence."""
    monkeypatch.setenv("AIMLAPI_ALLOW_HTTP", value)
    assert make().allow_http is allowed
    assert make(allow_http=not allowed).allow_http is not allowed


def test_key_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is read from the argument, then from the variables in order; blank counts as unset."""
    monkeypatch.setenv("AIMLAPI_KEY", "third")
    assert EmbeddingConfig().secret.reveal() == "third"

    monkeypatch.setenv("AIML_API_KEY", "second")
    assert EmbeddingConfig().secret.reveal() == "second"

    monkeypatch.setenv("AIMLAPI_API_KEY", "  ")
    assert EmbeddingConfig(api_key="").secret.reveal() == "second"

    monkeypatch.setenv("AIMLAPI_API_KEY", " first\n")
    assert EmbeddingConfig().secret.reveal() == "first"
    assert EmbeddingConfig(api_key=SecretStr("argument")).secret.reveal() == "argument"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AIML_API_KEY", f'"{KEY}"', "AIML_API_KEY in the environment stands in quotation marks"),
        ("AIMLAPI_API_BASE", "host/v1", "AIMLAPI_API_BASE in the environment must be an http or https"),
    ],
)
def test_refused_from_environment(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error about a value from the environment names its variable."""
    monkeypatch.setenv("AIML_API_KEY", KEY)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        EmbeddingConfig()

    assert message in str(caught.value)
    assert value.strip('"') not in str(caught.value)


def test_copy_whose_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid key in the environment does not raise during unpickling, but on use."""
    pickled = pickle.dumps(make())
    monkeypatch.setenv("AIMLAPI_API_KEY", f'"{KEY}"')
    config = pickle.loads(pickled)

    with pytest.raises(ConfigurationError, match="unpickled copy"):
        _ = config.secret


def test_no_other_vendors_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API key of another vendor is never used."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-other")

    with pytest.raises(ConfigurationError):
        EmbeddingConfig()


def test_address_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base URL is read from the argument, then from the variables in order."""
    monkeypatch.setenv("AIML_API_BASE", "https://third.example/v1")
    assert make().base_url == "https://third.example/v1"

    monkeypatch.setenv("AIMLAPI_API_BASE", "https://second.example/v1")
    assert make().base_url == "https://second.example/v1"

    monkeypatch.setenv("AIMLAPI_BASE_URL", "https://first.example")
    assert make().base_url == "https://first.example/v1"
    assert make(base_url="https://argument.example").base_url == "https://argument.example/v1"


def test_key_is_hidden() -> None:
    """The key appears in no repr, dict or pickle of the settings."""
    config = make(default_headers={"X-Proxy": "hidden-too"})

    for shown in (repr(config), str(config), repr(dataclasses.asdict(config)), repr(vars(config))):
        assert KEY not in shown
    assert "hidden-too" not in repr(config)
    assert KEY.encode() not in pickle.dumps(config)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(config.secret)


@pytest.mark.parametrize(
    "key", [KEY, SecretStr(KEY), KEY.encode(), f"{KEY} x", f"'{KEY}'", f"Bearer {KEY}"], ids=repr
)
def test_key_is_hidden_in_tracebacks(key: Any) -> None:
    """A traceback that prints local variables does not show the key."""
    with pytest.raises(ConfigurationError) as caught:
        EmbeddingConfig(api_key=key, dimensions=3)

    assert caught.value.__traceback__ is not None
    frames = traceback.walk_tb(caught.value.__traceback__.tb_next)
    assert KEY not in repr([dict(frame.f_locals) for frame, _ in frames])


def test_secret() -> None:
    """Secrets of the same key are equal and hash alike; `str` masks the key."""
    config = make()

    assert config.secret == make().secret
    assert hash(config.secret) == hash(make().secret)
    assert config.secret != KEY
    assert str(config.secret) == "Secret('**********')"
    assert config.secret.scrub(f"bad key {KEY}!") == "bad key [key]!"


def test_secret_of_a_key_function() -> None:
    """A key that a function returns is not known before a request, which is what the error says."""
    with pytest.raises(ConfigurationError, match="api_key is a function, which is called before each"):
        _ = make(api_key=lambda: KEY).secret


def test_defaults_of_models() -> None:
    """Dimensions and batch size default to those of the model; an unknown one has 10 texts per request."""
    unknown = make(model="unknown")

    assert [make().length, make(dimensions=64).length, unknown.length] == [1024, 64, None]
    assert [make().rows, make(batch_size=3).rows, unknown.rows] == [10, 3, 10]


def test_unpickled_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unpickled copy reads the key from the environment, and raises on use if there is none."""
    pickled = pickle.dumps(make(dimensions=64, batch_size=3))

    keyless = pickle.loads(pickled)
    assert (keyless.dimensions, keyless.rows) == (64, 3)
    with pytest.raises(ConfigurationError, match="pickles never contain the key"):
        _ = keyless.secret

    monkeypatch.setenv("AIMLAPI_API_KEY", "from-the-child")
    assert pickle.loads(pickled).secret.reveal() == "from-the-child"


def test_copies_keep_the_key() -> None:
    """Copies within the process keep the key."""
    config = make(dimensions=64)

    assert copy.deepcopy(config) is copy.copy(config) is config
    assert copy.deepcopy(config.secret) is config.secret
    other = dataclasses.replace(config, model=V3, dimensions=512)
    assert (other.secret, other.model, other.facts.name) == (config.secret, V3, V3)


def test_register_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users can register a model with its own limits, which pickles of the settings include."""
    monkeypatch.setattr(models, "_models", dict(models._models))
    facts = ModelFacts(
        name="alibaba/qwen3.7-text-embedding", aliases=("q37",), dimensions=(2560, 256), max_rows=20
    )
    register_model(facts)

    config = make(model="Q37", dimensions=2560, batch_size=20)
    assert config.model == "alibaba/qwen3.7-text-embedding"
    assert make(model="q37").rows == 20
    with pytest.raises(ConfigurationError, match="one of 2560, 256"):
        make(model="q37", dimensions=1024)
    assert pickle.loads(pickle.dumps(config)).facts == facts


def test_model_id_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model registered under a built-in alias is sent under that name, as gateways require."""
    monkeypatch.setattr(models, "_models", dict(models._models))
    sent: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content)["model"])
        return httpx.Response(200, json={"data": [{"index": 0, "embedding": [1.0, 2.0]}]})

    register_model(ModelFacts(name="text-embedding-v4"))
    config = make(model="text-embedding-v4", base_url="http://litellm:4000", allow_http=True)
    gateway = httpx.Client(transport=httpx.MockTransport(handler))
    EmbeddingClient(config, http_client=gateway).embed(["text"])

    assert sent == ["text-embedding-v4"]
    assert make(model="qwen-text-embedding-v4").model == V4


def test_unknown_model_is_not_checked() -> None:
    """Settings are not checked against the limits of an unknown model."""
    config = make(model="new", dimensions=7, batch_size=500, query_instruction="Find it")

    assert (config.rows, config.dimensions) == (500, 7)
    assert make(model="new").rows == 10


def test_white_space_around_header_values() -> None:
    """White space around the value of a header, which could not be sent, is removed."""
    assert make(default_headers={"X-Title": " mine "}).default_headers == {"X-Title": "mine"}


def test_headers_are_copied() -> None:
    """Changing the mapping of headers afterwards has no effect."""
    headers = {"X-Title": "mine"}
    config = make(default_headers=headers)
    headers["X-Title"] = "yours"

    assert config.default_headers == {"X-Title": "mine"}
