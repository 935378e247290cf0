"""An emulator that is served on this machine, one for each test file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    """Share one account among the tests of a file."""
    return Emulator()


@pytest.fixture(scope="module")
def address(emulator: Emulator) -> Iterator[str]:
    """Serve it on this machine."""
    with serve(emulator) as base_url:
        yield base_url
