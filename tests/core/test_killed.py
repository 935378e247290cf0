"""A process that is killed several times, and resumes from its cache each time."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from qwen_aiml import EmbeddingClient, EmbeddingConfig
from qwen_aiml.emulator import Emulator, serve
from qwen_aiml.emulator._vectors import lexical

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

KILLS = 3
MAX_IN_FLIGHT = EmbeddingConfig(api_key="k").concurrency

PROGRAMS = {
    "client": """
        from qwen_aiml import EmbeddingClient, EmbeddingConfig
        with EmbeddingClient(EmbeddingConfig(dimensions=64), cache=path) as client:
            client.embed(texts)
    """,
    "async_client": """
        import anyio
        from qwen_aiml import AsyncEmbeddingClient, EmbeddingConfig
        async def main():
            async with AsyncEmbeddingClient(EmbeddingConfig(dimensions=64), cache=path) as client:
                await client.embed(texts)
        anyio.run(main)
    """,
    "langchain": """
        from langchain_qwen_aiml import QwenAIMLEmbeddings
        with QwenAIMLEmbeddings(dimensions=64, cache=path) as embeddings:
            embeddings.embed_documents(texts)
    """,
    "llama_index_async": """
        import anyio
        from llama_index_qwen_aiml import QwenAIMLEmbedding
        async def main():
            async with QwenAIMLEmbedding(dimensions=64, cache=path) as embeddings:
                await embeddings.aget_text_embedding_batch(texts)
        anyio.run(main)
    """,
}


def numbered(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def start(program: str, path: Path, count: int, url: str) -> subprocess.Popen[bytes]:
    """Start one of the programs, with the packages under test on its path."""
    head = f"import sys; path, texts = sys.argv[1], [f'text {{number}}' for number in range({count})]"
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "AIMLAPI_API_KEY": "k",
        "AIMLAPI_BASE_URL": url,
    }
    return subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, "-c", f"{head}\n{textwrap.dedent(PROGRAMS[program])}", str(path)],
        env={**os.environ, **environment},
    )


def kill_after(process: subprocess.Popen[bytes], emulator: Emulator, requests: int) -> None:
    """Kill the process, as kill -9 does, after it has sent *requests* requests; wait a minute at most."""
    sent, give_up = emulator.request_count, time.monotonic() + 60
    while emulator.request_count < sent + requests and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.001)
    ended = process.poll()
    process.kill()
    process.wait()
    assert ended is None
    while emulator._in_flight and time.monotonic() < give_up:
        time.sleep(0.001)
    assert emulator._in_flight == 0


def stored(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        (count,) = database.execute("SELECT count(*) FROM entries").fetchone()
    return int(count)


@pytest.mark.parametrize(
    ("program", "count"),
    [
        ("client", 1500),
        *(pytest.param(program, 5000, marks=pytest.mark.long) for program in PROGRAMS),
    ],
)
def test_killed(program: str, count: int, tmp_path: Path) -> None:
    """Each text is billed once, except those in flight when killed; all embeddings are correct."""
    path, texts = tmp_path / "embeddings.db", numbered(count)
    emulator = Emulator(latency=0.02)
    with serve(emulator) as url:
        kept = 0
        for _ in range(KILLS):
            before = emulator.texts_billed.total()
            kill_after(start(program, path, count, url), emulator, count // 10 // (KILLS + 1))
            lost = emulator.texts_billed.total() - before - (stored(path) - kept)
            kept = stored(path)
            assert 0 <= lost <= 10 * MAX_IN_FLIGHT
            assert 0 < kept < count
        sent = emulator.request_count
        with start(program, path, count, url) as process:
            assert process.wait(60) == 0
        again = [text for request in emulator.requests[sent:] for text in request.texts]
        assert len(set(again)) == count - kept
        # A request sent just before its process was killed may arrive late.
        assert len(again) - (count - kept) <= 10 * MAX_IN_FLIGHT

        billed, sent = emulator.texts_billed, emulator.request_count
        config = EmbeddingConfig(base_url=url, api_key="k", dimensions=64)
        with EmbeddingClient(config, cache=path) as client:
            embeddings = client.embed(texts).embeddings
    assert emulator.request_count == sent
    assert embeddings == [lexical.embed(text, 64, "embedding-v4").tolist() for text in texts]
    assert billed.keys() == set(texts)
    assert billed.total() - count <= KILLS * 10 * MAX_IN_FLIGHT
