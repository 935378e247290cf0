"""Breaking off the connections of a synchronous call, at its deadline or when it is interrupted."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from ._sender import Line


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
