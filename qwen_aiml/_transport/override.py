"""What answers instead of the service in the whole process, while something does. No I/O here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._config import EmbeddingConfig


# Returns the settings and the HTTP client to use instead of some settings, and of all other clients; its
# second argument tells whether a `Client` is needed, or an `AsyncClient`. None if the service answers.
everywhere: Callable[[EmbeddingConfig, bool], tuple[EmbeddingConfig, Any]] | None = None


def meant(config: EmbeddingConfig, given: Any, *, sync: bool) -> tuple[EmbeddingConfig, Any]:
    """Give the settings and the client to send with: those given, unless everything goes elsewhere."""
    if (answer := everywhere) is None or service_of(given) is not None:
        return config, given
    return answer(config, sync)


def service_of(given: Any) -> str | None:
    """Name the stand-in that an HTTP client leads to, whose vectors are not the service's; None if none."""
    name: str | None = getattr(given, "qwen_aiml_service", None)
    return name
