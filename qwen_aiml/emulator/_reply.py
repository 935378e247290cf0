"""What a transport or the server does about a request: a fault and an answer, put together."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._answers import Answer
    from ._fault import Fault


@dataclass(frozen=True, kw_only=True)
class Reply:
    """
    What happens on a connection, in this order.

    Args:
        latency: Seconds to wait, or infinity. Then the connection is reset if
            *answer* is None.

        answer: Its status and headers are sent, then its body.

        drip: Seconds before each byte; 0 sends as fast as can be.

        sent: How many bytes of the body are sent. If not all, the connection
            ends then.

        resets: Whether it ends with a reset.
    """

    latency: float
    answer: Answer | None
    drip: float
    sent: int
    resets: bool

    @property
    def is_plain(self) -> bool:
        """Whether an answer is sent, whole and at once."""
        return self.answer is not None and not (self.drip or self.resets or self.sent < len(self.answer.body))


def reply(fault: Fault, answer: Answer | None, latency: float) -> Reply:
    """
    Say what becomes of *answer*, which is None if it was not made.

    Args:
        fault: What goes wrong.

        answer: What would be sent if nothing did.

        latency: Seconds to wait, whatever the fault adds.
    """
    size = 0 if answer is None else len(answer.body)
    if fault.reset == "during":
        sent = size // 2
    elif fault.cut is None:
        sent = size
    else:
        sent = max(0, min(fault.cut, size - 1))
    return Reply(
        latency=inf if fault.hang else latency + fault.latency,
        answer=None if fault.reset == "after" else answer,
        drip=fault.drip,
        sent=sent,
        resets=fault.reset is not None,
    )
