"""The code for Redis in docs/how-to/daft.md, on a real server: one rate and one cache for all processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml import AsyncEmbeddingClient, EmbeddingClient, EmbeddingConfig
from qwen_aiml.emulator import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed"),
    pytest.mark.skipif(not find_spec("redis"), reason="only where the package redis is installed"),
]

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "daft.md").read_text(encoding="utf-8")
BLOCKS = [part.partition("```")[0] for part in PAGE.split("```python\n")[1:]]
(RESERVATION,) = (block.partition("shared = ")[0] for block in BLOCKS if "class Reservation" in block)
(CACHE,) = (block.partition("provider = ")[0] for block in BLOCKS if "def redis_cache" in block)
PER_SECOND = 10
WORKERS = 4
REQUESTS = 8  # per worker
WORKER = """
import sys
from qwen_aiml import AsyncEmbeddingClient, EmbeddingConfig

async def main(url, per_second, name, requests):
    per_minute = None if url else 60 * float(per_second)
    admit = Reservation(url, float(per_second)) if url else None
    config = EmbeddingConfig(dimensions=64, requests_per_minute=per_minute)
    async with AsyncEmbeddingClient(config) as client:
        texts = [f"{name} {number}" for number in range(10 * int(requests))]
        await client.embed(texts, admit=admit)

asyncio.run(main(*sys.argv[1:]))
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """Start a local server, yield its URL, and stop it."""
    port = free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL) as server:  # noqa: S603, S607
        give_up = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=60).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < give_up
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
        server.kill()


def ask(url: str, command: str) -> Any:
    """Run one command, and close the connection."""
    import redis as package  # noqa: PLC0415 (not installed everywhere)

    with package.Redis.from_url(url) as client:
        return client.execute_command(*command.split())


def start(url: str, redis: str, name: str, requests: int, per_second: float) -> subprocess.Popen[bytes]:
    """Start a worker that can import the packages under test."""
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "AIMLAPI_API_KEY": "k",
        "AIMLAPI_BASE_URL": url,
    }
    arguments = [redis, str(per_second), name, str(requests)]
    return subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, "-c", RESERVATION + WORKER, *arguments], env={**os.environ, **environment}
    )


@pytest.mark.parametrize("killed", [False, True])
def test_one_rate(redis: str, killed: bool) -> None:
    """Workers together never exceed the rate; each request reserves its own slot, even if a worker dies."""
    emulator = Emulator(rate_limit=PER_SECOND, burst=PER_SECOND)
    seconds, rest = ask(redis, "TIME")
    begun = int(seconds) * 1_000_000 + int(rest)
    with serve(emulator) as url:
        workers = [start(url, redis, f"worker {n}", REQUESTS, 0.97 * PER_SECOND) for n in range(WORKERS)]
        if killed:
            give_up = time.monotonic() + 60
            while emulator.request_count < WORKERS and time.monotonic() < give_up:
                time.sleep(0.01)
            workers[0].kill()
        codes = [worker.wait(120) for worker in workers]

    assert codes[1:] == [0] * (WORKERS - 1)
    assert (codes[0] == 0) == (not killed)
    assert [request for request in emulator.requests if request.status == 429] == []
    assert set(emulator.texts_billed.values()) == {1}
    done = {text.rpartition(" ")[0] for text in emulator.texts_billed}
    assert {f"worker {n}" for n in range(1, WORKERS)} <= done
    gap = 1_000_000 / (0.97 * PER_SECOND)
    assert int(ask(redis, "GET embeddings")) - begun >= (emulator.request_count - 1) * gap


@pytest.mark.long
@pytest.mark.parametrize("way", ["share", "redis"])
def test_full_rate(way: str, redis: str, tell: Callable[[str], None]) -> None:
    """With a share of the rate per worker, or one rate in Redis, less than 1 % of requests are rejected."""
    rate, requests = 50, 300
    emulator = Emulator(rate_limit=rate, burst=rate, latency=0.1)
    with serve(emulator) as url:
        shared = ("", 0.97 * rate / WORKERS) if way == "share" else (redis, 0.97 * rate)
        workers = [start(url, shared[0], f"worker {n}", requests, shared[1]) for n in range(WORKERS)]
        while emulator.request_count == 0 and workers[0].poll() is None:
            time.sleep(0.01)
        began = time.monotonic()
        codes = [worker.wait(300) for worker in workers]
        seconds = time.monotonic() - began
    refused = sum(request.status == 429 for request in emulator.requests)
    ideal = (WORKERS * requests - rate) / rate
    sent = emulator.request_count
    tell(f"{way}: {seconds:.1f} s, {seconds / ideal:.2f} of ideal, {refused} of {sent} requests refused")

    assert codes == [0] * WORKERS
    assert len(emulator.texts_billed) == WORKERS * requests * 10
    assert refused < sent / 100


def test_reservation_travels(redis: str) -> None:
    """A reservation is pickled without its connection, even after it has been used."""
    names: dict[str, Any] = {}
    exec(compile(RESERVATION, "daft.md", "exec"), names)  # noqa: S102 (our own text)
    shared = names["Reservation"](redis, 1000)

    async def main() -> None:
        with serve(Emulator()) as url:
            config = EmbeddingConfig(base_url=url, api_key="k", dimensions=64)
            async with AsyncEmbeddingClient(config) as client:
                await client.embed(["a"], admit=shared)
            await shared.reserve.registered_client.aclose()

    asyncio.run(main())
    kind, arguments = shared.__reduce__()
    assert kind(*arguments).reserve is None


@pytest.mark.skipif(
    not find_spec("langchain_community"), reason="only where langchain-community is installed"
)
@pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning")
def test_shared_cache(redis: str) -> None:
    """A client finds the embeddings that another one cached."""
    names: dict[str, Any] = {}
    exec(compile(CACHE.replace("redis://127.0.0.1:6379", redis), "daft.md", "exec"), names)  # noqa: S102
    texts = [f"text {number}" for number in range(25)]
    emulator = Emulator()
    with serve(emulator) as url:
        config = EmbeddingConfig(base_url=url, api_key="k", dimensions=64)
        results = []
        for _ in range(2):
            with EmbeddingClient(config, cache=names["redis_cache"]()) as client:
                results.append(client.embed(texts))

    assert results[0].embeddings == results[1].embeddings
    assert [result.usage.cached for result in results] == [0, 25]
    assert emulator.request_count == 3
