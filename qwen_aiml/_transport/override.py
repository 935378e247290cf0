"""A process-wide override that replaces the service, such as the emulator. No I/O here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._config import EmbeddingConfig


# Returns the settings and the HTTP client to use instead of the given settings and any client. The second
# argument is whether to return a `Client` or an `AsyncClient`. None if there is no override.
process_wide: Callable[[EmbeddingConfig, bool], tuple[EmbeddingConfig, Any]] | None = None


def resolve(config: EmbeddingConfig, given: Any, *, sync: bool) -> tuple[EmbeddingConfig, Any]:
    """Return the settings and client to use: those given, unless an override replaces them."""
    if (override := process_wide) is None or service_name(given) is not None:
        return config, given
    return override(config, sync)


def service_name(given: Any) -> str | None:
    """Return the name of the stand-in for the service that an HTTP client uses; None if there is none."""
    name: str | None = getattr(given, "qwen_aiml_service", None)
    return name
