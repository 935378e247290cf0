"""Deduplication: the distinct texts of a call, and their positions in it. No I/O here."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .._utils.lazy import lazy_property

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_Value = TypeVar("_Value")


class DistinctTexts:
    """
    The distinct texts of a call, each identified by a number, its item.

    Args:
        texts: All texts as sent, in the caller's order.

        first: Index of the first text in errors and results; also an attribute.

    Attributes:
        texts: The distinct texts; the item of each is its position.

        items: The item of each text of the call.
    """

    def __init__(self, texts: Sequence[str], first: int = 0) -> None:
        self.first = first
        item_of = {text: item for item, text in enumerate(dict.fromkeys(texts))}
        self.texts = list(item_of)
        self.items = [item_of[text] for text in texts]

    def rows(self, embeddings: Mapping[int, Sequence[float]]) -> list[Sequence[float] | None]:
        """Return the embedding of each text, or None if it has none; repeated texts get copies."""
        rows = list(map(embeddings.get, self.items))
        if len(self.texts) < len(self.items):
            seen: set[int] = set()
            for index, item in enumerate(self.items):
                row = rows[index]
                if row is not None and item in seen:
                    rows[index] = row[:]
                seen.add(item)
        return rows

    def indices(self, items: Iterable[int]) -> list[int]:
        """Return the indices of all texts of some items, ascending."""
        return sorted(index for item in items for index in self._indices_of[item])

    def by_index(self, values: Mapping[int, _Value]) -> dict[int, _Value]:
        """Map the index of each text to the value of its item, if there is one."""
        return {index: values[item] for index, item in enumerate(self.items, self.first) if item in values}

    @lazy_property
    def _indices_of(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self.texts]
        for index, item in enumerate(self.items, self.first):
            found[item].append(index)
        return found
