"""The scenario that is run on each store, in both frameworks."""

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
    """Return a text's ID: a UUID, since Qdrant accepts no other strings."""
    return str(uuid5(NAMESPACE_URL, text))


IDS = [id_of(text) for text in TEXTS]


def said(error: BaseException) -> str:
    """Return the type and the first line of a store's error."""
    return f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")


class Fails(NamedTuple):
    """A check that a store is known to fail."""

    raises: type[BaseException] | tuple[type[BaseException], ...]
    """The exceptions that it raises."""

    why: str
    """The reason, as shown on the page."""

    since: str = "0"
    """The first version of the framework's core with which it fails."""


NOT_RAISED = pytest.fail.Exception
"""The exception of `pytest.raises` if nothing was raised."""


def is_at_least(package: str, bound: str) -> bool:
    """Return whether an installed package has at least this minor version."""
    installed = tuple(map(int, version(package).split(".")[:2]))
    return installed >= tuple(map(int, bound.split(".")))


class Place:
    """
    Where one store keeps its data.

    Args:
        folder: An empty folder.

        postgres: Returns the URL of a PostgreSQL server.
    """

    title = ""
    """The store and its class, as the page names them."""

    package = ""
    """The package to install for it."""

    needs_core = "0"
    """The oldest version of the framework's core that its package accepts, if we accept an older one."""

    fails: ClassVar[dict[str, Fails]] = {}
    """Checks that it is known to fail, with what they raise and why."""

    def __init__(self, folder: Path, postgres: Callable[[], str]) -> None:
        self.folder = folder
        self.postgres = postgres
        self.name = f"texts_{uuid4().hex[:8]}"
        self.store: Any = None
        self.asynchronous = False  # for stores that are opened either for sync or for async use

    def close(self) -> None:
        """Save the data, and release them."""


def expect(
    request: pytest.FixtureRequest, kind: type[Place], check: str, known: Mapping[str, Fails], core: str
) -> None:
    """
    Expect a check that is known to fail to do so, in exactly this way.

    It is skipped if the framework's core is too old for the store's package.
    """
    if not is_at_least(core, kind.needs_core):
        pytest.skip(f"{kind.package} needs {core} {kind.needs_core}")
    if (fails := known.get(check)) and is_at_least(core, fails.since):
        request.applymarker(pytest.mark.xfail(raises=fails.raises, reason=fails.why, strict=True))


def places(stores: tuple[type[Place], ...], core: str) -> Any:
    """Create the fixture that yields the place of each store of a framework in turn."""

    @pytest.fixture(params=stores, ids=lambda kind: kind.title)
    def place(request: pytest.FixtureRequest, tmp_path: Path, postgres: Callable[[], str]) -> Iterator[Place]:
        kind: type[Place] = request.param
        expect(request, kind, request.function.__name__.removeprefix("test_"), kind.fails, core)
        instance = kind(tmp_path, postgres)
        yield instance
        instance.close()

    return place
