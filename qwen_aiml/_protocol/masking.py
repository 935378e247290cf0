"""The key and the texts, taken out of what may quote the request. No I/O here."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from .._keys import covered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .._config import EmbeddingConfig

MOST_CHARACTERS = 300
LEAST_MASKED = 4
TELLING = 16  # characters that can't be there by chance
BLOCK = TELLING // 2
MOST_MASKED = 20_000  # characters read
MOST_STEPS = 1_000_000  # comparisons made, a second or less


def masked(said: str, texts: Sequence[str], config: EmbeddingConfig) -> str:
    """
    Take the key and the texts out of a message that may quote the request.

    Args:
        said: What the service or httpx says.

        texts: What was sent.

        config: Tells the key, and the instruction that queries were sent with.

    Returns:
        At most 300 characters. Whatever has 16 characters in a row of a text is masked, as sent, as JSON or
        as Python shows it, and of the key 8; of a shorter text, all of it. If that can't be found out in
        time, since both repeat themselves over and over, nothing of the message is shown.
    """
    said = config.secret.scrub(said[:MOST_MASKED])
    hidden = bytearray(len(said))
    forms = _forms(texts, config.query_instruction)
    for form in forms:
        if LEAST_MASKED <= len(form) < TELLING:
            # Words of few letters tell nothing, and stand in many a sentence.
            word = re.escape(form)
            for found in re.finditer(rf"(?<!\w){word}(?!\w)" if form.isascii() else word, said):
                hidden[found.start() : found.end()] = b"\1" * len(form)
    if not _hide_runs(said, hidden, forms):
        return "[text]"
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


def _hide_runs(said: str, hidden: bytearray, forms: Iterable[str]) -> bool:
    """Hide what has a run of `TELLING` characters in common with a form; False if that takes too long."""
    found_at: dict[str, list[int]] = defaultdict(list)
    for at in range(len(said) - BLOCK + 1):
        found_at[said[at : at + BLOCK]].append(at)
    steps = 0
    for form in forms:
        # A run of 16 characters, wherever it begins, holds 8 whose position is a multiple of 8.
        for block in range(0, len(form) - BLOCK + 1, BLOCK):
            key = form[block : block + BLOCK]
            if key not in found_at:
                continue
            for at in found_at[key]:
                if hidden[at] and hidden[at + BLOCK - 1]:
                    continue
                start, end = _extended(said, at, form, block)
                steps += end - start
                if end - start >= TELLING:
                    hidden[start:end] = b"\1" * (end - start)
            steps += len(found_at[key])
            if steps > MOST_STEPS:
                return False
            found_at[key] = [at for at in found_at[key] if not (hidden[at] and hidden[at + BLOCK - 1])]
            if not found_at[key]:
                del found_at[key]
    return True


def _extended(said: str, at: int, form: str, block: int) -> tuple[int, int]:
    """Return where the run begins and ends that *said* and *form* have in common around two positions."""
    start, end, shift = at, at + BLOCK, block - at
    while start > 0 and start + shift > 0 and said[start - 1] == form[start - 1 + shift]:
        start -= 1
    while end < len(said) and end + shift < len(form) and said[end] == form[end + shift]:
        end += 1
    return start, end
