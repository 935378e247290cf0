"""The cache in a file: shared by threads and processes, forked, killed, damaged, rejected."""

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
    """Give the path of a file that is not there yet."""
    return tmp_path / "embeddings.db"


@pytest.fixture
def cache(path: Path) -> Iterator[SQLiteCache]:
    """Give a cache of that file."""
    with SQLiteCache(path) as cache:
        yield cache


def database(path: Path) -> closing[sqlite3.Connection]:
    """Look at the file from outside; nothing waits for a lock."""
    return closing(sqlite3.connect(path, timeout=0, isolation_level=None))


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program in a process of its own, where the packages under test are found."""
    return subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a program that must succeed, and give what it printed; bounded."""
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def test_order(cache: SQLiteCache) -> None:
    """Entries come back in the order of the keys, None where there is none, as often as asked for."""
    assert isinstance(cache, Cache)
    assert cache.get_many([]) == []
    assert cache.get_many(["a"]) == [None]
    cache.set_many({"a": b"1", "b": b"\0\xff"})
    cache.set_many({})

    assert cache.get_many(["b", "c", "a", "b"]) == [b"\0\xff", None, b"1", b"\0\xff"]


def test_replacing(cache: SQLiteCache) -> None:
    """A later entry takes the place of an earlier one."""
    cache.set_many({"a": b"1", "b": b"2"})
    cache.set_many({"a": b"3"})

    assert cache.get_many(["a", "b"]) == [b"3", b"2"]


def test_many_keys(cache: SQLiteCache) -> None:
    """Any number of keys can be asked for, also where SQLite takes few variables."""
    entries = {f"key-{at}": b"%d" % at for at in range(2100)}
    cache.set_many(entries)
    assert cache._connection is not None
    if hasattr(cache._connection, "setlimit"):  # Python 3.11
        cache._connection.setlimit(9, 999)  # SQLITE_LIMIT_VARIABLE_NUMBER

    assert cache.get_many([*entries, "other"]) == [*entries.values(), None]


@pytest.mark.anyio
async def test_async(cache: SQLiteCache) -> None:
    """The asynchronous twins do the same, also many at once."""

    async def work(name: int) -> None:
        await cache.aset_many({f"{name}": b"%d" % name})

    async with anyio.create_task_group() as group:
        for name in range(20):
            group.start_soon(work, name)

    assert await cache.aget_many([str(name) for name in range(21)]) == [b"%d" % n for n in range(20)] + [None]


def test_opens_late_and_again(path: Path) -> None:
    """The file is made when it is needed; after it was closed it opens again."""
    cache = SQLiteCache(path)
    cache.close()
    assert not path.exists()

    for _ in range(2):
        cache.set_many({"a": b"1"})
        cache.close()
    assert cache.get_many(["a"]) == [b"1"]
    cache.close()


def test_nothing_stays_open(path: Path) -> None:
    """Once closed or dropped, nothing is open: SQLite has put its side files away, and nothing warns."""
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
    """Readers are not kept waiting by a writer, and a commit costs no flush to the disk."""
    cache.set_many({"a": b"1"})
    assert cache._connection is not None
    assert cache._connection.execute("PRAGMA synchronous").fetchone() == (1,)

    with database(path) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        other.execute("BEGIN IMMEDIATE")
        assert cache.get_many(["a"]) == [b"1"]


@pytest.mark.parametrize("copied", [lambda c: pickle.loads(pickle.dumps(c)), copy.copy, copy.deepcopy])
def test_copies(copied: Callable[[SQLiteCache], SQLiteCache], cache: SQLiteCache, path: Path) -> None:
    """Copies and pickles are of the same file, and do not share the connection."""
    cache.set_many({"a": b"1"})

    with copied(cache) as other:
        assert repr(other) == repr(cache) == f"SQLiteCache({str(path)!r})"
        assert other.get_many(["a"]) == [b"1"]
        assert other._connection is not cache._connection


def test_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path means the folder in which the object was made."""
    monkeypatch.chdir(tmp_path)
    with SQLiteCache("a.db") as cache:
        monkeypatch.chdir(tmp_path.parent)
        cache.set_many({"a": b"1"})

    assert (tmp_path / "a.db").exists()


def test_threads(cache: SQLiteCache) -> None:
    """Many threads on one object neither fail nor see another's entries."""

    def work(name: int) -> None:
        for at in range(30):
            cache.set_many({f"{name}-{at}": b"%d-%d" % (name, at), "shared": b"whole"})
            assert cache.get_many([f"{name}-{at}", "shared"]) == [b"%d-%d" % (name, at), b"whole"]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    keys = [f"{name}-{at}" for name in range(8) for at in range(30)]
    assert cache.get_many(keys) == [key.encode() for key in keys]


def test_processes(cache: SQLiteCache, path: Path) -> None:
    """Processes that make, write and read one file at once wait for each other rather than fail."""
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
    """A second object on the file does not make another process believe that nobody else uses it."""
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
    """A writer that is killed loses nothing that it had stored, and leaves a file that can be used."""
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
        said = "".join(process.stdout.readline() for _ in range(50))
        process.kill()
        said += process.stdout.read()
    last = said.count("\n") - 1
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

warnings.simplefilter("ignore")  # newer Pythons warn of any fork beside threads
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
    """Parent and child both go on after a fork, each with a connection of its own, threads or not."""
    assert finish(start(FORK, path)).split() == ["0", "10"]

    with database(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_damage(cache: SQLiteCache, path: Path) -> None:
    """What is damaged in the file is a miss, whatever SQLite takes it for; the others are not affected."""
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
    """Make a database of another program."""
    with database(path) as file:
        file.execute("CREATE TABLE theirs (a)")


def make_other_id(path: Path) -> None:
    """Make an empty database that another program has marked."""
    with database(path) as file:
        file.execute("PRAGMA application_id = 7")


def make_other_version(path: Path) -> None:
    """Make a cache of another version."""
    with SQLiteCache(path) as cache:
        cache.set_many({"a": b"1"})
    with database(path) as file:
        file.execute("PRAGMA user_version = 1")


def make_damaged(path: Path) -> None:
    """Make a cache whose schema names a table in bytes that are no text."""
    make_other_version(path)
    path.write_bytes(path.read_bytes().replace(b"tableentries", b"tableentri\xffs"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_foreign, "a database of another program, and was left as it is"),
        (make_other_id, "a database of another program, and was left as it is"),
        (make_other_version, "is a database of another version of this project, and was left as it is"),
        (lambda path: path.write_text("no database\n" * 100), "file is not a database. What to do: give ano"),
        (make_damaged, r"can't .*decode.*\. What to do: the file is damaged; delete it"),
        (lambda path: path.mkdir(), "unable to open database file. What to do: create its folder"),
    ],
    ids=["foreign", "other id", "newer", "no database", "damaged", "folder"],
)
def test_refused(make: Callable[[Path], object], message: str, cache: SQLiteCache, path: Path) -> None:
    """A file that is no cache is rejected, with its path and what to do, and left as it is."""
    make(path)
    before = path.read_bytes() if path.is_file() else None

    for _ in range(2):
        with pytest.raises(CacheError, match=message) as caught:
            cache.set_many({"a": b"1"})
    assert f"the cache {path} " in str(caught.value)
    assert before == (path.read_bytes() if path.is_file() else None)
    assert list(path.parent.iterdir()) == [path]


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is not there is not made; the error says so when the object is made."""
    with pytest.raises(
        ConfigurationError, match=r"the folder of the cache .* is missing\. What to do: create /"
    ):
        SQLiteCache(tmp_path / "no" / "embeddings.db")
    with pytest.raises(ConfigurationError, match=r"the cache .* is a folder\. What to do: give another path"):
        SQLiteCache(tmp_path)


def test_missing_folder_in_an_event_loop(tmp_path: Path) -> None:
    """Where to look would block, it is found at the first use; and so is that of an unpickled copy."""

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
    """What would end with its process is no cache."""
    with pytest.raises(ConfigurationError, match="path must be that of a file"):
        SQLiteCache(path)


@pytest.mark.parametrize("make", [SQLiteCache, open_cache])
def test_url(make: Callable[[str], object]) -> None:
    """A URL is told from a path, and not shown, since it may hold a password."""
    with pytest.raises(
        ConfigurationError, match=r"not a redis:// URL\. What to do: give a ByteStore"
    ) as caught:
        make("redis://:secret@localhost:6379/0")
    assert "secret" not in str(caught.value)


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may begin with the user's folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with SQLiteCache("~/a.db") as cache:
        cache.set_many({"a": b"1"})

    assert (tmp_path / "a.db").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_mode(cache: SQLiteCache, path: Path) -> None:
    """A new file, and those beside it, are for this user alone; those of an old one stay."""
    cache.set_many({"a": b"1"})
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    cache.close()
    path.chmod(0o644)
    cache.set_many({"a": b"1"})
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no open file")
@pytest.mark.parametrize("other", [None, b"2"])
def test_deleted(other: bytes | None, cache: SQLiteCache, path: Path) -> None:
    """A file that is deleted, or replaced, under an open object is created again, or read again."""
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
    """Give a folder, and be a user whom its modes bind."""
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
    """What can't be written is read, and the log says once that nothing is stored."""
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

    assert caplog.text.count(f"the cache {path} is read-only: nothing new is stored in it") == 1


@pytest.mark.parametrize("protect", [read_only_file, read_only_folder, both_read_only])
def test_read_only_for_a_time(protect: Callable[[Path], None], folder: Path) -> None:
    """What can be written again is written again, by the same object."""
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
    """Who may only read finds what others have just written, and leaves no file that they can't write."""
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
    """An empty file that can't be written is no cache, and can't become one."""
    path = folder / "embeddings.db"
    path.touch()
    both_read_only(path)
    with pytest.raises(CacheError, match=r"is empty and can't be written\. What to do: give another path"):
        SQLiteCache(path).get_many(["a"])


def test_folder_of_others(folder: Path) -> None:
    """A file in a folder that may not be searched is an error of this project, with what to do."""
    path = folder / "embeddings.db"
    folder.chmod(0)
    with pytest.raises(CacheError, match=r"unable to open database file\. What to do: create its folder"):
        SQLiteCache(path).get_many(["a"])


@pytest.mark.parametrize(("name", "said"), [("a\0b", "null"), ("n" * 300, "unable")], ids=["null", "long"])
def test_no_path(name: str, said: str, tmp_path: Path) -> None:
    """So is a path that no file can have."""
    with pytest.raises(CacheError, match=rf"can't be read: .*{said}.*\. What to do: "):
        SQLiteCache(f"{tmp_path}/{name}").get_many(["a"])


def test_prune(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was stored longer ago is removed, and its space given back; storing again makes it new."""
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
    """What is no time is refused."""
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
    """What can't be written is an error that says what to do; nothing of it is stored, the rest is kept."""
    cache.set_many({"a": b"1"})
    assert cache._connection is not None
    cache._connection.execute(limit)

    with pytest.raises(CacheError, match=message):
        cache.set_many({"b": b"2", "c": bytes(100_000)})
    assert cache.get_many(["a", "b", "c"]) == [b"1", None, None]


def test_unknown_failure(cache: SQLiteCache, path: Path) -> None:
    """Whatever else SQLite says is passed on as an error of this project."""
    cache.set_many({"a": b"1"})
    with database(path) as file:
        file.execute("DROP TABLE entries")

    with pytest.raises(CacheError, match=r"no such table: entries.* try another path"):
        cache.get_many(["a"])


def test_waiting_for_others(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited long enough for another process gives up, and can try again."""
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 0.05)
    cache.set_many({"a": b"1"})

    with database(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CacheError, match="can't be written: database is locked"):
            cache.set_many({"a": b"2"})
    cache.set_many({"a": b"3"})
    assert cache.get_many(["a"]) == [b"3"]


def test_made_at_once(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process makes the file a cache, which SQLite does not wait for, this one retries."""
    with database(path) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(_sqlite, "sleep", lambda _: other.execute("COMMIT"))
        cache.set_many({"a": b"1"})

    assert cache.get_many(["a"]) == [b"1"]


def test_never_made(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited long enough for a file to become a cache gives up."""
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 0.05)
    with database(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CacheError, match="can't be written: database is locked"):
            cache.set_many({"a": b"1"})


def test_another_was_faster(cache: SQLiteCache, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process makes a cache in the meantime is taken as it is."""
    switch = _sqlite._switch_to_wal

    def meanwhile(connection: sqlite3.Connection) -> None:
        monkeypatch.setattr(_sqlite, "_switch_to_wal", switch)
        with SQLiteCache(path) as other:
            other.set_many({"a": b"1"})
        switch(connection)

    monkeypatch.setattr(_sqlite, "_switch_to_wal", meanwhile)
    assert cache.get_many(["a"]) == [b"1"]


@forks
def test_nobody_is_locked_out(cache: SQLiteCache) -> None:
    """A fork waits for what other threads are at, and lets them go on."""
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
    _sqlite._after_fork()
    thread.join(60)

    assert done == [1]
    assert cache.get_many(["a"]) == [b"1"]


def test_another_thread_is_at_it_for_long(cache: SQLiteCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits too long for another one gets an error."""
    monkeypatch.setattr(_sqlite, "BUSY_SECONDS", 0.01)
    with cache._lock, pytest.raises(CacheError, match="busy"):
        cache.get_many(["a"])
