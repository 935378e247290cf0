"""The sync and async clients: each test runs with both, the async one on asyncio and on Trio."""

from __future__ import annotations

import contextvars
import copy
import inspect
import math
import pickle
from array import array
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import anyio.to_thread
import httpx
import pytest

from qwen_aiml import (
    AsyncEmbeddingClient,
    AuthenticationError,
    ConfigurationError,
    DeadlineError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    EmbeddingResult,
    InputError,
    InsufficientCreditsError,
    QwenAIMLError,
    RateLimitError,
    ResponseFormatError,
    TransportError,
    Usage,
)
from qwen_aiml._engine.limiter import Limiter
from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"{word} number {at}" for at in range(37) for word in ["text"]]

Client: TypeAlias = EmbeddingClient | AsyncEmbeddingClient

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[EmbeddingClient, AsyncEmbeddingClient])
def kind(request: pytest.FixtureRequest) -> Any:
    """Return each client class in turn."""
    return request.param


def make(kind: type[Client], emulator: Emulator, **settings: Any) -> Client:
    """Create a client of the emulator."""
    config = EmbeddingConfig(**{"api_key": KEY, "dimensions": 64, **settings})
    if kind is EmbeddingClient:
        return EmbeddingClient(config, http_client=httpx.Client(transport=emulator.transport()))
    http_client = httpx.AsyncClient(transport=emulator.async_transport())
    return AsyncEmbeddingClient(config, http_client=http_client)


async def embed(client: Client, texts: Any, **options: Any) -> EmbeddingResult:
    """Call `embed` of a sync or async client."""
    result = client.embed(texts, **options)
    return await result if inspect.isawaitable(result) else result


def expected_embeddings(texts: list[str]) -> list[list[float]]:
    """Embed each text in a separate request."""
    client = make(EmbeddingClient, Emulator(), batch_size=1)
    assert isinstance(client, EmbeddingClient)
    return [client.embed([text]).embeddings[0] for text in texts]


@pytest.mark.parametrize("shuffle", [False, True])
async def test_every_vector_is_the_right_one(kind: type[Client], shuffle: bool) -> None:
    """Each of 37 texts gets its own embedding, even if rows arrive out of order."""
    emulator = Emulator(shuffle=shuffle)
    result = await embed(make(kind, emulator), TEXTS)

    assert expected_embeddings(TEXTS) == result.embeddings
    assert emulator.request_count == result.usage.requests == 4
    assert result.model == "text-embedding-v4"
    assert len(set(result.request_ids)) == 4


async def test_packed_rows(kind: type[Client]) -> None:
    """Packed embeddings are float32 arrays, returned together with the usage."""
    result = await embed(make(kind, Emulator()), TEXTS, packed=True)
    rows: list[Any] = result.embeddings

    assert {(type(row), row.typecode, len(row)) for row in rows} == {(array, "f", 64)}
    assert [row.tolist() for row in rows] == expected_embeddings(TEXTS)
    assert result.usage.requests == 4


def without_the_first(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "data": body["data"][1:]}


def doubled(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "data": [body["data"][0], *body["data"][:-1]]}


def with_row(row: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def edit(body: dict[str, Any]) -> dict[str, Any]:
        body["data"][3]["embedding"] = row
        return body

    return edit


def not_a_number(body: dict[str, Any]) -> bytes:
    return str(body).replace("'", '"').replace("0.", "NaN0.", 1).encode()


BAD_ROWS: dict[str, Callable[[dict[str, Any]], dict[str, Any] | bytes]] = {
    "missing": without_the_first,
    "doubled": doubled,
    "null row": with_row(None),
    "null number": with_row([None] * 64),
    "NaN": not_a_number,
    "NaN in base64": with_row("AADAfw==" * 64),
    "zero": with_row([0.0] * 64),
    "short": with_row([0.5] * 63),
    "error with 200": lambda _: {"error": {"message": "busy"}},
    "cut JSON": lambda _: b'{"data": [{"index": 0',
    "HTML": lambda _: b"<html></html>",
}


@pytest.mark.parametrize("name", BAD_ROWS)
async def test_bad_rows_never_get_through(kind: type[Client], name: str) -> None:
    """A malformed response is retried, and raises if retries run out."""
    emulator = Emulator()
    emulator.script(Fault(edit=BAD_ROWS[name]))
    result = await embed(make(kind, emulator), TEXTS[:10])
    assert expected_embeddings(TEXTS[:10]) == result.embeddings
    assert result.usage.requests == 2

    emulator.script(Fault(edit=BAD_ROWS[name]))
    with pytest.raises(ResponseFormatError) as caught:
        await embed(make(kind, emulator, max_retries=0), TEXTS[:10])
    assert caught.value.indices == tuple(range(10))


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=408),
        Fault(status=429, headers={"retry-after": "0"}),
        Fault(status=500),
        Fault(status=503),
        Fault(status=524),
        Fault(cut=30),
        Fault(reset="before"),
        Fault(reset="after"),
    ],
    ids=str,
)
async def test_passing_faults(kind: type[Client], fault: Fault) -> None:
    """Transient failures are retried."""
    emulator = Emulator()
    emulator.script(fault, fault)
    result = await embed(make(kind, emulator), TEXTS[:3])

    assert expected_embeddings(TEXTS[:3]) == result.embeddings
    assert result.usage.requests == emulator.request_count == 3


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=429), RateLimitError),
        (Fault(reset="before"), TransportError),
        (Fault(cut=30), TransportError),
    ],
    ids=str,
)
async def test_retries_are_bounded(kind: type[Client], fault: Fault, error: type[QwenAIMLError]) -> None:
    """max_retries=2 sends a request three times."""
    emulator = Emulator()
    emulator.script(*[fault] * 9)
    with pytest.raises(error) as caught:
        await embed(make(kind, emulator, max_retries=2), ["a"])

    assert emulator.request_count == caught.value.attempts == 3


@pytest.mark.parametrize(
    ("emulator", "error"),
    [
        (lambda: Emulator(api_keys=["another"]), AuthenticationError),
        (lambda: Emulator(credits=0), InsufficientCreditsError),
    ],
)
async def test_fatal_answers(
    kind: type[Client], emulator: Callable[[], Emulator], error: type[QwenAIMLError]
) -> None:
    """After an invalid key or an empty balance, each worker has sent at most one request."""
    service = emulator()
    with pytest.raises(error):
        await embed(make(kind, service, max_concurrency=2), TEXTS)

    assert service.request_count <= 2


async def test_partial_failure(kind: type[Client]) -> None:
    """The error carries the embeddings that were completed before the failure."""
    emulator = Emulator()
    emulator.script(None, None, Fault(status=401))
    client = make(kind, emulator, max_concurrency=1)
    with pytest.raises(EmbeddingBatchError) as caught:
        await embed(client, TEXTS)

    assert caught.value.embeddings == [*expected_embeddings(TEXTS[:20]), *[None] * 17]
    assert list(caught.value.failures) == list(range(20, 30))
    assert caught.value.usage == client.usage
    assert client.usage.requests == emulator.request_count == 3


async def test_nothing_is_sent_for_nothing(kind: type[Client]) -> None:
    """An empty list sends no request."""
    emulator = Emulator()

    assert (await embed(make(kind, emulator), [])).embeddings == []
    assert emulator.request_count == 0


async def test_bad_input_sends_nothing(kind: type[Client]) -> None:
    """One invalid text among many raises before any request is sent."""
    emulator = Emulator()
    with pytest.raises(InputError) as caught:
        await embed(make(kind, emulator), [*TEXTS, "", "x", None])

    assert caught.value.indices == (37, 39)
    assert emulator.request_count == 0


async def test_identical_texts_are_paid_for_once(kind: type[Client]) -> None:
    """A text that occurs a hundred times is sent once."""
    emulator = Emulator()
    result = await embed(make(kind, emulator), ["same"] * 100)

    assert result.embeddings == expected_embeddings(["same"]) * 100
    assert [request.texts for request in emulator.requests] == [("same",)]


async def test_query_instruction(kind: type[Client]) -> None:
    """Only queries carry the instruction."""
    emulator = Emulator()
    client = make(kind, emulator, query_instruction="Find the article")
    await embed(client, ["rest"], role="query")
    await embed(client, ["rest"])

    sent = [request.texts for request in emulator.requests]
    assert sent == [("Instruct: Find the article\nQuery:rest",), ("rest",)]


@pytest.mark.parametrize("bound", [1, 3, 8])
async def test_requests_in_flight(kind: type[Client], bound: int) -> None:
    """Requests run concurrently up to max_concurrency, and never beyond it."""
    emulator = Emulator(latency=0.5)
    await embed(make(kind, emulator, max_concurrency=bound, batch_size=1), TEXTS[: 2 * bound])

    assert emulator.peak_in_flight == bound


async def test_a_query_does_not_wait_for_an_ingestion(kind: type[Client]) -> None:
    """A short call gets its turn between the requests of a long one."""
    emulator = Emulator(latency=0.1)
    client = make(kind, emulator, max_concurrency=2, batch_size=1)
    done = []

    async def call(name: str, texts: list[str]) -> None:
        if isinstance(client, AsyncEmbeddingClient):
            await client.embed(texts)
        else:
            await anyio.to_thread.run_sync(client.embed, texts)
        done.append((name, emulator.request_count))

    async with anyio.create_task_group() as group:
        group.start_soon(call, "ingestion", [f"text {at}" for at in range(40)])
        while emulator.request_count < 4:  # noqa: ASYNC110 (it has no event to await)
            await anyio.sleep(0.005)
        group.start_soon(call, "query", ["query"])

    assert [name for name, _ in done] == ["query", "ingestion"]
    assert done[0][1] < 20


async def test_a_query_does_not_wait_for_an_ingestion_in_a_thread() -> None:
    """An async call gets its turn between the requests of a synchronous one with the same limiter."""
    emulator = Emulator()
    ingesting = make(EmbeddingClient, emulator, requests_per_minute=1200, batch_size=1)
    assert isinstance(ingesting, EmbeddingClient)
    http_client = httpx.AsyncClient(transport=emulator.async_transport())
    client = AsyncEmbeddingClient(ingesting.config, http_client=http_client, limiter=ingesting.limiter)
    async with anyio.create_task_group() as group:
        texts = [f"text {at}" for at in range(48)]
        group.start_soon(partial(anyio.to_thread.run_sync, ingesting.embed, texts))
        while emulator.request_count < 2:  # noqa: ASYNC110 (it has no event to await)
            await anyio.sleep(0.005)
        for at in range(12):
            await client.embed([f"query {at}"])
        sent = emulator.request_count
    await http_client.aclose()

    assert emulator.request_count == 60
    assert sent <= 36


async def test_requests_in_flight_over_several_calls(kind: type[Client]) -> None:
    """max_concurrency applies to all calls of a client together."""
    emulator = Emulator(latency=0.1)
    client = make(kind, emulator, max_concurrency=3, batch_size=2)
    async with anyio.create_task_group() as group:
        for at in range(12):
            texts = [f"{text} {at}" for text in TEXTS[:6]]
            if isinstance(client, AsyncEmbeddingClient):
                group.start_soon(client.embed, texts)
            else:
                group.start_soon(partial(anyio.to_thread.run_sync, client.embed, texts))

    assert emulator.peak_in_flight == 3
    assert emulator.request_count == client.usage.requests == 36


async def test_usage(kind: type[Client]) -> None:
    """A client sums the usage of its calls."""
    client = make(kind, Emulator())
    assert client.usage == Usage(0, 0, 0)
    first = await embed(client, TEXTS)
    second = await embed(client, ["Laura is a DJ."])

    assert (second.usage.requests, second.usage.total_tokens, second.usage.credits_used) == (1, 4, 1)
    assert first.usage + second.usage == client.usage


async def test_key_and_headers(kind: type[Client]) -> None:
    """The API key is sent, and the user's headers override the default ones."""
    seen: list[httpx.Headers] = []

    def service(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(401)

    transport = httpx.MockTransport(service)
    config = EmbeddingConfig(api_key=KEY, default_headers={"user-agent": "mine/1", "X-Title": "app"})
    http_client: Any = (httpx.Client if kind is EmbeddingClient else httpx.AsyncClient)(transport=transport)
    with pytest.raises(AuthenticationError):
        await embed(kind(config, http_client=http_client), ["a"])

    [headers] = seen
    assert headers["authorization"] == f"Bearer {KEY}"
    assert (headers["user-agent"], headers["x-title"]) == ("mine/1", "app")
    assert headers["content-type"] == headers["accept"] == "application/json"


@pytest.mark.parametrize("follow", [False, True])
async def test_redirects_are_refused(kind: type[Client], follow: bool) -> None:
    """A redirect raises and the key is sent nowhere else, even if the HTTP client follows redirects."""
    hosts = []

    def service(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(307, headers={"location": "https://elsewhere.example/v1/embeddings"})

    client_class: Any = httpx.Client if kind is EmbeddingClient else httpx.AsyncClient
    http_client = client_class(transport=httpx.MockTransport(service), follow_redirects=follow)
    with pytest.raises(QwenAIMLError, match="redirects are not followed"):
        await embed(kind(EmbeddingConfig(api_key=KEY), http_client=http_client), ["a"])

    assert hosts == ["api.aimlapi.com"]


@pytest.mark.parametrize("texts", [["a"], TEXTS])
async def test_foreign_exceptions(kind: type[Client], texts: list[str]) -> None:
    """An exception of the user's HTTP client is raised unchanged, with any number of workers."""

    def service(_: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    client_class: Any = httpx.Client if kind is EmbeddingClient else httpx.AsyncClient
    http_client = client_class(transport=httpx.MockTransport(service))
    with pytest.raises(ZeroDivisionError):
        await embed(kind(EmbeddingConfig(api_key=KEY), http_client=http_client), texts)


async def test_context_variables(kind: type[Client]) -> None:
    """Workers see the caller's context variables, on which tracing relies."""
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    seen = set()
    emulator = Emulator()

    def handler(request: httpx.Request) -> httpx.Response:
        seen.add(tenant.get())
        return emulator.transport().handle_request(request)

    client_class: Any = httpx.Client if kind is EmbeddingClient else httpx.AsyncClient
    client = kind(
        EmbeddingConfig(api_key=KEY), http_client=client_class(transport=httpx.MockTransport(handler))
    )
    tenant.set("somebody")
    await embed(client, TEXTS)

    assert seen == {"somebody"}


async def test_copies(kind: type[Client]) -> None:
    """Copies share the settings and the user's HTTP client, shallow ones the limiter; each has its usage."""
    client = make(kind, Emulator())
    await embed(client, ["a"])
    assert copy.copy(client).limiter is client.limiter
    assert copy.deepcopy(client).limiter is not client.limiter

    for copied in (copy.copy(client), copy.deepcopy(client)):
        assert copied.config is client.config
        assert copied.usage.requests == 0
        assert (await embed(copied, ["a"])).embeddings == expected_embeddings(["a"])


async def test_pickle(kind: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle contains the settings but no key; the unpickled client reads it from the environment."""
    pickled = pickle.dumps(kind(EmbeddingConfig(api_key=KEY, dimensions=64)))
    assert KEY.encode() not in pickled
    keyless = pickle.loads(pickled)
    assert keyless.config.dimensions == 64
    with pytest.raises(ConfigurationError, match="pickles never contain the key"):
        await embed(keyless, TEXTS)
    assert keyless.usage.requests == 0
    if isinstance(keyless, AsyncEmbeddingClient):
        await keyless.aclose()  # otherwise Trio warns

    monkeypatch.setenv("AIMLAPI_API_KEY", "from-the-environment")
    assert pickle.loads(pickled).config.secret.reveal() == "from-the-environment"


async def test_no_pickle_of_the_users_own_client(kind: type[Client]) -> None:
    """Pickling a client with a custom HTTP client raises, rather than silently dropping it."""
    with pytest.raises(TypeError, match="HTTPS_PROXY"):
        pickle.dumps(make(kind, Emulator()))


def test_no_pickle_of_an_emulator() -> None:
    """Pickling a client with the HTTP clients of an emulator raises, and says how to serve it."""
    options = Emulator().client_options()
    client = EmbeddingClient(EmbeddingConfig(api_key=KEY), http_client=options["http_client"])
    with pytest.raises(
        TypeError, match=r"an emulator can't be pickled: .* serve it \(qwen_aiml.emulator.serve"
    ):
        pickle.dumps(client)


class OwnClient(EmbeddingClient):
    """A subclass that does not take a limiter."""

    def __init__(
        self, config: EmbeddingConfig | None = None, *, cache: Any = None, http_client: Any = None
    ) -> None:
        super().__init__(config, cache=cache, http_client=http_client)


def test_copies_of_subclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass with its own constructor can be copied and pickled."""
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)
    client = OwnClient(EmbeddingConfig(max_concurrency=3))
    for copied in (copy.copy(client), copy.deepcopy(client), pickle.loads(pickle.dumps(client))):
        assert type(copied) is OwnClient
        assert copied.limits.in_flight == 3


async def test_repr(kind: type[Client]) -> None:
    """The repr of a client shows its settings but no key."""
    shown = repr(make(kind, Emulator()))

    assert shown.startswith(f"{kind.__name__}(EmbeddingConfig(model='alibaba/qwen-text-embedding-v4'")
    assert KEY not in shown


async def test_own_client_stays_open(kind: type[Client]) -> None:
    """Leaving a ``with`` or ``async with`` block closes the client, but not the user's HTTP client."""
    client = make(kind, Emulator())
    if isinstance(client, EmbeddingClient):
        with client:
            client.embed(["a"])
    else:
        async with client:
            await client.embed(["a"])

    assert [session.transport.is_closed for session in client._engine._sessions.values()] == [True]
    assert (await embed(client, ["a"])).usage.requests == 1


async def test_address_that_httpx_does_not_take(kind: type[Client]) -> None:
    """A base URL that httpx rejects raises on construction."""
    with pytest.raises(ConfigurationError, match="base_url"):
        kind(EmbeddingConfig(api_key=KEY, base_url="https://1.2.3.999/v1"))


async def test_config_of_the_wrong_kind(kind: type[Client]) -> None:
    """A config of the wrong type raises on construction."""
    with pytest.raises(ConfigurationError, match="config must be an EmbeddingConfig, not str"):
        kind("text-embedding-v4")  # type: ignore[arg-type]


async def test_limiter_of_the_wrong_kind(kind: type[Client]) -> None:
    """Anything but a limiter raises on construction, such as the client that has it."""
    config = EmbeddingConfig(api_key=KEY)
    given: Any
    for given in (kind(config), Limiter, 5):
        with pytest.raises(
            ConfigurationError, match=r"limiter must be that of another client \(client.limiter"
        ):
            kind(config, limiter=given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "x", "api_key": KEY}, "unknown setting api_key, model"),
        ({"htp_client": KEY}, "unknown setting htp_client (did you mean http_client?)"),
    ],
)
async def test_settings_outside_the_config(kind: type[Client], given: dict[str, Any], message: str) -> None:
    """Settings passed to a client itself are rejected without showing them; the error says where they go."""
    with pytest.raises(ConfigurationError) as raised:
        kind(**given)

    name = kind.__name__
    advice = f"What to do: put the settings into a config: {name}(EmbeddingConfig(...))"
    assert str(raised.value) == f"{name}: {message}. {advice}"
    assert KEY not in str([{**entry.frame.f_locals, "self": None} for entry in raised.traceback[1:]])


async def test_batch_size_of_one_call(kind: type[Client]) -> None:
    """A call may have its own batch size, within the bounds of the model."""
    emulator = Emulator()
    client = make(kind, emulator)
    await embed(client, TEXTS, batch_size=5)
    assert emulator.request_count == math.ceil(len(TEXTS) / 5)

    with pytest.raises(ConfigurationError, match="must be at most 10, not 11"):
        await embed(client, TEXTS, batch_size=11)
    assert emulator.request_count == math.ceil(len(TEXTS) / 5)


async def test_http_client_of_the_wrong_kind(kind: type[Client]) -> None:
    """A sync client rejects an async HTTP client, and vice versa."""
    other: Any = httpx.AsyncClient if kind is EmbeddingClient else httpx.Client

    with pytest.raises(ConfigurationError, match=rf"must be an httpx\..*, not httpx\.{other.__name__}"):
        kind(EmbeddingConfig(api_key=KEY), http_client=other(transport=Emulator().transport()))


async def test_without_settings(kind: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without settings has the defaults, and the key of the environment."""
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)
    assert kind().config == EmbeddingConfig(api_key=KEY)


async def test_close_before_use(kind: type[Client]) -> None:
    """Closing an unused client does nothing."""
    client = kind(EmbeddingConfig(api_key=KEY))
    if isinstance(client, EmbeddingClient):
        client.close()
    else:
        await client.aclose()


async def test_aclose_of_a_sync_client() -> None:
    """A sync client can be closed in an event loop, without blocking it."""
    client = make(EmbeddingClient, Emulator())
    await embed(client, ["a"])
    await client.aclose()
    assert [session.transport.is_closed for session in client._engine._sessions.values()] == [True]


async def test_cancelled() -> None:
    """Cancelling a call ends its requests, starts no others and propagates."""
    emulator = Emulator(latency=30)
    client = make(AsyncEmbeddingClient, emulator, max_concurrency=2)
    async with anyio.create_task_group() as group:
        group.start_soon(embed, client, TEXTS)
        while emulator.request_count < 2:  # noqa: ASYNC110 (it has no event to await)
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()

    assert group.cancel_scope.cancelled_caught
    assert emulator.request_count == 2


async def test_deadline() -> None:
    """total_timeout ends a call that waits for its response."""
    emulator = Emulator(latency=30)
    with pytest.raises(TimeoutError, match=r"total_timeout of 1 s ran out") as caught:
        await embed(make(AsyncEmbeddingClient, emulator, total_timeout=1), ["a"])

    assert isinstance(caught.value, QwenAIMLError)
    assert caught.value.attempts == emulator.request_count == 1


async def test_answers_are_bounded(kind: type[Client]) -> None:
    """A response larger than any that the service sends is not read to its end."""
    emulator = Emulator()
    emulator.script(Fault(status=200, body=b" " * (17 * 2**20)))
    with pytest.raises(ResponseFormatError, match=f"{16 * 2**20} bytes"):
        await embed(make(kind, emulator, max_retries=0), ["a"])


def test_deadline_with_a_client_of_ones_own() -> None:
    """The deadline ends a slowly dripping body with a custom HTTP client, too."""
    emulator = Emulator()
    emulator.script(Fault(drip=0.02))
    client = make(EmbeddingClient, emulator, total_timeout=0.2)
    assert isinstance(client, EmbeddingClient)
    with pytest.raises(DeadlineError):
        client.embed(["a"])


async def test_deadline_while_waiting_in_the_queue() -> None:
    """A request that is still queued at the deadline is not sent."""
    emulator = Emulator()
    client = make(AsyncEmbeddingClient, emulator, max_concurrency=1, total_timeout=1)
    queue = (await client._engine._session()).queue
    assert await queue.start(0.0, lambda: 60.0, print)  # of another call
    with pytest.raises(DeadlineError) as caught:
        await embed(client, ["a"])

    assert caught.value.attempts == emulator.request_count == 0
    queue.end()
    assert (await embed(client, ["a"])).usage.requests == 1


def test_threads() -> None:
    """Eight threads that share a client each get their own embeddings."""
    client = make(EmbeddingClient, Emulator())
    assert isinstance(client, EmbeddingClient)
    lists = [[f"{text} of {at}" for text in TEXTS[:15]] for at in range(8)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(client.embed, lists))

    assert [result.embeddings for result in results] == [expected_embeddings(texts) for texts in lists]
    assert client.usage.requests == 16


def test_vectors_are_unit_length() -> None:
    """The emulator's vectors are compared in these tests, so they must differ."""
    [first, second] = expected_embeddings(["one", "two"])

    assert first != second
    assert math.isclose(math.hypot(*first), 1.0, abs_tol=1e-6)


async def test_rows_learned_by_another_client(kind: type[Client]) -> None:
    """A client that shares the limiter of another keeps its own batch_size."""
    emulator = Emulator()
    first = make(kind, emulator)
    transport = first._engine.http_client
    small = kind(
        EmbeddingConfig(api_key=KEY, dimensions=64, batch_size=2),
        http_client=transport,
        limiter=first.limiter,
    )
    await embed(small, TEXTS[:6])

    assert {len(request.texts) for request in emulator.requests} == {2}
