"""Validation of texts, and the form in which they are sent. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

from .._errors import ConfigurationError, InputTypeError, InputValueError, advised, name_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

Role = Literal["document", "query"]


def check_texts(texts: Iterable[str], *, blank_replacement: str | None = None, first: int = 0) -> list[str]:
    """
    Reject or replace texts that can't be embedded, before any request is sent.

    Args:
        texts: Any iterable of strings except a string itself.

        blank_replacement: Replacement for texts that are empty or only white space; None rejects them.

        first: Index of the first text in errors.

    Returns:
        The texts as a list, unchanged except for those replaced.

    Raises:
        InputTypeError: If *texts* is not such an iterable, or some of its items are not strings.

        InputValueError: If some texts are empty or only white space, and there is no replacement. The
            service rejects the whole request for an empty text, and may do so for white space.

    Source: AI/ML API's schema has minLength 1; Alibaba's lower bound for a text is 1 token; that it strips
    white space first is reported, not established.
    """
    listed = list(iterate(texts))
    # Most lists are valid, and checking each text separately takes about five times as long.
    if set(map(type, listed)) <= {str} and all(map(str.strip, listed)):
        return listed
    wrong = {at: type(text).__name__ for at, text in enumerate(listed) if not isinstance(text, str)}
    blank = [at for at, text in enumerate(listed) if isinstance(text, str) and not text.strip()]
    if blank_replacement is not None:
        for at in blank:
            listed[at] = blank_replacement
        blank = []
    if not wrong and not blank:
        return listed
    reasons, advice = [], []
    if wrong:
        reasons.append(f"{name_items(wrong, first)}, expected str")
        advice.append(_ADVICE["not str"])
    if blank:
        reasons.append(name_items(dict.fromkeys(blank, "blank"), first))
        advice.append(_ADVICE["blank"])
    message = advised(f"{nothing_sent(first)}: {'; '.join(reasons)}", "; ".join(advice))
    error = InputTypeError if wrong else InputValueError
    raise error(message, indices=sorted(first + at for at in [*wrong, *blank]))


_ADVICE = {
    "not str": "remove missing values, and give the text of any other object",
    "blank": "remove the blank texts, or set on_blank='replace' and blank_replacement to a text",
}


def nothing_sent(first: int = 0) -> str:
    """Return the message that nothing was sent; for a later block of a stream, from its *first* text on."""
    return f"nothing was sent from text {first} on" if first else "nothing was sent"


def name_items(kinds: Mapping[int, str], first: int = 0) -> str:
    """
    Describe some texts, as in ``texts[1] is NoneType, texts[3-5] are int``.

    Args:
        kinds: Descriptions by ascending position. At most eight runs of them are spelled out.

        first: Index of the text at position 0.
    """

    def name(a: int, b: int, kind: str) -> str:
        a, b = a + first, b + first
        return f"texts[{a}] is {kind}" if a == b else f"texts[{a}-{b}] are {kind}"

    return name_runs(kinds, name)


def iterate(texts: Iterable[str]) -> Iterator[str]:
    """
    Return an iterator over texts.

    Raises:
        InputTypeError: If *texts* can't be iterated, or is one string, a mapping or a table.
    """
    if isinstance(texts, (str, bytes)):
        message = f"texts is one {type(texts).__name__}, expected a list of str"
        raise InputTypeError(advised(message, "put the text in a list, as str"))
    message = f"texts is {type(texts).__name__}, expected a list of str"
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        # Iterating over them would yield keys or column names.
        raise InputTypeError(advised(message, "give its values, or one column"))
    try:
        return iter(texts)
    except TypeError:
        raise InputTypeError(advised(message, "put the strings in a list")) from None


ON_BLANK = (
    "on_blank must be 'raise' or 'replace'. What to do: to embed another text in place of blank ones, give "
    "on_blank='replace' and blank_replacement='that text'"
)


def check_blank(mode: object, replacement: object) -> None:
    """Raise `ConfigurationError` unless the policy for blank texts is valid."""
    if mode not in ("raise", "replace"):
        raise ConfigurationError(ON_BLANK)
    if mode == "replace":
        if not isinstance(replacement, str) or not replacement.strip():
            message = "must be a string that is not blank, the text that on_blank='replace' embeds"
            raise ConfigurationError(f"blank_replacement {message}")
    elif replacement is not None:
        raise ConfigurationError("blank_replacement has no effect without on_blank='replace'; give both")


def check_role(role: Role) -> Role:
    """Return the role; raise `ConfigurationError` unless it is ``document`` or ``query``."""
    if role not in get_args(Role):
        message = f"role must be 'document' or 'query', not {role!r}"
        raise ConfigurationError(message)
    return role


def prepare_text(text: str, instruction: str | None) -> str:
    """Return one text in the form in which it is sent; see `prepare_texts`."""
    return prepare_texts([text], instruction)[0]


def prepare_texts(texts: Iterable[str], instruction: str | None) -> list[str]:
    """
    Return texts as sent: with a query's instruction, and without lone surrogates.

    Args:
        texts: Validated texts. Split surrogate pairs are joined, lone surrogates become U+FFFD.

        instruction: Task to prepend to each query; None for documents, or for no prefix.

    Source: the form of the prefix, Qwen's README of Qwen3-Embedding; there is no space after ``Query:``.
    """
    # Subclasses of str, such as enum members, may print or compare as something else.
    plain: Iterable[str] = map(str.__str__, texts)
    if instruction is not None:
        plain = (f"Instruct: {instruction}\nQuery:{text}" for text in plain)
    return [text if text.isascii() else _without_surrogates(text) for text in plain]


def _without_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
