"""Fixtures of the fault matrix: one server with changing accounts, all ways to embed, checks for leaks."""

from __future__ import annotations

import gc
import importlib
import logging
import socket
import ssl
import threading
import time
from collections import deque
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import httpx
import orjson
import pytest

from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    AsyncEmbeddingClient,
    EmbeddingClient,
    EmbeddingConfig,
    QwenAIMLError,
    Usage,
)
from qwen_aiml._engine import engine, limiter, request, retry, runner
from qwen_aiml.emulator import Emulator, serve
from qwen_aiml.emulator._vectors import lexical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from qwen_aiml._engine.limiter import Start
    from qwen_aiml.emulator import Fault
    from qwen_aiml.emulator._reply import Reply
    from qwen_aiml.emulator._responses import Request

KEY = "sk-test-0123456789abcdef"
MARK = "confidential"  # contained in every text
DIMENSIONS = 64
NOW = datetime(2026, 1, 1, 12, 0, 0, 980_000, tzinfo=timezone.utc)


class Service(Emulator):
    """
    An emulator whose account and faults change between tests, behind the same server.

    Attributes:
        account: The emulator that responds.

        given: The fault of each request to that account, in order.
    """

    account: Emulator

    def use(
        self,
        account: Emulator,
        faults: Iterable[Fault | None] = (),
        choose: Callable[[Sequence[str]], Fault | None] = lambda _: None,
    ) -> None:
        """
        Respond from another account.

        Args:
            account: A new account.

            faults: Faults for its first requests.

            choose: Returns the fault for a later request, given its texts.
        """
        self.account = account
        self.given: list[Fault | None] = []
        self._faults = deque(faults)
        self._choose = choose

    @contextmanager
    def answering(self, request: Request) -> Iterator[Reply]:
        """Respond as the account does."""
        fault = self._faults.popleft() if self._faults else self._choose(orjson.loads(request.body)["input"])
        self.given.append(fault)
        self.account.script(fault)
        with self.account.answering(request) as reply:
            yield reply


@pytest.fixture(scope="module")
def _served() -> Iterator[tuple[Service, str]]:
    service = Service()
    # Starts the background thread before threads are counted.
    runner.BackgroundCall(anyio.lowlevel.checkpoint).run()
    gc.collect()
    gc.freeze()  # makes the search for leaks fast
    with pytest.MonkeyPatch.context() as patch, serve(service) as address:
        patch.setattr(lexical, "embed", cache(lexical.embed))  # the same few texts are embedded many times
        yield service, address
    gc.unfreeze()


@pytest.fixture
def service(_served: tuple[Service, str], monkeypatch: pytest.MonkeyPatch) -> Service:
    """Return the service with a new account, and set its URL and API key in the environment."""
    service, address = _served
    monkeypatch.setenv("AIMLAPI_BASE_URL", address)
    monkeypatch.setenv("AIMLAPI_API_KEY", KEY)
    service.use(Emulator())
    return service


@pytest.fixture(scope="session")
def vector() -> Callable[[str], list[float]]:
    """Return a function that returns the embedding of one text, without a connection."""
    http_client = httpx.Client(transport=Emulator().transport())
    config = EmbeddingConfig(api_key=KEY, dimensions=DIMENSIONS)

    @cache
    def embedded(text: str) -> list[float]:
        return EmbeddingClient(config, http_client=http_client).embed([text]).embeddings[0]

    return embedded


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Disable waits except those requested by the service, and return the seconds requested."""
    asked: list[float] = []
    refused, backoff = limiter.Limiter.refused, retry.backoff

    def note(attempt: int, advised: float | None, random: Callable[[], float]) -> float:
        seconds = backoff(attempt, advised, random)
        asked.extend([seconds] if seconds else [])
        return seconds

    def note_refusal(
        self: limiter.Limiter, start: Start, now: float, advised: float | None, jitter: float
    ) -> None:
        if advised is None:
            self.lost(start)
        else:
            asked.append(advised)
            refused(self, start, now, advised, jitter)

    class Frozen:
        """A replacement for `datetime`, with a fixed current time."""

        now = staticmethod(lambda _: NOW)

    monkeypatch.setattr(retry, "FIRST_BACKOFF", 0.0)
    monkeypatch.setattr(request, "backoff", note)
    monkeypatch.setattr(limiter.Limiter, "refused", note_refusal)
    monkeypatch.setattr(engine, "datetime", Frozen)
    return asked


@dataclass(kw_only=True)
class Outcome:
    """
    The outcome of a call.

    Attributes:
        embeddings: The result, or None.

        error: The exception raised, or None.

        usage: The usage reported by the object.

        again: The result of another call of the same object, after the faults; None if there was no other.
    """

    embeddings: list[list[float]] | None = None
    error: QwenAIMLError | None = None
    usage: Usage = field(default_factory=Usage)
    again: list[list[float]] | None = None


def own_threads() -> set[threading.Thread]:
    """Return the running threads, except idle worker threads of anyio and Trio."""
    return {
        thread
        for thread in threading.enumerate()
        if not thread.name.startswith(("AnyIO worker thread", "Trio thread"))
    }


def custom_client(transport: str, kind: str) -> Any:
    """Create a custom HTTP client if the transport is one, otherwise an empty context manager."""
    library, _, is_client = transport.partition("-")
    return (
        getattr(importlib.import_module(library), kind)(verify=certificates()) if is_client else nullcontext()
    )


@cache
def certificates() -> ssl.SSLContext:
    """Load the certificates once."""
    return ssl.create_default_context()


def create(way: str, settings: Mapping[str, Any], http_client: Any) -> tuple[Any, Callable[[Any], Any]]:
    """
    Create an object, and return it with its method that embeds a list of texts.

    Args:
        way: Name of the way, without the transport.

        settings: Settings of the object.

        http_client: A custom HTTP client, or None.
    """
    framework, _, is_async = way.partition("-")
    if framework != "core" and http_client is not None:
        settings = {**settings, "http_async_client" if is_async else "http_client": http_client}
    if framework == "langchain":
        langchain = QwenAIMLEmbeddings(**settings)
        return langchain, langchain.aembed_documents if is_async else langchain.embed_documents
    if framework == "llamaindex":
        llama = QwenAIMLEmbedding(**settings)
        return llama, llama.aget_text_embedding_batch if is_async else llama.get_text_embedding_batch
    if is_async:
        client = AsyncEmbeddingClient(EmbeddingConfig(**settings), http_client=http_client)

        async def aembed(texts: list[str]) -> list[list[float]]:
            return (await client.embed(texts)).embeddings

        return client, aembed
    sync = EmbeddingClient(EmbeddingConfig(**settings), http_client=http_client)
    return sync, lambda texts: sync.embed(texts).embeddings


@pytest.fixture
def ask(
    _served: tuple[Service, str], service: Service, caplog: pytest.LogCaptureFixture
) -> Iterator[Callable[..., Outcome]]:
    """
    Return a function that embeds in one way; afterwards, check for leaks.

    It takes the name of the way, with a slash and the transport if that is not the default; settings; texts;
    and the texts of another call, or None.
    """
    caplog.set_level(logging.DEBUG, logger="qwen_aiml")
    threads = own_threads()
    accounts: list[Emulator] = []

    @contextmanager
    def noted(outcome: Outcome, model: Any) -> Iterator[None]:
        accounts.append(service.account)
        try:
            yield
        except QwenAIMLError as error:
            outcome.error = error
        outcome.usage = model.usage
        service.use(Emulator())

    def ask(way: str, settings: Mapping[str, Any], texts: Any, again: Any = None) -> Outcome:
        outcome = Outcome()
        way, _, transport = way.partition("/")
        settings = {"dimensions": DIMENSIONS, **settings}
        if transport == "httpx":
            settings["transport"] = "httpx"
        if "-" not in way:
            if transport.endswith("-client"):
                # An abandoned thread keeps its request in flight for that long.
                settings["timeout"] = min(settings.get("timeout", 1.0), 1.0)
            with custom_client(transport, "Client") as client:
                model, embed = create(way, settings, client)
                with model:
                    with noted(outcome, model):
                        outcome.embeddings = embed(texts)
                    outcome.again = None if again is None else embed(again)
            return outcome

        async def main() -> None:
            async with custom_client(transport, "AsyncClient") as client:
                model, embed = create(way, settings, client)
                async with model:
                    with noted(outcome, model):
                        outcome.embeddings = await embed(texts)
                    outcome.again = None if again is None else await embed(again)

        anyio.run(main, backend="trio" if way.endswith("trio") else "asyncio")
        return outcome

    yield ask

    assert own_threads() <= threads
    assert_nothing_is_open(accounts, urlsplit(_served[1]).port)
    gc.freeze()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert KEY not in caplog.text
    assert MARK not in caplog.text


def assert_nothing_is_open(accounts: Sequence[Emulator], port: int | None) -> None:
    """Check that no request is in flight and no connection is open after abandoned threads have ended."""
    until = time.monotonic() + 10
    while any(account._in_flight for account in accounts) and time.monotonic() < until:
        time.sleep(0.001)
    assert not any(account._in_flight for account in accounts)
    gc.collect()
    while any(_is_client(held, port) for held in gc.get_objects()) and time.monotonic() < until:
        time.sleep(0.05)
    assert [held for held in gc.get_objects() if _is_client(held, port)] == []


def _is_client(held: object, port: int | None) -> bool:
    """Return whether an object is the client's end of an open connection; *port* is the emulator's."""
    if not issubclass(type(held), socket.socket):
        return False
    connection = cast("socket.socket", held)
    try:
        connection.getpeername()
        return connection.family == socket.AF_INET and bool(connection.getsockname()[1] != port)
    except OSError:
        return False  # closed, maybe just now


class Peer:
    """
    A listener that sends the same bytes on a limited number of connections, with timeouts.

    Attributes:
        port: The port it listens on.

        received: The bytes received, by connection.
    """

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        self.port = listener.getsockname()[1]
        self.received: list[bytes] = []
        self._listener = listener
        self._tls = tls

    def serve(self, content: bytes, connections: int) -> None:
        """Accept *connections* connections, and respond to each."""
        self._listener.settimeout(10)
        for _ in range(connections):
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(10)
                self.received.append(self._answer(connection, content))

    def _answer(self, connection: socket.socket, content: bytes) -> bytes:
        if self._tls is None:
            received = connection.recv(65536)
            connection.sendall(content)
            return received
        try:
            with self._tls.wrap_socket(connection, server_side=True) as secure:
                return secure.recv(65536)
        except ssl.SSLError:
            return b""

    def has_more(self) -> bool:
        """Return whether there was another connection."""
        self._listener.setblocking(False)
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def peer() -> Callable[..., Any]:
    """Return a context manager in which a `Peer` listens and accepts a number of connections."""

    @contextmanager
    def listening(
        content: bytes = b"", *, connections: int = 0, tls: ssl.SSLContext | None = None
    ) -> Iterator[Peer]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = Peer(listener, tls)
            thread = threading.Thread(target=peer.serve, args=(content, connections))
            thread.start()
            try:
                yield peer
            finally:
                thread.join(10 * connections + 10)

    return listening
