"""The event loop that runs here, and closing a transport when it ends; for asyncio and Trio alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .base import Transport


async def close_with_loop(transport: Transport) -> AsyncGenerator[None, None]:
    """
    Close *transport* when the event loop ends; begin it with ``anext``, and keep a reference.

    An event loop closes the asynchronous generators that were begun in it before it ends, which is the one
    moment at which connections that belong to it can still be closed.
    """
    try:
        yield
    finally:
        await transport.aclose()


def current_loop() -> Any:
    """Give the event loop that runs here; for Trio, its token."""
    import anyio.lowlevel  # noqa: PLC0415 (slow to import)

    token = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)


def is_closed(loop: Any) -> bool:
    """Tell whether a loop is known to have ended."""
    # Trio's token does not tell.
    closed = getattr(loop, "is_closed", None)
    return closed is not None and bool(closed())
