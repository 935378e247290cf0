"""What every store is tried with, in both frameworks."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

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


class Fails(NamedTuple):
    """A check that a store is known to fail."""

    raises: type[BaseException] | tuple[type[BaseException], ...]
    """What it ends with."""

    why: str
    """The reason, as the page gives it."""

    since: str = "0"
    """The version of the framework's core from which on it does."""


NOT_RAISED = pytest.fail.Exception
"""What pytest ends with where nothing was raised."""


def is_at_least(package: str, bound: str) -> bool:
    """Compare the minor version of an installed package."""
    installed = tuple(map(int, version(package).split(".")[:2]))
    return installed >= tuple(map(int, bound.split(".")))


def expect(request: pytest.FixtureRequest, check: str, known: Mapping[str, Fails], core: str) -> None:
    """Let the test fail as it is known to, and in no other way; and if it does not, let that be a failure."""
    if (fails := known.get(check)) and is_at_least(core, fails.since):
        request.applymarker(pytest.mark.xfail(raises=fails.raises, reason=fails.why, strict=True))
