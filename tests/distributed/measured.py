"""
Embed a folder of Parquet files in one way; print the CPU time per text and the peak increase in memory.

    python measured.py client|daft|daft-errors|daft-written FOLDER COUNT
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import threading
import time
from pathlib import Path

import daft
from daft.functions import embed_text

from daft_qwen_aiml import QwenAIMLProvider, embed
from qwen_aiml import AsyncEmbeddingClient, EmbeddingConfig

PAGE = resource.getpagesize()


def memory() -> int:
    """Return the resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


def cpu() -> float:
    """Return the seconds of CPU time so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def by_client(texts: list[str]) -> int:
    """Embed with the client alone; return the number of rows."""
    count = 0
    async with AsyncEmbeddingClient(EmbeddingConfig()) as client, client.embed_iter(texts) as rows:
        async for _ in rows:
            count += 1
    return count


def by_daft(df: daft.DataFrame, way: str, folder: str) -> int:
    """Embed with Daft, and write or discard the rows; return their number."""
    provider = QwenAIMLProvider()
    column = (embed if way == "daft-errors" else embed_text)(df["text"], provider=provider)
    df = df.with_column("embedding", column)
    if way == "daft-written":
        daft.set_execution_config(
            parquet_inflation_factor=1.0,
            parquet_target_row_group_size=32 << 20,
            parquet_target_filesize=64 << 20,
        )
        df.write_parquet(f"{folder}/embedded", write_mode="overwrite")
        return daft.read_parquet(f"{folder}/embedded/*.parquet").count_rows()
    return sum(len(part) for part in df.iter_partitions())


def main(way: str, folder: str, count: int) -> None:
    """Measure one way."""
    df = daft.read_parquet(f"{folder}/texts/*.parquet")
    texts = df.to_pydict()["text"] if way == "client" else []
    at_first, began = memory(), cpu()
    peak = [at_first]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], memory())
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    rows = asyncio.run(by_client(texts)) if way == "client" else by_daft(df, way, folder)
    used = cpu() - began
    report = {"rows": rows, "us": round(used / count * 1e6), "mb": (peak[0] - at_first) // 1_000_000}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
