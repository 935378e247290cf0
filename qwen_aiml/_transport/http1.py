"""HTTP/1.1: the head of a request, and one response; httptools parses. No I/O here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import httptools

from .._version import __version__
from .base import TransportFailure
from .body import Body, conclude
from .failures import CLOSED, NOT_HTTP, cut_body

if TYPE_CHECKING:
    from .._config import EmbeddingConfig
    from .._protocol.response import Response

DEFAULT_PORTS = {"http": 80, "https": 443}
MAX_HEAD = 64 * 1024
_CHUNK_OVERHEAD = 32  # bytes around one chunk that do not count as headers


def request_head(config: EmbeddingConfig, host: str, port: int) -> bytes:
    """Write the request line and the headers that are the same each time."""
    parts = urlsplit(config.endpoint)
    host = f"[{host}]" if ":" in host else host
    headers = {
        "Host": host if port == DEFAULT_PORTS[parts.scheme] else f"{host}:{port}",
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
    return "\r\n".join(lines).encode()


class ResponseReader:
    """
    Reads one response.

    Args:
        max_bytes: Bytes of the body to keep.

    Attributes:
        is_reusable: Whether the connection may carry another request, once the response is complete.

        failure: Why there is no whole response.
    """

    def __init__(self, max_bytes: int) -> None:
        self.is_reusable = False
        self.failure: TransportFailure | None = None
        self._max_bytes = max_bytes
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body: Body | None = None
        self._is_complete = False
        self._overhead = 0  # bytes that are not the body's
        self._parser: Any = httptools.HttpResponseParser(self)

    def feed(self, data: memoryview) -> bool:
        """Take in what was received; tell whether nothing more is to be read."""
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # What follows a complete response is no part of it. The parser's words may repeat what came.
            self._fail(NOT_HTTP)
        if self._overhead > MAX_HEAD:
            self._fail(f"the headers are longer than {MAX_HEAD // 1024} KiB")
        return (
            self._is_complete or self.failure is not None or (self._body is not None and self._body.is_enough)
        )

    def end(self) -> TransportFailure | None:
        """Say what is missing, now that the connection was closed; None if nothing is."""
        if self._body is None:
            return TransportFailure("connection", CLOSED)
        if (
            "content-length" in self._headers
            or "chunked" in self._headers.get("transfer-encoding", "").lower()
        ):
            return cut_body(self._body.size)
        return None

    def conclude(self, failure: TransportFailure | None) -> Response:
        """
        Give the response; nothing can be fed any more.

        Raises:
            TransportFailure: If there is none.
        """
        # It holds this object, and both would keep the body until garbage is collected.
        self._parser = None
        if self._body is None:
            raise failure or TransportFailure("connection", CLOSED)
        return conclude(self._status, self._headers, self._body, failure)

    def _fail(self, detail: str) -> None:
        self.is_reusable = False
        if not self._is_complete:
            self.failure = self.failure or TransportFailure("connection", detail)

    # What httptools calls; an exception in here would come back as another.

    def on_message_begin(self) -> None:
        """Note when something follows a complete response."""
        self.is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the head; those of the same name are joined."""
        if self._body is None:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        """Keep the status, unless the response is still to come."""
        status: int = self._parser.get_status_code()
        if self._body is None and status >= 200:  # noqa: PLR2004 (below that are interim responses)
            self._status = status
            self._body = Body(self._max_bytes, self._headers)

    def on_chunk_header(self) -> None:
        """Allow for what surrounds a chunk."""
        self._overhead -= _CHUNK_OVERHEAD

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self._overhead -= len(data)
        if self._body is not None and not self._is_complete:
            self._body.feed(data)

    def on_message_complete(self) -> None:
        """Note that the response is complete, or forget the headers of an interim one."""
        if self._body is None:
            self._headers.clear()
        elif not self._is_complete:
            self._is_complete = True
            self.is_reusable = self._parser.should_keep_alive()
