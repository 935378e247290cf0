"""What the tests of Daft share; where it is not installed, they are left out."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

OF_DAFT = ["test_daft.py", "test_killed_jobs.py", "job.py", "measured.py"]
collect_ignore = [] if find_spec("daft") else OF_DAFT


@pytest.fixture
def emulator() -> Emulator:
    """Give an emulator that tells what it was asked."""
    return Emulator()


@pytest.fixture
def url(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the emulator; the environment has a key and its URL."""
    with serve(emulator) as base_url:
        monkeypatch.setenv("AIMLAPI_API_KEY", "sk-test-0123456789abcdef")
        monkeypatch.setenv("AIMLAPI_BASE_URL", base_url)
        yield base_url
