"""A cache in one SQLite file, for any number of threads and processes at once."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import monotonic, sleep, time
from typing import TYPE_CHECKING
from weakref import WeakSet

from .._errors import CacheError, ConfigurationError, advised
from .._utils.threads import in_thread
from .paths import ELSEWHERE, check_folder, check_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from typing_extensions import Self

logger = logging.getLogger("qwen_aiml")

# Seconds to wait while other threads and processes write.
BUSY_SECONDS = 30.0

# Marks the file as ours ("qwen" in ASCII), and says which table is in it.
_APPLICATION_ID = 0x7177656E
_VERSION = 2

# SQLite may be built to take no more than 999 variables in one statement.
_MOST_VARIABLES = 500

_ADVICE = {
    "unable to open": "create its folder, or give the path of a file that this process may read and write",
    "not a database": "give another path, or delete the file",
    "malformed": "the file is damaged; delete it",
    "decode": "the file is damaged; delete it",
    "readonly": "give this process write access to the file and its folder",
    "full": "free some disk space",
    "locked": f"another process has kept it locked for {BUSY_SECONDS:g} s; end that process",
    "busy": f"other threads of this process have kept it busy for {BUSY_SECONDS:g} s",
}


class SQLiteCache:
    """
    Persist embeddings in one SQLite file.

    ```python
    embeddings = QwenAIMLEmbeddings(cache=SQLiteCache("embeddings.db"))
    ```

    The file is made when it is first needed, in a folder that must exist, with mode 0600. A file that
    cannot be written is opened read-only, and the first write logs a warning; later ones see whether it can
    be by then. Entries are never evicted automatically; ``prune`` removes old ones, and ``size`` is the size
    of the file in bytes.

    Threads and processes of one machine may share it, also after a fork; whoever writes waits for the
    others, up to 30 seconds. What is stored survives the end of the process, however sudden; after a loss
    of power the last entries may be missing, and are embedded again. Do not put it on a network file
    system: most lack the locks that SQLite needs.

    Copies and pickles take the path along, and open the file for themselves. ``close`` closes it; a later
    call opens it again.

    Args:
        path: Of the file; ``~`` is the user's folder.

    Raises:
        ConfigurationError: For a URL, for ``:memory:``, which no other process and no later one could read,
            and for a folder that is missing. Within an event loop of asyncio, where to look would block, that
            is found when the file is first needed.
    """

    # Of the class, for the end of an object whose path was refused.
    _connection: sqlite3.Connection | None = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_path(os.fspath(path))
        self._begin(os.fspath(path))
        if asyncio._get_running_loop() is None:  # noqa: SLF001 (documented)
            self._make_absolute()
            check_folder(self._path)

    def _begin(self, path: str) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._is_read_only = False
        self._has_warned = False
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

        If the file can only be read, nothing is stored, and the first time a warning is logged.

        Raises:
            CacheError: If the file can't be opened or written.
        """
        with self._connected("written") as connection:
            if self._is_read_only:
                if not self._has_warned:
                    self._has_warned = True
                    logger.warning("the cache %s is read-only: nothing new is stored in it", self._path)
                return
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                rows = [(key, entry, int(time())) for key, entry in entries.items()]
                connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", rows)

    def prune(self, *, older_than: timedelta | float) -> int:
        """
        Remove the entries that were stored longer ago, and give their space back to the disk.

        Others who use the file wait meanwhile.

        Args:
            older_than: A ``timedelta``, or seconds.

        Returns:
            How many were removed.

        Raises:
            ConfigurationError: If *older_than* is neither, or negative.

            CacheError: If the file can't be opened or written.
        """
        seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
            raise ConfigurationError("older_than must be a timedelta or a number of seconds, 0 or more")
        with self._connected("pruned") as connection:
            removed = connection.execute(
                "DELETE FROM entries WHERE stored <= ?", (time() - seconds,)
            ).rowcount
            if removed:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    @property
    def size(self) -> int:
        """Bytes on the disk, with what SQLite has not merged into the file yet; 0 if there is no file."""
        size = 0
        for path in (self._path, f"{self._path}-wal"):
            with suppress(FileNotFoundError):
                size += os.stat(path).st_size  # noqa: PTH116 (a string)
        return size

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give what `get_many` gives, awaited; on asyncio or Trio. Cancelling it does not wait for a lock."""
        return await in_thread(partial(self.get_many, keys))

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Store as `set_many` does, awaited; on asyncio or Trio. Cancelled, it goes on in its thread."""
        await in_thread(partial(self.set_many, entries))

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

    def __getstate__(self) -> str:
        self._make_absolute()
        return self._path

    def __setstate__(self, path: str) -> None:
        # A missing folder is no error here: one that is raised while a pickle is read hangs the workers of
        # multiprocessing.
        self._begin(path)

    @contextmanager
    def _connected(self, doing: str) -> Iterator[sqlite3.Connection]:
        until = monotonic() + BUSY_SECONDS
        try:
            # All threads wait for the same time at most, not one after the other.
            if not self._lock.acquire(timeout=BUSY_SECONDS):
                raise sqlite3.OperationalError("busy")
            try:
                if self._file != _identity(self._path):
                    self._disconnect()
                if self._connection is None:
                    self._make_absolute()
                    self._connection, self._is_read_only = _open(self._path)
                    self._file = _identity(self._path)
                milliseconds = max(0, int(1000 * (until - monotonic())))
                self._connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
                yield self._connection
            finally:
                self._release()
        except (sqlite3.Error, ValueError) as error:  # a path that can't be one; SQLite's message, if damaged
            said = str(error) or "its message can't be decoded"  # Python 3.10
            advice = next((what for part, what in _ADVICE.items() if part in said), "try another path")
            message = f"the cache {self._path} can't be {doing}: {said}"
            raise CacheError(advised(message, advice)) from error

    def _release(self) -> None:
        """Release the lock, and close the file first if that was asked for, or if it can only be read."""
        # It may be writable the next time: a full disk or too many open files can pass.
        if self._is_closing or self._is_read_only:
            self._is_closing = False
            self._disconnect()
        self._lock.release()

    def _make_absolute(self) -> None:
        # So that a process that changes its folder, or a copy in another, means the same file.
        self._path = os.path.abspath(os.path.expanduser(self._path))  # noqa: PTH100, PTH111 (pathlib's looks links up)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_creating = threading.Lock()  # so that nobody opens a file between the two calls of its creator


def _identity(path: str) -> tuple[int, int] | None:
    """Tell a file from another one at the same path; None if there is none."""
    try:
        file = os.stat(path)  # noqa: PTH116 (a string)
    except OSError:
        return None
    return file.st_dev, file.st_ino


def _open(path: str) -> tuple[sqlite3.Connection, bool]:
    """Open a file, made if need be; and tell whether it can only be read."""
    # Only a file that is not there yet: to close one drops all locks that this process has on it, those of
    # other objects' connections too. Source: SQLite, "How To Corrupt An SQLite Database File", 2.2.
    with _creating, suppress(OSError):  # which SQLite will meet as well, and say more of
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    # Not pathlib's, which raises if the folder may not be searched; SQLite says it as well, with the rest.
    uri, is_file = Path(path).as_uri(), os.path.isfile(path)  # noqa: PTH113
    read_only = is_file and not os.access(path, os.W_OK)
    immutable = f"{uri}?mode=ro&immutable=1"
    if read_only and not all(map(os.path.exists, (f"{path}-wal", f"{path}-shm"))):
        # SQLite would make those side files, and leave them; whoever may write the file could not write them.
        return _connect(path, immutable, read_only=True), True
    try:
        return _connect(path, uri, read_only=read_only), read_only
    except sqlite3.OperationalError as error:
        if not is_file or "locked" in str(error):
            raise
    # SQLite wants side files of a file that others may write, and here it can't make them.
    try:
        return _connect(path, f"{uri}?mode=ro", read_only=True), True
    except sqlite3.OperationalError:
        return _connect(path, immutable, read_only=True), True


def _connect(path: str, uri: str, *, read_only: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=True
    )
    try:
        _prepare(connection, path, read_only=read_only)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: str, *, read_only: bool) -> None:
    # A foreign file is left as it is, so this comes before anything that writes.
    with connection:
        connection.execute("BEGIN")
        ours = _is_ours(connection, path)
    if read_only:
        if not ours:
            message = f"the cache {path} is empty and can't be written"
            raise CacheError(advised(message, ELSEWHERE))
    elif not ours:
        _switch_to_wal(connection)
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if not _is_ours(connection, path):  # no other process was faster
                connection.execute(
                    "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB, stored INTEGER NOT NULL)"
                )
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute("PRAGMA synchronous = NORMAL")


def _is_ours(connection: sqlite3.Connection, path: str) -> bool:
    """Tell whether the file is a cache; False if it is empty and can become one."""
    (made_by,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (made_by, version, tables) == (0, 0, 0):
        return False
    if made_by != _APPLICATION_ID or version != _VERSION:
        kind = "another version of this project" if made_by == _APPLICATION_ID else "another program"
        message = f"the cache {path} is a database of {kind}, and was left as it is"
        raise CacheError(advised(message, ELSEWHERE))
    return True


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
