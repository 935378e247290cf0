"""
Observe one library in each situation, in a separate process.

    python benchmarks/behave.py langchain-openai '{"right": "http://127.0.0.1:8000/v1", "eleven": ...}'

Each situation has its own server; "right" is one that responds correctly. Prints one line of JSON: the
outcome of the call in each situation. Only local host names can be resolved, so that results do not depend on
the network; other names that a library tries to resolve are reported.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import pickle
import socket
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

MODEL = "alibaba/qwen-text-embedding-v4"
KEY = "sk-right"
FLOATS = 64

Rows = Sequence[Sequence[float]]
FEW = 10
TEXTS = [f"text number {number}" for number in range(100)]
BAD = "text number 42"  # rejected by the server in one situation


class Way:
    """
    A library, configured as documented for a service with OpenAI's protocol.

    Args:
        model: The object that embeds.

        embed: Embeds texts.

        aembed: Async version of *embed*.
    """

    def __init__(
        self, model: Any, embed: Callable[[list[str]], Rows], aembed: Callable[[list[str]], Any]
    ) -> None:
        self.model = model
        self.embed = embed
        self.aembed = aembed


def ours_langchain(url: str, **options: Any) -> Way:
    """Create QwenAIMLEmbeddings."""
    from langchain_qwen_aiml import QwenAIMLEmbeddings

    model = QwenAIMLEmbeddings(base_url=url, dimensions=FLOATS, **options)
    return Way(model, model.embed_documents, model.aembed_documents)


def ours_llama_index(url: str, **options: Any) -> Way:
    """Create QwenAIMLEmbedding."""
    from llama_index_qwen_aiml import QwenAIMLEmbedding

    model = QwenAIMLEmbedding(api_base=url, dimensions=FLOATS, **options)
    return Way(model, model.get_text_embedding_batch, model.aget_text_embedding_batch)


def langchain_openai(url: str, **options: Any) -> Way:
    """Create OpenAIEmbeddings, set to send strings instead of token ids unless *options* override that."""
    from langchain_openai import OpenAIEmbeddings

    options = {"check_embedding_ctx_length": False, **options}
    model = OpenAIEmbeddings(model=MODEL, base_url=url, dimensions=FLOATS, **options)
    return Way(model, model.embed_documents, model.aembed_documents)


def langchain_aimlapi(url: str, **options: Any) -> Way:
    """Create AimlapiEmbeddings."""
    from langchain_aimlapi import AimlapiEmbeddings

    model = AimlapiEmbeddings(model=MODEL, base_url=url, dimensions=FLOATS, **options)
    return Way(model, model.embed_documents, model.aembed_documents)


def openai_like(url: str, **options: Any) -> Way:
    """Create LlamaIndex's OpenAILikeEmbedding."""
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    model = OpenAILikeEmbedding(model_name=MODEL, api_base=url, dimensions=FLOATS, **options)
    return Way(model, model.get_text_embedding_batch, model.aget_text_embedding_batch)


def openai(url: str, **options: Any) -> Way:
    """Create OpenAI's own client, which sends the texts of a call as one request."""
    from openai import AsyncOpenAI, OpenAI

    client, aclient = OpenAI(base_url=url, **options), AsyncOpenAI(base_url=url, **options)

    def embed(texts: list[str]) -> Rows:
        answer = client.embeddings.create(model=MODEL, input=texts, dimensions=FLOATS)
        return [item.embedding for item in answer.data]

    async def aembed(texts: list[str]) -> Rows:
        answer = await aclient.embeddings.create(model=MODEL, input=texts, dimensions=FLOATS)
        return [item.embedding for item in answer.data]

    return Way(client, embed, aembed)


WAYS: dict[str, Callable[..., Way]] = {
    "ours-langchain": ours_langchain,
    "ours-llama-index": ours_llama_index,
    "langchain-openai": langchain_openai,
    "langchain-aimlapi": langchain_aimlapi,
    "openai-like": openai_like,
    "openai": openai,
}
# Settings for ten texts per request, where a library has them.
TEN = {"langchain-openai": {"chunk_size": 10}, "openai-like": {"embed_batch_size": 10}}
# Settings that undo those of the functions above, except model, URL and dimensions.
PLAIN = {"langchain-openai": {"check_embedding_ctx_length": True}}
KEYS = ("AIMLAPI_API_KEY", "AIML_API_KEY", "AIMLAPI_KEY", "OPENAI_API_KEY")


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, abs_tol=1e-6) for a, b in zip(one, other, strict=True)
    )


def _attempt(call: Callable[[], Rows]) -> dict[str, Any]:
    """Return the outcome of a call, rows or an error, and its duration in seconds."""
    start = time.perf_counter()
    outcome: dict[str, Any]
    try:
        rows = call()
        outcome = {
            "rows": len(rows),
            "lengths": sorted({len(row) for row in rows}),
            "not_finite": sum(not all(map(math.isfinite, row)) for row in rows),
        }
    except Exception as error:  # noqa: BLE001 (any error is reported)
        kept = getattr(error, "embeddings", None) or []
        outcome = {
            "error": type(error).__name__,
            "said": str(error)[:200],
            "kept": sum(row is not None for row in kept),
        }
    return {**outcome, "seconds": round(time.perf_counter() - start, 1)}


class Situations:
    """
    The situations: each method, named after one, calls the library.

    Args:
        name: The library.

        right: URL of a server that responds correctly, for reference rows.
    """

    def __init__(self, name: str, right: str) -> None:
        self._right = right
        self._make = WAYS[name]
        self._ten = TEN.get(name, {})
        self._plain = PLAIN.get(name, {})

    def _way(self, url: str, **options: Any) -> Way:
        return self._make(url, api_key=KEY, **options)

    def _compared(self, url: str) -> dict[str, Any]:
        """Embed ten texts, and compare each row with the one for its text alone."""
        way, alone = self._way(url, **self._ten), self._way(self._right)
        rows: list[Sequence[float]] = []

        def call() -> Rows:
            rows.extend(way.embed(TEXTS[:FEW]))
            return rows

        outcome = _attempt(call)
        if rows:
            right = [alone.embed([text])[0] for text in TEXTS[:FEW]]
            outcome["right"] = sum(map(_same, rows, right))
        return outcome

    def plain(self, url: str) -> dict[str, Any]:
        """Embed a text with only the model, dimensions, URL and API key set."""
        return _attempt(lambda: self._way(url, **self._plain).embed(TEXTS[:1]))

    def eleven(self, url: str) -> dict[str, Any]:
        """Embed 11 texts with default settings."""
        way = self._way(url)
        return _attempt(lambda: way.embed(TEXTS[:11]))

    def hundred(self, url: str) -> dict[str, Any]:
        """Embed 100 texts, ten per request where configurable."""
        way = self._way(url, **self._ten)
        return _attempt(lambda: way.embed(TEXTS))

    def hundred_async(self, url: str) -> dict[str, Any]:
        """Embed 100 texts with the async method, ten per request where configurable."""
        way = self._way(url, **self._ten)
        return _attempt(lambda: asyncio.run(way.aembed(TEXTS)))

    def repeated(self, url: str) -> dict[str, Any]:
        """Embed the same text ten times."""
        way = self._way(url, **self._ten)
        return _attempt(lambda: way.embed([TEXTS[0]] * FEW))

    def unchanged(self, url: str) -> dict[str, Any]:
        """Embed a text with a line break and a tab."""
        way = self._way(url)
        return _attempt(lambda: way.embed(["one line\n\tanother"]))

    def no_key(self, url: str) -> dict[str, Any]:
        """Embed a text without an API key, in code or in the environment."""
        return _attempt(lambda: self._make(url).embed(TEXTS[:1]))

    def other_key(self, url: str) -> dict[str, Any]:
        """Embed a text with only OpenAI's API key in the environment; the server accepts no other."""
        os.environ["OPENAI_API_KEY"] = "sk-of-openai"
        try:
            return _attempt(lambda: self._make(url).embed(TEXTS[:1]))
        finally:
            del os.environ["OPENAI_API_KEY"]

    def shuffled(self, url: str) -> dict[str, Any]:
        """Embed ten texts; rows are not in the order of their index."""
        return self._compared(url)

    def missing(self, url: str) -> dict[str, Any]:
        """Embed ten texts; the first response lacks the fourth row."""
        return self._compared(url)

    def nan(self, url: str) -> dict[str, Any]:
        """Embed ten texts; the first response has NaN in a row."""
        return self._compared(url)

    def short(self, url: str) -> dict[str, Any]:
        """Embed ten texts; a row of the first response has 8 dimensions instead of 64."""
        return self._compared(url)

    def busy(self, url: str) -> dict[str, Any]:
        """Embed ten texts; the first request gets 429 with ``Retry-After: 2``."""
        way = self._way(url, **self._ten)
        return _attempt(lambda: way.embed(TEXTS[:FEW]))

    def html(self, url: str) -> dict[str, Any]:
        """Embed ten texts; the first response is 200 with an HTML page of a proxy."""
        way = self._way(url, **self._ten)
        return _attempt(lambda: way.embed(TEXTS[:FEW]))

    def down(self, url: str) -> dict[str, Any]:
        """Embed one text; each request gets 500."""
        way = self._way(url)
        return _attempt(lambda: way.embed(TEXTS[:1]))

    def refused(self, url: str) -> dict[str, Any]:
        """Embed 100 texts, ten per request where configurable; one is rejected."""
        way = self._way(url, **self._ten)
        return _attempt(lambda: way.embed(TEXTS))

    def loops(self, url: str) -> dict[str, Any]:
        """Embed a text in three event loops, one after another, with one object."""
        way = self._way(url)

        def call() -> Rows:
            return [asyncio.run(way.aembed(TEXTS[:1]))[0] for _ in range(3)]

        return _attempt(call)

    def shown(self, url: str) -> dict[str, Any]:
        """Look for the API key in the object's ``repr``, ``str`` and pickle."""
        model = self._way(url).model
        outcome: dict[str, Any] = {"in_repr": KEY in repr(model), "in_str": KEY in str(model)}
        try:
            outcome["in_pickle"] = KEY.encode() in pickle.dumps(model)
        except Exception as error:  # noqa: BLE001 (any error is reported)
            outcome["pickle"] = type(error).__name__
        return outcome


def situations() -> list[str]:
    """Name the situations, in order."""
    return [name for name in vars(Situations) if not name.startswith("_")]


def main() -> None:
    """Run the situations that the command line has servers for."""
    asked: list[str] = []
    look_up = socket.getaddrinfo

    def here_only(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in {"127.0.0.1", b"127.0.0.1", "localhost"}:
            asked.append(str(host))
            raise socket.gaierror(socket.EAI_NONAME, "only this machine can be reached here")
        return look_up(host, *arguments, **options)

    socket.getaddrinfo = here_only
    warnings.simplefilter("ignore")
    for name in KEYS:
        os.environ.pop(name, None)
    urls = json.loads(sys.argv[2])
    found = Situations(sys.argv[1], urls.pop("right"))
    outcomes = {}
    for name, url in urls.items():
        asked.clear()
        outcomes[name] = {**getattr(found, name)(url), "asked": sorted(set(asked))}
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
