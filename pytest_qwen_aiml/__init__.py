"""
Pytest plugin with the emulator as a fixture, ``qwen_aiml_emulator``; pytest loads it automatically.

It is a separate package, since pytest loads it in every project: other packages of this project are imported
only when a test uses the emulator.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qwen_aiml.emulator import Emulator

_NAME = "qwen_aiml_emulator"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{_NAME}(*, serve=False, **settings): run the test on the emulator of qwen-aiml, made with these "
        "settings; serve=True lets processes that the test starts reach it, too.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """
    Add the fixture to tests with only the marker, and start the event loop of synchronous calls.

    The event loop needs a pair of sockets, so it starts before pytest-socket blocks them. An autouse fixture
    would slow down every test of every project.
    """
    names: list[str] = getattr(item, "fixturenames", [])
    if _NAME not in names:
        if item.get_closest_marker(_NAME) is None:
            return
        _add_fixture(item, names)
    from qwen_aiml._engine.runner import background_loop  # noqa: PLC0415 (most tests do not need it)

    background_loop()


def _add_fixture(item: Any, names: list[str]) -> None:
    """Insert the fixture before all others of function scope, as pytest does with autouse fixtures."""
    known = item._fixtureinfo.name2fixturedefs  # noqa: SLF001 (no public API has the scopes)
    wider = [name for name in names if name in known and known[name][-1].scope != "function"]
    # A new list, since the parametrized variants of a test share one.
    item.fixturenames = [*wider, _NAME, *(name for name in names if name not in wider)]


@pytest.fixture
def qwen_aiml_emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """An emulator that all embeddings of qwen-aiml go to in this test, instead of the service."""  # noqa: D401 (for pytest --fixtures)
    from qwen_aiml.emulator import Emulator, intercept, serve  # noqa: PLC0415 (most tests do not need it)

    with ExitStack() as stack:
        settings = _settings(request.node)
        served = settings.pop("serve", False)
        emulator = Emulator(**settings)
        base_url = stack.enter_context(serve(emulator)) if served else None
        yield stack.enter_context(intercept(emulator, base_url=base_url))


def _settings(node: pytest.Item) -> dict[str, Any]:
    """Merge the settings of the markers of a test, its class and its module; the closest takes precedence."""
    settings: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers(_NAME))):
        if marker.args:
            raise pytest.UsageError(f"pytest.mark.{_NAME} takes settings by name only, such as max_rows=5")
        settings |= marker.kwargs
    return settings
