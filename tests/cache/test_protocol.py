"""Values of the `cache` argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml import ConfigurationError, SQLiteCache
from qwen_aiml._cache.protocol import open_cache

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_path(kind: Any, tmp_path: Path) -> None:
    """A path opens a SQLite file."""
    cache = open_cache(kind(tmp_path / "embeddings.db"))
    assert isinstance(cache, SQLiteCache)
    cache.close()


def test_cache(tmp_path: Path) -> None:
    """A cache is used unchanged, and None means no cache."""
    with SQLiteCache(tmp_path / "embeddings.db") as cache:
        assert open_cache(cache) is cache
    assert open_cache(None) is None


@pytest.mark.parametrize("given", ["", 7, True, {}, object()])
def test_anything_else(given: Any) -> None:
    """Any other value is rejected, with the accepted ones in the message."""
    with pytest.raises(ConfigurationError, match=f"aget_many and aset_many, not {type(given).__name__}$"):
        open_cache(given)
