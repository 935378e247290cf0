"""
What one library does in each situation, in a process of its own.

    python benchmarks/behave.py langchain-openai '{"right": "http://127.0.0.1:8000/v1", "eleven": ...}'

Each situation has a server of its own, and "right" is one that answers as it should. Prints one line of JSON:
by situation, what came of the call. No name but that of this machine can be looked up, so that nothing hangs
on what else can be reached; names that a library asks for all the same are told.
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
BAD = "text number 42"  # which the server refuses in one situation


class Way:
    """
    A library, set up as its documentation says for a service that speaks OpenAI's protocol.

    Args:
        model: The object that embeds.

        embed: Embeds texts.

        aembed: The same, awaited.
    """

    def __init__(
        self, model: Any, embed: Callable[[list[str]], Rows], aembed: Callable[[list[str]], Any]
    ) -> None:
        self.model = model
        self.embed = embed
        self.aembed = aembed


def ours_langchain(url: str, **options: Any) -> Way:
    """Make QwenAIMLEmbeddings."""
    from langchain_qwen_aiml import QwenAIMLEmbeddings

    model = QwenAIMLEmbeddings(base_url=url, dimensions=FLOATS, **options)
    return Way(model, model.embed_documents, model.aembed_documents)


def ours_llama_index(url: str, **options: Any) -> Way:
    """Make QwenAIMLEmbedding."""
    from llama_index_qwen_aiml import QwenAIMLEmbedding

    model = QwenAIMLEmbedding(api_base=url, dimensions=FLOATS, **options)
    return Way(model, model.get_text_embedding_batch, model.aget_text_embedding_batch)


def langchain_openai(url: str, **options: Any) -> Way:
    """Make OpenAIEmbeddings, told to send strings unless *options* say otherwise: else it sends token ids."""
    from langchain_openai import OpenAIEmbeddings

    options = {"check_embedding_ctx_length": False, **options}
    model = OpenAIEmbeddings(model=MODEL, base_url=url, dimensions=FLOATS, **options)
    return Way(model, model.embed_documents, model.aembed_documents)


def langchain_aimlapi(url: str, **options: Any) -> Way:
    """Make AimlapiEmbeddings."""
    from langchain_aimlapi import AimlapiEmbeddings

    model = AimlapiEmbeddings(model=MODEL, base_url=url, dimensions=FLOATS, **options)
    return Way(model, model.embed_documents, model.aembed_documents)


def openai_like(url: str, **options: Any) -> Way:
    """Make LlamaIndex's OpenAILikeEmbedding."""
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    model = OpenAILikeEmbedding(model_name=MODEL, api_base=url, dimensions=FLOATS, **options)
    return Way(model, model.get_text_embedding_batch, model.aget_text_embedding_batch)


def openai(url: str, **options: Any) -> Way:
    """Make OpenAI's own client, which sends what one call is given as one request."""
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
# What makes a library send ten texts a request, where it can.
TEN = {"langchain-openai": {"chunk_size": 10}, "openai-like": {"embed_batch_size": 10}}
# What undoes what the functions above set beyond model, address and length.
PLAIN = {"langchain-openai": {"check_embedding_ctx_length": True}}
KEYS = ("AIMLAPI_API_KEY", "AIML_API_KEY", "AIMLAPI_KEY", "OPENAI_API_KEY")


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, abs_tol=1e-6) for a, b in zip(one, other, strict=True)
    )


def _attempted(call: Callable[[], Rows]) -> dict[str, Any]:
    """Tell what came of a call, rows or an error, and how many seconds it took."""
    start = time.perf_counter()
    told: dict[str, Any]
    try:
        rows = call()
        told = {
            "rows": len(rows),
            "lengths": sorted({len(row) for row in rows}),
            "not_finite": sum(not all(map(math.isfinite, row)) for row in rows),
        }
    except Exception as error:  # noqa: BLE001 (whatever it is, it is told)
        kept = getattr(error, "embeddings", None) or []
        told = {
            "error": type(error).__name__,
            "said": str(error)[:200],
            "kept": sum(row is not None for row in kept),
        }
    return {**told, "seconds": round(time.perf_counter() - start, 1)}


class Situations:
    """
    Each situation, by the name of the method, as a call of the library.

    Args:
        name: Which library.

        right: Address of a server that answers as it should, for rows to compare with.
    """

    def __init__(self, name: str, right: str) -> None:
        self._right = right
        self._make = WAYS[name]
        self._ten = TEN.get(name, {})
        self._plain = PLAIN.get(name, {})

    def _way(self, url: str, **options: Any) -> Way:
        return self._make(url, api_key=KEY, **options)

    def _compared(self, url: str) -> dict[str, Any]:
        """Embed ten texts, and compare each row with that of its text alone."""
        way, alone = self._way(url, **self._ten), self._way(self._right)
        rows: list[Sequence[float]] = []

        def call() -> Rows:
            rows.extend(way.embed(TEXTS[:FEW]))
            return rows

        told = _attempted(call)
        if rows:
            right = [alone.embed([text])[0] for text in TEXTS[:FEW]]
            told["right"] = sum(map(_same, rows, right))
        return told

    def plain(self, url: str) -> dict[str, Any]:
        """Embed a text with nothing set but the model, the length, the address and the key."""
        return _attempted(lambda: self._way(url, **self._plain).embed(TEXTS[:1]))

    def eleven(self, url: str) -> dict[str, Any]:
        """Embed 11 texts with the settings as they come."""
        way = self._way(url)
        return _attempted(lambda: way.embed(TEXTS[:11]))

    def hundred(self, url: str) -> dict[str, Any]:
        """Embed 100 texts, ten a request where that can be set."""
        way = self._way(url, **self._ten)
        return _attempted(lambda: way.embed(TEXTS))

    def hundred_async(self, url: str) -> dict[str, Any]:
        """Embed 100 texts, ten a request where that can be set, awaited."""
        way = self._way(url, **self._ten)
        return _attempted(lambda: asyncio.run(way.aembed(TEXTS)))

    def repeated(self, url: str) -> dict[str, Any]:
        """Embed ten texts that are the same."""
        way = self._way(url, **self._ten)
        return _attempted(lambda: way.embed([TEXTS[0]] * FEW))

    def unchanged(self, url: str) -> dict[str, Any]:
        """Embed a text of several lines."""
        way = self._way(url)
        return _attempted(lambda: way.embed(["one line\n\tanother"]))

    def no_key(self, url: str) -> dict[str, Any]:
        """Embed a text where no key is given, in the code or in the environment."""
        return _attempted(lambda: self._make(url).embed(TEXTS[:1]))

    def other_key(self, url: str) -> dict[str, Any]:
        """Embed a text where only OpenAI's key is in the environment; the server accepts just that."""
        os.environ["OPENAI_API_KEY"] = "sk-of-openai"
        try:
            return _attempted(lambda: self._make(url).embed(TEXTS[:1]))
        finally:
            del os.environ["OPENAI_API_KEY"]

    def shuffled(self, url: str) -> dict[str, Any]:
        """Embed ten texts where rows come in another order than that of their index."""
        return self._compared(url)

    def missing(self, url: str) -> dict[str, Any]:
        """Embed ten texts where the first answer lacks the fourth row."""
        return self._compared(url)

    def nan(self, url: str) -> dict[str, Any]:
        """Embed ten texts where the first answer has NaN in a row."""
        return self._compared(url)

    def short(self, url: str) -> dict[str, Any]:
        """Embed ten texts where a row of the first answer has 8 numbers instead of 64."""
        return self._compared(url)

    def busy(self, url: str) -> dict[str, Any]:
        """Embed ten texts where the first request gets 429 with ``Retry-After: 2``."""
        way = self._way(url, **self._ten)
        return _attempted(lambda: way.embed(TEXTS[:FEW]))

    def html(self, url: str) -> dict[str, Any]:
        """Embed ten texts where the first answer is 200 with a page of a proxy."""
        way = self._way(url, **self._ten)
        return _attempted(lambda: way.embed(TEXTS[:FEW]))

    def down(self, url: str) -> dict[str, Any]:
        """Embed one text where each request gets 500."""
        way = self._way(url)
        return _attempted(lambda: way.embed(TEXTS[:1]))

    def refused(self, url: str) -> dict[str, Any]:
        """Embed 100 texts, ten a request where that can be set, of which one is refused."""
        way = self._way(url, **self._ten)
        return _attempted(lambda: way.embed(TEXTS))

    def loops(self, url: str) -> dict[str, Any]:
        """Embed a text in three event loops, one after the other, with one object."""
        way = self._way(url)

        def call() -> Rows:
            return [asyncio.run(way.aembed(TEXTS[:1]))[0] for _ in range(3)]

        return _attempted(call)

    def shown(self, url: str) -> dict[str, Any]:
        """Look for the key in what is printed of the object, and in its pickle."""
        model = self._way(url).model
        told: dict[str, Any] = {"in_repr": KEY in repr(model), "in_str": KEY in str(model)}
        try:
            told["in_pickle"] = KEY.encode() in pickle.dumps(model)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is told)
            told["pickle"] = type(error).__name__
        return told


def situations() -> list[str]:
    """Name the situations, in order."""
    return [name for name in vars(Situations) if not name.startswith("_")]


def main() -> None:
    """Go through the situations that the command line has servers for."""
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
    told = {}
    for name, url in urls.items():
        asked.clear()
        told[name] = {**getattr(found, name)(url), "asked": sorted(set(asked))}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
