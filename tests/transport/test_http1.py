"""HTTP/1.1 and bodies without a network: request heads, and responses in pieces of any size."""

from __future__ import annotations

import gzip
import tracemalloc
from typing import Any

import pytest

from qwen_aiml._transport.asyncio_transport import AsyncioTransport
from qwen_aiml._transport.asyncio_transport import _Reader as ResponseReader
from qwen_aiml._transport.base import TransportFailure
from qwen_aiml._transport.body import Body

BODY = b'{"data": []}'
LENGTH = b"content-length: %d\r\n" % len(BODY)
HEAD = b"HTTP/1.1 200 OK\r\nX-Id: a\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
CHUNKS = b"5\r\n" + BODY[:5] + b"\r\n7;note=x\r\n" + BODY[5:] + b"\r\n0\r\nx-trailer: t\r\n\r\n"
ZIPPED = gzip.compress(BODY, mtime=0)


def read(data: bytes, size: int = 100_000) -> tuple[ResponseReader, Any]:
    """Feed *data* in pieces of *size* bytes until the reader is finished, otherwise up to its end."""
    reader = ResponseReader(1000)
    for at in range(0, len(data), size):
        if reader.feed(memoryview(data[at : at + size])):
            return reader, reader.conclude(reader.failure)
    return reader, reader.conclude(reader.end())


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("data", "reusable"),
    [
        (HEAD + LENGTH + b"\r\n" + BODY, True),
        (CHUNKED + CHUNKS, True),
        (HEAD + b"\r\n" + BODY, False),
        (HEAD + LENGTH + b"connection: close\r\n\r\n" + BODY, False),
        (HEAD.replace(b"1.1", b"1.0") + LENGTH + b"\r\n" + BODY, False),
        (b"HTTP/1.1 100 Continue\r\nx-hint: h\r\n\r\n" + HEAD + LENGTH + b"\r\n" + BODY, True),
        (HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(ZIPPED) + ZIPPED, True),
        (HEAD + b"content-encoding: x-gzip\r\n\r\n" + ZIPPED, False),
        (HEAD + b"content-encoding: Identity\r\n\r\n" + BODY, False),
    ],
)
def test_responses(data: bytes, size: int, reusable: bool) -> None:
    """A response is read completely, by length, chunks or end of connection, in pieces of any size."""
    reader, response = read(data, size)

    assert (response.status, response.body, response.headers["x-id"]) == (200, BODY, "a")
    assert not {"x-hint", "x-trailer"} & set(response.headers)
    assert reader.is_reusable == reusable


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"x-folded: a\r\n  b\r\n" + LENGTH + b"\r\n" + BODY,
        HEAD + b"content-length:\r\n %d\r\n\r\n" % len(BODY) + BODY,
        HEAD + b"x-odd: a\x01\x7f\xff\r\n" + LENGTH + b"\r\n" + BODY,
        (HEAD + LENGTH + b"\r\n").replace(b"\r", b"") + BODY,
        CHUNKED + b"%x  \r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    ],
)
def test_sloppy_responses(data: bytes, size: int) -> None:
    """Folded headers, control characters, bare line feeds and padded chunk sizes are accepted."""
    reader, response = read(data, size)

    assert (response.status, response.body, response.headers["x-id"]) == (200, BODY, "a")
    assert reader.is_reusable


@pytest.mark.parametrize("size", [1000, 1_000_000])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (HEAD + b"x-again: and again\r\n" * 10_000, "headers are longer than 64 KiB"),
        (HEAD + b"x-long: " + b"x" * 200_000, "headers are longer than 64 KiB"),
        (CHUNKED + b"0\r\n" + b"x-again: and again\r\n" * 10_000, "longer than the body may be"),
        (CHUNKED + b"0\r\nx-long: " + b"x" * 200_000, "longer than the body may be"),
        (CHUNKED + b"2;" + b"x" * 200_000, "longer than the body may be|response is not HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, "headers are longer than 64 KiB"),
        (HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", "response is not HTTP"),
        (b"HTTP/1.1 101 No\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "not HTTP|without a"),
        (CHUNKED + b"not hex\r\n", "response is not HTTP"),
        (HEAD + LENGTH + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS, "response is not HTTP"),
        (HEAD + b"content-length : 5\r\n\r\nabc", "closed after 3 bytes"),
        (HEAD + b"x: a\rcontent-length: 3\r\n\r\nabc", "response is not HTTP"),
        (HEAD + b"transfer-encoding: Chunked\r\n\r\n" + CHUNKS[:20], "closed after .* bytes"),
    ],
)
def test_failures(data: bytes, message: str, size: int) -> None:
    """Heads and trailers are limited in size, and a response that is not HTTP is a failure."""
    with pytest.raises(TransportFailure, match=message):
        read(data, size)


def test_many_small_chunks() -> None:
    """The framing of chunks does not count towards the limit of headers."""
    reader = ResponseReader(100_000)

    assert reader.feed(memoryview(CHUNKED + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n"))
    assert reader.conclude(reader.failure).body == b"x" * 50_000
    assert reader.is_reusable


def test_status_without_a_body() -> None:
    """The status of a response is used even if its head is too long."""
    assert read(b"HTTP/1.1 401 No\r\n" + b"x-long: %b\r\n\r\n" % (b"x" * 100_000), 1_000_000)[1].status == 401


@pytest.mark.parametrize(
    ("base_url", "host", "path"),
    [
        ("https://example.com:443/v1", "example.com", "/v1/embeddings"),
        ("https://example.com:8443/a%20b/c d", "example.com:8443", "/a%20b/c%20d/embeddings"),
        ("http://[::1]:80/v1", "[::1]", "/v1/embeddings"),
        ("http://[::1]:8080/v1", "[::1]:8080", "/v1/embeddings"),
    ],
)
def test_request_heads(base_url: str, host: str, path: str, config: Any) -> None:
    """The Host header is correct, the path is escaped, and the user's headers replace ours."""
    head = AsyncioTransport(config(base_url, default_headers={"user-agent": "mine", "X-Trace": "1"}))._head
    first, *lines = head.decode().split("\r\n")

    assert first == f"POST {path} HTTP/1.1"
    assert f"Host: {host}" in lines
    assert {"user-agent: mine", "X-Trace: 1"} <= set(lines)
    assert not [line for line in lines if line.startswith("User-Agent")]


def test_gzip_without_content() -> None:
    """A gzip stream of endless empty blocks ends the reading."""
    body = Body(200, {"content-encoding": "gzip"}, 1000)
    begin = gzip.compress(b"", 0, mtime=0)[:10]
    assert not body.feed(begin)
    fed = 0
    while not body.feed(b"\x00\x00\x00\xff\xff" * 1000):
        fed += 5000
    assert fed < 200_000
    with pytest.raises(TransportFailure, match="gzip stream of the response body is longer than its content"):
        body.response()


def test_after_gzip() -> None:
    """Bytes after the end of the gzip stream are neither kept nor waited for."""
    body = Body(200, {"content-encoding": "gzip"}, 1000)
    assert not body.feed(ZIPPED)
    assert not body.feed(b"")
    tracemalloc.start()
    try:
        for _ in range(100):
            assert body.feed(bytes(65536))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert body.response().body == BODY


def test_empty_body() -> None:
    """An empty body is accepted, even if the headers say gzip."""
    assert Body(200, {"content-encoding": "gzip"}, 10).response().body == b""
