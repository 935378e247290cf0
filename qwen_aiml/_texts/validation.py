"""Which texts go out, and which never do. No I/O here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

from .._errors import ConfigurationError, InputTypeError, InputValueError, name_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

Role = Literal["document", "query"]


def check_texts(texts: Iterable[str], *, on_blank: str = "raise", first: int = 0) -> list[str]:
    """
    Refuse or replace what can't be embedded, before any request is sent.

    Args:
        texts: Any iterable of strings but a string itself.

        on_blank: ``raise``, or the text that takes the place of each that is empty or only white space.

        first: The index that errors name the first text by.

    Returns:
        The texts as a list, untouched but for those replaced.

    Raises:
        InputTypeError: If *texts* is not such an iterable, or some of its items are not strings.

        InputValueError: If some texts are empty or only white space, and *on_blank* is ``raise``. The service
            refuses a whole request for an empty text, and may do so for white space.

    Source: AI/ML API's schema has minLength 1; Alibaba's lower bound for a text is 1 token; that it strips
    white space first is reported, not established.
    """
    listed = list(iterate(texts))
    # Most are fine, and to look at each by itself takes some five times as long.
    if set(map(type, listed)) <= {str} and all(map(str.strip, listed)):
        return listed
    wrong = [index for index, text in enumerate(listed) if not isinstance(text, str)]
    blank = [index for index, text in enumerate(listed) if isinstance(text, str) and not text.strip()]
    if on_blank != "raise":
        for index in blank:
            listed[index] = on_blank
        blank = []
    if not wrong and not blank:
        return listed
    reasons, advice = [], _instead_of(listed[wrong[0]]) if wrong else "Leave them out"
    kinds = ", ".join(sorted({type(listed[index]).__name__ for index in wrong}))
    wrong, blank = [first + index for index in wrong], [first + index for index in blank]
    if wrong:
        reasons.append(f"not a string ({kinds}): {name_texts(wrong)}")
    if blank:
        reasons.append(f"empty or only white space: {name_texts(blank)}")
        advice += ", or set on_blank to a text to embed in place of the blank ones"
    message = f"nothing was sent, since some texts can't be embedded; {'; '.join(reasons)}. {advice}"
    error = InputTypeError if wrong else InputValueError
    raise error(message, indices=sorted(wrong + blank))


def check_text(text: str) -> str:
    """
    Refuse what is no text at all, where one is wanted; blank ones are `check_texts`'s to judge.

    Raises:
        InputTypeError: If it is not a string.
    """
    if isinstance(text, str):
        return text
    attribute = _attribute(text)
    message = f"nothing was sent, since one text is wanted here, a string, not {type(text).__name__}. " + (
        f"Give its .{attribute}" if attribute else "embed_documents, get_text_embedding_batch take lists"
    )
    raise InputTypeError(message, indices=(0,))


def _attribute(item: object) -> str | None:
    """Name what holds the text of a document or node of LangChain or LlamaIndex."""
    return next((name for name in ("page_content", "text") if hasattr(item, name)), None)


def _instead_of(item: object) -> str:
    """Say what to give instead of something that is not a string."""
    if attribute := _attribute(item):
        return f"Give the .{attribute} of each"
    if item is None or (isinstance(item, float) and math.isnan(item)):
        return "Leave out what is missing"
    if isinstance(item, bytes):
        return "Decode them"
    if isinstance(item, Mapping):
        return "Give the text that is in each"
    if isinstance(item, Iterable):
        return "Give one flat list of strings"
    return "Leave them out, or make strings of them"


def iterate(texts: Iterable[str]) -> Iterator[str]:
    """
    Begin to go through texts.

    Raises:
        InputTypeError: If *texts* can't be iterated, or is one string, a mapping or a table.
    """
    if isinstance(texts, (str, bytes)):
        message = f"texts must be a list of strings, not one {type(texts).__name__}; put it in a list"
        raise InputTypeError(message)
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        # They can be gone through, but for their keys.
        kind = type(texts).__name__
        raise InputTypeError(f"texts must be a list of strings, not {kind}; give its values, or one column")
    try:
        return iter(texts)
    except TypeError:
        message = f"texts must be a list of strings, not {type(texts).__name__}"
        raise InputTypeError(message) from None


def check_role(role: Role) -> Role:
    """Refuse what is neither ``document`` nor ``query``."""
    if role not in get_args(Role):
        message = f"role must be 'document' or 'query', not {role!r}"
        raise ConfigurationError(message)
    return role


def outgoing(text: str, instruction: str | None) -> str:
    """Do as `all_outgoing`, with one text."""
    return all_outgoing([text], instruction)[0]


def all_outgoing(texts: Iterable[str], instruction: str | None) -> list[str]:
    """
    Give texts as they are sent: as they came, but for what JSON can't carry and for a query's instruction.

    Args:
        texts: Checked ones. Halves of a surrogate pair are joined, lone ones become U+FFFD.

        instruction: The task to put before each query; None for documents, or for no prefix.

    Source: the form of the prefix, Qwen's README of Qwen3-Embedding; there is no space after ``Query:``.
    """
    # Subclasses, such as members of an enumeration, may print or compare as something else.
    plain: Iterable[str] = map(str.__str__, texts)
    if instruction is not None:
        plain = (f"Instruct: {instruction}\nQuery:{text}" for text in plain)
    return [text if text.isascii() else _without_halves(text) for text in plain]


def _without_halves(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
