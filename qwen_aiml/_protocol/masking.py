"""Masking of the API key and the texts in messages that may quote the request. No I/O here."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from .._keys import mark_runs, redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._keys import Secret

MAX_CHARACTERS = 300
MIN_MASKED = 4
MIN_RUN = 16  # characters that can't match by chance
MAX_READ = 4_000  # characters of a message that are read


def mask_message(message: str, texts: Sequence[str], instruction: str | None, secret: Secret) -> str:
    """
    Mask the API key and the texts in a message that may quote the request.

    Args:
        message: The message of the service or of httpx.

        texts: The texts of the request.

        instruction: The query instruction; None if there is none.

        secret: The API key of the request.

    Returns:
        At most 300 characters. Any 16 consecutive characters of a text are masked, whether quoted as sent, as
        JSON or as a Python literal, and any 8 of the key. A text of 4 to 15 characters is masked as a whole.
    """
    message = secret.scrub(message[:MAX_READ])
    hidden = bytearray(len(message))
    # Every escape has a backslash, and long texts are slow to escape.
    for form in _forms(texts, instruction, escaped="\\" in message):
        if MIN_MASKED <= len(form) < MIN_RUN:
            # Shorter forms reveal nothing and would match in ordinary sentences.
            word = re.escape(form)
            for found in re.finditer(rf"(?<!\w){word}(?!\w)" if form.isascii() else word, message):
                hidden[found.start() : found.end()] = b"\1" * len(form)
        mark_runs(message, hidden, form, MIN_RUN)
    message = redact(message, hidden, "[text]")
    return message if len(message) <= MAX_CHARACTERS else f"{message[: MAX_CHARACTERS - 1]}…"


def _forms(texts: Sequence[str], instruction: str | None, *, escaped: bool) -> set[str]:
    """Return the texts in the forms in which they may be quoted, with and without their instruction."""
    prefix = f"Instruct: {instruction}\nQuery:"
    plain = {form for text in texts for form in (text, text.removeprefix(prefix))}
    forms = set(plain)
    for form in plain if escaped else ():
        raw = repr(form.encode())[2:-1]  # as httpx quotes data that is not HTTP
        forms |= {json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1], raw}
    return forms
