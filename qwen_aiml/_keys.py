"""API keys: found, checked, and kept out of everything that prints, copies or stores objects."""

from __future__ import annotations

import os
import re
from typing import Any, NoReturn

from ._errors import ConfigurationError
from ._urls import first_set

KEYS_PAGE = "https://aimlapi.com/app/keys"

# Source: all three spellings stand in AI/ML API's own docs and SDKs; the first is the most used.
KEY_VARIABLES = ("AIMLAPI_API_KEY", "AIML_API_KEY", "AIMLAPI_KEY")

_QUOTES = ('"', "'", "`", "\u201c", "\u201d", "\u2018", "\u2019")
_ASSIGNMENT = r"(export )?[A-Z_]+KEY="
_PLACEHOLDER = r"[.…*]+|<.*>"


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

    def flaw(self) -> str | None:
        """Say why the string can't be a key, and what to do; None if it may be one."""
        if self._value[:1] in _QUOTES or self._value[-1:] in _QUOTES:
            return "stands in quotation marks; leave them out"
        if self._value[:7].lower() == "bearer ":
            return 'begins with "Bearer"; leave that out'
        if re.match(_ASSIGNMENT, self._value):
            return "begins with the name of a variable; leave that out"
        if re.fullmatch(_PLACEHOLDER, self._value):
            return "is the placeholder of an example; put a key in its place"
        if not (self._value.isascii() and self._value.isprintable() and " " not in self._value):
            return "holds a space, a line break or another character that no key has; copy the key again"
        return None

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
    Represents something given as a key that is not a string; the thing itself is not kept.

    Attributes:
        kind: The name of its type.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind


def find_key(secret: Secret | Unusable) -> Secret:
    if isinstance(secret, Unusable):
        message = f"api_key must be a string, not {secret.kind}"
        raise ConfigurationError(message)
    given = "api_key"
    if not secret and (variable := first_set(KEY_VARIABLES)):
        given = f"{variable} in the environment"
        secret = Secret(os.environ[variable].strip())
    if not secret:
        message = (
            f"no API key: give api_key, or set the environment variable {KEY_VARIABLES[0]}. "
            f"Keys are made at {KEYS_PAGE}"
        )
        raise ConfigurationError(message)
    if flaw := secret.flaw():
        raise ConfigurationError(f"{given} {flaw}. Keys are made at {KEYS_PAGE}")
    return secret


def wrapped(given: Any) -> Secret | Unusable:
    """Wrap whatever was given as a key, so that from here on no frame's variables show it."""
    if hasattr(given, "get_secret_value"):  # pydantic's SecretStr
        given = given.get_secret_value()
    if isinstance(given, (Secret, Unusable)):
        return given
    if given is None or isinstance(given, str):
        return Secret((given or "").strip())
    return Unusable(type(given).__name__)
