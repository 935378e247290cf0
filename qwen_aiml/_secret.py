"""A holder that keeps the API key out of everything that prints, copies or stores objects. No I/O here."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """
    A string that does not show itself.

    Its repr and str are masked, so tracebacks that print local variables do not show it; it can't be pickled.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Give the string itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def is_sendable(self) -> bool:
        """Tell whether an HTTP header can carry the string."""
        return self._value.isascii() and self._value.isprintable() and " " not in self._value

    def scrub(self, text: str) -> str:
        """Mask the string wherever it stands in *text*."""
        return text.replace(self._value, "[key]")

    def __repr__(self) -> str:
        return "Secret('**********')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __deepcopy__(self, memo: dict[int, object]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        message = "an API key is never pickled"
        raise TypeError(message)


class Unusable:
    """
    What stands for something that was given as a key and is no string; the thing itself is let go of.

    Attributes:
        kind: The name of its type.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
