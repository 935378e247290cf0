"""
HTTP/1.1, as far as posting a body and reading the answer needs it; httptools parses. No I/O here.

An answer has headers of 64 KiB at the most, is plain or compressed with gzip, and ends as RFC 9112 says: by
its length, by its last chunk, or where neither is given as the connection is closed.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import httptools

from ._version import __version__
from ._protocol.response import Answer

if TYPE_CHECKING:
    from ._config import EmbeddingConfig

MOST_HEAD = 64 * 1024
DEFAULT_PORTS = {"http": 80, "https": 443}


class ProtocolError(Exception):
    """What came is no answer, or not a whole one; the message repeats nothing of it."""


class Poster:
    """
    Writes requests.

    Args:
        config: Tells the address, the key and further headers.
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        self._config = config
        parts = urlsplit(config.endpoint)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host.encode("idna").decode()
        if parts.port not in (None, DEFAULT_PORTS[parts.scheme]):
            host = f"{host}:{parts.port}"
        headers = {
            "Host": host,
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "Content-Type": "application/json",
            "User-Agent": f"qwen-aiml/{__version__}",
        }
        own = {name.lower(): name for name in headers}
        for name, value in (config.default_headers or {}).items():
            headers.pop(own.get(name.lower(), ""), None)
            headers[name] = value
        path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        self._head = "\r\n".join(lines).encode()

    def request(self, body: bytes) -> bytes:
        """Write one, the key included; keep it in no variable, which a traceback could show."""
        return b"%b\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (
            self._head,
            self._config.secret.reveal().encode(),
            len(body),
            body,
        )


class Incoming:
    """
    Puts an answer together from what comes.

    Args:
        most: Bytes of the body to read, decompressed; what is beyond is left.

    Attributes:
        is_reusable: Whether the connection may carry another request, once the answer is whole.
    """

    def __init__(self, most: int) -> None:
        self.is_reusable = False
        self._most = most
        self._status = 0
        self._headers: dict[str, str] = {}
        self._head_size = 0
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_whole = False
        self._broken: str | None = None
        self._unzip: Any = None
        self._parser: Any = httptools.HttpResponseParser(self)

    def feed(self, data: bytes | memoryview) -> bool:
        """
        Take in what came, and tell whether that was all that is needed.

        Raises:
            ProtocolError: If it is no answer.
        """
        if not self._status:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.is_reusable = False
            if not self._is_whole:
                # Not the error's own text, lest it repeat what came.
                raise ProtocolError(f"what came is no HTTP answer ({type(error).__name__})") from None
        if self._broken is not None:
            raise ProtocolError(self._broken)
        if not self._status and self._head_size > MOST_HEAD:
            raise ProtocolError(f"the headers are longer than {MOST_HEAD // 1024} KiB")
        return self._is_whole or self._size > self._most

    def end(self) -> None:
        """
        Take in that the connection was closed.

        Raises:
            ProtocolError: If more was to come.
        """
        if not self._status:
            raise ProtocolError("the connection was closed without an answer")
        if "content-length" in self._headers or "chunked" in self._headers.get("transfer-encoding", ""):
            raise ProtocolError(f"the connection was closed after {self._size} bytes of the answer's body")
        self._check_unzipped()
        if self._broken is not None:
            raise ProtocolError(self._broken)

    def answer(self) -> Answer:
        """Give the answer, with no more of its body than is wanted; nothing can be fed any more."""
        # It holds this object, and both would keep the body until garbage is collected.
        self._parser = None
        return Answer(self._status, self._headers, b"".join(self._chunks)[: self._most])

    # What httptools calls; an exception in here would come back as another.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; those of the same name are joined."""
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        """Keep the status, unless the answer is still to come."""
        status: int = self._parser.get_status_code()
        if status >= 200:  # noqa: PLR2004 (below that are announcements)
            self._status = status
            if self._headers.get("content-encoding", "").lower() in ("gzip", "x-gzip"):
                self._unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        if self._size > self._most:
            return
        if self._unzip is not None:
            try:
                data = self._unzip.decompress(data, self._most + 1 - self._size)
            except zlib.error:
                self._broken = "the answer's body is not the gzip that it is said to be"
                return
        self._chunks.append(data)
        self._size += len(data)

    def on_message_complete(self) -> None:
        """Note that the answer is whole, or that it comes after what was announced."""
        if not self._status:
            self._headers.clear()
            return
        self._is_whole = True
        self.is_reusable = self._parser.should_keep_alive()
        self._check_unzipped()

    def _check_unzipped(self) -> None:
        if self._unzip is not None and not self._unzip.eof and self._size <= self._most:
            self._broken = self._broken or "the answer's body is cut short within its gzip"
