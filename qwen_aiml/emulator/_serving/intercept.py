"""The emulator in place of the service, for all clients of a process."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qwen_aiml._keys import KEY_VARIABLES, KeySource, Secret
from qwen_aiml._transport import selection
from qwen_aiml._urls import DEFAULT_BASE_URL, URL_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qwen_aiml import EmbeddingConfig

    from .._emulator import Emulator

# The base URL for processes started meanwhile, which cannot reach this emulator.
# Source: RFC 2606, 2: no such name is ever resolved.
_NOWHERE = "https://this-emulator-is-in-another-process.invalid/v1"


@contextmanager
def intercept(emulator: Emulator, *, base_url: str | None = None) -> Iterator[Emulator]:
    """
    Redirect every client of this process to *emulator* while a ``with`` block runs.

    This includes clients created before, and those with their own URL, API key or ``http_client``, but not
    those with another emulator's options. No network is used. During the block, the environment variables
    contain the emulator's key instead of yours, and a URL that does not resolve, so that processes started in
    it do not reach the service either. A forked process has a copy of the emulator.

    Args:
        emulator: The emulator.

        base_url: The URL that `serve` yielded for this emulator, for processes started in the block. None
            means that their requests fail.

    Yields:
        The same emulator.
    """
    options = emulator.client_options()
    before = {name: os.environ.pop(name, None) for name in (*KEY_VARIABLES, *URL_VARIABLES)}
    key = Secret(options["api_key"])
    replaced = {Secret((before[name] or "").strip()) for name in KEY_VARIABLES}

    def replacement(config: EmbeddingConfig, sync: bool) -> tuple[EmbeddingConfig, Any]:  # noqa: FBT001 (a callback)
        # The emulator gets its own key instead of the service's. A function that returns API keys is not
        # called, as its keys are for the service or for a gateway to it.
        is_replaced = config.api_key in replaced or isinstance(config.api_key, KeySource)
        config = replace(config, api_key=key if is_replaced else config.api_key, base_url=DEFAULT_BASE_URL)
        return config, options["http_client" if sync else "http_async_client"]

    outer, selection.override = selection.override, replacement
    os.environ[KEY_VARIABLES[0]] = key.reveal()
    os.environ[URL_VARIABLES[0]] = base_url or _NOWHERE
    try:
        yield emulator
    finally:
        selection.override = outer
        options["http_client"].close()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
