"""
The errors users meet. No I/O here.

QwenAIMLError                     everything below, so that one ``except`` is enough
├── ConfigurationError            a setting is wrong or missing (also ValueError)
├── InputError                    texts that can't be embedded; none of the call, or block, was sent
│   ├── InputTypeError            ... not a string (also TypeError)
│   └── InputValueError           ... blank, or counted as too long (also ValueError)
├── TransportError                no response: connection, TLS, timeout
├── DeadlineError                 ``total_timeout`` ran out (also TimeoutError)
├── APIStatusError                the service responded with an error
│   ├── AuthenticationError       401: the key
│   ├── InsufficientCreditsError  the balance, whatever the status
│   └── RateLimitError            429: too fast
├── ResponseFormatError           a malformed response
├── CacheError                    the cache can't be read or written
└── EmbeddingBatchError           some texts were embedded and some were not

None derives from RuntimeError, which LlamaIndex replaces by advice of its own. All can be pickled. None
holds a key; where the service repeats a text, or a good part of one, that is masked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._results import Usage


MOST_NAMED = 8  # runs of texts that an error spells out

Reason = Literal["account", "rate", "request", "rows", "length", "content", "text", "service"]


class QwenAIMLError(Exception):
    """
    The base of every error of this project.

    Attributes:
        indices: Positions in the list of texts that the error is about, ascending; empty where it is about
            none in particular.

        attempts: How many times the request was sent; 0 where none was.
    """

    __module__ = "qwen_aiml"

    def __init_subclass__(cls, **options: Any) -> None:
        """Show the errors of this module under the name by which users import them."""
        super().__init_subclass__(**options)
        if cls.__module__ == __name__:
            cls.__module__ = QwenAIMLError.__module__

    def __init__(self, message: str, *, indices: Sequence[int] = (), attempts: int = 0) -> None:
        super().__init__(message)
        self.indices = tuple(indices)
        self.attempts = attempts
        self._none_of = 0

    def __str__(self) -> str:
        if not self.attempts or not self.indices or self._is_of_any_text():
            return str(self.args[0])
        tries = f", {self.attempts} attempts" if self.attempts > 1 else ""
        first = f"none of {self._none_of} texts embedded; first failure: " if self._none_of else ""
        return f"{self.args[0]} ({first}{name_texts(self.indices)}{tries})"

    def _is_of_any_text(self) -> bool:
        """Tell whether other texts would have met the same error, so that naming these would mislead."""
        return False

    def __reduce__(self) -> tuple[Any, ...]:
        # Without `__init__`, whose arguments are not `args`.
        return type(self).__new__, (type(self),), {"args": self.args, **self.__dict__}


def note_none_embedded(error: QwenAIMLError, texts: int) -> None:
    """Let an error that is about some texts of a call say that none of them all was embedded."""
    error._none_of = texts if texts > len(error.indices) else 0  # noqa: SLF001 (of this module)


def advised(message: str, advice: str) -> str:
    """Say what happened, and then what to do about it; no advice leaves it at that."""
    if not advice:
        return message
    message = message.rstrip() if message.endswith("...") else message.rstrip(" .")
    return f"{message}{' ' if message.endswith(('…', '...', '!', '?')) else '. '}What to do: {advice}"


def name_texts(indices: Sequence[int]) -> str:
    """
    Say which texts are meant, as ``text 3`` or ``texts 0-9, 12``.

    Args:
        indices: Positions, ascending. At most eight runs of them are spelled out.
    """
    named = name_runs(dict.fromkeys(indices, ""), lambda a, b, _: str(a) if a == b else f"{a}-{b}")
    return f"text{'s' if len(indices) > 1 else ''} {named}"


def name_runs(kinds: Mapping[int, str], name: Callable[[int, int, str], str]) -> str:
    """
    Name runs of texts of one kind.

    Args:
        kinds: What each text is, by position, ascending. At most eight runs of them are spelled out.

        name: Names a run by its first and last position and its kind.
    """
    runs: list[list[int]] = []
    for at, kind in kinds.items():
        if runs and runs[-1][1] == at - 1 and kinds[at - 1] == kind:
            runs[-1][1] = at
        else:
            runs.append([at, at])
    named = ", ".join(name(a, b, kinds[a]) for a, b in runs[:MOST_NAMED])
    return named + (f" and more, {len(kinds)} in all" if len(runs) > MOST_NAMED else "")


class ConfigurationError(QwenAIMLError, ValueError):
    """A setting is wrong or missing; nothing was sent."""


class InputError(QwenAIMLError):
    """
    Some texts can't be embedded; nothing was sent, by ``embed_iter`` nothing from their block on.

    ``indices`` names every one of them.
    """


class InputTypeError(InputError, TypeError):
    """Some texts are not strings."""


class InputValueError(InputError, ValueError):
    """Some texts are blank or, as the tokenizer counts, too long."""


class TransportError(QwenAIMLError):
    """
    No response: the connection, TLS, or a timeout of one network operation.

    The service may have done the work all the same, and may bill it: it has no way to recognise a repeated
    request. Source: AI/ML API documents no idempotency key.

    Attributes:
        transient: Whether a retry may help; it does not against a certificate that can't be verified.

        timed_out: Whether the service was reached and then was silent for too long.
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool = True,
        timed_out: bool = False,
        indices: Sequence[int] = (),
        attempts: int = 0,
    ) -> None:
        super().__init__(message, indices=indices, attempts=attempts)
        self.transient = transient
        self.timed_out = timed_out


class DeadlineError(QwenAIMLError, TimeoutError):
    """``total_timeout`` ran out before the call was done."""


class APIStatusError(QwenAIMLError):
    """
    The service responded with an error.

    Attributes:
        status_code: The HTTP status.

        request_id: The id to quote to the service's support; None if it gave none.

        reason: What it is about, as far as the response says: the ``account``, its ``rate``, the ``request``
            as a whole (such as an unknown model), too many ``rows``, the ``length`` or the ``content`` of a
            text, a ``text`` in some other way, or the ``service``.

        max_rows: Texts one request may hold, if the response names the number; else None.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        request_id: str | None = None,
        reason: Reason = "service",
        max_rows: int | None = None,
        indices: Sequence[int] = (),
        attempts: int = 0,
    ) -> None:
        super().__init__(message, indices=indices, attempts=attempts)
        self.status_code = status_code
        self.request_id = request_id
        self.reason = reason
        self.max_rows = max_rows

    def _is_of_any_text(self) -> bool:
        return self.reason in ("account", "request")


class AuthenticationError(APIStatusError):
    """401: the service does not accept the key."""


class InsufficientCreditsError(APIStatusError):
    """The account has no credits left; a retry does not help, topping up does."""


class RateLimitError(APIStatusError):
    """429: too many requests for the rate limit of the account."""


class ResponseFormatError(QwenAIMLError):
    """The service responded with success, but not with one valid embedding for each text."""


class CacheError(QwenAIMLError):
    """The cache can't be read or written."""


class EmbeddingBatchError(QwenAIMLError):
    """
    The call ended with some texts embedded and some not.

    Attributes:
        embeddings: One entry per text, in their order: its embedding, or None. From ``embed_array`` each is
            an ``array`` of float32; from ``embed_iter`` this is empty, since it has yielded them before.

        failures: Maps the index of each text whose request failed to the error. A text that has neither an
            embedding nor a failure was not sent, or was in a request whose parts were not sent any more.

        usage: What the call has cost, as far as responses reported it.
    """

    def __init__(
        self,
        embeddings: list[list[float] | None],
        failures: dict[int, QwenAIMLError],
        usage: Usage,
        *,
        missing: Sequence[int] | None = None,
        advice: str = "",
    ) -> None:
        if missing is None:
            missing = [index for index, embedding in enumerate(embeddings) if embedding is None]
            count = f"{len(missing)} of {len(embeddings)} texts"
            there = len(embeddings) - len(missing)
            others = f"The other {'embedding is' if there == 1 else f'{there} are'} in `.embeddings`"
        else:
            count = f"{len(missing)} text{'s' if len(missing) > 1 else ''}"
            others = "The others were yielded before"
        first = next(iter(failures.values()))
        kind = "" if isinstance(first, SpentError) else f"{type(first).__name__}: "
        message = (
            f"{count} not embedded: {name_texts(missing)}. {others}, the errors are in `.failures`. "
            f"{advice}First error: {kind}{first}"
        )
        super().__init__(message, indices=missing)
        self.embeddings = embeddings
        self.failures = failures
        self.usage = usage


class BudgetError(EmbeddingBatchError):
    """
    The bound of a `track_usage` block is reached; what was in flight is embedded, nothing more was sent.

    It has the attributes of `EmbeddingBatchError`, and may have no embedding at all.
    """


class SpentError(QwenAIMLError):
    """Why texts were not sent: a bound is reached. It is among the failures of a `BudgetError`."""


SpentError.__module__ = __name__  # where a pickle finds it


class NotSentError(QwenAIMLError):
    """A request was not sent, since the call had failed elsewhere; never raised to users."""


def batch_error(failures: Mapping[int, QwenAIMLError], *, some: bool) -> type[EmbeddingBatchError] | None:
    """
    Choose the error of a call of which *some* texts or none were embedded; None for the first failure.

    Without failures something else stopped it, which it raises.
    """
    if any(isinstance(error, SpentError) for error in failures.values()):
        return BudgetError
    return EmbeddingBatchError if some and failures else None
