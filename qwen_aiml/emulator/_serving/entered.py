"""Calling an emulator from an event loop, without blocking it while a slow model embeds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from anyio import to_thread

from .._vectors.models import LEXICAL

if TYPE_CHECKING:
    from contextlib import AbstractContextManager, ExitStack

    from .._reply import Reply
    from .._responses import Request


class Handler(Protocol):
    """The part of an emulator that transports and servers use."""

    @property
    def vectors(self) -> str:
        """The name of the embedding model."""
        ...

    def answering(self, request: Request) -> AbstractContextManager[Reply]:
        """Decide how to respond to *request*, which is in flight until the context is left."""
        ...


async def entered(emulator: Handler, request: Request, in_flight: ExitStack) -> Reply:
    """Decide how to respond to *request*, which is in flight until *in_flight* is closed."""
    enter = partial(in_flight.enter_context, emulator.answering(request))
    return enter() if emulator.vectors == LEXICAL else await to_thread.run_sync(enter)
