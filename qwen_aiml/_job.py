"""
One call from its texts to its result: what is sent, in which batches, and when it ends. No I/O here.

Workers of either colour take flows from a job until it has no more; all it decides is decided under one lock.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from ._errors import EmbeddingBatchError, QwenAIMLError, ResponseFormatError, TransportError
from ._flow import NotSentError, embed_batch
from ._result import EmbeddingResult, Usage
from ._texts import check_role, check_texts, outgoing

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from ._config import EmbeddingConfig
    from ._flow import Clock, Outcome, Step
    from ._texts import Role
    from ._wire import Rows


class Flag(Protocol):
    """What `threading.Event` and `anyio.Event` share: something to wait for in either colour."""

    def set(self) -> None:
        """Raise the flag."""
        ...

    def is_set(self) -> bool:
        """Tell whether it was raised."""
        ...


class Job:
    """
    The state of one call.

    Args:
        texts: What the user gave.

        role: Whether they are documents or queries.

        config: The settings.

        clock: Time and chance.

        stopped: Raised once no further request may start, so that nobody waits for a next attempt.

    Raises:
        InputError: If some of the texts can't be embedded.
    """

    def __init__(
        self, texts: Iterable[str], role: Role, config: EmbeddingConfig, clock: Clock, stopped: Flag
    ) -> None:
        self._config = config
        self._clock = clock
        self._stopped = stopped
        self._deadline = clock.now() + config.total_timeout if config.total_timeout else None
        self._lock = threading.Lock()
        self._crash: Exception | None = None
        self._started = 0

        # Each distinct text is sent, and paid for, once.
        places: dict[str, int] = {}
        instruction = config.query_instruction if check_role(role) == "query" else None
        sent = (outgoing(text, instruction) for text in check_texts(texts))
        self._places = [places.setdefault(text, len(places)) for text in sent]
        self._texts = list(places)
        self._embeddings: list[list[float] | None] = [None] * len(self._texts)
        self._failures: dict[int, QwenAIMLError] = {}

        self._dimensions = config.dimensions or config.facts.default_dimensions
        self._model: str | None = None
        self._request_ids: list[str] = []
        self.usage = Usage()

    @property
    def batches(self) -> int:
        """How many requests the job needs if none fails."""
        return -(-len(self._texts) // self._config.rows)

    def next_flow(self) -> Generator[Step, Outcome, None] | None:
        """Give the flow of the next batch; None if there is none, or no new request may start."""
        with self._lock:
            if self._stopped.is_set() or self._started >= len(self._texts):
                return None
            batch = range(self._started, min(self._started + self._config.rows, len(self._texts)))
            self._started = batch.stop
        return self._embed(batch)

    def stop(self) -> None:
        """Start no further request."""
        self._stopped.set()

    def spend(self, usage: Usage) -> None:
        """Add to what the call has cost."""
        with self._lock:
            self.usage += usage

    def result(self) -> EmbeddingResult:
        """
        Give the embeddings, once no worker is left.

        Raises:
            EmbeddingBatchError: If some texts were embedded and some were not.

            QwenAIMLError: If none was; or, as it is, what the HTTP client is not known to raise.
        """
        embeddings = self._spread()
        if not self._failures:
            complete = [embedding for embedding in embeddings if embedding is not None]
            return EmbeddingResult(complete, self.usage, self._model, tuple(self._request_ids))
        if all(embedding is None for embedding in embeddings):
            raise self._crash or next(iter(self._failures.values()))
        failures = {
            index: self._failures[place]
            for index, place in enumerate(self._places)
            if place in self._failures
        }
        raise EmbeddingBatchError(embeddings, failures, self.usage) from self._crash

    def _embed(self, batch: range) -> Generator[Step, Outcome, None]:
        try:
            rows = yield from embed_batch(
                self._texts[batch.start : batch.stop],
                self._config,
                self._clock,
                dimensions=self._dimensions,
                deadline=self._deadline,
                is_stopped=self._stopped.is_set,
                spend=self.spend,
            )
            self._store(batch, rows)
        except NotSentError:
            pass
        except QwenAIMLError as error:
            self._fail(batch, error)
        except Exception as crash:  # noqa: BLE001 (raised by `result`, once the others are done)
            self._crash = self._crash or crash
            # Not its text, which may hold anything.
            self._fail(batch, TransportError(f"the HTTP client raised {type(crash).__name__}", passing=False))

    def _store(self, batch: range, rows: Rows) -> None:
        with self._lock:
            self._model = self._model or rows.model
            if rows.request_id is not None:
                self._request_ids.append(rows.request_id)
            length = len(rows.embeddings[0])
            self._dimensions = self._dimensions or length
            if length != self._dimensions:
                message = f"rows of {length} numbers, where earlier answers had {self._dimensions}"
                raise ResponseFormatError(message)
            self._embeddings[batch.start : batch.stop] = rows.embeddings

    def _fail(self, batch: range, error: QwenAIMLError) -> None:
        indices = [index for index, place in enumerate(self._places) if place in batch]
        with self._lock:
            self._stopped.set()
            error.indices = tuple(indices)
            self._failures.update(dict.fromkeys(batch, error))

    def _spread(self) -> list[list[float] | None]:
        """Give every text its embedding; a repeated text gets a list of its own."""
        given: set[int] = set()
        spread = []
        for place in self._places:
            embedding = self._embeddings[place]
            spread.append(embedding.copy() if embedding is not None and place in given else embedding)
            given.add(place)
        return spread
