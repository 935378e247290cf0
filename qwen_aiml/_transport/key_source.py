"""API keys from a user's function."""

from __future__ import annotations

import inspect
import traceback
from typing import TYPE_CHECKING

from .._errors import ConfigurationError
from .._keys import check_given_key, wrap_key
from .._utils.threads import run_in_thread

if TYPE_CHECKING:
    from .._keys import KeySource, Secret


async def resolve_key(source: KeySource) -> Secret:
    """
    Call the function in a worker thread, since it may block, and await its result if it is awaitable.

    Raises:
        ConfigurationError: If the function raises, or does not return a key. The message contains neither the
            returned value nor the text of the exception, which may contain a key.
    """
    try:
        given = await run_in_thread(source.call)
        if inspect.isawaitable(given):
            given = wrap_key(await given)
    except Exception as error:  # noqa: BLE001 (a user's function may raise anything)
        raised_at = traceback.extract_tb(error.__traceback__, limit=-1)[0]
        failure = f"{type(error).__name__} ({raised_at.filename}, line {raised_at.lineno})"
    else:
        return check_given_key(given)
    # Raised here, so that the function's exception is not its context, which a traceback would show.
    raise ConfigurationError(f"the api_key function raised {failure}; the request was not sent")
