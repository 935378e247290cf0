"""Programs in separate processes, which embed with a server in this process, with a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import pytest

from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run: TypeAlias = Callable[..., str]

SECONDS = 60.0  # a program that takes longer is considered hung

# The first lines of each program.
BEGINNING = """
from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient, EmbeddingConfig

CONFIG = EmbeddingConfig(dimensions=64, allow_http=True)
TEXTS = [f"text {number}" for number in range(37)]
"""


@pytest.fixture
def emulator() -> Emulator:
    """Return the emulator that the programs use."""
    return Emulator()


@pytest.fixture
def address(emulator: Emulator) -> Iterator[str]:
    """Serve the emulator on this machine, and yield its URL."""
    with serve(emulator) as base_url:
        yield base_url


@pytest.fixture
def run(address: str) -> Run:
    """
    Return a function that runs a program and returns its output.

    It takes the program, options of Python, and environment variables. The program must exit with 0, and not
    write to stderr. Its child processes are killed when it ends.
    """

    def run(program: str, *options: str, **environment: str) -> str:
        # Without coverage's variables, as it would trace the program through forks and greenlets.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        process = subprocess.Popen(  # noqa: S603 (our own program)
            [sys.executable, *options, "-c", BEGINNING + textwrap.dedent(program)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={
                **inherited,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "AIMLAPI_BASE_URL": address,
                "AIMLAPI_API_KEY": "sk-test",
                **environment,
            },
        )
        with process:
            try:
                printed, errors = process.communicate(timeout=SECONDS)
            finally:
                if hasattr(os, "killpg"):
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.kill()
        assert (process.returncode, errors) == (0, ""), printed
        return printed

    return run
