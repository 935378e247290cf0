"""Properties that are computed when they are first read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Value = TypeVar("_Value")


class lazy_property(Generic[_Value]):  # noqa: N801 (named like the standard library's decorators)
    """
    `functools.cached_property` without its lock, which Python 3.10 and 3.11 have.

    That lock is shared by all instances, so a process forked while another thread holds it would wait for it
    forever. Without it, two threads may both compute a value.
    """

    def __init__(self, function: Callable[[Any], _Value]) -> None:
        self._function = function

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, _: type) -> _Value:
        value = instance.__dict__[self._name] = self._function(instance)
        return value
