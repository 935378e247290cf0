"""Blocks of a stream, without I/O: when they start, the order of their rows, and errors."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from qwen_aiml import (
    AuthenticationError,
    CacheError,
    EmbeddingBatchError,
    InputValueError,
    QwenAIMLError,
    TransportError,
    Usage,
)
from qwen_aiml._engine.stream import Blocks

REFUSED = AuthenticationError("401", status_code=401)


class Block:
    """A fake job: once it has ended, some texts have no embedding, and some of these an error."""

    def __init__(self, texts: list[str], first: int) -> None:
        self.texts = texts
        self.first = first
        self.missing: tuple[int, ...] = tuple(range(len(texts)))
        self.refused: QwenAIMLError | None = REFUSED
        self.crash: Exception | None = None
        self.call = SimpleNamespace(usage=Usage(1, 2, 3))

    def rows(self) -> list[array[float] | None]:
        """Return one row for each text, with the length of the text."""
        places = enumerate(self.texts)
        return [None if at in self.missing else array("f", [len(text)]) for at, text in places]

    def cause(self) -> Exception | None:
        """Return the first failure."""
        return self.crash or (self.refused if self.missing else None)

    def failures(self) -> dict[int, QwenAIMLError]:
        """Return errors by index."""
        return {self.first + at: self.refused for at in self.missing if self.refused is not None}


def create(look_ahead: int, *, in_order: bool = True, overlap: bool = True, make: Any = Block) -> Blocks:
    return Blocks(make, look_ahead, in_order=in_order, overlap=overlap)


def begin(blocks: Blocks) -> Any:
    """Read as many texts as are wanted, and start a block if one may start."""
    while blocks.wants_text:
        blocks.read.append("text")
    return blocks.begin()


def begun(blocks: Blocks) -> Any:
    block = begin(blocks)
    assert block is not None
    return block


def end(blocks: Blocks, block: Any, *missing: int, crash: Exception | None = None) -> None:
    block.missing, block.crash = missing, crash
    blocks.end(block)


def taken(blocks: Blocks) -> list[int]:
    """Take all available rows."""
    return [row[0] for row in iter(blocks.take, None) if row is not None]


def test_two_blocks_are_under_way() -> None:
    """A third block starts as soon as one has ended, but no fourth before the first one's rows are taken."""
    blocks = create(9)
    first, second = begun(blocks), begun(blocks)
    assert (first.first, len(first.texts), second.first, blocks.running) == (0, 3, 3, 2)
    assert begin(blocks) is None
    end(blocks, first)
    third = begun(blocks)
    assert begin(blocks) is None
    end(blocks, second)
    assert begin(blocks) is None
    assert blocks.take() == (0, array("f", [4.0]))
    assert begin(blocks) is None
    assert [blocks.take(), blocks.take()][-1] == (2, array("f", [4.0]))
    assert begun(blocks).first == 9
    end(blocks, third)
    assert taken(blocks) == [3, 4, 5, 6, 7, 8]


def test_one_block_at_a_time() -> None:
    """Without overlap a block spans the whole look-ahead, and starts when no row is left to take."""
    blocks = create(4, overlap=False)
    first = begun(blocks)
    assert len(first.texts) == 4
    assert begin(blocks) is None
    end(blocks, first)
    assert begin(blocks) is None
    assert taken(blocks) == [0, 1, 2, 3]
    assert begun(blocks).first == 4


@pytest.mark.parametrize("look_ahead", [1, 2, 3, 5])
def test_small_look_ahead(look_ahead: int) -> None:
    """At most look_ahead texts are read but not yielded, and the iteration never stalls."""
    blocks = create(look_ahead)
    read = yielded = 0
    waiting: list[Any] = []
    for _ in range(30):
        while blocks.wants_text:
            blocks.read.append("text")
            read += 1
            assert read - yielded <= look_ahead
        if (block := blocks.begin()) is not None:
            waiting.append(block)
            continue
        if blocks.take() is not None:
            yielded += 1
        else:
            end(blocks, waiting.pop(0))
    assert yielded > 8


@pytest.mark.parametrize(("in_order", "rows"), [(True, []), (False, [2, 3])])
def test_order(in_order: bool, rows: list[int]) -> None:
    """A block that ends before an earlier one waits for it, unless order does not matter."""
    blocks = create(6, in_order=in_order)
    first, second = begun(blocks), begun(blocks)
    end(blocks, second)
    assert taken(blocks) == rows
    end(blocks, first)
    assert sorted(rows + taken(blocks)) == [0, 1, 2, 3]


def test_the_last_block() -> None:
    """The texts left at the end form the last block, and no block starts after it."""
    blocks = create(30)
    blocks.read.append("one")
    blocks.read_error = StopIteration()
    assert not blocks.wants_text
    last = begun(blocks)
    assert last.texts == ["one"]
    assert blocks.begin() is None
    end(blocks, last)
    assert taken(blocks) == [0]
    assert blocks.error() is None


def test_texts_that_break_off() -> None:
    """If reading raises, the texts before are embedded; then the exception is raised unchanged."""
    blocks = create(30)
    blocks.read.append("one")
    blocks.read_error = ZeroDivisionError()
    end(blocks, begun(blocks))
    assert taken(blocks) == [0]
    assert isinstance(blocks.error(), ZeroDivisionError)


def test_texts_that_break_off_and_are_not_all_embedded() -> None:
    """An exception of reading hides no other error: it implies that all texts before are embedded."""
    unreadable = create(30), CacheError("unreadable")
    refusal = InputValueError("blank", indices=[0])
    invalid = create(30, make=failing_at(refusal, 0)), refusal
    for blocks, error in (unreadable, invalid):
        blocks.read.append("one")
        blocks.read_error = ZeroDivisionError()
        block: Any = blocks.begin()
        if block is not None:
            block.refused = None
            blocks.end(block, error)
        assert taken(blocks) == []
        assert blocks.error() is error


def test_failure_in_part() -> None:
    """After a partial failure no block starts; the error's indices count from the first text of all."""
    blocks = create(9)
    end(blocks, begun(blocks))
    first, second = begun(blocks), begun(blocks)
    assert taken(blocks) == [0, 1, 2]
    end(blocks, second, 0, 2)
    assert begin(blocks) is None
    end(blocks, first, 1)
    assert begin(blocks) is None
    assert taken(blocks) == [3, 5, 7]
    error = blocks.error()

    assert isinstance(error, EmbeddingBatchError)
    assert error.failures == dict.fromkeys([4, 6, 8], REFUSED)
    assert list(error.failures) == [4, 6, 8]
    assert error.indices == (4, 6, 8)
    assert error.embeddings == []
    assert error.usage == Usage(3, 6, 9)
    assert str(error).startswith("3 texts not embedded: texts 4, 6, 8. The others were yielded before, the")


def test_one_text_fails() -> None:
    """The message for one failed text is in the singular."""
    blocks = create(9)
    end(blocks, begun(blocks), 1)
    taken(blocks)

    assert str(blocks.error()).startswith("1 text not embedded: text 1. The others were yielded")


def test_nothing_embedded() -> None:
    """If nothing was embedded, the first error itself is raised, whichever block it is from."""
    blocks = create(9)
    first, second = begun(blocks), begun(blocks)
    end(blocks, second, 0, 1, 2)
    first.refused = TransportError("later", transient=True)
    end(blocks, first, 0, 1, 2)

    assert blocks.error() is REFUSED


@pytest.mark.parametrize("missing", [(0, 1, 2), (1,)])
def test_foreign_exceptions(missing: tuple[int, ...]) -> None:
    """An exception of the HTTP client is raised unchanged, or as the cause if there are embeddings."""
    blocks, crash = create(9), ZeroDivisionError()
    end(blocks, begun(blocks), *missing, crash=crash)
    taken(blocks)
    error = blocks.error()

    assert crash in (error, getattr(error, "__cause__", None))
    assert isinstance(error, EmbeddingBatchError) == (len(missing) == 1)


def failing_at(error: Exception, first: int) -> Any:
    """Create a factory of jobs that raises for the block at *first*."""

    def make(texts: list[str], at: int) -> Block:
        if at == first:
            raise error
        return Block(texts, at)

    return make


def test_invalid_input() -> None:
    """A block of invalid texts ends the iteration, after the rows of the blocks in flight."""
    refusal = InputValueError("blank", indices=[4])
    blocks = create(9, make=failing_at(refusal, 3))
    first = begun(blocks)
    assert begin(blocks) is None
    assert begin(blocks) is None
    end(blocks, first)
    assert taken(blocks) == [0, 1, 2]
    assert blocks.error() is refusal


def test_invalid_input_and_failures() -> None:
    """Failed requests take precedence over invalid texts, whose error becomes the cause."""
    refusal = InputValueError("blank", indices=[4])
    blocks = create(9, make=failing_at(refusal, 3))
    first = begun(blocks)
    assert begin(blocks) is None
    end(blocks, first, 2)
    taken(blocks)
    error = blocks.error()

    assert isinstance(error, EmbeddingBatchError)
    assert error.__cause__ is refusal
    assert list(error.failures) == [2]
    assert error.indices == (2, 3, 4, 5)


def test_cache_that_fails() -> None:
    """A cache error is raised after the rows that the cache returned before."""
    blocks, crash = create(9), CacheError("unreadable")
    block = begun(blocks)
    block.missing, block.refused = (1, 2), None
    blocks.end(block, crash)
    assert begin(blocks) is None
    assert taken(blocks) == [0]
    assert blocks.error() is crash


def test_close() -> None:
    """After closing, nothing is read, started, yielded or raised."""
    blocks = create(9)
    first, second = begun(blocks), begun(blocks)
    end(blocks, first, 1)
    blocks = blocks.closed()
    end(blocks, second)

    assert not blocks.wants_text
    assert blocks.begin() is None
    assert blocks.take() is None
    assert (blocks.running, blocks.error()) == (0, None)
