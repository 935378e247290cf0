"""Errors for unknown settings: similar names, and advice on settings of other classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Names of one setting in this package's classes and in those that users migrate from.
_SAME = (
    ("model", "model_name", "model_id"),
    ("base_url", "api_base", "openai_api_base", "aimlapi_api_base"),
    ("api_key", "openai_api_key", "dashscope_api_key"),
    ("batch_size", "chunk_size", "embed_batch_size"),
    ("dimensions", "output_dimensionality", "output_dimension", "embedding_dimensions", "embed_dim", "dim"),
    ("show_progress_bar", "show_progress"),
    ("timeout", "request_timeout"),
    ("default_headers", "headers", "extra_headers"),
    ("http_async_client", "async_http_client", "async_client"),
)
_OF_THE_CLIENT = "pass it to EmbeddingClient or AsyncEmbeddingClient"
_OF_OTHER_CLASSES = """
    additional_kwargs allowed_special api_version client default_query deployment disallowed_special mode
    openai_api_type openai_api_version openai_organization organization retry_max_seconds retry_min_seconds
    reuse_client tiktoken_enabled tiktoken_model_name
""".split()  # noqa: SIM905 (a list would take 19 lines)
# Advice on other names that users try, for classes without such a setting.
_CURES = {
    "cache": _OF_THE_CLIENT,
    "http_client": _OF_THE_CLIENT,
    "http_async_client": "pass it to AsyncEmbeddingClient as http_client",
    "limiter": _OF_THE_CLIENT,
    "rate_limiter": "pass admit= to embed",
    **dict.fromkeys(
        ("show_progress_bar", "show_progress"),
        "pass show_progress=True to each call in LlamaIndex, progress= to embed in the core",
    ),
    "proxy": "set HTTPS_PROXY in the environment",
    "openai_proxy": "set HTTPS_PROXY in the environment",
    "verify": "set SSL_CERT_FILE in the environment",
    "emulator": "give what Emulator.client_options() returns",
    "embedding_ctx_length": "set on_too_long",
    **dict.fromkeys(("text_type", "input_type"), "queries and documents have methods of their own"),
    **dict.fromkeys(_OF_OTHER_CLASSES, "leave it out"),
}


def unknown_settings(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Describe unknown settings, each with the one that was probably meant, or with advice."""
    from difflib import get_close_matches  # noqa: PLC0415 (only for errors)

    known, parts = sorted(known), []
    for name in sorted(unknown):
        same = [other for names in _SAME if name in names for other in names if other in known]
        if not same and name in _CURES:
            parts.append(f"{name} ({_CURES[name]})")
            continue
        meant = [*same, *get_close_matches(name, known)]
        parts.append(f"{name} (did you mean {meant[0]}?)" if meant else name)
    return f"unknown setting {', '.join(parts)}"
