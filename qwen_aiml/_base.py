"""What the clients of both colours share: settings, running totals, copies, forks. No requests here."""

from __future__ import annotations

import os
import random
import threading
import time
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import WeakSet

from ._engine.blocks import Blocks
from ._cache.entries import Cache, namespace
from ._config import EmbeddingConfig, whole
from ._errors import ConfigurationError
from ._engine.request import Call, Clock
from ._engine.job import Job
from ._learned import Learned
from ._results import Usage
from ._sender import check_given
from ._transport.override import meant, service_of
from ._texts.validation import check_role

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from ._engine.request import Flag
    from ._cache.sqlite import SQLiteCache
    from ._texts.validation import Role
    from ._engine.queue import Turns


# Texts to read ahead, in as many as are in flight at the most. So each of three blocks has four requests for
# each worker, and its last ones, during which workers run dry, weigh little.
ROUNDS_AHEAD = 12


class BaseClient:
    """What both clients share: settings, running totals, copying."""

    _kind: Literal["Client", "AsyncClient"]

    def __init__(
        self,
        config: EmbeddingConfig | None = None,
        *,
        http_client: Any = None,
        cache: Cache | str | os.PathLike[str] | None = None,
        learned: Learned | None = None,
    ) -> None:
        if config is not None and not isinstance(config, EmbeddingConfig):
            made = type(config).__name__
            raise ConfigurationError(
                f"config must be an EmbeddingConfig, not {made}; write EmbeddingConfig(...)"
            )
        self.config = config or EmbeddingConfig()
        check_given(http_client, self._kind)
        self._http_client = http_client
        self.cache = open_cache(cache)
        is_opened = isinstance(cache, (str, os.PathLike))
        self._opened_cache = cast("SQLiteCache", self.cache) if is_opened else None
        self.learned = learned or Learned(self.config)
        self._clock = Clock(time.monotonic, lambda: datetime.now(timezone.utc), random.random)
        self._totals = Usage()
        self._totals_lock = threading.Lock()
        self._forked = False
        self._open()
        _alive.add(self)

    def _open(self) -> None:
        """Make what holds the connections."""

    def _job(
        self,
        texts: Iterable[str],
        role: Role,
        turns: Turns,
        stopped: Flag,
        *,
        has_limiter: bool,
        packed: bool,
        first: int,
    ) -> tuple[Job, Call]:
        self._check_fork()
        total = self.config.total_timeout
        call = Call(
            self.config,
            self._clock,
            self.learned,
            turns,
            stopped,
            has_limiter=has_limiter,
            deadline=None if total is None else self._clock.now() + total,
            packed=packed,
        )
        return Job(texts, role, call, None if self.cache is None else self._service, first=first), call

    def _blocks(self, role: Role, look_ahead: int | None, *, in_order: bool, overlap: bool) -> Blocks:
        check_role(role)
        if look_ahead is None:
            look_ahead = ROUNDS_AHEAD * self.config.rows * self.config.concurrency
        whole("look_ahead", look_ahead, least=1)
        return Blocks(look_ahead, in_order=in_order, overlap=overlap)

    @property
    def _service(self) -> str:
        config, given = meant(self.config, self._http_client, self._kind)
        return service_of(given) or str(config.base_url)

    def cache_namespace(self, role: Role = "document") -> str:
        """
        Name what makes embeddings of the same text differ, as a prefix for caches that go by text alone.

        Args:
            role: What the texts are embedded as; ``query_instruction`` counts for queries only.
        """
        config = self.config
        return namespace(
            self._service,
            config.model,
            config.length,
            role=role,
            instruction=config.instruction(role),
            policies=(config.on_blank, config.on_too_long, config.tokenizer or ""),
        )

    def _close_cache(self) -> None:
        # What was opened here, from a path; a later call opens it again.
        if self._opened_cache is not None:
            self._opened_cache.close()

    def _after_fork(self) -> None:
        """Leave the parent's connections and locks alone; other threads may have held them."""
        self._totals_lock = threading.Lock()
        self.learned.pace.after_fork()
        self._forked = self._http_client is not None

    def _check_fork(self) -> None:
        if self._forked:
            message = (
                "a client of your own (http_client, http_async_client) can't be used after a fork, when both "
                "processes would read from its connections. Make another object in this process"
            )
            raise ConfigurationError(message)

    @property
    def usage(self) -> Usage:
        """What all calls of this client have cost so far."""
        return self._totals

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"

    def __copy__(self) -> Self:
        return type(self)(self.config, http_client=self._http_client, cache=self.cache)

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._http_client is not None:
            message = (
                "a client of your own (http_client, http_async_client) can't be pickled, and a copy without "
                "it would connect in another way. Set proxies and certificates in the environment instead "
                "(HTTPS_PROXY, SSL_CERT_FILE): the default clients read them in every process"
            )
            raise TypeError(message)
        return partial(type(self), cache=self.cache), (self.config,)

    def _count(self, usage: Usage) -> None:
        with self._totals_lock:
            self._totals += usage


def open_cache(given: Any) -> Cache | None:
    """
    Take what users give as a cache.

    Args:
        given: The path of a file, anything that has the methods of `Cache`, or None.

    Raises:
        ConfigurationError: If it is something else.
    """
    if given is None or isinstance(given, Cache):
        return given
    if isinstance(given, (str, os.PathLike)) and os.fspath(given):
        from ._cache.sqlite import SQLiteCache  # noqa: PLC0415 (slow to import)

        return SQLiteCache(given)
    raise ConfigurationError(
        "cache must be the path of a file, a SQLiteCache, or another object with get_many, set_many, "
        f"aget_many and aset_many, not {type(given).__name__}"
    )


_alive: WeakSet[BaseClient] = WeakSet()


def _after_fork() -> None:
    for client in list(_alive):
        client._after_fork()  # noqa: SLF001 (of this module)


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows has no fork)
    os.register_at_fork(after_in_child=_after_fork)
