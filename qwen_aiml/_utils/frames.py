"""Removal of variables (texts, misplaced keys) from our frames in errors raised to users. No I/O here."""

from __future__ import annotations

from contextlib import suppress
from functools import wraps
from inspect import iscoroutinefunction
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .._errors import EmbeddingBatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Function = TypeVar("_Function", bound="Callable[..., Any]")

_OWN = ("qwen_aiml", "langchain_qwen_aiml", "llama_index_qwen_aiml")


def hide_locals(function: _Function) -> _Function:
    """Clear this project's frames in all errors that a public function, sync or async, raises."""
    if iscoroutinefunction(function):

        @wraps(function)
        async def call(*arguments: Any, **options: Any) -> Any:
            try:
                return await function(*arguments, **options)
            except BaseException as error:  # also a cancellation, the cause of a TimeoutError
                del arguments, options
                clear_frames(error)
                raise

    else:

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            except BaseException as error:  # also an interrupt
                del arguments, options
                clear_frames(error)
                raise

    return cast("_Function", call)


def clear_frames(error: BaseException | None) -> None:
    """
    Clear the local variables of this project's finished frames; do nothing for None.

    Error reporters, such as Sentry or rich, show the variables of each frame. Files, lines and functions are
    kept, and so are the frames of user code.
    """
    for each in _related(error):
        for frame, _ in walk_tb(each.__traceback__):
            if frame.f_globals.get("__name__", "").partition(".")[0] in _OWN:
                with suppress(RuntimeError):  # it is running or suspended
                    frame.clear()


def _related(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its causes and contexts, and the failures that it contains."""
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
