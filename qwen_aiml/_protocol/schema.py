"""The documented shape of a response with embeddings. No I/O here."""

from __future__ import annotations

from typing import Any

import msgspec


class Hidden(msgspec.Struct):
    """
    A struct whose repr shows only its type.

    A traceback that prints local variables then shows no text, even if the service repeats one.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Row(msgspec.Struct, gc=False):
    """One embedding, as the service documents it, or as a base64 string; 1.0 is a valid index in JSON."""

    embedding: list[float] | str
    index: float | None = None


class Success(Hidden):
    """
    The body of a response with embeddings, as the service documents it.

    Decoding straight into types takes two thirds of the time of decoding first and validating then.
    """

    data: list[Row]
    model: Any = None
    usage: Any = None
    meta: Any = None
    id: Any = None
    request_id: Any = None
    requestId: Any = None  # noqa: N815 (the service's spelling)


def members(value: Any) -> dict[str, Any]:
    """Return the members of a JSON object; an empty dictionary for any other value."""
    return value if isinstance(value, dict) else {}
