"""
What flows ask for and are told: the words between decisions, which do no I/O, and the drivers, which do.

    Enter  ->  None, once the turn came, was withdrawn, or the deadline has passed
    Wait   ->  None
    Admit  ->  None, or what the user's rate limiter raised
    Send   ->  Answer, Fault, or an exception that the HTTP client is not known to raise
    Load   ->  the entries, or what the cache raised; None if the deadline came first
    Store  ->  None, or what the cache raised
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from ._protocol.response import Answer

if TYPE_CHECKING:
    from ._engine.queue import Turn


class Enter(Struct, frozen=True):
    """
    Wait for a turn.

    Attributes:
        turn: Calls when it has come.

        deadline: Reading of the clock at which to give up; None for never.
    """

    turn: Turn
    deadline: float | None


class Wait(Struct, frozen=True):
    """Do nothing for some *seconds*, or until the call is stopped."""

    seconds: float


class Admit(Struct, frozen=True):
    """
    Ask the user's rate limiter to let a request through.

    Attributes:
        tokens: About so many are in it.

        deadline: Reading of the clock at which to give up, where that can be done; None for never.
    """

    tokens: int
    deadline: float | None = None


class Send(Struct, frozen=True):
    """
    Post *body* to the endpoint.

    Attributes:
        body: JSON.

        deadline: Reading of the clock at which to give up; None for never.

        most: Bytes of the answer's body to read, decompressed; what is beyond is left.
    """

    body: bytes
    deadline: float | None
    most: int

    def __repr__(self) -> str:
        # A traceback that prints local variables shows no text.
        return f"Send(deadline={self.deadline}, most={self.most})"

    def is_late(self, now: float) -> bool:
        """Tell whether the deadline has passed."""
        return self.deadline is not None and self.deadline <= now


class Load(Struct, frozen=True):
    """
    Look up *keys* in the cache.

    Attributes:
        keys: As many as are looked up at a time.

        deadline: Reading of the clock at which to give up, where that can be done; None for never.
    """

    keys: Sequence[str]
    deadline: float | None = None


class Store(Struct, frozen=True):
    """Put *entries* into the cache, and be sure they are there."""

    entries: Mapping[str, bytes]


class Fault(Struct, frozen=True):
    """
    No answer came.

    Attributes:
        kind: What broke; ``certificate``, ``local`` (a request that can't be sent) and ``refused`` (by a
            proxy) won't pass by themselves.

        detail: What happened, for people; no text and no key.
    """

    kind: Literal["connection", "timeout", "certificate", "local", "proxy", "refused"]
    detail: str


LATE = Fault("timeout", "the answer was still to come when the deadline passed")

Step: TypeAlias = Enter | Wait | Admit | Send | Load | Store
Outcome: TypeAlias = Answer | Fault | Exception | Sequence[object] | None
