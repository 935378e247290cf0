"""Failures to inject into one request."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from ._responses import BODILESS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, kw_only=True)
class Fault:
    """
    A failure to inject into one request.

    With a status of 300 or more, or a reset "before", the request is not
    processed: not validated, and not billed. Otherwise it is.

    Args:
        status: Respond with this status, 200 to 599. Below 300 it is the
            status of a request that is processed and embedded; one that is
            rejected gets its rejection.

        headers: Headers to add to that response, or to replace; needs
            *status*.

        body: The body of that response; needs *status*. None means the one
            documented for the status.

        latency: Seconds to wait before this response, in addition to the
            emulator's.

        hang: Send nothing, and keep the connection open until the client
            closes it. In process, the wait ends with the client's read
            timeout, so a client without one waits for years.

        drip: Seconds to wait before each byte of the response, status line
            and headers included; in process, of its body only. 0: all is sent
            together.

        gzip: Compress the body, whether the client accepts that or not.

        cut: Send only this many bytes of the body (compressed, if *gzip*),
            though ``content-length`` promises all of it, then close the
            connection. The last byte is never sent.

        reset: Reset the connection "before" the request is processed (it is
            not billed), "after" (it is), or "during" the response, after half
            of its body.

        edit: Called with the parsed JSON of a 200 response; returns what is
            sent: a dict (NaN and infinity are written as such), or bytes.
            Responses with another status are not edited.

    Raises:
        ValueError: If a setting is out of range, or cannot be combined with
            another.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    latency: float = 0.0
    hang: bool = False
    drip: float = 0.0
    gzip: bool = False
    cut: int | None = None
    reset: Literal["before", "during", "after"] | None = None
    edit: Callable[[dict[str, Any]], dict[str, Any] | bytes] | None = None

    def __post_init__(self) -> None:
        """Reject invalid combinations."""
        if self.status is not None and not 200 <= self.status <= 599:  # noqa: PLR2004 - HTTP's final statuses
            problem = f"status must be 200 to 599, not {self.status}"
        elif not 0 <= self.latency < inf:
            problem = f"latency must be a number of seconds, 0 or more, not {self.latency}"
        elif not 0 <= self.drip < inf:
            problem = f"drip must be a number of seconds, 0 or more, not {self.drip}"
        elif self.cut is not None and self.cut < 0:
            problem = f"cut must be a number of bytes, 0 or more, not {self.cut}"
        elif self.reset not in {None, "before", "during", "after"}:
            problem = f'reset must be "before", "during" or "after", not {self.reset!r}'
        else:
            problem = self._conflict()
        if problem:
            raise ValueError(problem)

    def _conflict(self) -> str:
        """Describe the first conflict between settings; empty if there is none."""
        framing = {"content-length", "transfer-encoding"} | ({"content-encoding"} if self.gzip else set())
        computed = {name.lower() for name in self.headers} & framing
        responds = any(setting is not None for setting in (self.status, self.body, self.cut, self.edit))
        responds = responds or self.gzip or self.drip > 0
        rules = (
            (
                self.status is None and (self.body is not None or self.headers),
                "headers and body need a status: they are those of its answer",
            ),
            (
                self.hang and (responds or self.reset or self.latency),
                "hang sends nothing, ever, so it takes no other setting",
            ),
            (
                self.reset in {"before", "after"} and responds,
                f'reset "{self.reset}" sends no answer, so it takes no setting of one',
            ),
            (
                self.reset is not None and self.cut is not None,
                "reset and cut both end an answer early: give one of them",
            ),
            (
                self.edit is not None and self.status is not None,
                "edit changes a normal answer, status replaces it: give one of them",
            ),
            (
                self.status in BODILESS and (self.body or self.gzip),
                f"HTTP gives status {self.status} no body",
            ),
            (
                (self.cut is not None or self.reset) and (self.body == b"" or self.status in BODILESS),
                "an empty body cannot be cut",
            ),
            (
                computed,
                f"{', '.join(sorted(computed))}: the emulator frames bodies itself; use cut for a short one",
            ),
        )
        return next((problem for broken, problem in rules if broken), "")
