"""What the frames of a traceback hold: of this project's, no texts once an error leaves it. No I/O here."""

from __future__ import annotations

from contextlib import suppress
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .._errors import EmbeddingBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Function = TypeVar("_Function", bound="Callable[..., Any]")

_OWN = ("qwen_aiml", "langchain_qwen_aiml", "llama_index_qwen_aiml")


def shows_no_texts(function: _Function) -> _Function:
    """Clear this project's frames of all errors that a public function raises, sync or async."""
    if iscoroutinefunction(function):

        @wraps(function)
        async def call(*arguments: Any, **options: Any) -> Any:
            try:
                return await function(*arguments, **options)
            except Exception as error:
                del arguments, options
                clear_frames(error)
                raise

    else:

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            except Exception as error:
                del arguments, options
                clear_frames(error)
                raise

    return cast("_Function", call)


def clear_frames(error: BaseException | None) -> None:
    """
    Clear the local variables of this project's frames that have ended; None has none.

    What reports errors, such as Sentry or rich, shows the variables of each frame. Files, lines and functions
    stay, and so do the frames of the user's own code.
    """
    for each in _related(error):
        at = each.__traceback__
        while at is not None:
            frame, at = at.tb_frame, at.tb_next
            if frame.f_globals.get("__name__", "").partition(".")[0] in _OWN:
                with suppress(RuntimeError):  # it runs, or may go on
                    frame.clear()


def _related(error: BaseException | None) -> Iterator[BaseException]:
    """Go through an error, what caused it, and what it holds."""
    waiting = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, EmbeddingBatchError):
            waiting += each.failures.values()
        yield each
