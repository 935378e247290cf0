"""The emulator in place of the service, for a whole process, whoever makes the clients."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qwen_aiml._keys import KEY_VARIABLES, Secret
from qwen_aiml._transport.override import StandIn, everywhere
from qwen_aiml._urls import URL_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._emulator import Emulator

# Where a process that is started meanwhile would send, which is out of the emulator's reach.
# Source: RFC 2606, 2: no such name is ever resolved.
_NOWHERE = "https://this-emulator-is-in-another-process.invalid/v1"


@contextmanager
def intercept(emulator: Emulator, *, base_url: str | None = None) -> Iterator[Emulator]:
    """
    Let every client of this process talk to *emulator*, until the context is left.

    Also those that were made before, and those with an address, a key or an ``http_client`` of their own,
    but for clients that were given another emulator's options. No socket is opened. The environment holds
    the emulator's key instead of yours, and an address where nobody is, so that processes which are started
    meanwhile reach no service either; a forked one has a copy of the emulator.

    Args:
        emulator: What answers.

        base_url: What `serve` gave for this emulator, so that processes which are started meanwhile reach
            it. None: nobody does.

    Returns:
        The same emulator.
    """
    options = emulator.client_options()
    before = {name: os.environ.pop(name, None) for name in (*KEY_VARIABLES, *URL_VARIABLES)}
    outer = everywhere.stand_in
    everywhere.stand_in = StandIn(
        key=Secret(options["api_key"]),
        replaced=frozenset(Secret((before[name] or "").strip()) for name in KEY_VARIABLES),
        clients={"Client": options["http_client"], "AsyncClient": options["http_async_client"]},
    )
    os.environ[KEY_VARIABLES[0]] = everywhere.stand_in.key.reveal()
    os.environ[URL_VARIABLES[0]] = base_url or _NOWHERE
    try:
        yield emulator
    finally:
        everywhere.stand_in = outer
        options["http_client"].close()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
