"""Worker threads for blocking functions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("qwen_aiml")

_Result = TypeVar("_Result")


async def run_in_thread(function: Callable[[], _Result]) -> _Result:
    """
    Call a blocking function in a worker thread; after cancellation it continues there.

    If no thread can be started, it is called directly. This is logged, since it blocks the event loop, unless
    the interpreter is shutting down.
    """
    is_called = False

    def call() -> _Result:
        nonlocal is_called
        is_called = True
        return function()

    try:
        # A separate limiter, since the number of calls is limited elsewhere.
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except RuntimeError as error:
        if is_called:
            raise
        if "shutdown" not in str(error):
            logger.warning("no thread can be started (%s): a function blocks the event loop", error)
        return function()
