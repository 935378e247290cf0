"""The cache as used by one call: slow and broken stores, deadlines and cancelled writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from fakes import FakeStore, Harness
from qwen_aiml._cache.access import CacheAccess
from qwen_aiml._errors import CacheError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

TEXTS = ["a", "b"]
ROWS = [[0.5, 1.0], [0.25, 2.0]]

BOTH = pytest.mark.parametrize("backend", ["trio", "asyncio"])


def access(store: Any, seconds_left: Callable[[], float] = lambda: math.inf) -> CacheAccess:
    return CacheAccess(store.load, store.store, "n", seconds_left)


def run(function: Callable[[], Awaitable[None]], backend: str = "trio") -> float:
    """Run a coroutine function, and return the seconds that it took."""
    harness = Harness(backend=backend)
    began = harness.now()
    harness.run(function)
    return harness.now() - began


class Returns:
    """A cache whose look-ups all return the same value, or raise it if it is an exception."""

    def __init__(self, entries: Any) -> None:
        self._entries = entries

    async def load(self, _: Any) -> Any:
        """Return the value, or raise it."""
        if isinstance(self._entries, Exception):
            raise self._entries
        return self._entries

    async def store(self, _: Mapping[str, bytes]) -> None:
        """Do nothing, or raise the exception."""
        if isinstance(self._entries, Exception):
            raise self._entries


@BOTH
def test_round_trip(backend: str) -> None:
    """Stored embeddings are found again; those beyond float32 are not stored, and are returned unchanged."""

    async def main() -> None:
        cache = access(FakeStore())
        assert await cache.store([*TEXTS, "c"], [*ROWS, [1e300, 1.0]]) == [*ROWS, [1e300, 1.0]]
        assert await cache.load(["b", "c", "a"], None) == [ROWS[1], None, ROWS[0]]
        assert await cache.load(["a"], 3) == [None]
        assert await cache.load(["a"], None, "truncate:bytes") == [None]

    run(main, backend)


@pytest.mark.parametrize("entries", [None, 7, b"ab", "ab", {"a": 1, "b": 2}, [], [None], [None] * 3])
def test_entries_of_the_wrong_shape(entries: Any) -> None:
    """A look-up that does not return a list with one entry per key is an error."""

    async def main() -> None:
        with pytest.raises(CacheError, match="did not return an entry or None for each key"):
            await access(Returns(entries)).load(TEXTS, None)

    run(main)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_damaged_entries(kind: Any) -> None:
    """A damaged or foreign entry of bytes is a miss, whatever their type."""

    async def main() -> None:
        assert await access(Returns((kind(b"damaged"), kind(b"")))).load(TEXTS, None) == [None, None]

    run(main)


@pytest.mark.parametrize("entry", ["text", 7, [0.5], {}, object()], ids=lambda entry: type(entry).__name__)
def test_entries_of_other_types(entry: Any) -> None:
    """A cache that returns something else than bytes is an error, since nothing would ever be found in it."""
    message = f"^the cache returned {type(entry).__name__}, expected bytes or None; nothing was sent. What"

    async def main() -> None:
        with pytest.raises(CacheError, match=message):
            await access(Returns([b"damaged", entry])).load(TEXTS, None)

    run(main)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("of its own"), r"^the cache can't be read \(OSError\); nothing was sent$"),
        (TimeoutError(), r"^the cache can't be read \(TimeoutError\); nothing was sent$"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), r"\(UnicodeDecodeError\).*decode_responses=True$"),
        (CacheError("locked"), r"^locked$"),
    ],
)
def test_look_up_that_raises(error: Exception, message: str) -> None:
    """An exception in a look-up is raised as a CacheError."""

    async def main() -> None:
        with pytest.raises(CacheError, match=message):
            await access(Returns(error)).load(TEXTS, None)

    run(main)


@BOTH
@pytest.mark.parametrize(("error", "reason"), [(OSError("x"), "OSError"), (CacheError("full"), "full")])
def test_write_that_raises(
    error: Exception, reason: str, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed write is logged, loses no embedding, and does not prevent the next write."""

    async def main() -> None:
        cache = access(Returns(error))
        assert await cache.store(TEXTS, ROWS) == ROWS
        await cache.store(TEXTS, ROWS)

    run(main, backend)
    message = f"2 embeddings could not be stored in the cache: {reason}"
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [("WARNING", message)] * 2


def test_write_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    """The first write that hangs ends after 30 s, later ones after 1 s, each with a pause of 60 s."""
    caplog.set_level("DEBUG", logger="qwen_aiml")
    store = FakeStore(before_store=anyio.sleep_forever)

    async def main() -> None:
        cache = access(store)
        for after in (0.0, 0.0, 59.5, 0.5, 60.0):
            await anyio.sleep(after)
            assert await cache.store(TEXTS, ROWS) == ROWS
        store.before_store = None
        await anyio.sleep(60)
        await cache.store(TEXTS, ROWS)

    assert run(main) == 212.0
    assert store.times == [0.0, 90.0, 151.0, 212.0]
    assert len(store.kept) == 2
    assert [each.levelname for each in caplog.records] == ["WARNING"] * 3


def test_writes_that_hang_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Concurrent writes that hang log one warning; the others are logged at DEBUG."""
    caplog.set_level("DEBUG", logger="qwen_aiml")
    store = FakeStore(before_store=anyio.sleep_forever)

    async def main() -> None:
        cache = access(store)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(cache.store, TEXTS, ROWS)

    assert run(main) == 30
    assert sorted(each.levelname for each in caplog.records) == ["DEBUG", "DEBUG", "WARNING"]


def test_write_that_fails_slowly() -> None:
    """A write that fails after 0.5 s or more pauses the cache as well."""

    async def fail() -> None:
        await anyio.sleep(0.5)
        raise OSError

    store = FakeStore(before_store=fail)

    async def main() -> None:
        cache = access(store)
        await cache.store(TEXTS, ROWS)
        await cache.store(TEXTS, ROWS)

    assert run(main) == 0.5
    assert store.times == [0.0]


@pytest.mark.parametrize(("takes", "kept"), [(0.9, 2), (1.1, 0)])
def test_write_of_a_call_that_is_cancelled(takes: float, kept: int) -> None:
    """A write continues for up to 1 s after its call is cancelled; then the cancellation takes effect."""

    async def before_store() -> None:
        await anyio.sleep(2 + takes)

    store = FakeStore(before_store=before_store)

    async def main() -> None:
        with anyio.move_on_after(2) as scope:
            await access(store).store(TEXTS, ROWS)
            await anyio.sleep_forever()
        assert scope.cancelled_caught

    assert run(main) == 2 + min(takes, 1.0)
    assert len(store.kept) == kept


@BOTH
@pytest.mark.parametrize("ends", [True, False])
def test_write_of_a_cancelled_task(ends: bool, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write may finish after cancellation, on both event loops; one that hangs is abandoned."""
    monkeypatch.setattr("qwen_aiml._cache.access.CANCELLED_SECONDS", 30.0 if ends else 0.01)
    store = FakeStore()
    events: dict[str, anyio.Event] = {}

    async def before_store() -> None:
        events["began"].set()
        await events["goes on"].wait()

    async def main() -> None:
        events.update({"began": anyio.Event(), "goes on": anyio.Event()})
        store.before_store = before_store
        async with anyio.create_task_group() as group:
            group.start_soon(access(store).store, TEXTS, ROWS)
            await events["began"].wait()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()
                if ends:
                    events["goes on"].set()

    run(main, backend)
    assert len(store.kept) == (2 if ends else 0)


@BOTH
@pytest.mark.parametrize(
    ("store", "reason"),
    [(Returns(OSError()), "OSError"), (FakeStore(None, anyio.sleep_forever), "TimeoutError")],
)
def test_failed_write_of_a_call_that_is_cancelled(
    store: Any, reason: str, backend: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails after its call is cancelled is logged like any other, on both event loops."""
    monkeypatch.setattr("qwen_aiml._cache.access.CANCELLED_SECONDS", 0.01)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await access(store).store(TEXTS, ROWS)

    run(main, backend)
    assert caplog.messages == [f"2 embeddings could not be stored in the cache: {reason}"]


@pytest.mark.parametrize(("left", "takes"), [(0.0, 1.0), (0.5, 1.0), (5.0, 5.0), (100.0, 30.0)])
def test_deadline_of_a_write(left: float, takes: float) -> None:
    """A write ends at the deadline of the call, but has at least 1 s."""
    store = FakeStore(before_store=anyio.sleep_forever)

    async def main() -> None:
        await access(store, lambda: left - anyio.current_time()).store(TEXTS, ROWS)

    assert run(main) == takes
