"""The commands of the Makefile's targets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ((), "--sessions cookbook-installs\n"),
        (
            ("PAGES=search rag", "ARGS=-k 'rows or texts'", "PYTHONS=3.10 3.14"),
            "--sessions 'cookbook-installs(search)' 'cookbook-installs(rag)'\n",
        ),
    ],
    ids=["plain", "arguments"],
)
def test_commands(arguments: tuple[str, ...], command: str) -> None:
    """A shell can parse the commands of each target, with and without arguments."""
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    make = ["make", "--dry-run", *targets, *arguments]
    commands = subprocess.check_output(make, cwd=ROOT, text=True)  # noqa: S603 - our own

    assert command in commands
    subprocess.run(["sh", "-n"], check=True, input=commands, text=True)  # noqa: S607
