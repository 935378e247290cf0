"""Breaking off the connections of a synchronous call, at its deadline or when it is interrupted."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Self


class Watch:
    """
    Breaks off the requests of one call at its deadline, whatever they wait for.

    A timeout of httpx bounds each read, so that headers which come a byte at a time would be waited for.

    Args:
        seconds: From now to the deadline; None if there is none.
    """

    def __init__(self, seconds: float | None) -> None:
        self._lock = threading.Lock()
        self._lines: set[Line] = set()
        self._is_over = False
        self._timer = None if seconds is None else threading.Timer(seconds, self.break_off)

    def __enter__(self) -> Self:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()

    @contextmanager
    def over(self, line: Line) -> Iterator[None]:
        """Watch one connection for the time of a request."""
        with self._lock:
            self._lines.add(line)
            if self._is_over:
                line.break_off()
        try:
            yield
        finally:
            with self._lock:
                self._lines.discard(line)

    def break_off(self) -> None:
        """End the requests under way, and those that are about to begin."""
        with self._lock:
            self._is_over = True
            for line in self._lines:
                line.break_off()


class Line:
    """
    A client of httpx and its one connection, which another thread can break off.

    Args:
        http: An ``httpx.Client`` that keeps one connection.

    Attributes:
        is_broken_off: Whether it was, and so is of no more use.
    """

    def __init__(self, http: Any) -> None:
        self.http = http
        self.is_broken_off = False
        self._connected: socket.socket | None = None
        # While TLS is negotiated it has taken the socket over, and only a second handle reaches it.
        self._negotiating: socket.socket | None = None

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Follow what httpcore tells of its connection."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._connected = info["return_value"].get_extra_info("socket")
            self._let_go()
            if self.is_broken_off:
                # It came too late for that, since nobody ends a look-up of a name.
                self.break_off()
        elif event.endswith("start_tls.started") and type(self._connected) is socket.socket:
            # TLS within that of a proxy takes nothing over.
            self._negotiating = self._connected.dup()
        elif event.endswith("start_tls.failed"):
            self._let_go()

    def break_off(self) -> None:
        """End whatever waits for this connection, or would once it is there."""
        self.is_broken_off = True
        for handle in (self._connected, self._negotiating):
            if handle is not None:
                with suppress(OSError):
                    # Not TLS's own way, which is not for two threads.
                    socket.socket.shutdown(handle, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self.http.close()

    def _let_go(self) -> None:
        if self._negotiating is not None:
            self._negotiating.close()
            self._negotiating = None
