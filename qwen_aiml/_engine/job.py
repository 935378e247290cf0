"""
One call from its texts to its result: what is sent, in which batches, and when it ends. No I/O here.

Workers of either colour take flows from a job until it has no more; all it decides is decided under one lock.
"""

from __future__ import annotations

import logging
from functools import cached_property
from itertools import filterfalse
from typing import TYPE_CHECKING, TypeVar, cast

from .._protocol.arrays import packed
from .batch import embed_places
from .._cache.entries import cache_key, namespace, pack, unpack
from .._errors import CacheError, EmbeddingBatchError, QwenAIMLError, ResponseFormatError, TransportError
from .request import NotSentError, too_late
from .long_texts import NEVER_TOO_LONG, LongTexts
from .progress import Tally
from .._results import EmbeddingResult
from .._steps import Load, Store
from .._texts.validation import all_outgoing, check_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from .request import Call
    from .progress import Progress
    from .._results import Usage
    from .._steps import Outcome, Step
    from .._texts.validation import Role
    from .._protocol.response import Rows

_Value = TypeVar("_Value")

logger = logging.getLogger("qwen_aiml")

LOOKED_UP = 1000  # keys at a time


class Job:
    """
    The state of one call.

    Args:
        texts: What the user gave.

        role: Whether they are documents or queries.

        call: What its requests share.

        service: Whose vectors a cache holds, for its keys; None if there is no cache.

        first: The index of the first text, in all that tells one.

    Attributes:
        crash: What the HTTP client is not known to raise, and raised; None for nothing.

    Raises:
        InputError: If some of the texts can't be embedded.
    """

    def __init__(
        self, texts: Iterable[str], role: Role, call: Call, service: str | None, *, first: int = 0
    ) -> None:
        config = call.config
        self._call = call
        call.dimensions = config.length
        instruction = config.instruction(role)
        self._namespace = None
        if service is not None:
            self._namespace = namespace(
                service, config.model, call.dimensions, role=role, instruction=instruction
            )

        # Each distinct text is sent, and paid for, once.
        sent = all_outgoing(check_texts(texts, on_blank=config.on_blank, first=first), instruction)
        self._texts = list(dict.fromkeys(sent))
        self._places: Sequence[int] = range(len(sent))
        if len(self._texts) < len(sent):
            place_of = {text: place for place, text in enumerate(self._texts)}
            self._places = [place_of[text] for text in sent]
        self._long = LongTexts(config, instruction)
        counts = self._long.counted(self._texts)
        self._first = first
        self._long.refuse(self._by_index(counts))

        self._embeddings: dict[int, Sequence[float]] = {}
        self._failures: dict[int, QwenAIMLError] = {}
        self.crash: Exception | None = None
        self._todo = list(filterfalse(counts.__contains__, range(len(self._texts))))
        self._begun = 0
        self._too_long = list(counts)
        self._shortened: set[int] = set()
        self._cached = 0
        self._model: str | None = None
        self._request_ids: list[str] = []
        self._tally: Tally | None = None

    @property
    def batches(self) -> int:
        """How many requests the job needs if none fails."""
        return -(-len(self._todo) // self._call.rows) + len(self._too_long)

    def report_to(self, progress: Callable[[Progress], object] | None) -> None:
        """
        Tell a function, from now on, how far the call has come; None for none.

        Raises:
            ConfigurationError: If it is no function.
        """
        if progress is not None:
            self._tally = Tally(progress, self._places, self._call)

    def look_up(self) -> Generator[Step, Outcome, None]:
        """
        Take from the cache what it has.

        Raises:
            CacheError: If it can't be read; nothing was sent then.

            DeadlineError: If it took too long.
        """
        if self._namespace is None:
            return
        yield from self._load(self._todo, "")
        if self._long.label:
            long = [place for place in self._todo if len(self._texts[place].encode()) > NEVER_TOO_LONG]
            yield from self._load([*self._missing(long), *self._too_long], self._long.label)
        self._todo, self._too_long = self._missing(self._todo), self._missing(self._too_long)

    def next_flow(self) -> Generator[Step, Outcome, None] | None:
        """Give the flow of the next batch; None if there is none, or no new request may start."""
        with self._call.lock:
            if self._call.stopped.is_set():
                return None
            if self._too_long:
                return self._guarded([place := self._too_long.pop()], self._embed_long(place))
            if self._begun == len(self._todo):
                return None
            batch = self._todo[self._begun : self._begun + self._call.rows]
            self._begun += len(batch)
        return self._guarded(batch, embed_places(batch, self, self._call))

    def result(self) -> EmbeddingResult:
        """
        Give the embeddings, once no worker is left.

        Raises:
            EmbeddingBatchError: If some texts were embedded and some were not.

            QwenAIMLError: If none was; or, as it is, what the HTTP client is not known to raise.
        """
        embeddings = self.rows()
        failures = self.failures()
        if not failures:
            shortened = self.shortened()
            return EmbeddingResult(
                cast("list[list[float]]", embeddings),
                self._call.usage,
                self._model,
                tuple(self._request_ids),
                cached=self._cached,
                shortened=shortened,
            )
        if not self._embeddings:
            raise self.crash or next(iter(self._failures.values()))
        raise EmbeddingBatchError(embeddings, failures, self._call.usage) from self.crash

    def rows(self) -> list[list[float] | None]:
        """Give every text its embedding, None where there is none; a repeated text gets one of its own."""
        spread = list(map(self._embeddings.get, self._places))
        if len(self._texts) < len(self._places):
            given: set[int] = set()
            for index, place in enumerate(self._places):
                embedding = spread[index]
                if embedding is not None and place in given:
                    spread[index] = embedding[:]
                given.add(place)
        # Packed ones are arrays, which do what is done with lists of numbers.
        return cast("list[list[float] | None]", spread)

    def failures(self) -> dict[int, QwenAIMLError]:
        """Give, from the index of each text whose request failed, the error."""
        return self._by_index(self._failures)

    def shortened(self) -> tuple[int, ...]:
        """Tell, and warn, of the texts that were too long and not embedded whole: their indices."""
        indices = tuple(self._indices(self._shortened))
        if indices:
            logger.warning("%d texts were too long and not embedded whole", len(indices))
        return indices

    @property
    def usage(self) -> Usage:
        """What it has cost so far."""
        return self._call.usage

    def texts(self, places: Sequence[int]) -> list[str]:
        """Give texts as they are sent."""
        return list(map(self._texts.__getitem__, places))

    def keep(self, places: Sequence[int], rows: Rows, shortened: str = "") -> Generator[Step, Outcome, None]:
        """
        Keep the embeddings of some texts, in the cache too if there is one.

        Raises:
            ResponseFormatError: If they are not as long as those that other answers gave.
        """
        length = len(rows.embeddings[0])
        with self._call.lock:
            self._model = self._model or rows.model
            if rows.request_id is not None:
                self._request_ids.append(rows.request_id)
            self._call.dimensions = self._call.dimensions or length
            if length != self._call.dimensions:
                message = f"rows of {length} numbers, where earlier answers had {self._call.dimensions}"
                raise ResponseFormatError(message)
            self._embeddings.update(zip(places, self._kept(rows.embeddings), strict=True))
            if shortened:
                self._shortened.update(places)
        if self._namespace is not None:
            yield from self._store(places, shortened)
        if self._tally is not None:
            self._tally.add(places)

    def fail(self, places: Sequence[int], error: QwenAIMLError) -> None:
        """Note why some texts have no embedding."""
        with self._call.lock:
            error.indices = tuple(self._indices(places))
            self._failures.update(dict.fromkeys(places, error))

    def shorten(
        self, place: int, error: QwenAIMLError | None
    ) -> Generator[Step, Outcome, QwenAIMLError | None]:
        """Embed a text that is too long in another form; give the error if there is none."""
        found = yield from self._long.embed(self._texts[place], error, self._call)
        if isinstance(found, QwenAIMLError):
            return found
        yield from self.keep([place], found, self._long.label)
        return None

    def _embed_long(self, place: int) -> Generator[Step, Outcome, None]:
        error = yield from self.shorten(place, None)
        if error is not None:
            self.fail([place], error)

    def _guarded(
        self, batch: Sequence[int], flow: Generator[Step, Outcome, None]
    ) -> Generator[Step, Outcome, None]:
        """End the call, and keep what others have embedded, if a batch can't be."""
        try:
            yield from flow
        except NotSentError:
            return
        except QwenAIMLError as error:
            fatal = error
        except Exception as crash:  # noqa: BLE001 (raised by `result`, once the others are done)
            self.crash = self.crash or crash
            # Not its text, which may hold anything.
            fatal = TransportError(
                f"the HTTP client (or rate limiter) raised {type(crash).__name__}", passing=False
            )
        else:
            return
        self._call.stop()
        self.fail([place for place in self._missing(batch) if place not in self._failures], fatal)

    def _missing(self, places: Sequence[int]) -> list[int]:
        return [place for place in places if place not in self._embeddings]

    def _indices(self, places: Iterable[int]) -> list[int]:
        return sorted(index for place in places for index in self._indices_of[place])

    def _by_index(self, by_place: Mapping[int, _Value]) -> dict[int, _Value]:
        found = {index: value for place, value in by_place.items() for index in self._indices_of[place]}
        return dict(sorted(found.items()))

    @cached_property
    def _indices_of(self) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in self._texts]
        for index, place in enumerate(self._places, self._first):
            found[place].append(index)
        return found

    def _kept(self, embeddings: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
        return list(map(packed, embeddings)) if self._call.packed else embeddings

    def _load(self, places: Sequence[int], shortened: str) -> Generator[Step, Outcome, None]:
        for at in range(0, len(places), LOOKED_UP):
            some = places[at : at + LOOKED_UP]
            keys = [self._key(place, shortened) for place in some]
            entries = yield Load(keys, self._call.deadline)
            if self._call.seconds_left() <= 0:
                raise too_late(self._call)
            if isinstance(entries, CacheError):
                raise entries
            if isinstance(entries, Exception):
                raise CacheError(
                    f"the cache can't be read ({type(entries).__name__}); nothing was sent"
                ) from entries
            if not isinstance(entries, (list, tuple)) or len(entries) != len(keys):
                raise CacheError("the cache did not give an entry or None for each key; nothing was sent")
            found = []
            for place, key, entry in zip(some, keys, entries, strict=True):
                embedding = unpack(key, entry, self._call.dimensions)
                if embedding is not None:
                    self._call.dimensions = self._call.dimensions or len(embedding)
                    [self._embeddings[place]] = self._kept([embedding])
                    self._cached += 1
                    found.append(place)
                    if shortened:
                        self._shortened.add(place)
            if self._tally is not None:
                self._tally.add(found, cached=True)

    def _store(self, places: Sequence[int], shortened: str) -> Generator[Step, Outcome, None]:
        entries = {}
        for place in places:
            key = self._key(place, shortened)
            entry = pack(key, self._embeddings[place])
            if entry is not None:
                entries[key] = entry
                # As float32 from the first time on, so that what comes is the same with and without a cache.
                if not self._call.packed:
                    self._embeddings[place] = cast("list[float]", unpack(key, entry, None))
        crash = yield Store(entries)
        if crash is not None:
            # What is paid for goes to the caller all the same.
            said = crash if isinstance(crash, CacheError) else type(crash).__name__
            logger.warning("%d embeddings could not be put into the cache: %s", len(entries), said)

    def _key(self, place: int, shortened: str) -> str:
        return cache_key(self._namespace or "", self._texts[place], shortened)
