"""The emulator in place of the service, for a whole process, whoever makes the clients."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qwen_aiml._keys import KEY_VARIABLES, KeySource, Secret
from qwen_aiml._transport import override
from qwen_aiml._urls import DEFAULT_BASE_URL, URL_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qwen_aiml import EmbeddingConfig

    from .._emulator import Emulator

# Where a process that is started meanwhile would send, which is out of the emulator's reach.
# Source: RFC 2606, 2: no such name is ever resolved.
_NOWHERE = "https://this-emulator-is-in-another-process.invalid/v1"


@contextmanager
def intercept(emulator: Emulator, *, base_url: str | None = None) -> Iterator[Emulator]:
    """
    Redirect every client of this process to *emulator*, until the context is left.

    This includes clients created before, and those with a URL, an API key or an ``http_client`` of their own,
    but not those with another emulator's options. No network is used. The environment has the emulator's key
    in place of yours, and a URL that does not resolve, so that processes started meanwhile reach no service
    either; a forked process has a copy of the emulator.

    Args:
        emulator: The emulator.

        base_url: What `serve` returned for this emulator, so that processes started meanwhile reach it. None:
            they reach nothing.

    Returns:
        The same emulator.
    """
    options = emulator.client_options()
    before = {name: os.environ.pop(name, None) for name in (*KEY_VARIABLES, *URL_VARIABLES)}
    key = Secret(options["api_key"])
    replaced = {Secret((before[name] or "").strip()) for name in KEY_VARIABLES}

    def answer(config: EmbeddingConfig, sync: bool) -> tuple[EmbeddingConfig, Any]:  # noqa: FBT001 (a callback)
        # Keys of the service are not shown to the emulator, which gets its own instead. A function that gives
        # keys is not called: those are of the service, or of a gateway to it.
        is_replaced = config.api_key in replaced or isinstance(config.api_key, KeySource)
        config = replace(config, api_key=key if is_replaced else config.api_key, base_url=DEFAULT_BASE_URL)
        return config, options["http_client" if sync else "http_async_client"]

    outer, override.everywhere = override.everywhere, answer
    os.environ[KEY_VARIABLES[0]] = key.reveal()
    os.environ[URL_VARIABLES[0]] = base_url or _NOWHERE
    try:
        yield emulator
    finally:
        override.everywhere = outer
        options["http_client"].close()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
