"""Fixtures for the tests of Daft, which are not collected if it is not installed."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

OF_DAFT = ["test_daft.py", "test_killed_jobs.py", "test_ray.py", "job.py", "measured.py"]
NAMESPACES = ("unshare", "-rn", "-pf", "--kill-child", "--mount-proc")
collect_ignore = [] if find_spec("daft") else OF_DAFT


@pytest.fixture
def emulator() -> Emulator:
    """Return an emulator, which records its requests."""
    return Emulator()


@pytest.fixture
def url(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the emulator, with an API key and its URL in the environment."""
    with serve(emulator) as base_url:
        monkeypatch.setenv("AIMLAPI_API_KEY", "sk-test-0123456789abcdef")
        monkeypatch.setenv("AIMLAPI_BASE_URL", base_url)
        yield base_url


@pytest.fixture
def in_namespaces() -> tuple[str, ...]:
    """Return a command prefix that isolates a program's network and ends all its processes with it."""
    pytest.importorskip("ray")
    try:
        subprocess.run([*NAMESPACES, "true"], check=True)  # noqa: S603 (a constant)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("unshare can't make namespaces here")
    return NAMESPACES
