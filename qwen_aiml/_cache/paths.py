"""Paths of cache files: their validation, and the identity of a file."""

from __future__ import annotations

import os
import re

from .._errors import ConfigurationError, advised

OTHER_PATH = "give another path"


def check_path(path: str) -> None:
    """Reject a value that is not the path of a file; no I/O."""
    if path in ("", ":memory:"):
        raise ConfigurationError("path must be that of a file: a cache in memory would end with its process")
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)", path):
        # Not the URL itself, which may contain a password.
        message = f"cache must be the path of a file, not a {scheme[0]}:// URL"
        advice = "give a ByteStore of LangChain, a BaseKVStore of LlamaIndex, or a store of your own"
        raise ConfigurationError(advised(message, advice))


def check_folder(path: str) -> None:
    """Reject an absolute path that is a folder, or whose folder is missing."""
    if os.path.isdir(path):  # noqa: PTH112 (a string)
        raise ConfigurationError(advised(f"the cache {path} is a folder", OTHER_PATH))
    folder = os.path.dirname(path)  # noqa: PTH120 (a string)
    if not os.path.isdir(folder):  # noqa: PTH112 (a string)
        message = f"the folder of the cache {path} is missing"
        raise ConfigurationError(advised(message, f"create {folder}, or give another path"))


def identity(path: str) -> tuple[int, int] | None:
    """Return the device and inode of a file; None if there is none."""
    try:
        file = os.stat(path)  # noqa: PTH116 (a string)
    except OSError:
        return None
    return file.st_dev, file.st_ino
