"""Errors for unknown settings, with the name in this class, or a similar one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Names of one setting, here and in classes that users migrate from, that are too unlike to be recognised.
_SAME = (
    ("base_url", "api_base", "openai_api_base", "aimlapi_api_base", "url", "endpoint"),
    ("api_key", "openai_api_key", "dashscope_api_key", "key", "token"),
    ("batch_size", "chunk_size", "embed_batch_size"),
    ("dimensions", "output_dimensionality", "output_dimension", "embedding_dimensions", "embed_dim", "dim"),
    ("timeout", "request_timeout"),
    ("max_concurrency", "concurrency", "max_workers"),
    ("requests_per_minute", "rpm"),
    ("tokens_per_minute", "tpm"),
    ("http_async_client", "async_http_client", "async_client"),
)


def unknown_settings(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Describe unknown settings, each with the one that was probably meant."""
    from difflib import get_close_matches  # noqa: PLC0415 (only for errors)

    known, parts = sorted(known), []
    for name in sorted(unknown):
        lower = name.lower()
        same = [other for names in _SAME if lower in names for other in names if other in known]
        meant = [*same, *get_close_matches(lower, known)]
        parts.append(f"{name} (did you mean {meant[0]}?)" if meant else name)
    return f"unknown setting {', '.join(parts)}"
