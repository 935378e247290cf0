"""Progress of a call: counting, reports to a callback, progress bar."""

from __future__ import annotations

import logging
from collections import Counter
from importlib import import_module
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ._errors import ConfigurationError
from ._results import Usage
from ._utils.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

logger = logging.getLogger("qwen_aiml")


class Progress(Struct, frozen=True):
    """
    Progress of a call.

    Attributes:
        done: Texts that have an embedding, including repeated and cached ones.

        total: Texts of the call.

        cached: How many of *done* came from the cache.

        usage: Usage of the call so far.

        waiting: Seconds of a wait that starts now, such as after a 429, if more than one; otherwise 0.
    """

    done: int
    total: int
    cached: int
    usage: Usage
    waiting: float = 0.0


class Reporter:
    """
    Counts the texts of a call that are done, and reports progress.

    Args:
        report: Called at the start, whenever texts are done, and before a long wait. If it raises, the
            exception is logged and reporting ends, so that embeddings already billed are not lost.

        items: The item of each text; repeated texts share one.

        call_report: Calls a function without arguments, at once or in another thread.

    Raises:
        ConfigurationError: If *report* can't be called, or is async.
    """

    def __init__(
        self,
        report: Callable[[Progress], object],
        items: Iterable[int],
        call_report: Callable[[Callable[[], object]], object],
    ) -> None:
        if not callable(report):
            message = (
                f"progress must be a function that takes a qwen_aiml.Progress, not {type(report).__name__}"
            )
            raise ConfigurationError(message)
        if iscoroutinefunction(report) or iscoroutinefunction(type(report).__call__):
            raise ConfigurationError("progress must be a function that is not async, also in async calls")
        self._report: Callable[[Progress], object] | None = report
        self._call_report = call_report
        self._texts = Counter(items)
        self._total = self._texts.total()
        self._done = self._cached = 0

    def add(self, items: Iterable[int], usage: Usage, *, cached: bool = False) -> None:
        """Count the texts of some items as done, and report progress with the usage so far."""
        texts = sum(self._texts[item] for item in items)
        self._done += texts
        self._cached += texts if cached else 0
        self.send(usage)

    def send(self, usage: Usage, waiting: float = 0.0) -> None:
        """Report progress, with the usage so far and the seconds of a wait that starts now, if any."""
        progress = Progress(self._done, self._total, self._cached, usage, waiting)
        self._call_report(lambda: self._guarded(progress))

    def _guarded(self, progress: Progress) -> None:
        if self._report is None:
            return
        try:
            self._report(progress)
        except Exception:
            self._report = None
            logger.warning("the progress function raised; progress is no longer reported", exc_info=True)


class Bar:
    """
    A tqdm progress bar, in a terminal or notebook: texts, texts per second, tokens.

    Args:
        show: Whether to show the bar; False costs nothing and does not need tqdm.

        total: Total number of texts; None takes it from the first report.

    Raises:
        ConfigurationError: If tqdm is not installed.
    """

    def __init__(self, *, show: bool, total: int | None = None) -> None:
        if show:
            import_extra("tqdm", "progress", "a progress bar")
        self._show = show
        self._total = total
        self._shown: Any = None
        self._tokens: int | None = 0
        self._cached = 0

    def callback(self) -> Callable[[Progress], None] | None:
        """Return the progress callback for one call; None if no bar is shown."""
        if not self._show:
            return None
        last = Progress(0, 0, 0, Usage())

        def update(progress: Progress) -> None:
            nonlocal last
            before, last = last, progress
            old, new = before.usage.total_tokens, progress.usage.total_tokens
            if self._tokens is not None:
                self._tokens = None if old is None or new is None else self._tokens + new - old
            self._total = progress.total if self._total is None else self._total
            self._move(progress.done - before.done, progress.cached - before.cached, progress.waiting)

        return update

    def _move(self, done: int, cached: int, waiting: float = 0.0) -> None:
        if not self._total:
            return
        if self._shown is None:
            # Speed is averaged since the start, and only time limits the refresh rate: tqdm's defaults suit
            # items that arrive one by one.
            self._shown = import_module("tqdm.auto").tqdm(
                total=self._total, desc="Embedding", unit=" texts", smoothing=0, miniters=1
            )
        bar = self._shown
        self._cached += cached
        bar.initial = self._cached  # cached texts do not count towards the speed
        postfix = [f"{self._cached:,} cached"] if self._cached else []
        if self._tokens is not None:
            postfix.append(f"{self._tokens:,} tokens")
        if waiting:
            postfix.append(f"waiting {waiting:.0f} s")
        bar.set_postfix_str(", ".join(postfix), refresh=bool(waiting))
        bar.update(done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._show and kind is None and self._total is not None:
            # Texts that no call reported came from a cache of the framework.
            rest = self._total - (0 if self._shown is None else self._shown.n)
            self._move(rest, rest)
        if self._shown is not None:
            self._shown.close()
