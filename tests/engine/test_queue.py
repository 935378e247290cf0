"""The fair line, driven by hand, and once by many threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from qwen_aiml._engine.queue import Turn, Turns


def turns_of(limit: int) -> Turns:
    return Turns(lambda: limit)


def entered(turns: Turns, owner: object) -> Turn:
    turn = Turn(owner)
    turns.enter(turn)
    return turn


def test_one_at_a_time() -> None:
    """The next turn comes when the one before has started, not while its holder still waits for something."""
    turns = turns_of(5)
    first, second = entered(turns, "a"), entered(turns, "a")
    assert (first.has_come, second.has_come) == (True, False)

    turns.start(first)
    assert second.has_come


def test_limit() -> None:
    """No turn comes while as many have started as may, and one comes when one of these ends."""
    turns = turns_of(2)
    started = [entered(turns, "a") for _ in range(2)]
    for turn in started:
        turns.start(turn)
    waiting = entered(turns, "a")
    assert not waiting.has_come

    turns.leave(started[0])
    assert waiting.has_come


def test_limit_that_grows() -> None:
    """A limit that has grown lets more in at the next end."""
    limit = 1
    turns = Turns(lambda: limit)
    first, *others = [entered(turns, "a") for _ in range(4)]
    turns.start(first)
    assert not others[0].has_come

    limit = 3
    turns.leave(first)
    turns.start(others[0])
    turns.start(others[1])
    assert [turn.has_come for turn in others] == [True, True, True]


def test_in_the_order_they_came() -> None:
    """Within one call whoever has waited longest is next."""
    turns = turns_of(1)
    waiting = [entered(turns, "a") for _ in range(5)]
    served = []
    for _ in waiting:
        [turn] = [turn for turn in waiting if turn.has_come and turn not in served]
        served.append(turn)
        turns.start(turn)
        turns.leave(turn)

    assert served == waiting


def test_calls_in_rotation() -> None:
    """A call that comes later gets its turn in the midst of a long one."""
    turns = turns_of(1)
    long = [entered(turns, "ingestion") for _ in range(50)]
    query = entered(turns, "query")
    turns.leave(long[0])
    assert long[1].has_come
    turns.leave(long[1])

    assert query.has_come
    assert not long[2].has_come


def test_leaving_the_line() -> None:
    """Who gives up leaves no gap, wherever in the line it is."""
    turns = turns_of(1)
    first, second, third, other = (entered(turns, owner) for owner in "aaab")
    turns.leave(second)
    turns.leave(other)
    turns.leave(first)
    assert third.has_come

    turns.leave(third)
    turns.leave(third)
    assert entered(turns, "c").has_come


def test_called() -> None:
    """Whoever waits for a turn is called when it comes, or at once if it has."""
    turns = turns_of(1)
    called: list[Turn] = []
    first, second = entered(turns, "a"), entered(turns, "a")
    for turn in (first, second):
        turns.when_it_comes(turn, lambda turn=turn: called.append(turn))  # type: ignore[misc]
    assert called == [first]

    turns.leave(first)
    assert called == [first, second]


def test_dismissed() -> None:
    """A call that ends calls all who wait for its turns, and the turns of others come."""
    turns = turns_of(1)
    first, *mine, other = (entered(turns, owner) for owner in "aaab")
    called: list[Turn] = []
    turns.when_it_comes(mine[0], lambda: called.append(mine[0]))
    turns.dismiss("a")
    assert called == [mine[0]]
    turns.when_it_comes(mine[1], lambda: called.append(mine[1]))
    assert called == mine
    assert not any(turn.has_come for turn in mine)

    turns.dismiss("nobody")
    for turn in (*mine, first):
        turns.leave(turn)
    assert other.has_come


def test_threads() -> None:
    """With many threads each gets its turn, and no more than the limit are under way."""
    turns, lock = turns_of(3), threading.Lock()
    held, most = 0, 0

    def work(at: int) -> None:
        nonlocal held, most
        turn = entered(turns, at % 7)
        came = threading.Event()
        turns.when_it_comes(turn, came.set)
        assert came.wait(30)
        turns.start(turn)
        with lock:
            held += 1
            most = max(most, held)
        with lock:
            held -= 1
        turns.leave(turn)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(500)))

    assert most <= 3
    assert entered(turns, "a").has_come
