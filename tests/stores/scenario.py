"""What every store is tried with, in both frameworks."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from uuid import NAMESPACE_URL, uuid4, uuid5

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

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


class Place:
    """
    Where one store keeps its data.

    Args:
        folder: An empty one.

        postgres: Gives the address of a PostgreSQL server.
    """

    title = ""
    """The store and its class, as the page names them."""

    package = ""
    """What is installed for it."""

    needs_core = "0"
    """The oldest version of the framework's core that its package takes, where we take an older one."""

    fails: ClassVar[dict[str, Fails]] = {}
    """Checks that it is known to fail, with what they raise and why."""

    def __init__(self, folder: Path, postgres: Callable[[], str]) -> None:
        self.folder = folder
        self.postgres = postgres
        self.name = f"texts_{uuid4().hex[:8]}"
        self.store: Any = None
        self.asynchronous = False  # for the stores that are made for one or the other

    def close(self) -> None:
        """Store the data, and release them."""


def expect(
    request: pytest.FixtureRequest, kind: type[Place], check: str, known: Mapping[str, Fails], core: str
) -> None:
    """
    Let the test fail as it is known to, and in no other way; and if it does not, let that be a failure.

    It is skipped where the framework's core is older than the store's package takes.
    """
    if not is_at_least(core, kind.needs_core):
        pytest.skip(f"{kind.package} needs {core} {kind.needs_core}")
    if (fails := known.get(check)) and is_at_least(core, fails.since):
        request.applymarker(pytest.mark.xfail(raises=fails.raises, reason=fails.why, strict=True))


def places(stores: tuple[type[Place], ...], core: str) -> Any:
    """Make the fixture that gives the place of each store of a framework in turn."""

    @pytest.fixture(params=stores, ids=lambda kind: kind.title)
    def place(request: pytest.FixtureRequest, tmp_path: Path, postgres: Callable[[], str]) -> Iterator[Place]:
        kind: type[Place] = request.param
        expect(request, kind, request.function.__name__.removeprefix("test_"), kind.fails, core)
        made = kind(tmp_path, postgres)
        yield made
        made.close()

    return place
