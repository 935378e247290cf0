"""
Measure one way to embed texts, in a separate process.

    python benchmarks/job.py ours-core-sync --url http://127.0.0.1:8000/v1 --texts 4000

Only the second call is measured: imports, creating the client and a first call with one text come before,
since some libraries import many of their modules then. Prints one line of JSON: `wall` and `cpu` in seconds,
`cpu` being user and system time of all threads of this process; `memory` in MB, the peak increase in resident
memory during the call, including its result, on Linux (elsewhere null).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import inspect
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MODEL = "text-embedding-v4"
KEY = "sk-benchmark"
BATCH = 10  # texts per request, for all
RETRIES = 1000  # for peers, so that under a rate limit they finish late rather than fail; not for ours
TIMEOUT = 60
IN_FLIGHT = 32  # the default for those that do not choose a number themselves

Rows = Sequence[Sequence[float]]
Embed = Callable[[list[str]], Any]  # returns Rows, or is a coroutine function that does


def _ours_config(url: str, floats: int, in_flight: int | None) -> Any:
    from qwen_aiml import EmbeddingConfig

    return EmbeddingConfig(base_url=url, api_key=KEY, dimensions=floats, max_concurrency=in_flight)


def ours_core_sync(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create the core's client."""
    from qwen_aiml import EmbeddingClient

    client = EmbeddingClient(_ours_config(url, floats, in_flight))
    return lambda texts: client.embed(texts).embeddings


def ours_core_async(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create the core's async client."""
    return _ours_async(_ours_config(url, floats, in_flight))


def _ours_async(config: Any, http_client: Any = None) -> Embed:
    from qwen_aiml import AsyncEmbeddingClient

    client = AsyncEmbeddingClient(config, http_client=http_client)

    async def embed(texts: list[str]) -> Rows:
        return (await client.embed(texts)).embeddings

    return embed


def ours_array_sync(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create the core's client, returning one float32 array."""
    from qwen_aiml import EmbeddingClient

    embed: Embed = EmbeddingClient(_ours_config(url, floats, in_flight)).embed_array
    return embed


def ours_array_async(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create the core's async client, returning one float32 array."""
    from qwen_aiml import AsyncEmbeddingClient

    embed: Embed = AsyncEmbeddingClient(_ours_config(url, floats, in_flight)).embed_array
    return embed


def ours_httpx_async(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create the core's async client, over httpx."""
    from dataclasses import replace

    return _ours_async(replace(_ours_config(url, floats, in_flight), transport="httpx"))


def ours_client_sync(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create the core's client, with a custom `httpx.Client`."""
    import httpx

    from qwen_aiml import EmbeddingClient

    client = EmbeddingClient(_ours_config(url, floats, in_flight), http_client=httpx.Client())
    return lambda texts: client.embed(texts).embeddings


def ours_client_async(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create the core's async client, with a custom `httpx.AsyncClient`."""
    import httpx

    return _ours_async(_ours_config(url, floats, in_flight), httpx.AsyncClient())


def ours_client2_async(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create the core's async client, with a custom `httpx2.AsyncClient`."""
    import httpx2

    return _ours_async(_ours_config(url, floats, in_flight), httpx2.AsyncClient())


def _ours_langchain(url: str, floats: int, in_flight: int | None) -> Any:
    from langchain_qwen_aiml import QwenAIMLEmbeddings

    return QwenAIMLEmbeddings(base_url=url, api_key=KEY, dimensions=floats, max_concurrency=in_flight)


def ours_langchain_sync(url: str, floats: int, in_flight: int | None) -> Embed:
    """Return LangChain's embed_documents."""
    embed: Embed = _ours_langchain(url, floats, in_flight).embed_documents
    return embed


def ours_langchain_async(url: str, floats: int, in_flight: int | None) -> Embed:
    """Return LangChain's aembed_documents."""
    embed: Embed = _ours_langchain(url, floats, in_flight).aembed_documents
    return embed


def _ours_llama_index(url: str, floats: int, in_flight: int | None) -> Any:
    from llama_index_qwen_aiml import QwenAIMLEmbedding

    return QwenAIMLEmbedding(api_base=url, api_key=KEY, dimensions=floats, max_concurrency=in_flight)


def ours_llama_index_sync(url: str, floats: int, in_flight: int | None) -> Embed:
    """Return LlamaIndex's get_text_embedding_batch."""
    embed: Embed = _ours_llama_index(url, floats, in_flight).get_text_embedding_batch
    return embed


def ours_llama_index_async(url: str, floats: int, in_flight: int | None) -> Embed:
    """Return LlamaIndex's aget_text_embedding_batch."""
    embed: Embed = _ours_llama_index(url, floats, in_flight).aget_text_embedding_batch
    return embed


def _langchain_openai(url: str, floats: int) -> Any:
    from langchain_openai import OpenAIEmbeddings

    return OpenAIEmbeddings(
        model=MODEL,
        base_url=url,
        api_key=KEY,
        dimensions=floats,
        chunk_size=BATCH,
        check_embedding_ctx_length=False,
        max_retries=RETRIES,
    )


def langchain_openai_sync(url: str, floats: int, _: int | None) -> Embed:
    """Create OpenAIEmbeddings, which sends one request after another."""
    embed: Embed = _langchain_openai(url, floats).embed_documents
    return embed


def langchain_openai_async(url: str, floats: int, _: int | None) -> Embed:
    """Create OpenAIEmbeddings for async, which also sends one request after another."""
    embed: Embed = _langchain_openai(url, floats).aembed_documents
    return embed


def langchain_aimlapi_sync(url: str, floats: int, _: int | None) -> Embed:
    """Create AimlapiEmbeddings, which sends one text per request, sequentially, ignoring chunk_size."""
    embed: Embed = _langchain_aimlapi(url, floats).embed_documents
    return embed


def langchain_aimlapi_async(url: str, floats: int, _: int | None) -> Embed:
    """Create AimlapiEmbeddings for async, which also sends one request after another."""
    embed: Embed = _langchain_aimlapi(url, floats).aembed_documents
    return embed


def _langchain_aimlapi(url: str, floats: int) -> Any:
    from langchain_aimlapi import AimlapiEmbeddings

    return AimlapiEmbeddings(model=MODEL, base_url=url, api_key=KEY, dimensions=floats, max_retries=RETRIES)


def _openai_like(url: str, floats: int, in_flight: int | None) -> Any:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    return OpenAILikeEmbedding(
        model_name=MODEL,
        api_base=url,
        api_key=KEY,
        dimensions=floats,
        embed_batch_size=BATCH,
        num_workers=in_flight or IN_FLIGHT,
        max_retries=RETRIES,
    )


def openai_like_sync(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create LlamaIndex's OpenAILikeEmbedding, which sends sequentially: workers are for async."""
    embed: Embed = _openai_like(url, floats, in_flight).get_text_embedding_batch
    return embed


def openai_like_async(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create LlamaIndex's OpenAILikeEmbedding for async, with workers."""
    embed: Embed = _openai_like(url, floats, in_flight).aget_text_embedding_batch
    return embed


def openai_async(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create OpenAI's own client, with batching and a concurrency limit, which it leaves to the caller."""
    return _openai(url, floats, in_flight)


def openai_async_lists(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create OpenAI's own client for a service without base64, like most with OpenAI's protocol."""
    return _openai(url, floats, in_flight, encoding_format="float")


def _openai(url: str, floats: int, in_flight: int | None, **options: Any) -> Embed:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=url, api_key=KEY, max_retries=RETRIES)

    async def embed(texts: list[str]) -> Rows:
        gate = asyncio.Semaphore(in_flight or IN_FLIGHT)

        async def one(batch: list[str]) -> list[list[float]]:
            async with gate:
                answer = await client.embeddings.create(
                    model=MODEL, input=batch, dimensions=floats, **options
                )
            return [item.embedding for item in answer.data]

        batches = [texts[at : at + BATCH] for at in range(0, len(texts), BATCH)]
        return [row for rows in await asyncio.gather(*map(one, batches)) for row in rows]

    return embed


def _baseten(url: str, floats: int, in_flight: int | None) -> Callable[[list[str]], Any]:
    from baseten_performance_client import PerformanceClient, RequestProcessingPreference

    client = PerformanceClient(base_url=url.removesuffix("/v1"), api_key=KEY)
    preference = RequestProcessingPreference(
        max_concurrent_requests=in_flight or IN_FLIGHT,
        batch_size=BATCH,
        max_retries=6,  # the maximum it accepts
    )
    return lambda texts: client.embed(input=texts, model=MODEL, dimensions=floats, preference=preference)


def baseten(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create Baseten's client, written in Rust, returning lists."""
    embed = _baseten(url, floats, in_flight)
    return lambda texts: [item.embedding for item in embed(texts).data]


def baseten_numpy(url: str, floats: int, in_flight: int | None) -> Embed:
    """Create Baseten's client, returning one float32 array."""
    embed = _baseten(url, floats, in_flight)

    def rows(texts: list[str]) -> Rows:
        made: Rows = embed(texts).numpy()
        return made

    return rows


def bare(url: str, floats: int, in_flight: int | None) -> Embed:
    """
    Use only sockets, threads and orjson, as a lower bound for Python.

    Nothing is validated or retried; any unexpected response breaks it.
    """
    import orjson

    address = urlsplit(url)
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: "
    start = head.format(address.netloc, KEY).encode() + b"%d\r\n\r\n"

    def exchange(connection: socket.socket, texts: list[str]) -> Any:
        body = orjson.dumps({"model": MODEL, "input": texts, "dimensions": floats})
        connection.sendall(start % len(body) + body)
        return orjson.loads(_read_response(connection))["data"]

    def embed(texts: list[str]) -> Rows:
        rows: list[Any] = [()] * len(texts)
        starts, lock = iter(range(0, len(texts), BATCH)), threading.Lock()

        def work() -> None:
            with socket.create_connection((address.hostname, address.port or 80), TIMEOUT) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while True:
                    with lock:
                        at = next(starts, None)
                    if at is None:
                        return
                    for item in exchange(connection, texts[at : at + BATCH]):
                        rows[at + item["index"]] = item["embedding"]

        threads = [threading.Thread(target=work) for _ in range(in_flight or IN_FLIGHT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return rows

    return embed


def _read_response(connection: socket.socket) -> bytearray:
    received = b""
    while b"\r\n\r\n" not in received:
        received += _check_open(connection.recv(65536))
    headers, _, rest = received.partition(b"\r\n\r\n")
    length = int(headers.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    answer = bytearray(length)
    answer[: len(rest)] = rest
    at, view = len(rest), memoryview(answer)
    while at < length:
        at += _check_open(connection.recv_into(view[at:]))
    return answer


def _check_open(received: Any) -> Any:
    if not received:
        raise ConnectionError("closed in the middle of an answer")
    return received


WAYS: dict[str, Callable[[str, int, int | None], Embed]] = {
    "ours-core-sync": ours_core_sync,
    "ours-core-async": ours_core_async,
    "ours-array-sync": ours_array_sync,
    "ours-array-async": ours_array_async,
    "ours-langchain-sync": ours_langchain_sync,
    "ours-langchain-async": ours_langchain_async,
    "ours-llama-index-sync": ours_llama_index_sync,
    "ours-llama-index-async": ours_llama_index_async,
    "ours-httpx-async": ours_httpx_async,
    "ours-client-sync": ours_client_sync,
    "ours-client-async": ours_client_async,
    "ours-client2-async": ours_client2_async,
    "langchain-openai-sync": langchain_openai_sync,
    "langchain-openai-async": langchain_openai_async,
    "langchain-aimlapi-sync": langchain_aimlapi_sync,
    "langchain-aimlapi-async": langchain_aimlapi_async,
    "openai-like-sync": openai_like_sync,
    "openai-like-async": openai_like_async,
    "openai-async": openai_async,
    "openai-async-lists": openai_async_lists,
    "baseten": baseten,
    "baseten-numpy": baseten_numpy,
    "bare": bare,
}


def _resident(field: str) -> float | None:
    """Read VmRSS, the resident memory, or VmHWM, its peak, in MB."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return None


def _reset_peak() -> None:
    """Reset VmHWM. ru_maxrss cannot be reset: it includes imports, and the parent process before exec."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measure(embed: Embed, texts: list[str], floats: int) -> dict[str, float | None]:
    """
    Embed one text, then all of them.

    Raises:
        ValueError: If there is not exactly one row of the right dimensions per text.
    """
    call = embed
    if inspect.iscoroutinefunction(embed):
        loop = asyncio.new_event_loop()  # one for both calls, as async clients require
        call = lambda some: loop.run_until_complete(embed(some))  # noqa: E731 (a def would have another type)
    call(texts[:1])
    gc.collect()
    _reset_peak()
    before, cpu, start = _resident("VmRSS"), time.process_time(), time.perf_counter()
    rows = call(texts)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = _resident("VmHWM")
    if len(rows) != len(texts) or any(len(row) != floats for row in rows):
        raise ValueError(f"{len(texts)} texts gave {len(rows)} rows, or rows not of {floats} floats")
    return {"wall": wall, "cpu": cpu, "memory": None if before is None or peak is None else peak - before}


def main() -> None:
    """Parse the options, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--url", required=True)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--floats", type=int, default=1024)
    parser.add_argument("--in-flight", type=int)
    options = parser.parse_args()
    texts = [f"text number {number}, which is about something" for number in range(options.texts)]
    embed = WAYS[options.way](options.url, options.floats, options.in_flight)
    print(json.dumps(measure(embed, texts, options.floats)))


if __name__ == "__main__":
    main()
