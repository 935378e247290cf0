"""The fair bound."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from qwen_aiml._turns import Turns


def wait_for(turns: Turns, waiting: int) -> None:
    """Wait until so many threads wait; bounded."""
    for _ in range(1000):
        if len(turns._waiting) == waiting:
            return
        time.sleep(0.005)
    pytest.fail("nobody waits")


def test_in_the_order_they_came() -> None:
    """Whoever has waited longest is next, and the one who gives back is not served first."""
    turns, order = Turns(1), []

    def work(name: int) -> None:
        assert turns.take(None)
        order.append(name)
        turns.give_back()

    assert turns.take(None)
    with ThreadPoolExecutor(5) as pool:
        for name in range(5):
            pool.submit(work, name)
            wait_for(turns, name + 1)
        turns.give_back()
        assert turns.take(None)
        assert order == [0, 1, 2, 3, 4]
    turns.give_back()

    assert (turns._free, len(turns._waiting)) == (1, 0)


def test_in_time() -> None:
    """A turn that does not come in time is not taken, and not lost."""
    turns = Turns(1)
    assert turns.take(0)
    assert not turns.take(0)
    assert not turns.take(0.01)
    turns.give_back()

    assert turns.take(0)


def test_bound() -> None:
    """No more hold a turn at once than there are."""
    turns, lock = Turns(3), threading.Lock()
    held, most = 0, 0

    def work(_: int) -> None:
        nonlocal held, most
        assert turns.take(10)
        with lock:
            held += 1
            most = max(most, held)
        time.sleep(0.001)
        with lock:
            held -= 1
        turns.give_back()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(200)))

    assert most == 3
    assert turns._free == 3


@pytest.mark.parametrize("in_time", [False, True])
def test_interrupted(in_time: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt loses no turn, whether it comes before or after the turn was handed over."""
    turns = Turns(1)
    assert turns.take(None)

    class Mine:
        waits = False

        def acquire(self, timeout: float = -1) -> bool:  # noqa: ARG002 (as a lock's)
            if not self.waits:
                self.waits = True
                return True
            if in_time:
                turns.give_back()
            raise KeyboardInterrupt

        def release(self) -> None:
            """Be handed the turn."""

    monkeypatch.setattr("qwen_aiml._turns.threading.Lock", Mine)
    with pytest.raises(KeyboardInterrupt):
        turns.take(5)
    if not in_time:
        turns.give_back()

    assert (turns._free, len(turns._waiting)) == (1, 0)
