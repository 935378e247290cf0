"""A cache in one SQLite file, for any number of threads and processes at once."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING
from weakref import WeakSet

import anyio.to_thread

from .._errors import CacheError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Self

# Seconds to wait while other threads and processes write.
BUSY_SECONDS = 30.0

# Marks the file as ours ("qwen" in ASCII), and says which table is in it.
_APPLICATION_ID = 0x7177656E
_VERSION = 1

# SQLite may be built to take no more than 999 variables in one statement.
_MOST_VARIABLES = 500

_ADVICE = {
    "unable to open": "make its folder, or give the path of a file that this process may read and write",
    "not a database": "give another path, or delete the file",
    "malformed": "the file is damaged; delete it",
    "readonly": "let this process write the file and its folder",
    "full": "free some space",
    "locked": f"another process has kept it locked for {BUSY_SECONDS:g} s; end that process",
    "busy": f"other threads of this process have kept it busy for {BUSY_SECONDS:g} s",
}


class SQLiteCache:
    """
    Persist embeddings in one SQLite file.

    ```python
    embeddings = QwenAIMLEmbeddings(cache=SQLiteCache("embeddings.db"))
    ```

    The file is made when it is first needed, in a folder that must exist. Threads and processes of one
    machine may share it, also after a fork; whoever writes waits for the others, up to 30 seconds. What is
    stored survives the end of the process, however sudden; after a loss of power the last entries may be
    missing, and are embedded again. Do not put it on a network file system: most lack the locks that SQLite
    needs.

    Copies and pickles take the path along, and open the file for themselves. ``close`` closes it; a later
    call opens it again.

    Args:
        path: Of the file.

    Raises:
        ConfigurationError: For ``:memory:``, which no other process and no later one could read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._connection: sqlite3.Connection | None = None
        if os.fspath(path) == ":memory:":
            raise ConfigurationError("path must be that of a file; a cache in memory ends with its process")
        self._path = os.fspath(path)
        if not _runs_event_loop():
            self._make_absolute()
        self._lock = threading.Lock()
        self._is_closing = False
        with _registry:
            _alive.add(self)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """
        Give what is stored under each key, in their order, None where there is nothing.

        Raises:
            CacheError: If the file can't be opened or read.
        """
        found: dict[str, bytes] = {}
        with self._connected("read") as connection:
            for start in range(0, len(keys), _MOST_VARIABLES):
                some = keys[start : start + _MOST_VARIABLES]
                marks = ",".join("?" * len(some))
                # A cast, since damage can make a text of a value, and one that can't be decoded.
                query = f"SELECT key, CAST(value AS BLOB) FROM entries WHERE key IN ({marks})"  # noqa: S608
                found.update(connection.execute(query, some))
        return [found.get(key) for key in keys]

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """
        Store entries by key, over those that are there: all of them or, after an error, none.

        Raises:
            CacheError: If the file can't be opened or written.
        """
        with self._connected("written") as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", entries.items())

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give what `get_many` gives, awaited; on asyncio or Trio. Cancelling it does not wait for a lock."""
        return await anyio.to_thread.run_sync(self.get_many, keys, abandon_on_cancel=True)

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Store as `set_many` does, awaited; on asyncio or Trio. Cancelled, it goes on in its thread."""
        await anyio.to_thread.run_sync(self.set_many, entries, abandon_on_cancel=True)

    def close(self) -> None:
        """Close the file, once nobody uses it; a later call opens it again."""
        self._is_closing = True
        # Whoever holds the lock may have to wait for another process, and closes the file in the end.
        if self._lock.acquire(blocking=False):
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Nothing is left to be stored, so there is nothing to warn of.
        self._disconnect()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        self._make_absolute()
        return type(self), (self._path,)

    @contextmanager
    def _connected(self, doing: str) -> Iterator[sqlite3.Connection]:
        until = monotonic() + BUSY_SECONDS
        try:
            # All threads wait for the same time at most, not one after the other.
            if not self._lock.acquire(timeout=BUSY_SECONDS):
                raise sqlite3.OperationalError("busy")
            try:
                if self._connection is None:
                    self._connection = self._open()
                milliseconds = max(0, int(1000 * (until - monotonic())))
                self._connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
                yield self._connection
            finally:
                self._release()
        except sqlite3.Error as error:
            said = str(error)
            advice = next((what for part, what in _ADVICE.items() if part in said), "try another path")
            message = f"the cache {self._path} can't be {doing}: {said}. What to do: {advice}"
            raise CacheError(message) from error

    def _release(self) -> None:
        """Release the lock, and close the file first if that was asked for."""
        if self._is_closing:
            self._is_closing = False
            self._disconnect()
        self._lock.release()

    def _make_absolute(self) -> None:
        # So that a process that changes its folder, or a copy in another, means the same file.
        self._path = os.path.abspath(self._path)  # noqa: PTH100 (pathlib's would look links up)

    def _open(self) -> sqlite3.Connection:
        self._make_absolute()
        connection = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # A foreign file is left as it is, so this comes before anything that writes.
        with connection:
            connection.execute("BEGIN")
            ours = self._is_ours(connection)
        if not ours:
            _switch_to_wal(connection)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                if not self._is_ours(connection):  # no other process was faster
                    connection.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB)")
                    connection.execute(f"PRAGMA user_version = {_VERSION}")
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute("PRAGMA synchronous = NORMAL")

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Tell whether the file is a cache; False if it is empty and can become one."""
        (made_by,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (made_by, version, tables) == (0, 0, 0):
            return False
        if (made_by, version) != (_APPLICATION_ID, _VERSION):
            kind = "another version of this project" if made_by == _APPLICATION_ID else "another program"
            message = f"the cache {self._path} is a database of {kind}, and was left as it is"
            raise CacheError(f"{message}. What to do: give another path")
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _runs_event_loop() -> bool:
    """Tell whether an event loop of asyncio runs here, where finding out the folder would block."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 (documented)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work at once; the file remembers it."""
    give_up = monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # Two processes that make the same file: SQLite refuses one of them at once instead of waiting.
            if "locked" not in str(error) or monotonic() > give_up:
                raise
            sleep(0.01)
        else:
            return


# SQLite keeps track, within a process, of the locks it holds on a file. A fork copies that, but not the locks
# themselves, so that even a new connection of the child would go without. Hence none is open while a process
# forks. Source: SQLite, "How To Corrupt An SQLite Database File", 2.6, and its os_unix.c.
_alive: WeakSet[SQLiteCache] = WeakSet()
_registry = threading.Lock()
_held: list[SQLiteCache] = []


def _before_fork() -> None:
    _registry.acquire()
    for cache in list(_alive):
        cache._lock.acquire()  # noqa: SLF001 (of this module)
        _held.append(cache)
        cache._disconnect()  # noqa: SLF001 (of this module)


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()  # noqa: SLF001 (of this module)
    _registry.release()


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
