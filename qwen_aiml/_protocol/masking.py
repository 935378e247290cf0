"""Masking of the API key and the texts in messages that may quote the request. No I/O here."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from .._keys import covered, hide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._keys import Secret

MOST_CHARACTERS = 300
LEAST_MASKED = 4
TELLING = 16  # characters that can't match by chance
MOST_MASKED = 4_000  # characters of a message that are read


def masked(said: str, texts: Sequence[str], instruction: str | None, secret: Secret) -> str:
    """
    Mask the API key and the texts in a message that may quote the request.

    Args:
        said: The message of the service or of httpx.

        texts: The texts of the request.

        instruction: The query instruction; None if there is none.

        secret: The API key of the request.

    Returns:
        At most 300 characters. Any 16 consecutive characters of a text are masked, whether quoted as sent, as
        JSON or as a Python literal, and any 8 of the key. A text of 4 to 15 characters is masked as a whole.
    """
    said = secret.scrub(said[:MOST_MASKED])
    hidden = bytearray(len(said))
    forms = _forms(texts, instruction)
    for form in forms:
        if LEAST_MASKED <= len(form) < TELLING:
            # Shorter forms reveal nothing and would match in ordinary sentences.
            word = re.escape(form)
            for found in re.finditer(rf"(?<!\w){word}(?!\w)" if form.isascii() else word, said):
                hidden[found.start() : found.end()] = b"\1" * len(form)
        hide(said, hidden, form, TELLING)
    said = covered(said, hidden, "[text]")
    return said if len(said) <= MOST_CHARACTERS else f"{said[: MOST_CHARACTERS - 1]}…"


def _forms(texts: Sequence[str], instruction: str | None) -> set[str]:
    """Return the texts in the forms in which they may be quoted, with and without their instruction."""
    prefix = f"Instruct: {instruction}\nQuery:"
    forms: set[str] = set()
    for form in {form for text in texts for form in (text, text.removeprefix(prefix))}:
        raw = repr(form.encode())[2:-1]  # as httpx quotes data that is not HTTP
        forms |= {form, json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1], raw}
    return forms
