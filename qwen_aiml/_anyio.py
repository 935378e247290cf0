"""What is used of anyio, imported when it is first used, since synchronous calls do without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyio import CancelScope, Event, create_task_group, fail_after, lowlevel, move_on_after

__all__ = ["CancelScope", "Event", "create_task_group", "fail_after", "lowlevel", "move_on_after"]


def __getattr__(name: str) -> Any:
    import anyio.lowlevel  # noqa: PLC0415

    globals()[name] = getattr(anyio, name)
    return globals()[name]
