"""API keys from a function: called for each attempt, never shown, validated."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import traceback
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from pydantic import SecretStr

from fakes import accepted
from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    AsyncEmbeddingClient,
    AuthenticationError,
    ConfigurationError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    TransportError,
)
from qwen_aiml._keys import KeySource
from qwen_aiml.emulator import Emulator, intercept, serve

KEYS = [f"sk-rotated-{at}-0123456789" for at in range(9)]


class Rotating:
    """A function that returns another key each time, and records the calling threads."""

    def __init__(self, kind: type = str) -> None:
        self.calls = 0
        self.threads: set[int] = set()
        self._kind = kind

    def __call__(self) -> Any:
        """Return the next key."""
        self.threads.add(threading.get_ident())
        self.calls += 1
        return self._kind(KEYS[self.calls - 1])


class AsyncRotating(Rotating):
    """Async version of `Rotating`."""

    async def __call__(self) -> Any:
        """Return the next key."""
        await anyio.lowlevel.checkpoint()
        return super().__call__()


def late(rotating: Rotating) -> Any:
    """Create a function that is not recognized as async until it is called."""

    async def give() -> Any:
        return rotating()

    return lambda: give()  # noqa: PLW0108 (not a coroutine function)


def seen(keys: list[str]) -> Any:
    """Create a handler that accepts and records any key, and responds to the second request with 503."""

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["authorization"].removeprefix("Bearer "))
        if len(keys) == 2:
            return httpx.Response(503)
        return httpx.Response(200, content=accepted(["text"], 64).body)

    return handler


SOURCES = [
    Rotating,
    AsyncRotating,
    partial(Rotating, SecretStr),
    lambda: late(Rotating()),
]


@pytest.mark.parametrize("make", SOURCES, ids=["sync", "async", "secret", "late"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_each_request_asks(make: Any, way: str) -> None:
    """Each attempt, retries included, is sent with the key that the function returns at that time."""
    keys: list[str] = []
    transport = httpx.MockTransport(seen(keys))
    config = EmbeddingConfig(model="m", api_key=make())
    if way == "sync":
        client = EmbeddingClient(config, http_client=httpx.Client(transport=transport))
        for text in ("a", "b"):
            client.embed([text])
    else:
        other = AsyncEmbeddingClient(config, http_client=httpx.AsyncClient(transport=transport))
        for text in ("a", "b"):
            asyncio.run(other.embed([text]))

    assert keys == KEYS[:3]


def test_over_sockets() -> None:
    """The package's own connections send the key as well."""
    with serve(Emulator(api_keys=[KEYS[0]])) as base_url:
        config = EmbeddingConfig(api_key=lambda: KEYS[0], base_url=base_url)
        assert len(EmbeddingClient(config).embed(["text"]).embeddings) == 1


def test_frameworks() -> None:
    """Both framework classes accept a function, mask it, and pass it on to copies."""
    emulator = Emulator(api_keys=KEYS)
    options = {**emulator.client_options(), "api_key": (asked := Rotating())}
    one, two = QwenAIMLEmbeddings(**options), QwenAIMLEmbedding(**options)
    one.embed_query("a")
    one.model_copy(update={"dimensions": 64}).embed_query("a")
    two.get_query_embedding("a")

    assert asked.calls == emulator.request_count == 3
    assert repr(one.api_key) == repr(two.api_key) == "KeySource('**********')"
    assert "KeySource" not in repr(one) + repr(two)


def test_blocking_function_stalls_nobody() -> None:
    """A function that blocks is called in a worker thread."""
    asked = Rotating()
    keys: list[str] = []
    transport = httpx.MockTransport(seen(keys))
    config = EmbeddingConfig(model="m", api_key=asked)
    asyncio.run(AsyncEmbeddingClient(config, http_client=httpx.AsyncClient(transport=transport)).embed(["a"]))

    assert threading.get_ident() not in asked.threads


def raising() -> str:
    raise KeyError(KEYS[0])


def returning(value: Any) -> Any:
    return lambda: value


async def araising() -> str:
    raise KeyError(KEYS[0])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raising, "the api_key function raised KeyError ("),
        (araising, "test_key_functions.py, line "),
        (returning(None), "the api_key function returned nothing; it must return a key"),
        (returning(" "), "returned nothing"),
        (returning(KEYS[0].encode()), "the api_key function must return a string, not bytes"),
        (returning(raising), "must return a string, not a function"),
        (returning(f"Bearer {KEYS[0]}"), 'returned begins with "Bearer"; leave that out'),
        (returning("${KEY}"), "returned stands for a variable that was not set"),
    ],
)
def test_wrong_functions(function: Any, message: str) -> None:
    """If the function raises or does not return a key, the call fails; nothing is sent or shown."""
    emulator = Emulator()
    options = emulator.client_options()
    client = EmbeddingClient(EmbeddingConfig(api_key=function), http_client=options["http_client"])
    with pytest.raises(ConfigurationError) as caught:
        client.embed(["text"])

    assert message in str(caught.value)
    assert KEYS[0] not in "".join(traceback.format_exception(caught.value))
    assert emulator.request_count == client.usage.requests == 0
    assert caught.value.__traceback__ is not None
    frames = traceback.walk_tb(caught.value.__traceback__.tb_next)  # without this test's own frame
    assert KEYS[0] not in repr([dict(frame.f_locals) for frame, _ in frames])


def test_function_that_fails_later() -> None:
    """If the function raises after some requests, only the request that it was called for was not sent."""
    keys = KEYS[:1]
    options = Emulator().client_options()
    config = EmbeddingConfig(api_key=keys.pop, batch_size=1, max_concurrency=1)
    with pytest.raises(EmbeddingBatchError) as caught:
        EmbeddingClient(config, http_client=options["http_client"]).embed(["a", "b", "c"])

    [failure] = caught.value.failures.values()
    assert isinstance(failure, ConfigurationError)
    assert str(failure).startswith("the api_key function raised IndexError (")
    assert str(failure).endswith("; the request was not sent")


def test_masked() -> None:
    """The key of an attempt is masked if a failure or the service repeats it."""
    asked = Rotating()

    def handler(request: httpx.Request) -> httpx.Response:
        if asked.calls == 1:
            raise httpx.ReadError(f"sent {request.headers['authorization']}")
        return httpx.Response(401, json={"message": f"bad {request.headers['authorization']}"})

    client = httpx.Client(transport=httpx.MockTransport(handler))
    for retries, key in ((0, KEYS[0]), (0, KEYS[1])):
        config = EmbeddingConfig(api_key=asked, max_retries=retries)
        with pytest.raises((TransportError, AuthenticationError)) as caught:
            EmbeddingClient(config, http_client=client).embed(["text"])
        assert key not in str(caught.value)
        assert "[key]" in str(caught.value)


def test_intercepted() -> None:
    """While an emulator intercepts all requests of the process, the function is not called."""
    emulator = Emulator()
    with intercept(emulator):
        EmbeddingClient(EmbeddingConfig(api_key=raising)).embed(["text"])

    assert emulator.request_count == 1


def test_source() -> None:
    """A KeySource compares like its function, is masked in reprs, and can't be pickled."""
    source, other = KeySource(raising), KeySource(araising)

    assert source == KeySource(raising) != other
    assert source != raising
    assert len({source, KeySource(raising), other}) == 2
    assert copy.deepcopy(source) is source
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(source)
    config = EmbeddingConfig(api_key=partial(returning, KEYS[0]))
    assert KEYS[0] not in repr(config) + repr(vars(config))
    with pytest.raises(ConfigurationError, match="api_key is a function"):
        _ = config.secret


def test_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle omits the function; the unpickled copy reads the key from the environment."""
    pickled = pickle.dumps([EmbeddingConfig(api_key=raising), QwenAIMLEmbeddings(api_key=raising)])
    monkeypatch.setenv("AIMLAPI_API_KEY", KEYS[0])
    config, model = pickle.loads(pickled)

    assert config.secret.reveal() == model._client.config.secret.reveal() == KEYS[0]
