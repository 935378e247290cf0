"""The protocol for a custom embedding model of the emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence


@runtime_checkable
class Vectoriser(Protocol):
    """
    A custom embedding model for the emulator: an object with a name and a method ``embed``.

    Its vectors may have up to 2,048 dimensions; the emulator maps them to the
    dimensions of the service.
    """

    @property
    def name(self) -> str:
        """
        Its name; change it whenever the vectors change.

        It is part of the emulator's URL, of the ``model`` of responses and of
        cache keys: 1 to 40 of ``a-z 0-9 . _ -``, the first a letter or a
        digit.
        """
        ...

    def embed(self, texts: Sequence[str]) -> Any:
        """
        Embed texts. Calls come from any thread, one at a time.

        Args:
            texts: One or more, not blank, as they were sent: with the prefix
                ``Instruct: ...`` and ``Query:`` if the client added one.

        Returns:
            One vector per text, in their order, as a NumPy array or as lists:
            all with the same dimensions, and normalised. A text has the same
            vector in any batch.
        """
        ...
