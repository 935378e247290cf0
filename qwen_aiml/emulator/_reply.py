"""A response combined with a fault: instructions for a transport or the server."""

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
    The events on a connection, in this order.

    Args:
        latency: Seconds to wait, or infinity. Then the connection is reset if
            *answer* is None.

        answer: The response whose status and headers are sent, then its body.

        drip: Seconds before each byte; 0: no delay.

        sent: Number of bytes of the body to send. If that is not all of it,
            the connection ends after them.

        resets: Whether the connection ends with a reset.
    """

    latency: float
    answer: Answer | None
    drip: float
    sent: int
    resets: bool

    @property
    def is_plain(self) -> bool:
        """Whether a complete response is sent without delay between its bytes."""
        return self.answer is not None and not (self.drip or self.resets or self.sent < len(self.answer.body))


def reply(fault: Fault, answer: Answer | None, latency: float) -> Reply:
    """
    Combine *answer* with *fault*.

    Args:
        fault: The fault to inject.

        answer: The response; None if the request was not processed.

        latency: Seconds to wait, to which the fault's latency is added.
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
