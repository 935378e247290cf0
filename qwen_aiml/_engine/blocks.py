"""
Texts without end, cut into blocks: when each begins, in which order rows come, what is raised. No I/O here.

Each block is a job of its own, as the texts of one ``embed`` are.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias, cast

from msgspec import Struct

from .._errors import EmbeddingBatchError
from .._results import Usage

if TYPE_CHECKING:
    from array import array

    from .._errors import QwenAIMLError
    from .job import Job

    Row: TypeAlias = tuple[int, array[float]]

# Blocks that the look-ahead is cut into where they overlap: two under way, and one whose rows are given.
BLOCKS_AHEAD = 3


class Block(Struct, eq=False):
    """
    Some texts that are embedded together.

    Attributes:
        first: The index of the first one.

        texts: As they were read.

        rows: Indices and embeddings, once the block has ended; None before.
    """

    first: int
    texts: list[str]
    rows: list[Row] | None = None

    def __repr__(self) -> str:
        return f"Block(first={self.first})"


class Blocks:
    """
    The state of one iteration.

    Args:
        look_ahead: Texts read and not given at once, at the most.

        in_order: Whether rows are given in the order of the texts; else block by block, as these end.

        overlap: Whether two blocks may be under way, also while rows are given; else one, and only when
            there is none to give.

    Attributes:
        running: How many blocks are under way.
    """

    def __init__(self, look_ahead: int, *, in_order: bool, overlap: bool) -> None:
        self._look_ahead = look_ahead
        self._in_order = in_order
        self.overlap = overlap
        self.running = 0
        self._read: list[str] = []
        self._no_more = False
        self._begun = 0
        self._given = 0
        self._blocks: list[Block] = []
        self._rows: deque[Row] = deque()
        self._usage = Usage()
        self._failed = False
        self._missing: list[int] = []
        self._failures: dict[int, QwenAIMLError] = {}
        self._crash: Exception | None = None
        self._errors: list[BaseException] = []

    @property
    def _size(self) -> int:
        return max(1, self._look_ahead // BLOCKS_AHEAD) if self.overlap else self._look_ahead

    @property
    def _may_begin(self) -> bool:
        if self._failed or (not self.overlap and (self._rows or self.running)):
            return False
        return self.running < 2 and self._begun - self._given + self._size <= self._look_ahead  # noqa: PLR2004

    @property
    def wants_text(self) -> bool:
        """Whether a text is to be read now, for a block that may begin."""
        return len(self._read) < self._size and not self._no_more and self._may_begin

    def read(self, text: str) -> None:
        """Take the next text."""
        self._read.append(text)

    def no_more(self, error: Exception | None = None) -> None:
        """Take note that the texts have ended, or could not be read further because of *error*."""
        self._no_more = True
        if error is not None:
            self._errors.append(error)

    def begin(self) -> Block | None:
        """Give the block that is to begin now, once no further text is wanted; None for none."""
        if not self._read or not self._may_begin:
            return None
        block = Block(self._begun, self._read)
        self._read = []
        self._begun += len(block.texts)
        self._blocks.append(block)
        self.running += 1
        return block

    def end(self, block: Block, job: Job | None, error: BaseException | None = None) -> None:
        """
        Take note that a block has ended.

        Args:
            block: One that has begun.

            job: It, with all workers gone; None if there was none to be.

            error: What was raised instead of being noted by the job; None for nothing.
        """
        if block not in self._blocks:
            return  # closed in the meantime
        self.running -= 1
        rows = [None] * len(block.texts) if job is None else job.rows()
        indexed = list(enumerate(rows, block.first))
        block.rows = [(index, cast("array[float]", row)) for index, row in indexed if row is not None]
        self._missing += [index for index, row in indexed if row is None]
        if job is not None:
            job.shortened()
            self._usage += job.usage
            self._failures |= job.failures()
            self._crash = self._crash or job.crash
        if error is not None:
            self._errors.append(error)
        self._failed = bool(self._missing or self._errors)
        for ended in list(self._blocks):
            if ended.rows is not None:
                self._rows.extend(ended.rows)
                self._blocks.remove(ended)
            elif self._in_order:
                break

    def take(self) -> Row | None:
        """Give the next row; None if none is there yet."""
        if not self._rows:
            return None
        self._given += 1
        return self._rows.popleft()

    def error(self) -> BaseException | None:
        """
        Tell what is to be raised, once no block is under way and all rows are given; None for nothing.

        An `EmbeddingBatchError` if requests failed, unless not a single row was given; then, or if it was
        something else, the first error itself.
        """
        other = self._errors[0] if self._errors else None
        if not self._failures:
            return other
        failures = dict(sorted(self._failures.items()))
        if not self._given:
            return self._crash or next(iter(failures.values()))
        error = EmbeddingBatchError([], failures, self._usage, missing=sorted(self._missing))
        error.__cause__ = self._crash or other
        return error

    def close(self) -> None:
        """Give no further row, and begin no further block."""
        self.running = 0
        self._no_more = True
        self._read = []
        self._blocks.clear()
        self._rows.clear()
        self._failures.clear()
        self._errors.clear()
