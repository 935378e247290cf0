"""Response bodies for all transports: collected, decompressed and limited in size. No I/O here."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from .._protocol.response import Response
from .base import TransportFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

# Bytes by which a gzip stream may exceed its content: its header, and empty blocks.
_MAX_GZIP_OVERHEAD = 64 * 1024
_KNOWN_CODINGS = ("br", "compress", "deflate", "gzip", "identity", "x-compress", "x-gzip", "zstd")


class Body:
    """
    Collects the chunks of a response body, and decompresses gzip.

    Args:
        status: The HTTP status.

        headers: The response's headers, by lower-case name.

        max_bytes: Maximum bytes to keep, decompressed; a longer body is truncated.

    Attributes:
        is_finished: Whether reading more would change nothing; true from the start if the content encoding is
            not supported.

        size: Bytes collected, decompressed.
    """

    def __init__(self, status: int, headers: Mapping[str, str], max_bytes: int) -> None:
        self.is_finished = False
        self.size = 0
        self._status = status
        self._headers = headers
        self._max_bytes = max_bytes
        self._raw_size = 0
        self._chunks: list[bytes] = []
        self._failure: TransportFailure | None = None
        coding = headers.get("content-encoding", "").strip().lower()
        self._gzip: Any = zlib.decompressobj(16 + zlib.MAX_WBITS) if coding in ("gzip", "x-gzip") else None
        if self._gzip is None and coding not in ("", "identity"):
            names = [name.strip() for name in coding.split(",")]
            # An unknown name is not quoted, since it could be anything.
            known = ", ".join(name if name in _KNOWN_CODINGS else "unknown" for name in names[:4])
            self._stop(f"the response body has an unsupported content encoding ({known})")

    def feed(self, chunk: bytes) -> bool:
        """Add a chunk as received; return whether reading can end."""
        if self.is_finished:
            return True
        if self._gzip is not None:
            chunk = self._unpacked(self._gzip, chunk)
        self._chunks.append(chunk)
        self.size += len(chunk)
        self.is_finished = self.is_finished or self.size > self._max_bytes
        return self.is_finished

    def response(self, failure: TransportFailure | None = None) -> Response:
        """
        Return the response; only one with a 2xx status needs a complete body.

        Args:
            failure: The failure that ended the body early; None if there was none.

        Raises:
            TransportFailure: If the status is 2xx and the body can't be read.
        """
        if self._gzip is not None and self._raw_size and not self._gzip.eof and not self.is_finished:
            self._stop("the response body ends within its gzip")
        response = Response(self._status, self._headers, b"".join(self._chunks)[: self._max_bytes])
        failure = failure or self._failure
        if failure is not None and response.is_success:
            raise failure
        return response

    def _unpacked(self, gzip: Any, chunk: bytes) -> bytes:
        self._raw_size += len(chunk)
        try:
            unpacked: bytes = gzip.decompress(chunk, self._max_bytes + 1 - self.size)
        except zlib.error:
            self._stop("the response body is not valid gzip")
            return b""
        if gzip.unused_data:
            # Bytes after the end are ignored.
            self.is_finished = True
        elif not gzip.eof and self._raw_size > self._max_bytes + _MAX_GZIP_OVERHEAD:
            self._stop("the gzip stream of the response body is longer than its content")
        return unpacked

    def _stop(self, problem: str) -> None:
        self._failure = TransportFailure("connection", problem)
        self.is_finished = True
