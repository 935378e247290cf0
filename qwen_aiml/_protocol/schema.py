"""The shape of a response that holds embeddings, as the service documents it. No I/O here."""

from __future__ import annotations

from typing import Any

import msgspec


class Hidden(msgspec.Struct):
    """
    A struct that shows its type only.

    So a traceback that prints local variables shows no text, nor what the service may repeat of one.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Row(msgspec.Struct, gc=False):
    """One embedding, as the service documents it."""

    embedding: list[float]
    index: int | None = None


class Success(Hidden):
    """
    The body of a response that holds embeddings, as the service documents it.

    To read it like this, types and all, takes two thirds of what it takes to read it first and look then.
    """

    data: list[Row]
    model: Any = None
    usage: Any = None
    meta: Any = None
    id: Any = None
    request_id: Any = None
    requestId: Any = None  # noqa: N815 (the service's spelling)


def members(value: Any) -> dict[str, Any]:
    """Give the members of a JSON object; none for anything else."""
    return value if isinstance(value, dict) else {}
