"""Replacements for texts that exceed the token limit, and the embeddings computed from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._errors import APIStatusError, InputValueError, QwenAIMLError, advised
from .._protocol.response import Rows
from .._texts import tokens
from .._texts.shortening import SAFE_BYTES, mean, splits, truncations
from .._texts.validation import name_items, nothing_sent, prepare_text
from .batch import fewer_rows, may_be_one_text
from .request import embed_texts
from .retry import is_transient

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._config import EmbeddingConfig
    from .._texts.distinct import DistinctTexts
    from .request import Call


class LongTexts:
    """
    Embeds texts that exceed the token limit in shortened forms.

    Args:
        config: The settings.

        instruction: The task prepended to each text; None if there is none.

    Attributes:
        label: The way in which texts are shortened, for cache keys; empty if they are not.
    """

    def __init__(self, config: EmbeddingConfig, instruction: str | None) -> None:
        self._config = config
        self._limit = config.facts.max_tokens or 0  # 0 if it is unknown
        self._prefix = prepare_text("", instruction)
        self._tokens = None if config.tokenizer is None else tokens.load()
        by = "tokens" if self._tokens else "bytes"
        self.label = "" if config.on_too_long == "raise" else f"{config.on_too_long}:{by}"

    def counted(self, distinct: DistinctTexts) -> dict[int, int]:
        """
        Return the token counts of texts that are too long.

        Args:
            distinct: The texts of the call, as they are sent.

        Returns:
            Tokens by item; empty without a tokenizer.

        Raises:
            InputValueError: If there is any and ``on_too_long`` is ``raise``.
        """
        if self._tokens is None:
            return {}
        counts = self._tokens.too_long(distinct.texts, self._limit)
        if counts and not self.label:
            found = distinct.by_index(counts)
            sizes = name_items({index: f"{count} tokens long" for index, count in found.items()})
            advice = "shorten or split the texts, or set on_too_long to 'truncate' or 'split_mean'"
            said = f"{nothing_sent(distinct.first)}: {sizes}, expected at most {self._limit}"
            raise InputValueError(advised(said, advice), indices=list(found))
        return counts

    def may_be_too_long(self, sent: str) -> bool:
        """Return whether a text may, by its size, have more tokens than the model takes."""
        return len(sent.encode()) * tokens.MAX_TOKENS_PER_BYTE > self._limit

    def may_be_truncated(self, billed: int | None) -> bool:
        """
        Return whether, by its billed tokens, a text that was sent alone may have been truncated.

        Source: they conflict. docs.qwencloud.com's FAQ says that long texts are truncated before they are
        embedded, public logs show a 400. A text of exactly as many tokens as the model takes looks the same.
        """
        return self._tokens is None and billed == self._limit != 0

    async def embed(self, sent: str, error: QwenAIMLError | None, call: Call) -> Rows | QwenAIMLError:
        """
        Embed a text in a shortened form.

        Args:
            sent: The text as it was sent, or would be, instruction included.

            error: Its error when sent alone; None if it was found too long before it was sent.

            call: State shared by the requests of the call.

        Returns:
            One row; or the last error, if the service takes none of the shortened forms.

        Raises:
            QwenAIMLError: If the error is not about the text.
        """
        before = call.accepted
        retries = 0 if error is not None and is_transient(error) else self._config.max_retries
        for pieces in self._forms(sent[len(self._prefix) :], counted=error is None):
            if error is not None and not self.may_shorten(sent, error):
                break
            try:
                return await self._embed_pieces(pieces, call, retries)
            except QwenAIMLError as rejection:
                if not may_be_one_text(rejection, call, before):
                    raise
                is_short = all(len((self._prefix + piece).encode()) <= SAFE_BYTES for piece in pieces)
                if is_short and is_transient(rejection) and call.accepted == before:
                    raise  # length is not the cause: the service takes nothing
                error = rejection
        return error or InputValueError("the query_instruction leaves no room for the text")

    def may_shorten(self, sent: str, error: QwenAIMLError) -> bool:
        """Return whether a text that was rejected alone should be sent in a shortened form."""
        if not self.label or not isinstance(error, APIStatusError):
            return False
        if error.reason in ("text", "service"):
            return len(sent.encode()) > SAFE_BYTES
        return error.reason == "length"

    def _forms(self, text: str, *, counted: bool) -> Iterable[list[str]]:
        if counted and self._tokens is not None:
            limit = self._limit - (self._tokens.count(self._prefix) if self._prefix else 0)
            if self._config.on_too_long == "truncate":
                cut = self._tokens.truncate(text, limit)
                return [[cut]] if cut else []
            return [self._tokens.pieces(text, limit)]
        prefix_bytes = len(self._prefix.encode())
        if self._config.on_too_long == "truncate":
            return ([beginning] for beginning in truncations(text, prefix_bytes=prefix_bytes))
        return splits(text, prefix_bytes=prefix_bytes)

    async def _embed_pieces(self, pieces: list[str], call: Call, retries: int) -> Rows:
        found: list[Rows] = []
        sent = 0
        while sent < len(pieces):
            texts = [self._prefix + piece for piece in pieces[sent : sent + call.rows]]
            try:
                found.append(await embed_texts(texts, call, retries=retries))
            except APIStatusError as error:
                if fewer_rows(error, len(texts), call) is None:
                    raise
            else:
                sent += len(texts)
        rows = [embedding for each in found for embedding in each.embeddings]
        if len(rows) > 1:
            rows = [mean(rows, [len(piece.encode()) for piece in pieces])]
        return Rows(rows, found[-1].model, found[-1].request_id)
