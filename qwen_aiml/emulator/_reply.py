"""A response combined with a fault: instructions for a transport or the server."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._fault import Fault
    from ._responses import Response


@dataclass(frozen=True, kw_only=True)
class Reply:
    """
    The events on a connection, in this order.

    Args:
        latency: Seconds to wait, or infinity. Then the connection is reset if
            *response* is None.

        response: The response whose status and headers are sent, then its body.

        drip: Seconds before each byte; 0: no delay.

        sent: Number of bytes of the body to send. If that is not all of it,
            the connection ends after them.

        resets: Whether the connection ends with a reset.
    """

    latency: float
    response: Response | None
    drip: float
    sent: int
    resets: bool

    @property
    def is_plain(self) -> bool:
        """Whether a complete response is sent without delay between its bytes."""
        return self.response is not None and not (
            self.drip or self.resets or self.sent < len(self.response.body)
        )


def reply(fault: Fault, response: Response | None, latency: float) -> Reply:
    """
    Combine *response* with *fault*.

    Args:
        fault: The fault to inject.

        response: The response; None if the request was not processed.

        latency: Seconds to wait, to which the fault's latency is added.
    """
    size = 0 if response is None else len(response.body)
    if fault.reset == "during":
        sent = size // 2
    elif fault.cut is None:
        sent = size
    else:
        sent = max(0, min(fault.cut, size - 1))
    return Reply(
        latency=inf if fault.hang else latency + fault.latency,
        response=None if fault.reset == "after" else response,
        drip=fault.drip,
        sent=sent,
        resets=fault.reset is not None,
    )
