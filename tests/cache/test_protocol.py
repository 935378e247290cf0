"""What may be given as a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml import ConfigurationError, SQLiteCache
from qwen_aiml._cache.protocol import open_cache

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_path(kind: Any, tmp_path: Path) -> None:
    """A path is that of an SQLite file."""
    cache = open_cache(kind(tmp_path / "embeddings.db"))
    assert isinstance(cache, SQLiteCache)
    cache.close()


def test_cache(tmp_path: Path) -> None:
    """A cache is taken as it is, and so is None."""
    with SQLiteCache(tmp_path / "embeddings.db") as cache:
        assert open_cache(cache) is cache
    assert open_cache(None) is None


@pytest.mark.parametrize("given", ["", 7, True, {}, object()])
def test_anything_else(given: Any) -> None:
    """Anything else is rejected, with what would do."""
    with pytest.raises(ConfigurationError, match=f"aget_many and aset_many, not {type(given).__name__}$"):
        open_cache(given)
