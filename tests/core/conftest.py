"""Fixtures of the core tests: one emulator per test file, served on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    """Return an emulator that the tests of a file share."""
    return Emulator()


@pytest.fixture(scope="module")
def address(emulator: Emulator) -> Iterator[str]:
    """Serve the emulator on this machine, and yield its base URL."""
    with serve(emulator) as base_url:
        yield base_url
