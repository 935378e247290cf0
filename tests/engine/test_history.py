"""What is counted of the latest requests, in a time that the tests make."""

from __future__ import annotations

import pytest

from qwen_aiml import _history
from qwen_aiml._engine.history import History, Outcome, Start


def told(*requests: tuple[float, float, Outcome | None]) -> tuple[History, list[Start]]:
    """Note requests: when each started, when it ended, and how; None if it is still open."""
    history = History()
    starts = {}
    moments = [(began, 1, at) for at, (began, _, _) in enumerate(requests)]
    moments += [(ended, 0, at) for at, (_, ended, outcome) in enumerate(requests) if outcome]
    for now, begins, at in sorted(moments):
        if begins:
            starts[at] = history.begin(now, 0)
        elif outcome := requests[at][2]:
            history.end(starts[at], now, outcome)
    return history, [starts[at] for at in range(len(requests))]


def test_in_a_second() -> None:
    """What is accepted or open counts, in the second before a request and in the best second of all."""
    history, starts = told(
        (0.0, 0.1, "accepted"),
        (0.5, 0.6, "accepted"),
        (0.9, 1.2, "accepted"),
        (0.95, 1.2, "refused"),
        (1.01, 1.2, "lost"),
        (1.02, 2.0, None),
        (1.03, 1.3, "refused"),
    )

    assert history.in_the_second_before(starts[-1]) == 3  # at 0.5, 0.9 and 1.02
    assert history.in_the_second_before(starts[-1], slack=0.05) == 4
    assert history.answered_in_the_second_before(1.25) == 2
    assert history.most_in_a_second() == 3
    assert history.reached_since(0.3) == [0.6, 1.02, 1.2]
    assert history.was_busy(starts[5])
    assert not history.was_busy(starts[3])


def test_the_first_to_start_can_arrive_last() -> None:
    """Nothing started before the first request, so those that started after it count."""
    history, starts = told((0.0, 0.1, "refused"), (0.001, 0.1, "accepted"), (0.002, 0.1, "accepted"))

    assert history.in_the_second_before(starts[0]) == 2


def test_under_way() -> None:
    """Refused requests are not counted by the service, and so not among those under way."""
    history, starts = told(
        (0.0, 1.0, "accepted"),
        (0.1, 1.0, "refused"),
        (0.2, 1.0, "accepted"),
        (0.3, 1.5, "accepted"),
        (1.2, 1.6, "accepted"),
    )

    assert [start.under_way for start in starts] == [1, 2, 2, 3, 2]
    assert history.most_under_way() == 3


@pytest.mark.parametrize(("accepted", "expected"), [(0, False), (2, False), (3, True), (9, True)])
def test_accepted_with(accepted: int, expected: bool) -> None:
    """Three accepted for each refused one, with as many under way, show that this is no limit."""
    alone = [(float(at), at + 0.5, "accepted") for at in range(3)]
    pairs = [(10.0 + at, 10.5 + at, "accepted") for at in range(accepted) for _ in range(2)]
    history, starts = told(*alone, *pairs, (30.0, 30.5, "accepted"), (30.1, 30.2, "refused"))  # type: ignore[arg-type]

    assert starts[-1].under_way == 2
    assert history.is_accepted_with(2) == expected


def test_refused_often() -> None:
    """Eight refusals among thirty answers are no bad luck; what was lost is no answer."""
    first: list[Outcome] = ["accepted"] * 20
    then: list[Outcome] = ["refused"] * 7
    lost: list[Outcome] = ["lost"] * 20
    outcomes = [*first, *then, *lost, *first[:2]]
    history, _ = told(*((float(at), at + 0.5, outcome) for at, outcome in enumerate(outcomes)))
    assert not history.is_refused_often

    history.end(history.begin(50.0, 0), 50.5, "refused")
    assert history.is_refused_often


def test_explain() -> None:
    """Once many refusals show a limit, those before them were no bad luck."""
    history, starts = told(*((float(at), at + 0.5, "refused") for at in range(_history.TOO_MANY)))
    starts[0].outcome = starts[1].outcome = "unlucky"
    assert history.unlucky == 2
    history.explain()

    assert history.unlucky == 0
    assert not history.is_refused_often


def test_memory() -> None:
    """A minute is remembered, or ten seconds if there is more."""
    history = History()
    for second in range(200):
        history.end(history.begin(float(second), 0), float(second), "accepted")
    assert len(history) == _history.MOST_SECONDS + 1

    for tenth in range(2000, 6000):
        history.end(history.begin(tenth / 10, 0), tenth / 10, "accepted")
    assert len(history) == pytest.approx(_history.LEAST_REQUESTS, abs=1)

    for thousandth in range(600_000, 620_000, 10):
        history.end(history.begin(thousandth / 1000, 0), thousandth / 1000, "accepted")
    assert len(history) == pytest.approx(1000, abs=1)
