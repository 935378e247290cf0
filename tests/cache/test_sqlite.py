"""The SQLite cache: threads, processes, forks, crashes, damaged files, read-only files."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from qwen_aiml import ConfigurationError, QwenAIMLError
from qwen_aiml._cache import sqlite as _sqlite
from qwen_aiml._cache.entries import pack, unpack
from qwen_aiml._cache.protocol import Cache, open_cache
from qwen_aiml._cache.sqlite import SQLiteCache
from qwen_aiml._errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that does not exist yet."""
    return tmp_path / "embeddings.db"


@pytest.fixture
def cache(path: Path) -> Iterator[SQLiteCache]:
    """Return a cache in that file."""
    with SQLiteCache(path) as cache:
        yield cache


def database(path: Path) -> closing[sqlite3.Connection]:
    """Connect to the file directly, without waiting for locks."""
    return closing(sqlite3.connect(path, timeout=0, isolation_level=None))


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program in a separate process that can import the packages under test."""
    return subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait up to a minute for a program, check that it succeeded, and return its output."""
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def test_order(cache: SQLiteCache) -> None:
    """Entries are returned in the order of the keys, with None for missing ones; keys may repeat."""
    assert isinstance(cache, Cache)
    assert cache.get_many([]) == []
    assert cache.get_many(["a"]) == [None]
    cache.set_many({"a": b"1", "b": b"\0\xff"})
    cache.set_many({})

    assert cache.get_many(["b", "c", "a", "b"]) == [b"\0\xff", None, b"1", b"\0\xff"]


def test_replacing(cache: SQLiteCache) -> None:
    """A later entry replaces an earlier one."""
    cache.set_many({"a": b"1", "b": b"2"})
    cache.set_many({"a": b"3"})

    assert cache.get_many(["a", "b"]) == [b"3", b"2"]


def test_many_keys(cache: SQLiteCache) -> None:
    """Any number of keys can be looked up, even if SQLite supports few variables."""
    entries = {f"key-{at}": b"%d" % at for at in range(2100)}
    cache.set_many(entries)
    assert cache._connection is not None
    if hasattr(cache._connection, "setlimit"):  # Python 3.11
        cache._connection.setlimit(9, 999)  # SQLITE_LIMIT_VARIABLE_NUMBER

    assert cache.get_many([*entries, "other"]) == [*entries.values(), None]


@pytest.mark.anyio
async def test_async(cache: SQLiteCache) -> None:
    """The async methods do the same, even concurrently."""

    async def work(name: int) -> None:
        await cache.aset_many({f"{name}": b"%d" % name})

    async with anyio.create_task_group() as group:
        for name in range(20):
            group.start_soon(work, name)

    assert await cache.aget_many([str(name) for name in range(21)]) == [b"%d" % n for n in range(20)] + [None]


def test_opens_late_and_again(path: Path) -> None:
    """The file is created on first use, and reopened after it was closed."""
    cache = SQLiteCache(path)
    cache.close()
    assert not path.exists()

    for _ in range(2):
        cache.set_many({"a": b"1"})
        cache.close()
    assert cache.get_many(["a"]) == [b"1"]
    cache.close()


def test_nothing_stays_open(path: Path) -> None:
    """A closed or deleted cache leaves nothing open: SQLite has removed its side files, and nothing warns."""
    with SQLiteCache(path) as closed:
        closed.set_many({"a": b"1"})
        assert len(list(path.parent.iterdir())) == 3
    assert list(path.parent.iterdir()) == [path]

    dropped = SQLiteCache(path)
    dropped.set_many({"b": b"2"})
    del dropped
    gc.collect()
    assert list(path.parent.iterdir()) == [path]


def test_wal(cache: SQLiteCache, path: Path) -> None:
    """A writer does not block readers, and a commit does not flush to disk."""
    cache.set_many({"a": b"1"})
    assert cache._connection is not None
    assert cache._connection.execute("PRAGMA synchronous").fetchone() == (1,)

    with database(path) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.execute("BEGIN IMMEDIATE")
        assert cache.get_many(["a"]) == [b"1"]


@pytest.mark.parametrize("copied", [lambda c: pickle.loads(pickle.dumps(c)), copy.copy, copy.deepcopy])
def test_copies(copied: Callable[[SQLiteCache], SQLiteCache], cache: SQLiteCache, path: Path) -> None:
    """Copies and pickles use the same file through their own connections."""
    cache.set_many({"a": b"1"})

    with copied(cache) as other:
        assert repr(other) == repr(cache) == f"SQLiteCache({str(path)!r})"
        assert other.get_many(["a"]) == [b"1"]
        assert other._connection is not cache._connection


def test_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is relative to the folder in which the object was created."""
    monkeypatch.chdir(tmp_path)
    with SQLiteCache("a.db") as cache:
        monkeypatch.chdir(tmp_path.parent)
        cache.set_many({"a": b"1"})

    assert (tmp_path / "a.db").exists()


def test_path_of_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path given in an event loop is relative to the folder in which the object was pickled."""

    async def make() -> SQLiteCache:
        return SQLiteCache("a.db")

    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(anyio.run(make))
    monkeypatch.chdir(tmp_path.parent)
    with pickle.loads(pickled) as cache:
        cache.set_many({"a": b"1"})

    assert (tmp_path / "a.db").exists()


def test_threads(cache: SQLiteCache) -> None:
    """Threads that share an object neither fail nor get each other's entries."""

    def work(name: int) -> None:
        for at in range(30):
            cache.set_many({f"{name}-{at}": b"%d-%d" % (name, at), "shared": b"whole"})
            assert cache.get_many([f"{name}-{at}", "shared"]) == [b"%d-%d" % (name, at), b"whole"]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    keys = [f"{name}-{at}" for name in range(8) for at in range(30)]
    assert cache.get_many(keys) == [key.encode() for key in keys]


def test_processes(cache: SQLiteCache, path: Path) -> None:
    """Processes that create, write and read one file concurrently wait for each other instead of failing."""
    program = """
    import sys
    from qwen_aiml._cache.sqlite import SQLiteCache

    path, name = sys.argv[1:]
    input()
    with SQLiteCache(path) as cache:
        for at in range(30):
            cache.set_many({f"{name}-{at}": f"{name}-{at}".encode(), "shared": b"whole"})
            assert cache.get_many([f"{name}-{at}", "shared"]) == [f"{name}-{at}".encode(), b"whole"]
    """
    processes = [start(program, path, name) for name in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        finish(process)

    keys = [f"{name}-{at}" for name in range(4) for at in range(30)]
    assert cache.get_many(keys) == [key.encode() for key in keys]


def test_objects_of_one_process(cache: SQLiteCache, path: Path) -> None:
    """A second object on a file does not release the first one's locks; other processes see all entries."""
    read = """
        import sqlite3
        import sys

        connection = sqlite3.connect(sys.argv[1])
        print(connection.execute("SELECT count(*) FROM entries").fetchone()[0], end="")
        connection.close()
        """
    cache.set_many({"a": b"1"})
    second = SQLiteCache(path)
    second.get_many(["a"])
    counts = [finish(start(read, path))]
    cache.set_many({"b": b"2"})
    counts.append(finish(start(read, path)))
    second.close()

    assert counts == ["1", "2"]


def test_killed(path: Path) -> None:
    """A killed writer loses no stored entry, and leaves a usable file."""
    program = """
    import sys
    from itertools import count
    from qwen_aiml._cache.sqlite import SQLiteCache

    cache = SQLiteCache(sys.argv[1])
    for at in count():
        cache.set_many({f"{at}-{row}": bytes(4096) for row in range(10)})
        print(at, flush=True)
    """
    with start(program, path) as process:
        assert process.stdout is not None
        output = "".join(process.stdout.readline() for _ in range(50))
        process.kill()
        output += process.stdout.read()
    last = output.count("\n") - 1
    assert last >= 49

    with SQLiteCache(path) as cache:
        assert None not in cache.get_many([f"{at}-{row}" for at in range(last + 1) for row in range(10)])
        # Whole batches or nothing.
        after = cache.get_many([f"{last + 1}-{row}" for row in range(10)])
        assert len(set(after)) == 1
        cache.set_many({"after": b"1"})
    with database(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


FORK = """
import os, sys, threading, warnings
from qwen_aiml._cache.sqlite import SQLiteCache

warnings.simplefilter("ignore")  # newer Python versions warn about a fork with threads running
path = sys.argv[1]
cache, other = SQLiteCache(path), SQLiteCache(path)
other.set_many({"other": b"1"})
stop = threading.Event()
def write():
    at = 0
    while not stop.is_set():
        cache.set_many({f"thread-{at}": b"1"})
        at += 1
writers = [threading.Thread(target=write) for _ in range(3)]
for writer in writers:
    writer.start()
children = []
for child in range(10):
    pid = os.fork()
    if pid == 0:
        done = 1
        try:
            assert cache._connection is None and other._connection is None
            cache.set_many({f"child-{child}": b"1"})
            assert other.get_many([f"child-{child}", "other"]) == [b"1", b"1"]
            done = 0
        finally:
            os._exit(done)
    children.append(pid)
failed = [pid for pid in children if os.waitpid(pid, 0)[1]]
stop.set()
for writer in writers:
    writer.join()
cache.set_many({"parent": b"1"})
print(len(failed), cache.get_many([f"child-{child}" for child in range(10)]).count(b"1"))
cache.close()
other.close()
"""


@forks
def test_fork(path: Path) -> None:
    """Parent and child both continue after a fork with their own connections, even with running threads."""
    assert finish(start(FORK, path)).split() == ["0", "10"]

    with database(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_damage(cache: SQLiteCache, path: Path) -> None:
    """A damaged value is a miss, whatever its SQLite type; other entries are not affected."""
    entry = pack("a", [0.5, -2.0])
    cache.set_many(dict.fromkeys(["a", "cut", "text", "number", "nothing", "mixed up"], entry))
    with database(path) as file:
        file.execute("UPDATE entries SET value = substr(value, 1, 11) WHERE key = 'cut'")
        file.execute("UPDATE entries SET value = CAST(x'ff6162' AS TEXT) WHERE key = 'text'")
        file.execute("UPDATE entries SET value = 7 WHERE key = 'number'")
        file.execute("UPDATE entries SET value = NULL WHERE key = 'nothing'")

    keys = ["a", "cut", "text", "number", "nothing", "mixed up", "absent"]
    read = [unpack(key, entry, 2) for key, entry in zip(keys, cache.get_many(keys), strict=True)]
    assert read == [[0.5, -2.0]] + [None] * 6


def make_foreign(path: Path) -> None:
    """Create a database of another program."""
    with database(path) as file:
        file.execute("CREATE TABLE theirs (a)")


def make_other_id(path: Path) -> None:
    """Create an empty database with the application ID of another program."""
    with database(path) as file:
        file.execute("PRAGMA application_id = 7")


def make_same_version(path: Path) -> None:
    """Create such a database with the version of a cache."""
    make_other_id(path)
    with database(path) as file:
        file.execute(f"PRAGMA user_version = {_sqlite._VERSION}")


def make_other_version(path: Path) -> None:
    """Create a cache of another version."""
    with SQLiteCache(path) as cache:
        cache.set_many({"a": b"1"})
    with database(path) as file:
        file.execute("PRAGMA user_version = 1")


def make_damaged(path: Path) -> None:
    """Create a cache whose schema contains a table name that is not valid UTF-8."""
    make_other_version(path)
    path.write_bytes(path.read_bytes().replace(b"tableentries", b"tableentri\xffs"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_foreign, "a database of another program, and was left as it is"),
        (make_other_id, "a database of another program, and was left as it is"),
        (make_same_version, "a database of another program, and was left as it is"),
        (make_other_version, "is a database of another version of this project, and was left as it is"),
        (lambda path: path.write_text("no database\n" * 100), "file is not a database. What to do: give ano"),
        (make_damaged, r"can't .*decode.*\. What to do: the file is damaged; delete it"),
        (lambda path: path.mkdir(), "unable to open database file. What to do: create its folder"),
    ],
    ids=["foreign", "other id", "same version", "newer", "no database", "damaged", "folder"],
)
def test_refused(make: Callable[[Path], object], message: str, cache: SQLiteCache, path: Path) -> None:
    """A file that is not a cache is rejected, with its path and what to do, and is not changed."""
    make(path)
    before = path.read_bytes() if path.is_file() else None

    for _ in range(2):
        with pytest.raises(CacheError, match=message) as caught:
            cache.set_many({"a": b"1"})
    assert f"the cache {path} " in str(caught.value)
    assert before == (path.read_bytes() if path.is_file() else None)
    assert list(path.parent.iterdir()) == [path]


def test_missing_folder(tmp_path: Path) -> None:
    """A missing folder is not created; the constructor raises."""
    with pytest.raises(
        ConfigurationError, match=r"the folder of the cache .* is missing\. What to do: create /"
    ):
        SQLiteCache(tmp_path / "no" / "embeddings.db")
    with pytest.raises(ConfigurationError, match=r"the cache .* is a folder\. What to do: give another path"):
        SQLiteCache(tmp_path)


def test_missing_folder_in_an_event_loop(tmp_path: Path) -> None:
    """In an event loop, and for an unpickled copy, a missing folder is an error on first use."""

    async def make() -> SQLiteCache:
        return SQLiteCache(tmp_path / "no" / "embeddings.db")

    cache = anyio.run(make)
    for each in (cache, pickle.loads(pickle.dumps(cache))):
        with pytest.raises(
            CacheError, match=r"can't be read: unable to open .* What to do: create its folder"
        ):
            each.get_many(["a"])
    assert cache.size == 0
    assert issubclass(CacheError, QwenAIMLError)


@pytest.mark.parametrize("path", [":memory:", ""])
def test_in_memory(path: str) -> None:
    """A cache in memory is rejected, since it would end with its process."""
    with pytest.raises(ConfigurationError, match="path must be that of a file"):
        SQLiteCache(path)


@pytest.mark.parametrize("make", [SQLiteCache, open_cache])
def test_url(make: Callable[[str], object]) -> None:
    """A URL is rejected, and not shown, since it may contain a password."""
    with pytest.raises(
        ConfigurationError, match=r"not a redis:// URL\. What to do: give a ByteStore"
    ) as caught:
        make("redis://:secret@localhost:6379/0")
    assert "secret" not in str(caught.value)


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in a path is expanded to the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with SQLiteCache("~/a.db") as cache:
        cache.set_many({"a": b"1"})

    async def size() -> int:
        return SQLiteCache("~/a.db").size

    assert (tmp_path / "a.db").exists()
    assert anyio.run(size) > 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_mode(cache: SQLiteCache, path: Path) -> None:
    """A new file and its side files are accessible only to the user; the mode of an existing file is kept."""
    cache.set_many({"a": b"1"})
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    cache.close()
    path.chmod(0o644)
    cache.set_many({"a": b"1"})
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_link(tmp_path: Path) -> None:
    """A symbolic link to a file that does not exist creates that file, accessible only to the user."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with SQLiteCache(tmp_path / "link") as cache:
        cache.set_many({"a": b"1"})
        assert cache.get_many(["a"]) == [b"1"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no open file")
@pytest.mark.parametrize("other", [None, b"2"])
def test_deleted(other: bytes | None, cache: SQLiteCache, path: Path) -> None:
    """A file that is deleted while open is created again, and one that is replaced is reopened."""
    cache.set_many({"a": b"1"})
    for file in path.parent.iterdir():
        file.unlink()
    if other:
        with SQLiteCache(path) as another:
            another.set_many({"a": other})

    assert cache.get_many(["a"]) == [other]
    cache.set_many({"b": b"3"})
    assert cache.get_many(["a", "b"]) == [other, b"3"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a new folder, and run as a user to whom file modes apply."""
    if not hasattr(os, "setresuid"):
        pytest.skip("this system has no such modes")
    folder = Path(tempfile.mkdtemp())
    is_root = os.getuid() == 0
    if is_root:
        os.chown(folder, 65534, -1)
        os.setresuid(65534, 65534, 0)
    try:
        yield folder
    finally:
        folder.chmod(0o700)
        if is_root:
            os.setresuid(0, 0, 0)
        shutil.rmtree(folder)


def read_only_file(path: Path) -> None:
    path.chmod(0o400)


def read_only_folder(path: Path) -> None:
    path.parent.chmod(0o500)


def both_read_only(path: Path) -> None:
    read_only_file(path)
    read_only_folder(path)


@pytest.mark.parametrize("protect", [read_only_file, read_only_folder, both_read_only])
def test_read_only(protect: Callable[[Path], None], folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A read-only file is read, and one warning says that nothing is stored."""
    path = folder / "embeddings.db"
    with SQLiteCache(path) as cache:
        cache.set_many({"a": b"1"})
    protect(path)
    with SQLiteCache(path) as cache:
        for _ in range(2):
            assert cache.get_many(["a", "b"]) == [b"1", None]
            cache.set_many({"b": b"2"})
        with pytest.raises(
            CacheError, match=r"can't be pruned: .*readonly.* What to do: give this process write access"
        ):
            cache.prune(older_than=0)

    assert caplog.text.count(f"the cache {path} is read-only: new embeddings are not stored") == 1


@pytest.mark.parametrize("protect", [read_only_file, read_only_folder, both_read_only])
def test_read_only_for_a_time(protect: Callable[[Path], None], folder: Path) -> None:
    """The same object writes again once the file is writable."""
    path = folder / "embeddings.db"
    with SQLiteCache(path) as cache:
        cache.set_many({"a": b"1"})
        cache.close()
        protect(path)
        cache.set_many({"b": b"2"})
        folder.chmod(0o700)
        path.chmod(0o600)
        assert cache.get_many(["a", "b"]) == [b"1", None]
        cache.set_many({"c": b"3"})
        assert cache.get_many(["a", "b", "c"]) == [b"1", None, b"3"]


def test_read_only_while_others_write(folder: Path) -> None:
    """A read-only user sees the latest entries of others, and leaves no file that they can't write."""
    path = folder / "embeddings.db"
    with SQLiteCache(path) as writer:
        writer.set_many({"a": b"1"})
        read_only_file(path)
        with SQLiteCache(path) as reader:
            assert reader.get_many(["a"]) == [b"1"]
            writer.set_many({"b": b"2"})
            assert reader.get_many(["b"]) == [b"2"]
            writer.close()
            assert reader.get_many(["a", "b"]) == [b"1", b"2"]
    assert list(folder.iterdir()) == [path]


def test_read_only_and_empty(folder: Path) -> None:
    """An empty read-only file is rejected, since it can't become a cache."""
    path = folder / "embeddings.db"
    path.touch()
    both_read_only(path)
    with pytest.raises(CacheError, match=r"is empty and can't be written\. What to do: give another path"):
        SQLiteCache(path).get_many(["a"])


def test_folder_of_others(folder: Path) -> None:
    """A file in an unsearchable folder raises a CacheError that says what to do."""
    path = folder / "embeddings.db"
    folder.chmod(0)
    with pytest.raises(CacheError, match=r"unable to open database file\. What to do: create its folder"):
        SQLiteCache(path).get_many(["a"])


@pytest.mark.parametrize(("name", "message"), [("a\0b", "null"), ("n" * 300, "unable")], ids=["null", "long"])
def test_no_path(name: str, message: str, tmp_path: Path) -> None:
    """An invalid path raises a CacheError that says what to do."""
    with pytest.raises(CacheError, match=rf"can't be read: .*{message}.*\. What to do: "):
        SQLiteCache(f"{tmp_path}/{name}").get_many(["a"])


def test_prune(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older entries are removed and their space is released; storing an entry again resets its age."""
    assert cache.size == 0
    monkeypatch.setattr(_sqlite, "time", lambda: 1000.0)
    cache.set_many({f"key {at}": bytes(5000) for at in range(100)})
    monkeypatch.setattr(_sqlite, "time", lambda: 2000.0)
    cache.set_many({"key 0": b"1"})
    before = cache.size

    assert before > 500_000
    assert cache.prune(older_than=1001) == 0
    assert cache.prune(older_than=timedelta(seconds=1000)) == 99
    assert cache.size == path.stat().st_size < 50_000
    assert cache.get_many(["key 0", "key 1"]) == [b"1", None]


@pytest.mark.parametrize("older_than", [-1, float("nan"), True, "30 days", None])
def test_prune_what(older_than: Any, cache: SQLiteCache) -> None:
    """An invalid age is rejected."""
    with pytest.raises(ConfigurationError, match="older_than must be a timedelta or a number of seconds"):
        cache.prune(older_than=older_than)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (
            "PRAGMA query_only = 1",
            "can't be written: attempt to write a readonly .*: give this process write",
        ),
        ("PRAGMA max_page_count = 3", "can't be written: database or disk is full.*: free some disk space"),
    ],
    ids=["read-only", "full"],
)
def test_cannot_write(limit: str, message: str, cache: SQLiteCache) -> None:
    """A failed write raises an error that says what to do; it stores nothing and keeps existing entries."""
    cache.set_many({"a": b"1"})
    assert cache._connection is not None
    cache._connection.execute(limit)

    with pytest.raises(CacheError, match=message):
        cache.set_many({"b": b"2", "c": bytes(100_000)})
    assert cache.get_many(["a", "b", "c"]) == [b"1", None, None]


def test_unknown_failure(cache: SQLiteCache, path: Path) -> None:
    """Any other SQLite error is raised as a CacheError."""
    cache.set_many({"a": b"1"})
    with database(path) as file:
        file.execute("DROP TABLE entries")

    with pytest.raises(CacheError, match=r"no such table: entries.* try another path"):
        cache.get_many(["a"])


def test_waiting_for_others(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that waits too long for another process gets an error, and may retry."""
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 0.05)
    cache.set_many({"a": b"1"})

    with database(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CacheError, match="can't be written: database is locked"):
            cache.set_many({"a": b"2"})
    cache.set_many({"a": b"3"})
    assert cache.get_many(["a"]) == [b"3"]


def test_in_use(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in use is read without a wait, and switched to write-ahead logging by a later connection."""
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 600)
    cache.set_many({"a": b"1"})
    cache.close()
    found: list[Any] = []
    with database(path) as other:
        assert other.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM entries").fetchone()
        thread = threading.Thread(target=lambda: found.extend(cache.get_many(["a"])))
        thread.start()
        thread.join(30)
        assert found == [b"1"]
    for mode in ("delete", "wal"):
        with database(path) as other:
            assert other.execute("PRAGMA journal_mode").fetchone() == (mode,)
        cache.close()
        cache.set_many({"b": b"2"})


def test_never_made(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Creation fails if another process keeps the file locked for too long."""
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 0.05)
    with database(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CacheError, match="can't be written: database is locked"):
            cache.set_many({"a": b"1"})


def test_another_was_faster(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that another process has created in the meantime is used."""
    is_ours = _sqlite._is_ours

    def meanwhile(*_: object) -> bool:
        monkeypatch.setattr(_sqlite, "_is_ours", is_ours)
        with SQLiteCache(path) as other:
            other.set_many({"a": b"1"})
        return False

    monkeypatch.setattr(_sqlite, "_is_ours", meanwhile)
    assert cache.get_many(["a"]) == [b"1"]


@forks
def test_nobody_is_locked_out(cache: SQLiteCache) -> None:
    """A fork waits for the operations of other threads, and lets them continue afterwards."""
    begun, done = threading.Event(), []

    def work() -> None:
        begun.set()
        cache.set_many({"a": b"1"})
        done.append(1)

    _sqlite._before_fork()
    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    assert cache._connection is None
    _sqlite._forks.clear()
    thread.join(60)

    assert done == [1]
    assert cache.get_many(["a"]) == [b"1"]


@forks
def test_interrupt_before_a_fork(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork that is interrupted while it waits still takes all locks, and releases them afterwards."""
    caches, close = [cache, SQLiteCache(path)], SQLiteCache._disconnect

    def interrupted(cache: SQLiteCache) -> None:
        monkeypatch.undo()
        close(cache)
        raise KeyboardInterrupt

    for each in caches:
        each.get_many(["a"])
    monkeypatch.setattr(SQLiteCache, "_disconnect", interrupted)
    _sqlite._before_fork()
    assert [(each._lock.locked(), each._connection) for each in caches] == [(True, None)] * 2
    _sqlite._after_fork_in_child()
    assert [each.get_many(["a"]) for each in caches] == [[None]] * 2


def test_interrupted_close(cache: SQLiteCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt while the file is being closed does not leave the cache locked."""

    class Connection:
        def close(self) -> None:
            raise KeyboardInterrupt

    connection: Any = Connection()
    cache._connection = connection
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt):
        cache.close()
    assert cache.get_many(["a"]) == [None]


@forks
def test_fork_while_a_cache_is_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is being closed during a fork, in which a lock of SQLite would stay locked."""
    monkeypatch.setattr(_sqlite, "_of_parent", [])
    closing, may_close, closed, forked = threading.Event(), threading.Event(), [], []

    class Connection:
        def close(self) -> None:
            closing.set()
            closed.append(may_close.wait(60))

    caches: list[Any] = [SQLiteCache(path) for _ in range(2)]

    def drop() -> None:
        caches[-1]._connection = Connection()
        caches.pop()

    def fork() -> None:
        _sqlite._before_fork()
        forked.append(len(closed))

    threads = [threading.Thread(target=drop), threading.Thread(target=fork)]
    threads[0].start()
    assert closing.wait(60)
    threads[1].start()
    drop()  # does not wait
    assert not forked
    may_close.set()
    for thread in threads:
        thread.join(60)
    left: Any = Connection()
    _sqlite._dropped.append(left)
    _sqlite._after_fork_in_child()

    assert (forked, _sqlite._of_parent, _sqlite._dropped) == ([2], [left], [])


def test_another_thread_is_at_it_for_long(cache: SQLiteCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits too long for another thread gets an error."""
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 0.01)
    with cache._lock, pytest.raises(CacheError, match="busy"):
        cache.get_many(["a"])
