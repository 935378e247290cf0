"""What the classes of all frameworks share: a client of each colour, what they cost, how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._client import AsyncEmbeddingClient, EmbeddingClient
    from ._result import Usage


class ClientHolder:
    """A base for a class that holds an `EmbeddingClient` and an `AsyncEmbeddingClient`."""

    if TYPE_CHECKING:
        _client: EmbeddingClient
        _async_client: AsyncEmbeddingClient

    @property
    def usage(self) -> Usage:
        """What all calls of this object have cost so far."""
        return self._client.usage + self._async_client.usage

    def close(self) -> None:
        """Close the connections of the synchronous methods; a later call opens new ones."""
        self._client.close()

    async def aclose(self) -> None:
        """Close all connections but those of other event loops, which end with them."""
        self._client.close()
        await self._async_client.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
