"""What became of the latest requests of a client, and what can be counted from that. No I/O here."""

from __future__ import annotations

import math
from collections import deque
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_SECONDS, MOST_SECONDS = 10.0, 60.0  # that are remembered
LEAST_REQUESTS = 300  # until then the longer of the two holds, since it takes as many to tell bad luck
ACCEPTED = 3  # for each that is refused; a limit lets a few more pass, as clocks differ
LATEST = 30  # answers
TOO_MANY = 8  # refusals among these: hardly ever bad luck, where one in ten is refused without a reason

Outcome = Literal["accepted", "refused", "unlucky", "lost"]


class Start(Struct, eq=False):
    """
    One request that has started.

    Attributes:
        at: When, by the clock.

        tokens: Expected in it.

        under_way: How many were under way then, itself included, less those that were refused.

        outcome: What came of it; ``unlucky`` is a refusal that no limit explains. None as long as it is open.

        ended: When that was known.
    """

    at: float
    tokens: float
    under_way: int
    outcome: Outcome | None = None
    ended: float = math.inf

    @property
    def counts(self) -> bool:
        """Whether the service has counted it towards its limits, or may have."""
        return self.outcome in ("accepted", None)


class History:
    """The requests of the last ten seconds; of the last minute, as long as these are no more than 300."""

    def __init__(self) -> None:
        self._starts: deque[Start] = deque()
        self._open = 0
        self._refusals: deque[bool] = deque(maxlen=LATEST)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Start]:
        return iter(self._starts)

    def begin(self, now: float, tokens: float) -> Start:
        """Note a request that starts."""
        while self._starts and now - self._starts[0].at > self._seconds:
            self._starts.popleft()
        self._open += 1
        self._starts.append(Start(now, tokens, self._open))
        return self._starts[-1]

    def end(self, start: Start, now: float, outcome: Outcome) -> None:
        """Note what came of a request."""
        start.outcome, start.ended = outcome, now
        self._open -= 1
        if outcome == "refused":
            # The service did not count it while it was under way.
            for later in takewhile(lambda other: other is not start, reversed(self._starts)):
                later.under_way -= 1
        if outcome != "lost":
            self._refusals.append(outcome == "refused")

    @property
    def _seconds(self) -> float:
        return LEAST_SECONDS if len(self._starts) >= LEAST_REQUESTS else MOST_SECONDS

    @property
    def is_refused_often(self) -> bool:
        """Whether so many of the latest answers are refusals that it can't be bad luck."""
        return sum(self._refusals) >= TOO_MANY

    @property
    def unlucky(self) -> int:
        """How many refusals no limit explains."""
        return sum(start.outcome == "unlucky" for start in self._starts)

    def explain(self) -> None:
        """Take all that looked like bad luck for what a limit did, and count refusals from here on."""
        self._refusals.clear()
        for start in self._starts:
            if start.outcome == "unlucky":
                start.outcome = "refused"

    def was_busy(self, start: Start) -> bool:
        """Tell whether requests had started more than a second before, so that a second's worth is known."""
        return any(start.at - 2 < other.at <= start.at - 1 for other in self._starts)

    def in_the_second_before(self, start: Start, slack: float = 0.0) -> int:
        """Count what had started, give or take some seconds of *slack*."""
        near = [other.at for other in self._starts if other.counts and start.at - 1 - slack < other.at]
        # A request that starts first can arrive last.
        return sum(at <= start.at for at in near) or len(near)

    def answered_in_the_second_before(self, now: float) -> int:
        """Count what was accepted."""
        return sum(other.outcome == "accepted" and now - 1 < other.ended <= now for other in self._starts)

    def reached_since(self, moment: float) -> list[float]:
        """Say when the service got what it counts: when it answered at the latest; connecting takes time."""
        counted = (start for start in self._starts if start.counts)
        reached = (start.at if start.outcome is None else start.ended for start in counted)
        return sorted(at for at in reached if at > moment)

    def most_in_a_second(self) -> int:
        """Count what was accepted in the best second."""
        starts = sorted(start.at for start in self._starts if start.outcome == "accepted")
        most = first = 0
        for last, at in enumerate(starts):
            while starts[first] <= at - 1:
                first += 1
            most = max(most, last - first + 1)
        return most

    def is_accepted_with(self, under_way: int) -> bool:
        """Tell whether hardly any is refused while so many are under way, or more."""
        accepted = refused = 0
        for start in self._starts:
            if start.under_way >= under_way:
                accepted += start.outcome == "accepted"
                refused += start.outcome in ("refused", "unlucky")
        return accepted >= ACCEPTED * refused

    def most_under_way(self) -> int:
        """Count the most that were accepted at once."""
        return max(accumulate(step for _, step in sorted(self._steps())), default=0)

    def _steps(self) -> Iterator[tuple[float, int]]:
        """Give the moments at which one more or one less was under way."""
        for start in self._starts:
            if start.outcome == "accepted":
                yield start.at, 1
                yield start.ended, -1
