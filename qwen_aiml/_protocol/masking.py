"""The key and the texts, taken out of what may quote the request. No I/O here."""

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
TELLING = 16  # characters that can't be there by chance
MOST_MASKED = 4_000  # characters read


def masked(said: str, texts: Sequence[str], instruction: str | None, secret: Secret) -> str:
    """
    Take the key and the texts out of a message that may quote the request.

    Args:
        said: What the service or httpx says.

        texts: What was sent.

        instruction: What queries were sent with; None for nothing.

        secret: The key that was sent.

    Returns:
        At most 300 characters. Whatever has 16 characters in a row of a text is masked, as sent, as JSON or
        as Python shows it, and of the key 8; of a shorter text, all of it.
    """
    said = secret.scrub(said[:MOST_MASKED])
    hidden = bytearray(len(said))
    forms = _forms(texts, instruction)
    for form in forms:
        if LEAST_MASKED <= len(form) < TELLING:
            # Words of few letters tell nothing, and stand in many a sentence.
            word = re.escape(form)
            for found in re.finditer(rf"(?<!\w){word}(?!\w)" if form.isascii() else word, said):
                hidden[found.start() : found.end()] = b"\1" * len(form)
        hide(said, hidden, form, TELLING)
    said = covered(said, hidden, "[text]")
    return said if len(said) <= MOST_CHARACTERS else f"{said[: MOST_CHARACTERS - 1]}…"


def _forms(texts: Sequence[str], instruction: str | None) -> set[str]:
    """Return the texts as they may be quoted, with their instruction and without."""
    prefix = f"Instruct: {instruction}\nQuery:"
    forms: set[str] = set()
    for form in {form for text in texts for form in (text, text.removeprefix(prefix))}:
        raw = repr(form.encode())[2:-1]  # as httpx shows what is no HTTP
        forms |= {form, json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1], raw}
    return forms
