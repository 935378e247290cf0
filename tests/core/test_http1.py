"""HTTP/1.1 without a network: what is written, and answers of every form in pieces of every size."""

from __future__ import annotations

import gc
import gzip
import weakref
from typing import Any

import pytest

from qwen_aiml import EmbeddingConfig
from qwen_aiml._http1 import MOST_HEAD, Incoming, Poster, ProtocolError

KEY = "sk-test-0123456789abcdef"
BODY = b'{"data": []}'
LENGTH = b"content-length: %d\r\n" % len(BODY)
HEAD = b"HTTP/1.1 200 OK\r\nX-Id: a\r\n"
CHUNKS = b"5\r\n" + BODY[:5] + b"\r\n7;note=x\r\n" + BODY[5:] + b"\r\n0\r\nx-trailer: t\r\n\r\n"
ZIPPED = gzip.compress(BODY)


def read(data: bytes, *, size: int = 100_000, most: int = 1000) -> Incoming:
    """Feed *data* in pieces of a *size*, as long as more is wanted, and then its end."""
    incoming = Incoming(most)
    for at in range(0, len(data), size):
        if incoming.feed(data[at : at + size]):
            return incoming
    incoming.end()
    return incoming


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("data", "reusable"),
    [
        (HEAD + LENGTH + b"\r\n" + BODY, True),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS, True),
        (HEAD + b"\r\n" + BODY, False),
        (HEAD + LENGTH + b"connection: close\r\n\r\n" + BODY, False),
        (HEAD.replace(b"1.1", b"1.0") + LENGTH + b"\r\n" + BODY, False),
        (b"HTTP/1.1 100 Continue\r\nx-hint: h\r\n\r\n" + HEAD + LENGTH + b"\r\n" + BODY, True),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2 + HEAD + LENGTH + b"\r\n" + BODY, True),
        (
            HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(ZIPPED) + ZIPPED,
            True,
        ),
        (HEAD + b"content-encoding: x-gzip\r\n\r\n" + ZIPPED, False),
    ],
)
def test_answers(data: bytes, size: int, reusable: bool) -> None:
    """An answer is read whole, by its length, its chunks or its end, however it comes in pieces."""
    incoming = read(data, size=size)
    answer = incoming.answer()

    assert (answer.status, answer.body, answer.headers["x-id"]) == (200, BODY, "a")
    assert "x-hint" not in answer.headers
    assert incoming.is_reusable == reusable


def test_answers_without_a_body() -> None:
    """No body is an answer too."""
    incoming = read(b"HTTP/1.1 429 Slow\r\nretry-after: 1\r\nX-A: b\r\nx-a: c\r\ncontent-length: 0\r\n\r\n")

    assert incoming.answer().status == 429
    assert incoming.answer().headers == {"retry-after": "1", "x-a": "b, c", "content-length": "0"}
    assert incoming.answer().body == b""


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nconte", "closed without an answer"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed without an answer"),
        (HEAD + LENGTH + b"\r\n" + BODY[:-1], r"closed after 11 bytes of the answer's body"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS[:20], "closed after .* bytes"),
        (b"SSH-2.0-OpenSSH\r\n", "what came is no HTTP answer"),
        (
            b"HTTP/1.1 200 OK\r\nbroken " + KEY.encode() + b"\x00\r\n\r\n",
            "what came is no HTTP answer",
        ),
        (b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "no HTTP answer|without an"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nnot hex\r\n", "what came is no HTTP answer"),
        (HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", "what came is no HTTP answer"),
        (
            HEAD + b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
            "not the gzip that it is said to be",
        ),
        (HEAD + b"content-encoding: gzip\r\n\r\n" + ZIPPED[:-9], "cut short within its gzip"),
        (
            HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % (len(ZIPPED) - 9) + ZIPPED[:-9],
            "cut short within its gzip",
        ),
        (HEAD + b"x-long: " + b"x" * 2 * MOST_HEAD, "headers are longer than 64 KiB|no HTTP answer"),
    ],
)
def test_no_answers(data: bytes, said: str, size: int) -> None:
    """What is no whole answer is told, without repeating any of it."""
    with pytest.raises(ProtocolError, match=said) as caught:
        read(data, size=size)

    assert KEY not in str(caught.value)


def test_headers_without_end() -> None:
    """Headers are read up to a bound, also where none of them is long."""
    with pytest.raises(ProtocolError, match="headers are longer than 64 KiB"):
        read(HEAD + b"x-again: and again\r\n" * 10_000, size=1000)


@pytest.mark.parametrize("encoding", [b"", b"content-encoding: gzip\r\n"])
def test_most(encoding: bytes) -> None:
    """No more of a body is read than is wanted, and no more is unpacked."""
    body = b"x" * 5_000_000
    incoming = Incoming(1000)
    head = HEAD + encoding + b"content-length: 5000000\r\n\r\n"

    assert incoming.feed(head + (gzip.compress(body) if encoding else body[:2000]))
    assert len(incoming.answer().body) == 1000
    assert sum(map(len, incoming._chunks)) <= 2000
    assert not incoming.is_reusable


def test_most_in_chunks() -> None:
    """Nor of one that comes in chunks."""
    incoming = Incoming(1000)
    chunk = b"384\r\n" + b"x" * 900 + b"\r\n"

    assert incoming.feed(HEAD + b"transfer-encoding: chunked\r\n\r\n" + 3 * chunk)
    assert len(incoming.answer().body) == 1000
    assert sum(map(len, incoming._chunks)) == 1800


def test_nothing_waits_for_the_collector() -> None:
    """A body is gone with its answer, and not only once garbage is collected."""
    incoming = Incoming(1000)
    incoming.feed(HEAD + LENGTH + b"\r\n" + BODY)
    incoming.answer()
    gone = weakref.ref(incoming)
    gc.disable()
    try:
        del incoming
        assert gone() is None
    finally:
        gc.enable()


def test_what_comes_after() -> None:
    """Bytes that follow an answer make its connection useless, not the answer."""
    incoming = Incoming(1000)

    assert incoming.feed(HEAD + LENGTH + b"\r\n" + BODY + b"surprise")
    assert incoming.answer().body == BODY
    assert not incoming.is_reusable


def written(**settings: Any) -> list[str]:
    """Give the lines of a request's head."""
    config = EmbeddingConfig(api_key=KEY, **settings)
    head, _, body = Poster(config).request(b"{}").partition(b"\r\n\r\n")
    assert body == b"{}"
    return head.decode().split("\r\n")


def test_requests() -> None:
    """A request names what it is, to whom it goes, and the key."""
    first, *headers = written()

    assert first == "POST /v1/embeddings HTTP/1.1"
    assert "Host: api.aimlapi.com" in headers
    assert f"Authorization: Bearer {KEY}" in headers
    assert "Content-Length: 2" in headers
    assert "Content-Type: application/json" in headers
    assert "Accept-Encoding: gzip" in headers


@pytest.mark.parametrize(
    ("base_url", "host", "path"),
    [
        ("https://example.com:443/v1", "example.com", "/v1/embeddings"),
        ("https://example.com:8443/a%20b/c d", "example.com:8443", "/a%20b/c%20d/embeddings"),
        ("http://[::1]:80/v1", "[::1]", "/v1/embeddings"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", "/v1/embeddings"),
        ("https://bücher.example/v1", "xn--bcher-kva.example", "/v1/embeddings"),
    ],
)
def test_addresses(base_url: str, host: str, path: str) -> None:
    """The host is named as HTTP wants it, and the path is escaped."""
    first, *headers = written(base_url=base_url)

    assert first == f"POST {path} HTTP/1.1"
    assert f"Host: {host}" in headers


def test_own_headers() -> None:
    """The user's headers replace ours of the same name, in any case."""
    headers = written(default_headers={"user-agent": "mine", "X-Trace": "1"})

    assert "user-agent: mine" in headers
    assert "X-Trace: 1" in headers
    assert not [line for line in headers if line.startswith("User-Agent")]
