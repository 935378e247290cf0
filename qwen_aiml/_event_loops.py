"""The event loop that runs here, and what happens when it ends; asyncio's and Trio's alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _anyio as anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ._sender import AsyncSender


async def close_with_loop(sender: AsyncSender) -> AsyncGenerator[None, None]:
    """
    Close *sender* when the event loop ends.

    An event loop closes the asynchronous generators that were begun in it before it ends, which is the one
    moment at which connections that belong to it can still be closed.
    """
    try:
        yield
    finally:
        await sender.aclose()


def is_closed(loop: Any) -> bool:
    """Tell whether a loop is known to have ended."""
    # What stands for a loop of Trio does not tell.
    is_closed = getattr(loop, "is_closed", None)
    return is_closed is not None and bool(is_closed())


def current_loop() -> Any:
    """Give what stands for the event loop that runs here."""
    token = anyio.lowlevel.current_token()
    return getattr(token, "native_token", token)
