"""Asking a user's function for the key of a request."""

from __future__ import annotations

import inspect
import traceback
from typing import TYPE_CHECKING

from .._errors import ConfigurationError
from .._keys import check_given_key, wrapped
from .._utils.threads import in_thread

if TYPE_CHECKING:
    from .._keys import KeySource, Secret


async def ask(source: KeySource) -> Secret:
    """
    Ask for the key, in a worker thread, as the function may block; what it returns is awaited if it can be.

    Raises:
        ConfigurationError: If the function raises, or returns what is no key. The message does not show what
            it raised or returned, which may hold a key.
    """
    try:
        given = await in_thread(source.call)
        if inspect.isawaitable(given):
            given = wrapped(await given)
    except Exception as error:  # noqa: BLE001 (whatever a user's function raises)
        raised_at = traceback.extract_tb(error.__traceback__, limit=-1)[0]
        failure = f"{type(error).__name__} ({raised_at.filename}, line {raised_at.lineno})"
    else:
        return check_given_key(given)
    # Out here, where the error of the function is no context of this one: a traceback would show it.
    raise ConfigurationError(f"the api_key function raised {failure}; no request was sent")
