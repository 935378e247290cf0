"""A cache in one SQLite file, shared by any number of threads and processes."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING
from weakref import WeakSet

from .._errors import CacheError, ConfigurationError, advised
from .._utils.threads import run_in_thread
from .paths import OTHER_PATH, check_folder, check_path, identity

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from typing_extensions import Self

logger = logging.getLogger("qwen_aiml")

# Seconds to wait while other threads and processes write.
BUSY_SECONDS = 30.0

# The application ID ("qwen" in ASCII) and the schema version in the file.
_APPLICATION_ID = 0x7177656E
_VERSION = 2

# SQLite may be built with a limit of 999 variables per statement.
_MAX_VARIABLES = 500

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

    The file is created on first use, with mode 0600, in a folder that must exist. A file that cannot be
    written is opened read-only: the first write logs a warning, and later ones check whether it has become
    writable. Entries are never evicted automatically; ``prune`` removes old ones, and ``size`` is the size
    of the file in bytes.

    Threads and processes on one machine may share the file, even after a fork. A writer waits up to 30
    seconds for the others. Stored entries survive a crash of the process; after a power failure the latest
    ones may be missing, and are embedded again. Do not put the file on a network file system: most lack
    the locks that SQLite needs.

    Copies and pickles keep the path and open the file separately. ``close`` closes it; a later call
    reopens it.

    Args:
        path: Path of the file; ``~`` is the user's home folder.

    Raises:
        ConfigurationError: For a URL, for ``:memory:``, which no other or later process could read, and for
            a missing folder. In an asyncio event loop, where checking would block, a missing folder is an
            error on first use.
    """

    # On the class, for `__del__` of an object whose path was rejected.
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
        Return the entry of each key, in order; None if there is none.

        Raises:
            CacheError: If the file can't be opened or read.
        """
        found: dict[str, bytes] = {}
        with self._connected("read") as connection:
            for start in range(0, len(keys), _MAX_VARIABLES):
                some = keys[start : start + _MAX_VARIABLES]
                placeholders = ",".join("?" * len(some))
                # A cast, since damage can turn a value into text, which may not be decodable.
                query = f"SELECT key, CAST(value AS BLOB) FROM entries WHERE key IN ({placeholders})"  # noqa: S608
                found.update(connection.execute(query, some))
        return [found.get(key) for key in keys]

    def set_many(self, entries: Mapping[str, bytes]) -> None:
        """
        Store entries by key, replacing existing ones: all of them or, after an error, none.

        If the file is read-only, nothing is stored, and a warning is logged the first time.

        Raises:
            CacheError: If the file can't be opened or written.
        """
        with self._connected("written") as connection:
            if self._is_read_only:
                if not self._has_warned:
                    self._has_warned = True
                    logger.warning("the cache %s is read-only: new embeddings are not stored", self._path)
                return
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                rows = [(key, entry, int(time())) for key, entry in entries.items()]
                connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", rows)

    def prune(self, *, older_than: timedelta | float) -> int:
        """
        Remove entries older than a given age, and release their disk space.

        Other threads and processes that use the file wait until it is done.

        Args:
            older_than: A ``timedelta``, or seconds.

        Returns:
            Number of entries removed.

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
        """Size on disk in bytes, including the write-ahead log; 0 if there is no file."""
        self._make_absolute()
        size = 0
        for path in (self._path, f"{self._path}-wal"):
            with suppress(FileNotFoundError):
                size += os.stat(path).st_size  # noqa: PTH116 (a string)
        return size

    async def aget_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Async version of `get_many`, for asyncio and Trio. Cancelling it does not wait for a lock."""
        return await run_in_thread(partial(self.get_many, keys))

    async def aset_many(self, entries: Mapping[str, bytes]) -> None:
        """Async version of `set_many`, for asyncio and Trio. If cancelled, it continues in its thread."""
        await run_in_thread(partial(self.set_many, entries))

    def close(self) -> None:
        """Close the file once it is no longer in use; a later call reopens it."""
        self._is_closing = True
        # A thread that has the lock may be waiting for another process, and closes the file afterwards.
        if self._lock.acquire(blocking=False):
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Everything is already stored, so a file that was not closed needs no warning.
        if self._connection is not None:
            _dropped.append(self._connection)
            if _registry.acquire(blocking=False):
                try:
                    _close_dropped()
                finally:
                    _registry.release()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._path!r})"

    def __getstate__(self) -> str:
        self._make_absolute()
        return self._path

    def __setstate__(self, path: str) -> None:
        # A missing folder is not an error here: an exception during unpickling hangs multiprocessing workers.
        self._begin(path)

    @contextmanager
    def _connected(self, doing: str) -> Iterator[sqlite3.Connection]:
        deadline = monotonic() + BUSY_SECONDS
        try:
            # One deadline, both for this object's other threads and for SQLite's lock.
            if not self._lock.acquire(timeout=BUSY_SECONDS):
                raise sqlite3.OperationalError("busy")
            try:
                if self._file != identity(self._path):
                    self._disconnect()
                if self._connection is None:
                    self._make_absolute()
                    self._connection, self._is_read_only = _open(self._path)
                    self._file = identity(self._path)
                milliseconds = max(0, int(1000 * (deadline - monotonic())))
                self._connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
                yield self._connection
            finally:
                self._release()
        except (sqlite3.Error, ValueError) as error:  # invalid path, or undecodable message of SQLite
            reason = str(error) or "its message can't be decoded"  # Python 3.10
            advice = next((what for part, what in _ADVICE.items() if part in reason), "try another path")
            message = f"the cache {self._path} can't be {doing}: {reason}"
            raise CacheError(advised(message, advice)) from error

    def _release(self) -> None:
        """Release the lock, after closing the file if requested or if it is read-only."""
        try:
            # It may be writable next time: a full disk or too many open files are transient.
            if self._is_closing or self._is_read_only:
                self._is_closing = False
                self._disconnect()
        finally:
            self._lock.release()

    def _make_absolute(self) -> None:
        # So that the path means the same file after a change of directory, and in a copy in another process.
        self._path = os.path.abspath(os.path.expanduser(self._path))  # noqa: PTH100, PTH111 (pathlib's resolves links)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


_creating = threading.Lock()  # so that no other thread opens a file between its creation and its closing


def _open(path: str) -> tuple[sqlite3.Connection, bool]:
    """Open a file, creating it if needed; return the connection, and whether it is read-only."""
    # Only a file that does not exist: closing one drops all locks that this process has on it, including
    # those of other connections. Source: SQLite, "How To Corrupt An SQLite Database File", 2.2.
    with _creating, suppress(OSError):  # SQLite will report the error in more detail
        os.close(os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    # Not pathlib's, which raises if the folder is not searchable; SQLite reports that as well.
    uri, is_file = Path(path).as_uri(), os.path.isfile(path)  # noqa: PTH113
    read_only = is_file and not os.access(path, os.W_OK)
    immutable = f"{uri}?mode=ro&immutable=1"
    if read_only and not all(map(os.path.exists, (f"{path}-wal", f"{path}-shm"))):
        # SQLite would create these files and leave them, not writable by users who may write the cache.
        return _connect(path, immutable, read_only=True), True
    try:
        return _connect(path, uri, read_only=read_only), read_only
    except sqlite3.OperationalError as error:
        if not is_file or "locked" in str(error):
            raise
    # SQLite needs side files of a file that others may write, and can't create them here.
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
    # Before any write, so that a file of another program is not changed.
    with connection:
        connection.execute("BEGIN")
        ours = _is_ours(connection, path)
    if read_only:
        if not ours:
            message = f"the cache {path} is empty and can't be written"
            raise CacheError(advised(message, OTHER_PATH))
        return
    if not ours:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            if not _is_ours(connection, path):  # no other process has created it meanwhile
                connection.execute(
                    "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB, stored INTEGER NOT NULL)"
                )
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    # Lets readers and a writer work concurrently. The mode is stored in the file: SQLite raises if another
    # process is using the file, and a later connection will switch it. Not worth a wait.
    connection.execute("PRAGMA busy_timeout = 0")
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # safe with write-ahead logging only


def _is_ours(connection: sqlite3.Connection, path: str) -> bool:
    """Return whether the file is a cache; False if it is empty and can become one."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application_id, version, tables) == (0, 0, 0):
        return False
    if application_id != _APPLICATION_ID or version != _VERSION:
        kind = "another version of this project" if application_id == _APPLICATION_ID else "another program"
        message = f"the cache {path} is a database of {kind}, and was left as it is"
        raise CacheError(advised(message, OTHER_PATH))
    return True


# SQLite records the locks that a process has on a file. A fork copies the record, but not the locks, so that
# even a new connection of the child would be without them. No connection is therefore open during a fork.
# Source: SQLite, "How To Corrupt An SQLite Database File", 2.6, and its os_unix.c.
_alive: WeakSet[SQLiteCache] = WeakSet()
_registry = threading.Lock()
_forks: list[Generator[None]] = []  # each holds all locks until it is dropped
# Of garbage-collected caches. Closed by who holds the registry: a child forked meanwhile would wait forever
# for a lock of SQLite. Their thread can't wait for the registry, as it may hold the lock of another cache.
_dropped: list[sqlite3.Connection] = []
_of_parent: list[sqlite3.Connection] = []  # never closed


def _close_dropped() -> None:
    while _dropped:
        _dropped.pop().close()


@contextmanager
def _disconnected(cache: SQLiteCache) -> Iterator[None]:
    with cache._lock:  # noqa: SLF001 (of this module)
        cache._disconnect()  # noqa: SLF001 (of this module)
        yield


def _hold_all() -> Generator[None]:
    with _registry, ExitStack() as stack:
        for cache in list(_alive):
            stack.enter_context(_disconnected(cache))
        _close_dropped()
        yield


def _before_fork() -> None:
    fork = None
    while fork not in _forks:
        fork = _hold_all()
        # Python would ignore an interrupt here, and fork without the locks.
        with suppress(KeyboardInterrupt, SystemExit):
            next(fork)
            _forks.append(fork)


def _after_fork_in_child() -> None:
    _of_parent.extend(_dropped)
    _dropped.clear()
    _forks.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(
        before=_before_fork, after_in_parent=_forks.clear, after_in_child=_after_fork_in_child
    )
