"""Connections of httpx that another thread breaks off, whatever they wait for."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import Any

from qwen_aiml import EmbeddingConfig
from qwen_aiml._through_httpx import HTTPXLine, first_cause

KEY = "sk-test-0123456789abcdef"


def new_line() -> HTTPXLine:
    return HTTPXLine(EmbeddingConfig(api_key=KEY), time.monotonic)


class Stream:
    """What httpcore tells of: a network stream with its socket."""

    def __init__(self, handle: socket.socket) -> None:
        self.handle = handle

    def get_extra_info(self, name: str) -> Any:
        """Give the socket."""
        return self.handle if name == "socket" else None


def test_a_line() -> None:
    """A line follows its connection through TLS and leaves no handle open, whether that succeeds or fails."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = new_line()
        line.break_off()
        line.trace("connection.start_tls.started", {})
        line.trace("connection.connect_tcp.complete", {"return_value": Stream(ours)})
        line.trace("http11.send_request_headers.started", {})
        for end in ("complete", "failed"):
            line.trace("connection.start_tls.started", {})
            assert line._negotiating is not None
            line.trace(f"connection.start_tls.{end}", {"return_value": Stream(ours)})
            assert line._negotiating is None

        line.trace("connection.start_tls.started", {})
        line.break_off()
        assert theirs.recv(1) == b""
        line.trace("connection.start_tls.failed", {})
        theirs.close()
        ours.close()
        line.break_off()


def test_tls_within_that_of_a_proxy() -> None:
    """Where a proxy is spoken to by TLS, that of the service takes no socket over."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    ours, theirs = socket.socketpair()
    with theirs, context.wrap_socket(ours, do_handshake_on_connect=False) as secured:
        line = new_line()
        line.trace("connection.start_tls.complete", {"return_value": Stream(secured)})
        line.trace("proxy.start_tls.started", {})
        line.break_off()
        assert theirs.recv(1) == b""


def test_tls_sockets() -> None:
    """A socket that speaks TLS is broken off beneath it, while another thread reads from it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    ours, theirs = socket.socketpair()
    with theirs, context.wrap_socket(ours, do_handshake_on_connect=False) as secured:
        line = new_line()
        line.trace("connection.start_tls.complete", {"return_value": Stream(secured)})
        ended = []

        def shake_hands() -> None:
            try:
                secured.do_handshake()
            except (OSError, ValueError) as error:
                ended.append(error)

        thread = threading.Thread(target=shake_hands)
        thread.start()
        assert theirs.recv(1)
        line.break_off()
        thread.join(10)
        assert len(ended) == 1


def test_broken_off_before_it_is_there() -> None:
    """A connection that is made after it was broken off is so at once."""
    ours, theirs = socket.socketpair()
    line = new_line()
    with ours, theirs:
        line.break_off()
        line.trace("connection.connect_tcp.complete", {"return_value": Stream(ours)})
        assert theirs.recv(1) == b""
        assert not line.is_reusable


def test_several_addresses() -> None:
    """Of a host with several addresses the first one's error is told."""
    first = ConnectionRefusedError(111, "Connection refused")
    several = OSError("All connection attempts failed")
    cause = OSError("several")
    cause.exceptions = (first, OSError("other"))  # type: ignore[attr-defined]
    several.__cause__ = cause

    assert first_cause(several) is first
