"""Worker threads for blocking functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


async def run_in_thread(function: Callable[[], _Result]) -> _Result:
    """
    Call a blocking function in a worker thread; after cancellation it continues there.

    If no thread can be started because the interpreter is shutting down, it is called directly.
    """
    is_called = False

    def call() -> _Result:
        nonlocal is_called
        is_called = True
        return function()

    try:
        # A separate limiter, since the number of calls is limited elsewhere.
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except RuntimeError:
        if is_called:
            raise
        return function()
