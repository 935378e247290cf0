"""Faults over a real socket: cut, reset, dripping, hanging and oversized responses."""

# ruff: noqa: SIM300 - expected == actual, in all tests

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from collections.abc import Callable

HEADERS = {"authorization": "Bearer key"}


def ask(url: str, content: object) -> socket.socket:
    """Open a connection with a timeout of ten seconds, send a request on it, and return it."""
    body = json.dumps(content).encode()
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\nauthorization: Bearer key\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def read(connection: socket.socket) -> tuple[bytes, OSError | None]:
    """Read until the connection ends; return the bytes and the error, if there was one."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except OSError as error:
        return received, error
    return received, None


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until a condition is *true*, for up to ten seconds."""
    deadline = time.monotonic() + 10
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()


def is_idle(emulator: Emulator) -> bool:
    """Return whether nothing is in flight."""
    return emulator._in_flight == 0


@pytest.mark.parametrize("sent", [0, 1000])
def test_cut(emulator: Emulator, client: httpx.Client, body: Callable[..., Any], sent: int) -> None:
    """A cut body is shorter than its content-length; the next request succeeds."""
    emulator.script(Fault(cut=sent))
    with pytest.raises(httpx.RemoteProtocolError, match=rf"received {sent} bytes, expected [1-9]\d{{3}}\)"):
        client.post("/embeddings", json=body())

    assert 200 == client.post("/embeddings", json=body()).status_code


@pytest.mark.parametrize(("when", "left"), [("before", 99_999), ("during", 99_998), ("after", 99_998)])
def test_reset(
    emulator: Emulator, client: httpx.Client, body: Callable[..., Any], when: Any, left: int
) -> None:
    """A reset is a TCP reset, not a normal close; the next request succeeds."""
    emulator.script(Fault(reset=when))
    with pytest.raises(httpx.ReadError, match="reset by peer"):
        client.post("/embeddings", json=body())

    assert 200 == client.post("/embeddings", json=body()).status_code
    assert left == emulator.credits


@pytest.mark.parametrize("drip", [0, 0.0001])
def test_reset_during(emulator: Emulator, url: str, body: Callable[..., Any], drip: float) -> None:
    """Half of the body arrives before the reset, dripping or not."""
    emulator.script(Fault(reset="during", drip=drip, status=500, body=b"abcdefg"))
    with ask(url, body()) as connection:
        received, error = read(connection)

    assert isinstance(error, ConnectionResetError)
    assert received.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert received.endswith(b"\r\ncontent-length: 7\r\nconnection: close\r\n\r\nabc")


def test_client_that_leaves_before_the_reset(
    emulator: Emulator, url: str, body: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The half before a reset waits until the client reads it, and is discarded when it disconnects."""
    emulator.script(Fault(reset="during", status=200, body=bytes(40_000_000)))
    with ask(url, body()) as connection:
        assert b"HTTP/1.1 200 OK" == connection.recv(15)
        time.sleep(0.2)
        assert not is_idle(emulator)

    wait_until(lambda: is_idle(emulator))
    assert [] == caplog.records


def test_drip(emulator: Emulator, client: httpx.Client, body: Callable[..., Any]) -> None:
    """A dripping response arrives complete, its headers drip too, and the next request succeeds."""
    emulator.script(Fault(drip=0.001, status=200, body=b"{}", gzip=True))
    started = time.monotonic()
    response = client.post("/embeddings", json=body(), timeout=5)
    took = time.monotonic() - started

    assert (200, b"{}") == (response.status_code, response.content)
    assert took >= 0.001 * len("".join(map("".join, response.headers.items())))
    assert 200 == client.post("/embeddings", json=body()).status_code
    assert 2 == emulator.texts_billed["Laura is a DJ."]


def test_headers_drip(
    emulator: Emulator, url: str, body: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The status line drips too, until the client disconnects."""
    emulator.script(Fault(drip=0.1))
    with ask(url, body()) as connection:
        first = connection.recv(100)
        second = connection.recv(100)

    assert b"HTTP/1.1 200 OK\r\ncontent-type".startswith(first + second)
    assert first
    assert second
    wait_until(lambda: is_idle(emulator))
    assert [] == caplog.records


@pytest.mark.parametrize("cut", [0, 2])
def test_drip_cut(emulator: Emulator, url: str, body: Callable[..., Any], cut: int) -> None:
    """A dripping body that is cut ends without a reset after the bytes sent."""
    emulator.script(Fault(drip=0.0001, cut=cut, status=599, body=b"abcd"))
    with ask(url, body()) as connection:
        received, error = read(connection)

    assert error is None
    assert received.startswith(b"HTTP/1.1 599 \r\n")
    assert received.endswith(b"\r\ncontent-length: 4\r\nconnection: close\r\n\r\n" + b"abcd"[:cut])


def test_hang(emulator: Emulator, client: httpx.Client, body: Callable[..., Any]) -> None:
    """A request that hangs is billed, gets no response, and is in flight until its client disconnects."""
    emulator.script(Fault(hang=True))
    with pytest.raises(httpx.ReadTimeout):
        client.post("/embeddings", json=body(), timeout=0.2)

    wait_until(lambda: emulator.request_count == 1)
    assert 1 == emulator.texts_billed["Laura is a DJ."]
    wait_until(lambda: is_idle(emulator))
    assert 200 == client.post("/embeddings", json=body()).status_code


def test_client_that_leaves(
    emulator: Emulator, client: httpx.Client, body: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Requests are not in flight after a client timeout, and nothing more is written to their connections."""
    emulator.script(*[Fault(latency=30, reset="after")] * 4)
    for _ in range(4):
        with pytest.raises(httpx.ReadTimeout):
            client.post("/embeddings", json=body(), timeout=0.1)

    wait_until(lambda: emulator.request_count == 4)
    assert emulator.peak_in_flight <= 2
    assert [] == caplog.records


@pytest.mark.slow
def test_faults_block_no_one(body: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of waiting requests delay neither other requests nor the server's shutdown."""
    emulator = Emulator()
    faults = [Fault(hang=True), Fault(drip=30), Fault(latency=60), Fault(drip=0.01)] * 50
    emulator.script(*faults)
    with ExitStack() as connections, serve(emulator) as url:
        for _ in faults:
            connections.enter_context(ask(url, body()))
        wait_until(lambda: emulator.request_count == len(faults))
        plain = [
            httpx.post(url + "/embeddings", json=body(), headers=HEADERS, timeout=10, trust_env=False)
            for _ in range(20)
        ]
        peak = emulator.peak_in_flight

    assert [200] * 20 == [response.status_code for response in plain]
    assert 201 == peak
    assert "qwen-aiml-emulator" not in [thread.name for thread in threading.enumerate()]
    assert is_idle(emulator)
    assert [] == caplog.records


@pytest.mark.parametrize("compressed", [False, True])
def test_oversized(
    emulator: Emulator, client: httpx.Client, body: Callable[..., Any], *, compressed: bool
) -> None:
    """A response of tens of megabytes arrives complete; compressed, it is small until decoded."""
    emulator.script(Fault(status=200, body=bytes(30_000_000), gzip=compressed))
    response = client.post("/embeddings", json=body())

    assert 30_000_000 == len(response.content)
    assert compressed == (int(response.headers["content-length"]) < 100_000)
    assert 200 == client.post("/embeddings", json=body()).status_code


def test_client_that_stops_reading(emulator: Emulator, url: str, body: Callable[..., Any]) -> None:
    """A large response that is not read does not delay other requests."""
    emulator.script(Fault(status=200, body=bytes(30_000_000)))
    with ask(url, body()) as connection:
        assert connection.recv(1)
        with httpx.Client(headers=HEADERS, trust_env=False) as other:
            assert 200 == other.post(url + "/embeddings", json=body(), timeout=10).status_code


def test_redirect(emulator: Emulator, client: httpx.Client, url: str, body: Callable[..., Any]) -> None:
    """A client that follows a redirect sends its body to the new location."""
    emulator.script(Fault(status=307, headers={"location": f"{url}/embeddings?again"}))
    response = client.post("/embeddings", json=body(), follow_redirects=True)

    assert (200, "again") == (response.status_code, response.url.query.decode())
    assert [307, 200] == [request.status for request in emulator.requests]
    assert 1 == emulator.texts_billed["Laura is a DJ."]


def test_concurrency_limit(body: Callable[..., Any]) -> None:
    """Requests beyond the limit get 429 while those within it are waiting, but not after they disconnect."""
    emulator = Emulator(concurrency_limit=2, retry_after=1.5)
    emulator.script(Fault(latency=60), Fault(hang=True))
    with serve(emulator) as url, httpx.Client(base_url=url, headers=HEADERS, trust_env=False) as client:
        with ask(url, body()), ask(url, body()):
            wait_until(lambda: emulator.request_count == 2)
            beyond = client.post("/embeddings", json=body(), timeout=10)
        wait_until(lambda: is_idle(emulator))
        within = client.post("/embeddings", json=body(), timeout=10)

    assert (429, "1.5", 200) == (beyond.status_code, beyond.headers["retry-after"], within.status_code)
