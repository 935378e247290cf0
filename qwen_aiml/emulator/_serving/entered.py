"""Asking an emulator on an event loop, which goes on while vectors are made that take long."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

from anyio import to_thread

from .._vectors.models import LEXICAL

if TYPE_CHECKING:
    from contextlib import AbstractContextManager, ExitStack

    from .._answers import Request
    from .._reply import Reply


class Handler(Protocol):
    """What transports and servers need of an emulator."""

    @property
    def vectors(self) -> str:
        """The name of its vectors."""
        ...

    def answering(self, request: Request) -> AbstractContextManager[Reply]:
        """Decide what *request* gets; it is in flight until this is left."""
        ...


async def entered(emulator: Handler, request: Request, in_flight: ExitStack) -> Reply:
    """Decide what *request* gets; it is in flight until *in_flight* is closed."""
    enter = partial(in_flight.enter_context, emulator.answering(request))
    return enter() if emulator.vectors == LEXICAL else await to_thread.run_sync(enter)
