"""
A Daft job from Parquet to Parquet, which the tests kill and restart.

    python job.py TEXTS EMBEDDED CACHE

With RAY_ADDRESS in the environment it runs on that cluster, otherwise in this process. CACHE is the URL of a
Redis or PostgreSQL server, or a path. The service's API key and URL are in the environment too.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import daft
from daft.functions import embed_text

from daft_qwen_aiml import QwenAIMLProvider


def main(texts: str, embedded: str, cache: str) -> None:
    """
    Embed a folder of Parquet files into another one.

    Args:
        texts: Folder with the columns ``id`` and ``text``.

        embedded: Output folder; existing files are overwritten.

        cache: A path, or the URL of a Redis or PostgreSQL server.
    """
    if "RAY_ADDRESS" in os.environ:
        daft.set_runner_ray(os.environ["RAY_ADDRESS"], noop_if_initialized=True)

    # Imported locally, since only workers need these.
    def redis_cache() -> Any:
        from langchain_community.storage import RedisStore  # noqa: PLC0415

        from langchain_qwen_aiml import ByteStoreCache  # noqa: PLC0415

        return ByteStoreCache(RedisStore(redis_url=cache))

    def postgres_cache() -> Any:
        from llama_index.storage.kvstore.postgres import PostgresKVStore  # noqa: PLC0415

        from llama_index_qwen_aiml import KVStoreCache  # noqa: PLC0415

        return KVStoreCache(PostgresKVStore.from_uri(cache, table_name="embeddings"))

    stores: dict[str, Any] = {"redis": redis_cache, "postgresql": postgres_cache}
    store = stores.get(cache.partition("://")[0], cache)

    # Floats are not compressed in Parquet, so rows take as much memory as in a file.
    daft.set_execution_config(parquet_inflation_factor=1.0, parquet_target_row_group_size=32 << 20)
    df = daft.read_parquet(f"{texts}/*.parquet")
    provider = QwenAIMLProvider(dimensions=64, cache=store)
    df = df.with_column("embedding", embed_text(df["text"], provider=provider))
    df.write_parquet(embedded, write_mode="overwrite")


if __name__ == "__main__":
    main(*sys.argv[1:])
    # Daft's threads sometimes crash an interpreter that is ending, after any async function (Daft 0.7.26).
    os._exit(0)
