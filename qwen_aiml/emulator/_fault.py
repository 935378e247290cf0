"""What can be made to go wrong with one request."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from ._answers import BODILESS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, kw_only=True)
class Fault:
    """
    What happens to one request instead of, or on top of, a normal answer.

    With a status of 300 or more the request is not processed: not checked, not
    billed. Nor is it with a reset "before". With all else it is, as ever.

    Args:
        status: Answer with this status, 200 to 599. Below 300 it is the status
            of a request that is processed and embedded; one that is refused
            gets its refusal.

        headers: Headers to add to that answer, or to replace; needs *status*.

        body: The body of that answer; needs *status*. None: the one documented
            for the status.

        latency: Seconds to wait before this answer, on top of the emulator's.

        hang: Send nothing, and keep the connection open until the client
            leaves. In the process, where a client cannot leave before its
            read timeout, one without a timeout waits for years.

        drip: Seconds to wait before each byte of the answer: of its status
            line and headers too, but in the process of its body alone. 0:
            all is sent at once.

        gzip: Send the body compressed, whether the client takes that or not.

        cut: Send only this many bytes of the body as it is sent, though
            ``content-length`` promises all of it, then close. The last byte
            is never sent.

        reset: Break the connection "before" the request is processed (it is
            not billed), "after" (it is), or "during" the answer, after half
            of its body.

        edit: Makes what is sent of the parsed JSON of a 200 answer: a dict
            (NaN and infinity are written as such), or bytes, sent as they are.
            Answers of another status are not edited.

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
        """Refuse what cannot be done."""
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
        """Say which settings contradict each other; empty if none do."""
        framing = {"content-length", "transfer-encoding"} | ({"content-encoding"} if self.gzip else set())
        computed = {name.lower() for name in self.headers} & framing
        answers = any(setting is not None for setting in (self.status, self.body, self.cut, self.edit))
        answers = answers or self.gzip or self.drip > 0
        rules = (
            (
                self.status is None and (self.body is not None or self.headers),
                "headers and body need a status: they are those of its answer",
            ),
            (
                self.hang and (answers or self.reset or self.latency),
                "hang sends nothing, ever, so it takes no other setting",
            ),
            (
                self.reset in {"before", "after"} and answers,
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
