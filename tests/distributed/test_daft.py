"""Columns of texts in Daft: requests, results, and pickling for workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import daft
import daft.pickle
import pyarrow.parquet as pq
import pytest
from daft.functions import embed_text

from daft_qwen_aiml import QwenAIMLProvider, embed, provider
from qwen_aiml import (
    AuthenticationError,
    ConfigurationError,
    InputValueError,
    SQLiteCache,
)
from qwen_aiml.emulator import Emulator, Fault, serve
from qwen_aiml.emulator._vectors import lexical

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("url")

KEY = "sk-test-0123456789abcdef"
TEXTS = [f"text {number}" for number in range(25)]
RIGHT = [lexical.embed(text, 64, "embedding-v4").tolist() for text in TEXTS]


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """Replace the process's open clients with an empty dict, and return it."""
    monkeypatch.setattr(provider, "_opened", {})
    return provider._opened


@pytest.fixture(autouse=True)
def in_a_session() -> Iterator[None]:
    """Isolate attached providers from other tests."""
    with daft.session():
        yield


def frame(texts: list[Any] = TEXTS) -> daft.DataFrame:
    return daft.from_pydict({"text": texts, "at": list(range(len(texts)))})


def embedded(texts: list[Any] = TEXTS, **options: Any) -> list[Any]:
    """Embed texts with ``embed_text``; rows are sorted, since batches complete in any order."""
    df = frame(texts)
    made = df.select("at", embed_text(df["text"], **options)).sort("at").to_pydict()["text"]
    return [row.tolist() for row in made]


def structs(texts: list[Any], **options: Any) -> list[Any]:
    """Embed texts with ``embed``; return the embedding and the error of each."""
    df = frame(texts)
    made = df.select("at", embed(df["text"], **options)).sort("at").to_pydict()["text"]
    return [(row["embedding"], row["error"]) for row in made]


def metrics(df: daft.DataFrame) -> dict[str, float]:
    """Return the metrics of all of Daft's operators."""
    assert df.metrics is not None
    counted = [name_and_stat for operator in df.metrics.to_pydict()["stats"] for name_and_stat in operator]
    return {name: stat["value"] for name, stat in counted}


def test_embed_text(emulator: Emulator) -> None:
    """Row i is the embedding of text i, of Daft's type for float32 embeddings; a request has ten texts."""
    df = frame()
    df = df.with_column("embedding", embed_text(df["text"], provider=QwenAIMLProvider(), dimensions=64))

    assert df.schema()["embedding"].dtype == daft.DataType.embedding(daft.DataType.float32(), 64)
    assert embedded(provider=QwenAIMLProvider(dimensions=64)) == RIGHT
    assert emulator.request_count == 3


def test_attached() -> None:
    """An attached provider is found by name, and the column can set a model and dimensions."""
    daft.attach_provider(QwenAIMLProvider("mine", dimensions=128))

    assert embedded(provider="mine", model="text-embedding-v3", dimensions=512) != RIGHT
    assert embedded(provider="mine", dimensions=64) == RIGHT
    assert {len(row) for row in embedded(provider="mine")} == {128}


def test_daft_batches(emulator: Emulator) -> None:
    """The column's ``batch_size`` is the texts per call; the provider's is the texts per request."""
    assert embedded(provider=QwenAIMLProvider(dimensions=64, batch_size=4), batch_size=6) == RIGHT
    assert emulator.request_count == 4 * 2 + 1


def test_no_texts(emulator: Emulator) -> None:
    """A table without rows stays empty."""
    df = frame()
    df = df.where(df["at"].is_null())
    provided = embed_text(df["text"], provider=QwenAIMLProvider())

    assert df.select(provided).to_pydict() == df.select(embed(df["text"])).to_pydict() == {"text": []}
    assert provider._struct([]).to_pylist() == []
    assert emulator.request_count == 0


def test_query(emulator: Emulator) -> None:
    """A provider for queries adds the instruction before each text."""
    queries = QwenAIMLProvider(role="query", query_instruction="Find it", dimensions=64)
    embedded(["text"], provider=queries)

    assert list(emulator.texts_billed) == ["Instruct: Find it\nQuery:text"]


def test_metrics(tmp_path: Path) -> None:
    """Requests, tokens, credits and cached texts are in Daft's metrics."""
    mine = QwenAIMLProvider(dimensions=64, cache=str(tmp_path / "embeddings.db"))
    df = frame()
    counted = [metrics(df.select(embed_text(df["text"], provider=mine)).collect()) for _ in range(2)]

    assert [(one["requests"], one["cached"]) for one in counted] == [(3, 0), (0, 25)]
    assert counted[0]["total tokens"] == 50
    assert counted[0]["credits used"] > 0


def test_unreported_usage(emulator: Emulator) -> None:
    """Tokens that a response does not report are omitted."""
    emulator.script(Fault(edit=lambda body: {**body, "usage": None, "meta": None}))
    df = frame(["a"])
    counted = metrics(df.select(embed_text(df["text"], provider=QwenAIMLProvider())).collect())

    assert counted["requests"] == 1
    assert "total tokens" not in counted


def test_invalid_text(emulator: Emulator) -> None:
    """``embed_text`` fails the query as the core does."""
    with pytest.raises(InputValueError, match=r"texts\[1\] is blank"):
        embedded(["a", " "], provider=QwenAIMLProvider())
    assert emulator.request_count == 0


def test_errors_beside_the_rows(tmp_path: Path) -> None:
    """``embed`` gives each text its embedding or its own error, also through Parquet."""
    df = frame(["text 0", None, "refused", " ", "text 1"])
    with serve(Emulator(refuses=lambda text: text == "refused")) as url:
        mine = QwenAIMLProvider(base_url=url, dimensions=64)
        df.with_column("made", embed(df["text"], provider=mine)).write_parquet(str(tmp_path))
    rows = pq.read_table(tmp_path)["made"].to_pylist()

    assert [row["embedding"] for row in rows] == [RIGHT[0], None, None, None, RIGHT[1]]
    reasons = [row["error"] and row["error"].partition(" What to do")[0] for row in rows]
    assert reasons[0] is reasons[4] is None
    assert reasons[1] == "InputTypeError: nothing was sent: texts[0] is NoneType, expected str."
    assert reasons[2].startswith("APIStatusError: HTTP 400")
    assert reasons[3] == "InputValueError: nothing was sent: texts[0] is blank."


def test_all_failed() -> None:
    """If no text of a batch is embedded, each gets the error."""
    with serve(Emulator(api_keys=["another"])) as url:
        rows = structs(TEXTS, base_url=url)

    assert [row for row, _ in rows] == [None] * 25
    assert {str(error).partition(":")[0] for _, error in rows} == {AuthenticationError.__name__}


def test_not_sent(emulator: Emulator) -> None:
    """Texts embedded before the API key was rejected get their embeddings; the others get an error."""
    emulator.script(None, Fault(status=401))
    rows = structs(TEXTS, max_concurrency=1)

    assert [row is None for row, _ in rows] == [False] * 10 + [True] * 15
    assert {error for _, error in rows[:10]} == {None}
    assert {str(error).partition(":")[0] for _, error in rows[10:20]} == {AuthenticationError.__name__}
    assert {error for _, error in rows[20:]} == {provider.NOT_SENT}


def test_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle does not contain the API key; without one in the worker's environment, the query fails."""
    embedder = QwenAIMLProvider(api_key=KEY, dimensions=64).get_text_embedder()
    data = daft.pickle.dumps(embedder)
    monkeypatch.delenv("AIMLAPI_API_KEY")
    travelled = daft.pickle.loads(data)
    df = frame()

    assert KEY.encode() not in data
    assert travelled.key == embedder.key
    with pytest.raises(ConfigurationError, match="AIMLAPI_API_KEY in the environment of this process"):
        df.select(embed_text(df["text"], provider=Travelled(travelled))).collect()
    with pytest.raises(ConfigurationError, match="AIMLAPI_API_KEY in the environment of this process"):
        df.select(embed(df["text"], provider=Travelled(travelled))).collect()


class Travelled(QwenAIMLProvider):
    """A provider that returns an unpickled embedder, as on a worker."""

    def __init__(self, embedder: provider.Embedder) -> None:
        self.embedder = embedder

    def get_text_embedder(self, *_: Any, **__: Any) -> provider.Embedder:
        """Return the embedder."""
        return self.embedder


def test_one_client(opened: dict[Any, Any]) -> None:
    """Columns with the same settings share a client; another API key or setting creates a new one."""
    for _ in range(2):
        embedded(provider=QwenAIMLProvider(dimensions=64), batch_size=5)
        structs(TEXTS, dimensions=64, batch_size=5)
    assert len(opened) == 1

    embedded(provider=QwenAIMLProvider(dimensions=64, api_key="another"))
    embedded(provider=QwenAIMLProvider(dimensions=64, max_retries=1))
    assert len(opened) == 3


def test_made_cache(tmp_path: Path, emulator: Emulator) -> None:
    """A function that creates a cache is called once per process."""

    def make() -> SQLiteCache:
        with (tmp_path / "calls").open("a") as calls:
            calls.write("x")
        return SQLiteCache(tmp_path / "embeddings.db")

    mine = QwenAIMLProvider(dimensions=64, cache=make)
    for _ in range(2):
        assert embedded(provider=mine, batch_size=5) == RIGHT

    assert (tmp_path / "calls").read_text() == "x"
    assert emulator.request_count == 5


def test_admit(emulator: Emulator) -> None:
    """``admit`` is awaited before each request."""
    admitted = []

    async def admit(tokens: int) -> None:
        admitted.append(tokens)

    embedded(provider=QwenAIMLProvider(dimensions=64, admit=admit))

    assert len(admitted) == emulator.request_count == 3


def test_not_picklable() -> None:
    """A setting that cannot be pickled for workers is rejected before the query runs, with advice."""

    class Store:
        def __reduce__(self) -> Any:
            raise TypeError

    with pytest.raises(ConfigurationError, match="give a function without arguments that creates it"):
        embedded(provider=QwenAIMLProvider(cache=Store()))  # type: ignore[arg-type] # on purpose


def test_unknown_dimensions() -> None:
    """An unknown model needs dimensions, which are part of the column's type."""
    with pytest.raises(ConfigurationError, match="dimensions of mine are not known"):
        embedded(provider=QwenAIMLProvider(model="mine"))


def test_invalid_overrides() -> None:
    """Only None keeps the provider's model and dimensions; invalid values raise."""
    provider = QwenAIMLProvider(api_key=KEY)

    for options in ({"model": ""}, {"dimensions": 0}):
        with pytest.raises(ConfigurationError):
            provider.get_text_embedder(**options)


def test_described() -> None:
    """The embedder reports its name and model, and disables Daft's retries; its repr hides key and cache."""
    mine = QwenAIMLProvider("mine", api_key=KEY, cache="secret.db").get_text_embedder(on_error="ignore")

    assert mine.get_provider() == "mine"
    assert mine.get_model() == "alibaba/qwen-text-embedding-v4"
    assert mine.get_options() == {"batch_size": 320, "on_error": "ignore"}
    assert mine.get_udf_options().max_retries == 0
    assert mine.instantiate() is mine
    assert "sk-" not in repr(mine)
    assert "secret" not in repr(mine)
