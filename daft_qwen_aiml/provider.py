"""The Daft provider: one client per process, which embeds columns of texts as Arrow arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import daft
import daft.pickle
import pyarrow as pa
from daft.ai.protocols import TextEmbedderDescriptor
from daft.ai.provider import Provider
from daft.ai.typing import EmbeddingDimensions, UDFOptions
from daft.udf.metrics import increment_counter

import qwen_aiml
from qwen_aiml import ConfigurationError, EmbeddingConfig

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

# Texts per Daft batch. Daft runs up to 64 batches at once, with their embeddings in memory.
ROWS = 320
NOT_SENT = "not sent, since another request of the batch failed"

# No fixed size here: pyarrow 25 can't read a fixed-size list with nulls back from Parquet.
_ROW = daft.DataType.struct(
    {"embedding": daft.DataType.list(daft.DataType.float32()), "error": daft.DataType.string()}
)

# Open clients of this process; tasks bring only pickles of the settings.
_opened: dict[Any, tuple[qwen_aiml.AsyncEmbeddingClient, Any]] = {}


class QwenAIMLProvider(Provider):
    """
    Qwen Text Embedding v4 and v3, for ``embed_text`` of Daft.

    ```python
    provider = QwenAIMLProvider(cache="embeddings.db")
    column = embed_text(daft.col("text"), provider=provider, dimensions=512)
    ```

    All tasks of a process with the same settings share one client, and so its connections, its limiter and
    its cache. A pickle contains the settings, *cache* and *admit*, but not the API key: workers read it
    from their environment.

    Args:
        name: Name of the provider in Daft, after ``daft.attach_provider``.

        cache: Cache that is looked up first and updated as soon as embeddings arrive: the path of an SQLite
            file, an object with the methods of `Cache`, or a function without arguments that creates one,
            called once in each process. None means no cache.

        admit: An async function that is awaited before each request, retries included, with its expected
            tokens; the request may start when it returns. None means no custom rate limiter.

        role: ``query`` prepends ``query_instruction`` to each text; ``document`` does not.

        settings: Settings of `EmbeddingConfig`; ``requests_per_minute`` applies to each process separately.

    Raises:
        ConfigurationError: If a setting is invalid, or no key is found.
    """

    def __init__(
        self,
        name: str = "qwen_aiml",
        *,
        cache: qwen_aiml.Cache | Callable[[], qwen_aiml.Cache] | str | None = None,
        admit: Callable[[int], Awaitable[object]] | None = None,
        role: Literal["document", "query"] = "document",
        **settings: Any,
    ) -> None:
        self._name = name
        self._config = EmbeddingConfig(**settings)
        self._role, self._cache, self._admit = role, cache, admit

    @property
    def name(self) -> str:
        """Name of the provider in Daft."""
        return self._name

    def get_text_embedder(
        self, model: str | None = None, dimensions: int | None = None, **options: Any
    ) -> Embedder:
        """
        Create the embedder of a column; ``embed_text`` calls this.

        Args:
            model: Overrides the provider's model; None keeps it.

            dimensions: Override the provider's dimensions; None keeps them.

            options: ``batch_size``, the texts per Daft batch, 320 by default; ``on_error``, what Daft does
                about a batch that fails, ``raise`` by default; and settings of `EmbeddingConfig`.

        Raises:
            ConfigurationError: If a setting is invalid.
        """
        rows, on_error = options.pop("batch_size", None), options.pop("on_error", "raise")
        options |= {} if model is None else {"model": model}
        options |= {} if dimensions is None else {"dimensions": dimensions}
        udf = UDFOptions(max_retries=0, on_error=on_error, batch_size=rows or ROWS)
        config = replace(self._config, **options)
        return Embedder(self._name, config, udf, self._role, self._cache, self._admit)


def embed(
    text: daft.Expression,
    *,
    provider: QwenAIMLProvider | None = None,
    model: str | None = None,
    dimensions: int | None = None,
    **options: Any,
) -> daft.Expression:
    """
    Embed a column of texts; for a text that fails, return its error, so that the query continues.

    Args:
        text: A column of strings.

        provider: Provider with the settings; None means ``QwenAIMLProvider()``.

        model: Overrides the provider's model; None keeps it.

        dimensions: Override the provider's dimensions; None keeps them.

        options: ``batch_size``, the texts per Daft batch, 320 by default, and settings of `EmbeddingConfig`.

    Returns:
        A struct of ``embedding``, a list of float32, and ``error``, a string with its type and message.
        One of the two is null in each row.

    Raises:
        ConfigurationError: If a setting is invalid; while the query runs, if a worker has no API key.
    """
    embedder = (provider or QwenAIMLProvider()).get_text_embedder(model, dimensions, **options)
    udf = embedder.get_udf_options()

    @daft.func.batch(return_dtype=_ROW, batch_size=udf.batch_size, max_retries=0, on_error=udf.on_error)
    async def embed(texts: daft.Series) -> pa.Array:
        return _struct(await embedder.embed_each(texts.to_pylist()))

    return embed(text)


@dataclass(frozen=True)
class Embedder(TextEmbedderDescriptor):
    """
    Embeds the texts of one column, in any process that unpickles it.

    It is both Daft's descriptor and its embedder, since the client is the only live resource.

    Args:
        provider: The name of the provider, for metrics.

        config: The settings.

        udf: Daft's options for running it.

        role: As in `QwenAIMLProvider`.

        cache: As in `QwenAIMLProvider`.

        admit: As in `QwenAIMLProvider`.

    Attributes:
        key: Identifies the client: equal for all columns with the same settings, in every process.

    Raises:
        ConfigurationError: If *cache* or *admit* can't be pickled, or the dimensions are unknown.
    """

    provider: str
    config: EmbeddingConfig
    udf: UDFOptions
    role: Literal["document", "query"]
    cache: Any = field(repr=False)
    admit: Any = field(repr=False)
    key: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.config.length is None:
            raise ConfigurationError(f"the dimensions of {self.config.model} are not known; give dimensions=")
        try:
            pickled = daft.pickle.dumps((self.config, self.role, self.cache, self.admit))
        except TypeError as error:
            message = (
                "cache or admit can't be pickled, as Daft does to send it to workers. For cache, give a "
                "function without arguments that creates it; let admit connect when it is first called"
            )
            raise ConfigurationError(message) from error
        # Unpickled copies keep it, even if pickling them again would produce other bytes.
        object.__setattr__(self, "key", sha256(pickled).digest())

    def get_provider(self) -> str:
        """Return the name of the provider."""
        return self.provider

    def get_model(self) -> str:
        """Return the id of the model."""
        return self.config.model

    def get_options(self) -> dict[str, Any]:
        """Return Daft's options for running it, as a dictionary."""
        return {"batch_size": self.udf.batch_size, "on_error": self.udf.on_error}

    def get_udf_options(self) -> UDFOptions:
        """Return Daft's options for running it; the client retries, so Daft does not."""
        return self.udf

    def get_dimensions(self) -> EmbeddingDimensions:
        """Return the dimensions of an embedding, in float32."""
        return EmbeddingDimensions(self.config.length or 0, daft.DataType.float32())

    def is_async(self) -> bool:
        """Return True: the batches of a process run in one event loop."""
        return True

    def instantiate(self) -> Embedder:
        """Return the embedder, which is this object."""
        return self

    async def embed_text(self, text: list[str]) -> Any:
        """
        Embed texts as an Arrow array of fixed-size lists of float32, row i for text i.

        Raises:
            QwenAIMLError: As in `AsyncEmbeddingClient.embed`; indices are relative to this batch.
        """
        client, admit = self._open()
        result = await client.embed(text, role=self.role, admit=admit, packed=True)
        self._record(result.usage)
        return pa.FixedSizeListArray.from_arrays(_numbers(result.embeddings), self.config.length)

    async def embed_each(self, texts: list[str]) -> list[tuple[Any, str | None]]:
        """
        Embed texts; return the embedding of each and its error, one of which is None.

        Raises:
            ConfigurationError: If this process has no API key.
        """
        client, admit = self._open()
        try:
            result = await client.embed(texts, role=self.role, admit=admit, packed=True)
        except ConfigurationError:
            raise
        except qwen_aiml.InputError as error:
            if len(texts) == 1:
                return [(None, _reason(error))]
            invalid = set(error.indices)
            others = iter(await self.embed_each([t for at, t in enumerate(texts) if at not in invalid]))
            # One at a time, so that each has its own error.
            return [
                (await self.embed_each([text]))[0] if at in invalid else next(others)
                for at, text in enumerate(texts)
            ]
        except qwen_aiml.EmbeddingBatchError as error:
            self._record(error.usage)
            reasons = {at: _reason(failure) for at, failure in error.failures.items()}
            return [
                (row, None if row else reasons.get(at, NOT_SENT)) for at, row in enumerate(error.embeddings)
            ]
        except qwen_aiml.QwenAIMLError as error:
            return [(None, _reason(error))] * len(texts)
        self._record(result.usage)
        return [(row, None) for row in result.embeddings]

    def _open(self) -> tuple[qwen_aiml.AsyncEmbeddingClient, Any]:
        """Return this process's client and *admit*, the same for all embedders with the same settings."""
        key = (self.key, self.config.api_key)
        if key not in _opened:
            cache = self.cache() if callable(self.cache) else self.cache
            _opened.setdefault(key, (qwen_aiml.AsyncEmbeddingClient(self.config, cache=cache), self.admit))
        return _opened[key]

    def _record(self, usage: qwen_aiml.Usage) -> None:
        """Add usage to Daft's metrics for this column."""
        labels = {"model": self.config.model, "protocol": "embed", "provider": self.provider}
        for name in ("requests", "total_tokens", "credits_used", "cached"):
            if (count := getattr(usage, name)) is not None:
                increment_counter(name.replace("_", " "), count, attributes=labels)


def _numbers(rows: Sequence[Any]) -> pa.Array:
    """Concatenate the values of all rows."""
    joined = b"".join(row for row in rows if row is not None)
    return pa.Array.from_buffers(pa.float32(), len(joined) // 4, [None, pa.py_buffer(joined)])


def _struct(results: Sequence[tuple[Any, str | None]]) -> pa.Array:
    """Combine embeddings and errors in a struct array."""
    rows = [row for row, _ in results]
    offsets = pa.array(accumulate((len(row or ()) for row in rows), initial=0), pa.int32())
    mask = pa.array([row is None for row in rows], pa.bool_())
    errors = pa.array([error for _, error in results], pa.string())
    lists = pa.ListArray.from_arrays(offsets, _numbers(rows), mask=mask)
    return pa.StructArray.from_arrays([lists, errors], ["embedding", "error"])


def _reason(error: qwen_aiml.QwenAIMLError) -> str:
    # Without the index, which is relative to a batch that users don't see.
    return f"{type(error).__name__}: {error.args[0]}"
