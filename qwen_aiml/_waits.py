"""
What connections and drivers wait for, as they say it: generators yield one of these, and are told what came.

    Ready   ->  True, or False if the time was up
    LookUp  ->  the addresses; raises OSError
    Called  ->  None
    Pause   ->  None
    Run     ->  what the function returned; raises what it raised

`_loop` waits for all of them in a thread, and `_await` for the first two on asyncio and Trio.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


class Ready(Struct, frozen=True, eq=False):
    """
    Wait until a socket can be read from, or written to.

    Attributes:
        socket: One that does not block.

        to_write: Which of the two.

        until: Reading of the clock at which to give up.
    """

    socket: socket.socket
    to_write: bool
    until: float


class LookUp(Struct, frozen=True, eq=False):
    """
    Ask the system for the addresses of a host.

    Attributes:
        host: Its name.

        port: Goes into the addresses.

        until: Reading of the clock at which to give up, where that can be done.
    """

    host: str
    port: int
    until: float


class Called(Struct, frozen=True, eq=False):
    """
    Wait to be called.

    Attributes:
        by: Is handed the function to call, which may be called at once, and from any thread.

        until: Reading of the clock at which to give up.
    """

    by: Callable[[Callable[[], None]], None]
    until: float


class Pause(Struct, frozen=True, eq=False):
    """Do nothing *until* a reading of the clock, or until nothing more is to be done."""

    until: float


class Run(Struct, frozen=True, eq=False):
    """
    Call a function that may take its time.

    Attributes:
        function: Takes nothing.

        break_off: Ends it, from any thread, as often as it is called; None if nothing can.

        until: Reading of the clock at which to break it off.
    """

    function: Callable[[], Any]
    break_off: Callable[[], None] | None = None
    until: float = math.inf


AnyWait: TypeAlias = Ready | LookUp | Called | Pause | Run
