"""The cache as used by one call: a look-up first, a write after each response, both bounded in time."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from msgspec import Struct

from .._errors import CacheError, advised
from .entries import BINARY, cache_key, float32, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

logger = logging.getLogger("qwen_aiml")

KEYS_PER_LOOKUP = 1000

STORE_SECONDS = 30.0  # maximum duration of a write
LATER_STORE_SECONDS = 1.0  # the same, after a slow failure or the call's deadline
PAUSE_SECONDS = 60.0  # from a slow failure to the next write
CANCELLED_SECONDS = 1.0  # left for a write once its call is cancelled

_ADVICE = "return entries exactly as they were stored; a client of Redis must not have decode_responses=True"


class CacheAccess(Struct, eq=False):
    """
    Looks up and stores the embeddings of one call.

    Attributes:
        read: Async function that returns the entry of each key, or None.

        write: Async function that stores entries by key.

        namespace: Prefix of each key.

        seconds_left: Function that returns the time left for the call.

        unsent: What an error says about the texts, such as from which one on nothing was sent.

        blocked_until: Time of the next write after a slow failure.
    """

    read: Callable[[Sequence[str]], Awaitable[object]]
    write: Callable[[Mapping[str, bytes]], Awaitable[object]]
    namespace: str
    seconds_left: Callable[[], float]
    unsent: str = "nothing was sent"
    blocked_until: float = -math.inf

    async def load(
        self, texts: Sequence[str], dimensions: int | None, shortened: str = ""
    ) -> list[list[float] | None]:
        """
        Look up the embeddings of at most `KEYS_PER_LOOKUP` texts.

        Args:
            texts: The texts as sent.

            dimensions: Required dimensions; None means those of the first hit.

            shortened: How they were shortened; see `cache_key`.

        Returns:
            One entry per text: its embedding, or None.

        Raises:
            CacheError: If the cache can't be read, or returns anything but bytes and None.
        """
        keys = [cache_key(self.namespace, text, shortened) for text in texts]
        try:
            entries = await self.read(keys)
        except CacheError:
            raise
        except Exception as error:
            message = f"the cache can't be read ({type(error).__name__}); {self.unsent}"
            # The store decodes entries, which are not text.
            raise CacheError(advised(message, _ADVICE if isinstance(error, UnicodeError) else "")) from error
        if not isinstance(entries, (list, tuple)) or len(entries) != len(keys):
            raise CacheError(f"the cache did not return an entry or None for each key; {self.unsent}")
        found: list[list[float] | None] = []
        for key, entry in zip(keys, entries, strict=True):
            if entry is not None and not isinstance(entry, BINARY):
                # Not a damaged entry: every look-up would be a miss, and every text billed again.
                kind = type(entry).__name__
                message = f"the cache returned {kind}, expected bytes or None; {self.unsent}"
                raise CacheError(advised(message, _ADVICE))
            embedding = unpack(key, entry, dimensions)
            if embedding is not None:
                dimensions = len(embedding)
            found.append(embedding)
        return found

    async def store(
        self, texts: Sequence[str], embeddings: Sequence[Sequence[float]], shortened: str = ""
    ) -> list[Sequence[float]]:
        """
        Store the embeddings of some texts. A failure is only logged: the embeddings are already billed.

        Returns:
            The embeddings as a later look-up returns them, rounded to float32; one that does not fit float32
            is not stored, and is returned unchanged.
        """
        entries: dict[str, bytes] = {}
        rounded: list[Sequence[float]] = []
        for text, embedding in zip(texts, embeddings, strict=True):
            numbers = float32(embedding)
            if numbers is not None:
                key = cache_key(self.namespace, text, shortened)
                entries[key] = pack(key, numbers)
            rounded.append(numbers or embedding)
        await self._stored(entries)
        return rounded

    async def _stored(self, entries: Mapping[str, bytes]) -> None:
        """Store entries within a time limit, even if the call is cancelled; pause after a slow failure."""
        begun = anyio.current_time()
        if begun < self.blocked_until:
            return
        was_blocked = self.blocked_until > -math.inf
        seconds = LATER_STORE_SECONDS if was_blocked else STORE_SECONDS
        seconds = min(seconds, max(self.seconds_left(), LATER_STORE_SECONDS))
        async with anyio.create_task_group() as group:
            try:
                with anyio.fail_after(seconds, shield=True) as scope:
                    group.start_soon(_end_soon_after_cancellation, scope)
                    await self.write(entries)
            except asyncio.CancelledError as error:
                await anyio.lowlevel.checkpoint_if_cancelled()  # raises if this task was cancelled
                self._failed(error, len(entries), begun)
            except Exception as error:  # noqa: BLE001 (a custom store may raise anything)
                self._failed(error, len(entries), begun)
            group.cancel_scope.cancel()

    def _failed(self, error: BaseException, count: int, begun: float) -> None:
        took = anyio.current_time() - begun
        level = logging.DEBUG if anyio.current_time() < self.blocked_until else logging.WARNING
        if took >= LATER_STORE_SECONDS / 2:
            # The cache may be locked, and the call would wait for the lock after each batch.
            self.blocked_until = anyio.current_time() + PAUSE_SECONDS
        reason = error if isinstance(error, CacheError) else type(error).__name__
        logger.log(level, "%d embeddings could not be stored in the cache: %s", count, reason)


async def _end_soon_after_cancellation(scope: anyio.CancelScope) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        scope.deadline = min(scope.deadline, anyio.current_time() + CANCELLED_SECONDS)
