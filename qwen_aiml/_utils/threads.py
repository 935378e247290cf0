"""Worker threads for blocking functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

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
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.extend((function(), None))
        except BaseException as error:  # noqa: BLE001 (raised below)
            outcome.extend((None, error))

    try:
        # A separate limiter, since the number of calls is limited elsewhere.
        await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except RuntimeError:
        if not outcome:  # pragma: no branch (never called twice, whatever raised)
            call()
    result, error = outcome
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
