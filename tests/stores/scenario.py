"""What every store is tried with, in both frameworks."""

from __future__ import annotations

from uuid import NAMESPACE_URL, uuid5

ENGLISH, FRENCH = "English", "French"
CAT = "The cat sat on the mat."
STOCKS = "Stocks fell sharply on Monday."
TEXTS = {CAT: ENGLISH, STOCKS: ENGLISH, "Le chat est sur le tapis.": FRENCH, "La pluie tombe.": FRENCH}
FRENCH_TEXTS = sorted(text for text, language in TEXTS.items() if language == FRENCH)
ABOUT_THE_CAT = "Where did the cat sit?"
INSTRUCTION = "Find what answers the question"

LENGTH, OTHER_LENGTH = 256, 128


def id_of(text: str) -> str:
    """Give a text's id: a UUID, since Qdrant takes no other strings."""
    return str(uuid5(NAMESPACE_URL, text))


IDS = [id_of(text) for text in TEXTS]


def said(error: BaseException) -> str:
    """Give the first line of what a store says."""
    return f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
