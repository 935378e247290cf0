"""Deadlines: `total_timeout` ends a call, whatever it is waiting for."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from qwen_aiml import AsyncEmbeddingClient, DeadlineError, EmbeddingClient, EmbeddingConfig
from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "sk-test-0123456789abcdef"


@contextmanager
def dripping(data: bytes, sent: list[int] | None = None) -> Iterator[str]:
    """Serve one connection that gets *data* a byte every 50 ms, for at most ten seconds."""
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(2)

        def run() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:  # no client connected
                return
            with connection:
                for at in range(200):
                    if closing.wait(0.05):
                        return
                    try:
                        connection.sendall(data[at % len(data) : at % len(data) + 1])
                    except OSError:
                        return
                    if sent is not None:
                        sent.append(at)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            closing.set()
            thread.join(15)


@pytest.fixture(params=["sync", "httpx", "async"])
def embed(request: pytest.FixtureRequest) -> Callable[[EmbeddingConfig], None]:
    """Return a function that embeds a text over each kind of connection and expects a DeadlineError."""

    def embed(config: EmbeddingConfig) -> None:
        if request.param == "httpx":
            config = replace(config, transport="httpx")
        if request.param == "async":
            with pytest.raises(DeadlineError) as caught:
                asyncio.run(AsyncEmbeddingClient(config).embed(["a"]))
        else:
            with EmbeddingClient(config) as client, pytest.raises(DeadlineError) as caught:
                client.embed(["a"])
        assert caught.value.attempts == 1

    return embed


def test_headers_that_drip(embed: Callable[[EmbeddingConfig], None]) -> None:
    """The deadline ends a response whose headers arrive a byte at a time, each within the timeout."""
    sent: list[int] = []
    with dripping(b"HTTP/1.1 200 OK\r\n" + b"x-header: value\r\n" * 100, sent) as address:
        embed(EmbeddingConfig(api_key=KEY, base_url=f"http://{address}", total_timeout=0.3, timeout=5))
    assert len(sent) < 100


def test_tls_that_drips(embed: Callable[[EmbeddingConfig], None]) -> None:
    """The deadline ends a TLS handshake that arrives a byte at a time."""
    sent: list[int] = []
    # Announces a record of 16 kB, of a handshake that never completes.
    data = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03" + bytes(500)
    with dripping(data, sent) as address:
        embed(EmbeddingConfig(api_key=KEY, base_url=f"https://{address}", total_timeout=0.3, timeout=5))
    assert len(sent) < 100


def test_a_connection_that_comes_too_late(
    embed: Callable[[EmbeddingConfig], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline ends dripping headers even if the name look-up alone has exceeded it."""
    look_up = socket.getaddrinfo

    def slow(host: Any, *args: Any, **options: Any) -> Any:
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            return look_up(host, *args, **options)
        time.sleep(0.3)
        return look_up("127.0.0.1", *args, **options)

    sent: list[int] = []
    with dripping(b"HTTP/1.1 200 OK\r\n" + b"x-header: value\r\n" * 100, sent) as address:
        at = address.replace("127.0.0.1", "localhost")
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        embed(EmbeddingConfig(api_key=KEY, base_url=f"http://{at}", total_timeout=0.1, timeout=5))
    assert len(sent) < 100


def test_texts_that_come_late() -> None:
    """Time spent reading the texts counts towards the deadline."""

    def texts() -> Iterator[str]:
        time.sleep(0.2)
        yield "a"

    emulator = Emulator()
    config = EmbeddingConfig(api_key=KEY, total_timeout=0.1)
    client = EmbeddingClient(config, http_client=httpx.Client(transport=emulator.transport()))
    with pytest.raises(DeadlineError):
        client.embed(texts())
    assert emulator.request_count == 0


@pytest.mark.parametrize("transport", ["auto", "httpx"])
def test_a_connection_that_is_used_again(transport: Any) -> None:
    """The deadline also ends a request on a connection that an earlier call opened."""
    emulator = Emulator()
    with serve(emulator) as address:
        config = EmbeddingConfig(
            api_key=KEY,
            base_url=address,
            dimensions=64,
            total_timeout=0.5,
            timeout=5,
            max_concurrency=1,
            transport=transport,
        )
        with EmbeddingClient(config) as client:
            client.embed(["a"])
            emulator.script(Fault(drip=0.05))
            with pytest.raises(DeadlineError):
                client.embed(["b"])
            assert client.embed(["c"]).usage.requests == 1


def test_one_thread() -> None:
    """Deadlines and concurrent requests use no thread other than the event loop's."""
    EmbeddingClient(EmbeddingConfig(api_key=KEY)).embed([])
    before = set(threading.enumerate())
    with serve(Emulator()) as address:
        config = EmbeddingConfig(api_key=KEY, base_url=address, dimensions=64, total_timeout=60)
        with EmbeddingClient(config) as client:
            client.embed([f"text {at}" for at in range(100)])
    assert before >= set(threading.enumerate())
