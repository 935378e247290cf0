"""The running event loop, of asyncio or Trio."""

from __future__ import annotations

import asyncio
from typing import Any


def current_loop() -> Any:
    """Return the running event loop; on Trio, its token."""
    import anyio.lowlevel  # noqa: PLC0415 (slow to import; the first client has imported it)

    token = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)


def runs_asyncio() -> bool:
    """Return whether an asyncio task is running; Trio may be a guest in an asyncio event loop."""
    return asyncio._get_running_loop() is not None and asyncio.current_task() is not None  # noqa: SLF001 (documented)


def is_closed(loop: Any) -> bool:
    """Return whether a loop is known to have ended; always False for a token of Trio."""
    return bool(loop.is_closed()) if hasattr(loop, "is_closed") else False
