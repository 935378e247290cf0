"""Worker threads, for functions that block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """
    Call a function that may block, in a worker thread; when cancelled, let it go on there alone.

    It is called here if no thread can be started, as the interpreter ends.
    """
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.extend((function(), None))
        except BaseException as error:  # noqa: BLE001 (raised below)
            outcome.extend((None, error))

    try:
        # A limiter of its own, since the number of calls is bounded elsewhere.
        await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
    except RuntimeError:
        if not outcome:  # pragma: no branch (never twice, whatever it was that raised)
            call()
    result, error = outcome
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
