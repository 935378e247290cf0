"""The quickstart, run as a newcomer runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_aiml.emulator import Emulator, serve

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "cookbook" / "quickstart.py"

# The article each query is about; its language is the query's.
ANSWERS = ["English, 24", "Spanish, 19", "German, 9", "Russian, 26", "Arabic, 23", "Hindi, 16"]
ANSWERS += ["Chinese (simplified), 27", "Japanese, 5"]


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run it with warnings as errors, where the packages under test are found."""
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(  # noqa: S603 (our own program)
        [sys.executable, str(QUICKSTART)],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **environment},
    )


def best(output: str) -> list[str]:
    """Read the best article of each query."""
    found = re.findall(r"^  \S.*\n    (-?\d\.\d{3})  (.+), article (\d+):", output, re.MULTILINE)
    return [f"{language}, {article}" for _, language, article in found]


def test_without_a_key() -> None:
    """Without a key it says in one line what it uses instead, and both find the right articles."""
    done = run()

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("No key in AIMLAPI_API_KEY, so this uses the emulator")
    assert best(done.stdout) == ANSWERS * 2
    assert done.stdout.count("390 texts in 39 requests") == 2


def test_with_a_key() -> None:
    """With a key it uses the service, wherever that is."""
    emulator = Emulator(api_keys=["a-key"])
    with serve(emulator) as base_url:
        done = run(AIMLAPI_API_KEY="a-key", AIMLAPI_BASE_URL=base_url)

    assert done.stdout.startswith(f"Using {base_url}\n"), done.stderr
    assert best(done.stdout) == ANSWERS * 2
    assert emulator.request_count == 2 * (39 + 8)


@pytest.mark.parametrize(
    ("emulator", "said"),
    [
        (Emulator(api_keys=["another"]), "AuthenticationError: HTTP 401"),
        (Emulator(credits=0), "InsufficientCreditsError: HTTP 403"),
    ],
)
def test_with_a_bad_key(emulator: Emulator, said: str) -> None:
    """A key that does not work gives one line, not a traceback."""
    with serve(emulator) as base_url:
        done = run(AIMLAPI_API_KEY="a-key", AIMLAPI_BASE_URL=base_url)

    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
