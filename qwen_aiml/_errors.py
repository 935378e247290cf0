"""
The exceptions of this project. No I/O here.

QwenAIMLError                     base class of all below, so that one ``except`` is enough
├── ConfigurationError            a setting is wrong or missing (also ValueError)
├── InputError                    invalid texts; nothing was sent
│   ├── InputTypeError            ... not a string (also TypeError)
│   └── InputValueError           ... blank, or counted as too long (also ValueError)
├── TransportError                no response: connection, TLS, timeout
├── DeadlineError                 ``total_timeout`` ran out (also TimeoutError)
├── APIStatusError                the service responded with an error
│   ├── AuthenticationError       401: the API key was rejected
│   ├── InsufficientCreditsError  no credits left, whatever the status
│   └── RateLimitError            429: too many requests
├── ResponseFormatError           a malformed response
├── CacheError                    the cache can't be read or written
└── EmbeddingBatchError           some texts were embedded and some were not
    └── BudgetError               the budget of a `track_usage` block is used up

None derives from RuntimeError, which LlamaIndex replaces with its own advice. All can be pickled. None
contains a key; if the service quotes a text, or a large part of one, that is masked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._results import Usage


MAX_NAMED = 8  # runs of texts that a message lists

Reason = Literal["account", "rate", "request", "rows", "length", "content", "text", "service"]


class QwenAIMLError(Exception):
    """
    Base class of all errors of this project.

    Attributes:
        indices: Indices of the texts that the error is about, ascending; empty if it is not about particular
            texts.

        attempts: How many times the request was sent; 0 if it was not sent.
    """

    __module__ = "qwen_aiml"

    def __init_subclass__(cls, **options: Any) -> None:
        """Set ``__module__`` of the errors in this module to the package that users import them from."""
        super().__init_subclass__(**options)
        if cls.__module__ == __name__:
            cls.__module__ = QwenAIMLError.__module__

    def __init__(self, message: str, *, indices: Sequence[int] = (), attempts: int = 0) -> None:
        super().__init__(message)
        self.indices: tuple[int, ...] = tuple(indices)
        self.attempts = attempts
        self._none_of = 0

    def __str__(self) -> str:
        if not self.attempts or not self.indices:
            return str(self.args[0])
        attempts = f", {self.attempts} attempts" if self.attempts > 1 else ""
        first = f"none of {self._none_of} texts embedded; first failure: " if self._none_of else ""
        return f"{self.args[0]} ({first}{name_texts(self.indices)}{attempts})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Bypasses `__init__`, whose arguments differ from `args`.
        return type(self).__new__, (type(self),), {"args": self.args, **self.__dict__}


def note_none_embedded(error: QwenAIMLError, texts: int) -> None:
    """Add to the message of an error about some texts that no text of the call was embedded."""
    error._none_of = texts if texts > len(error.indices) else 0  # noqa: SLF001 (of this module)


def advised(message: str, advice: str) -> str:
    """Append advice to an error message; empty advice leaves it unchanged."""
    if not advice:
        return message
    message = message.rstrip()
    if not message.endswith("..."):
        message = message.rstrip(" .")
    return f"{message}{' ' if message.endswith(('…', '...', '!', '?')) else '. '}What to do: {advice}"


def name_texts(indices: Sequence[int]) -> str:
    """
    Name texts by their indices, such as ``text 3`` or ``texts 0-9, 12``.

    Args:
        indices: In ascending order. At most eight runs are listed.
    """
    named = name_runs(dict.fromkeys(indices, ""), lambda a, b, _: str(a) if a == b else f"{a}-{b}")
    return f"text{'s' if len(indices) > 1 else ''} {named}"


def name_runs(kinds: Mapping[int, str], name: Callable[[int, int, str], str]) -> str:
    """
    List runs of adjacent texts of the same kind.

    Args:
        kinds: The kind of each text, by index, ascending. At most eight runs are listed.

        name: Formats a run, given its first and last index and its kind.
    """
    runs: list[list[int]] = []
    for at, kind in kinds.items():
        if runs and runs[-1][1] == at - 1 and kinds[at - 1] == kind:
            runs[-1][1] = at
        else:
            runs.append([at, at])
    named = ", ".join(name(a, b, kinds[a]) for a, b in runs[:MAX_NAMED])
    return named + (f" and more, {len(kinds)} in all" if len(runs) > MAX_NAMED else "")


class ConfigurationError(QwenAIMLError, ValueError):
    """A setting is wrong or missing."""


class InputError(QwenAIMLError):
    """
    Some texts are invalid; nothing was sent. In ``embed_iter``, nothing from their block on was sent.

    ``indices`` lists all invalid texts.
    """


class InputTypeError(InputError, TypeError):
    """Some texts are not strings."""


class InputValueError(InputError, ValueError):
    """Some texts are blank or, by the tokenizer's count, too long."""


class TransportError(QwenAIMLError):
    """
    No response: the connection or TLS failed, or one network operation timed out.

    The service may still have processed the request, and may bill it: it has no way to recognise a repeated
    request. Source: AI/ML API documents no idempotency key.

    Attributes:
        transient: Whether a retry may help; False for, say, a certificate that can't be verified.

        timed_out: Whether the service was reached but sent nothing for too long.
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
    """``total_timeout`` ran out, or would run out before the next attempt."""


class APIStatusError(QwenAIMLError):
    """
    The service responded with an error.

    Attributes:
        status_code: The HTTP status.

        request_id: The ID to quote to the service's support; None if the response had none.

        reason: The subject of the error, as far as the response says: the ``account``, its ``rate``, the
            ``request`` as a whole (such as an unknown model), too many ``rows``, the ``length`` or the
            ``content`` of a text, a ``text`` in some other way, or the ``service``.

        max_rows: Maximum number of texts per request, if the response states it; otherwise None.
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

    def __str__(self) -> str:
        # Any other text would cause the same error of the account or request, so naming these would mislead.
        return str(self.args[0]) if self.reason in ("account", "request") else super().__str__()


class AuthenticationError(APIStatusError):
    """401: the service rejected the API key."""


class InsufficientCreditsError(APIStatusError):
    """The account has no credits left; top it up, since a retry does not help."""


class RateLimitError(APIStatusError):
    """429: the account exceeds a rate limit."""


class ResponseFormatError(QwenAIMLError):
    """The service responded with success, but not with one valid embedding for each text."""


class CacheError(QwenAIMLError):
    """The cache can't be read or written."""


class EmbeddingBatchError(QwenAIMLError):
    """
    The call ended with some texts embedded and some not.

    Attributes:
        embeddings: One entry per text, in order: its embedding, or None. From ``embed_array``, each is an
            ``array`` of float32; from ``embed_iter``, the list is empty, since they were already yielded.

        failures: The error of each text whose request failed, by index. A text with neither an embedding nor
            a failure was not sent, or was in a failed batch whose parts were not all sent.

        usage: Usage of the call, as far as responses reported it.
    """

    def __init__(
        self,
        embeddings: list[list[float] | None],
        failures: dict[int, QwenAIMLError],
        usage: Usage,
        *,
        missing: Sequence[int] | None = None,
        some: bool = True,
        advice: str = "",
    ) -> None:
        if missing is None:
            missing = [index for index, embedding in enumerate(embeddings) if embedding is None]
            count = f"{len(missing)} of {len(embeddings)} texts"
            there = len(embeddings) - len(missing)
            others = f"The other {'embedding is' if there == 1 else f'{there} are'} in `.embeddings`, the"
            some = there > 0
        else:
            count = f"{len(missing)} text{'s' if len(missing) > 1 else ''}"
            others = "The others were yielded before, the"
        first = next(iter(failures.values()))
        kind = "" if isinstance(first, SpentError) else f"{type(first).__name__}: "
        message = (
            f"{count} not embedded: {name_texts(missing)}. {others if some else 'The'} errors are in "
            f"`.failures`. {advice}First error: {kind}{first}"
        )
        super().__init__(message, indices=missing)
        self.embeddings = embeddings
        self.failures = failures
        self.usage = usage


class BudgetError(EmbeddingBatchError):
    """
    The budget of a `track_usage` block is used up; requests in flight were completed, others not sent.

    It has the attributes of `EmbeddingBatchError`, and is raised even if no text was embedded.
    """


class SpentError(QwenAIMLError):
    """Texts were not sent, since a budget is used up. One of the failures of a `BudgetError`."""


SpentError.__module__ = __name__  # where pickle looks it up


class NotSentError(QwenAIMLError):
    """A request was not sent, since the call had already failed; never raised to users."""


def batch_error(failures: Mapping[int, QwenAIMLError], *, some: bool) -> type[EmbeddingBatchError] | None:
    """
    Return the class of error to raise for a call; None to raise its first failure, or other cause, itself.

    Args:
        failures: The error of each text whose request failed, by index.

        some: Whether some texts were embedded.
    """
    if any(isinstance(error, SpentError) for error in failures.values()):
        return BudgetError
    return EmbeddingBatchError if some and failures else None
