"""What answers instead of the service in the whole process, while something does. No I/O here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .._keys import KeySource
from .._urls import DEFAULT_BASE_URL

if TYPE_CHECKING:
    from .._config import EmbeddingConfig
    from .._keys import Secret


class StandIn(Struct, frozen=True, kw_only=True):
    """
    Clients to send with instead of all others.

    Attributes:
        clients: An ``httpx.Client`` and an ``httpx.AsyncClient``, by their names.

        key: The key that is known there.

        replaced: Keys of the service, which are not shown to it: it gets its own instead.
    """

    clients: dict[str, Any]
    key: Secret
    replaced: frozenset[Secret]


class _Everywhere(Struct):
    """What answers instead of the service in this process; None if the service does."""

    stand_in: StandIn | None = None


everywhere = _Everywhere()


def meant(config: EmbeddingConfig, given: Any, *, sync: bool) -> tuple[EmbeddingConfig, Any]:
    """
    Give the settings and the client to send with: those given, unless everything goes to a stand-in.

    Whatever address was meant, the service's own is asked for there. A function that gives keys is not
    called: those are of the service, or of a gateway to it.
    """
    stand_in = everywhere.stand_in
    if stand_in is None or service_of(given) is not None:
        return config, given
    is_replaced = config.api_key in stand_in.replaced or isinstance(config.api_key, KeySource)
    key = stand_in.key if is_replaced else config.api_key
    config = replace(config, api_key=key, base_url=DEFAULT_BASE_URL)
    return config, stand_in.clients["Client" if sync else "AsyncClient"]


def service_of(given: Any) -> str | None:
    """Name the stand-in that an HTTP client leads to, whose vectors are not the service's; None if none."""
    name: str | None = getattr(given, "qwen_aiml_service", None)
    return name
