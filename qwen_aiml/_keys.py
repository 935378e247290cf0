"""API keys: found, validated, and kept out of everything that prints, copies or stores objects."""

from __future__ import annotations

import os
import re
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, NoReturn

from ._errors import ConfigurationError
from ._urls import first_set

if TYPE_CHECKING:
    from typing_extensions import Self

KEYS_PAGE = "https://aimlapi.com/app/keys"

# Source: all three spellings appear in AI/ML API's own docs and SDKs; the first is the most used.
KEY_VARIABLES = ("AIMLAPI_API_KEY", "AIML_API_KEY", "AIMLAPI_KEY")

# Patterns that no key matches, each with advice.
_QUOTE = "[\"'`\u201c\u201d\u2018\u2019]"
_WORDS = r"(?i:(my|your|insert|enter|the)?[-_ ]*(own|aiml|aimlapi)?[-_ ]*api[-_ ]*key([-_ ]*here)?)"
_FLAWS = (
    (rf"{_QUOTE}.*|.*{_QUOTE}", "stands in quotation marks; leave them out"),
    (r"(?i)bearer .*", 'begins with "Bearer"; leave that out'),
    (r"(export )?[A-Z_]+KEY=.*", "begins with the name of a variable; leave that out"),
    (
        rf"[.…*]+|<.*>|\[.*\]|sk-[.…*xX]+|{_WORDS}",
        "is a placeholder; replace it with your key",
    ),
    (
        r"(?i)\$\w+|\$*\{.*\}|\$\(.*\)|%\w+%|none|null|nil|undefined",
        "stands for a variable that was not set when this was made; set it, or leave api_key out",
    ),
    (
        r".*[^!-~].*",
        "holds a space, a line break or another character that no key has; copy the key again",
    ),
)

MIN_RUN = 8  # consecutive characters of a key that can't occur by chance


def redact(text: str, hidden: bytearray, label: str) -> str:
    """Replace each run of characters of *text* that is marked in *hidden* with a label."""
    shown, end = [], 0
    for run in re.finditer(b"\1+", hidden):
        shown += [text[end : run.start()], label]
        end = run.end()
    return "".join([*shown, text[end:]])


def mark_runs(text: str, hidden: bytearray, secret: str, run: int) -> None:
    """Mark in *hidden* all substrings of *run* characters, an even number, that *text* and *secret* share."""
    # A run of 16 characters, wherever it begins, contains a block of 8 at a multiple of 8 in the secret.
    # Comparing only runs around blocks that the text also contains keeps long secrets fast.
    half = run // 2
    blocks = {text[at : at + half] for at in range(len(text) - half + 1)}
    runs: set[str] = set()
    for at in range(0, len(secret) - half + 1, half):
        if secret[at : at + half] in blocks:
            runs.update(secret[begin : begin + run] for begin in range(max(at - half, 0), at + 1))
    for at in range(len(text) - run + 1 if runs else 0):
        if text[at : at + run] in runs:
            hidden[at : at + run] = b"\1" * run


class Masked:
    """
    A value that is not shown: a key, or a function that returns one.

    Its repr and str are masked, so tracebacks that print local variables do not show it; it can't be pickled.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"{type(self).__name__}('**********')"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key, or an api_key function, is never pickled")


class Secret(Masked):
    """A masked string."""

    def reveal(self) -> str:
        """Return the string itself."""
        value: str = self._value
        return value

    def __bool__(self) -> bool:
        return bool(self._value)

    def flaw(self) -> str | None:
        """Return why the string can't be a key and what to do; None if it may be one."""
        flaws = (flaw for pattern, flaw in _FLAWS if re.fullmatch(pattern, self._value, re.DOTALL))
        return next(flaws, None)

    def scrub(self, text: str) -> str:
        """Mask each substring of 8 or more characters that *text* shares with the string."""
        hidden = bytearray(len(text))
        mark_runs(text, hidden, self._value, MIN_RUN)
        return redact(text, hidden, "[key]")


class KeySource(Masked):
    """A masked user function that returns the key, or an awaitable of it."""

    def call(self) -> Any:
        """Call the function; return an awaitable unchanged, and anything else wrapped."""
        given = self._value()
        return given if isawaitable(given) else wrap_key(given)


class InvalidKey:
    """
    Placeholder for a value that is not a string but was given as a key; the value is not kept.

    Attributes:
        kind: Name of the value's type.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind


def find_key(secret: Secret | KeySource | InvalidKey) -> Secret | KeySource:
    if isinstance(secret, InvalidKey):
        message = f"api_key must be a string, or a function that returns one, not {secret.kind}"
        raise ConfigurationError(message)
    if isinstance(secret, KeySource):
        return secret
    given = "api_key"
    if not secret and (variable := first_set(KEY_VARIABLES)):
        given = f"{variable} in the environment"
        secret = Secret(os.environ[variable].strip())
    if not secret:
        raise ConfigurationError(
            f"no API key: give api_key, or set the environment variable {KEY_VARIABLES[0]}. "
            f"Create one at {KEYS_PAGE}. To try without one, use qwen_aiml.emulator.Emulator"
        )
    if flaw := secret.flaw():
        raise ConfigurationError(f"{given} {flaw}. Create one at {KEYS_PAGE}")
    return secret


def check_given_key(secret: Secret | KeySource | InvalidKey) -> Secret:
    """
    Return the key that a function returned, validated.

    Raises:
        ConfigurationError: If it can't be a key.
    """
    if not isinstance(secret, Secret):
        kind = secret.kind if isinstance(secret, InvalidKey) else "a function"
        raise ConfigurationError(f"the api_key function must return a string, not {kind}")
    if not secret:
        raise ConfigurationError("the api_key function returned nothing; it must return a key")
    if flaw := secret.flaw():
        raise ConfigurationError(f"the value that the api_key function returned {flaw}")
    return secret


def wrap_key(given: Any) -> Secret | KeySource | InvalidKey:
    """Wrap a value given as a key, so that no frame's variables show it from here on."""
    if hasattr(given, "get_secret_value"):  # pydantic's SecretStr
        given = given.get_secret_value()
    if isinstance(given, (Secret, KeySource, InvalidKey)):
        return given
    if given is None or isinstance(given, str):
        return Secret((given or "").strip())
    if callable(given):
        return KeySource(given)
    return InvalidKey(type(given).__name__)
