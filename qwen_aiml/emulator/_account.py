"""
An account with the service: API keys, limits, credits and billing.

Everything is thread-safe. This module does no I/O and never waits.
"""

from __future__ import annotations

from collections import Counter, deque
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING

from . import _responses, _service
from ._locks import ForkSafeLock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import ExitStack

    from ._responses import Request, Response

_WINDOW = 1.0  # seconds over which the rate is counted


class _Bucket:
    """
    A token bucket, initially full.

    Args:
        rate: Tokens added per second.

        burst: Capacity in tokens.

        now: The current time.
    """

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._filled_at = float(burst), now

    def take(self, now: float) -> bool:
        """Take a token; return whether there was one."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        # In floating point, ten additions of 0.1 give slightly less than 1.
        if self._tokens < 1 - 1e-9:
            return False
        self._tokens -= 1
        return True


class Account:
    """
    The checks between a request and the models.

    Args:
        api_keys: Valid API keys. None means that every key that is not blank is valid.

        credits: The balance, in whole credits. None means no limit.

        rate_limit: Requests per second that reach the models. None means no limit.

        burst: Size of a token bucket that `rate_limit` refills, in requests.
            None means no bucket; the rate is counted over any second.

        concurrency_limit: Requests that the models process concurrently.
            None means no limit.

        retry_after: Seconds in the ``retry-after`` header of requests beyond
            those limits. None means no such header.

        clock: Returns monotonic seconds, for the rate limit.

        upstream: The models.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(  # noqa: PLR0913 - all are settings of one account, and by name only
        self,
        *,
        api_keys: Collection[str] | None,
        credits: int | None,  # noqa: A002 - the service's word; the builtin is for the REPL
        rate_limit: int | None,
        burst: int | None,
        concurrency_limit: int | None,
        retry_after: float | None,
        clock: Callable[[], float],
        upstream: _service.Upstream,
    ) -> None:
        if isinstance(api_keys, str) or (
            api_keys is not None and not all(key.strip() for key in api_keys or [""])
        ):
            raise ValueError(
                "api_keys must be a collection of keys, none of them blank; or None, to accept any"
            )
        if credits is not None and credits < 0:
            raise ValueError(f"credits must be 0 or more, not {credits}")
        if rate_limit is not None and rate_limit < 1:
            raise ValueError(f"rate_limit must be 1 request per second or more, not {rate_limit}")
        if burst is not None and burst < 1:
            raise ValueError(f"burst must be 1 request or more, not {burst}")
        if burst is not None and rate_limit is None:
            raise ValueError("burst needs rate_limit, which refills the bucket")
        if concurrency_limit is not None and concurrency_limit < 1:
            raise ValueError(f"concurrency_limit must be 1 request or more, not {concurrency_limit}")
        if retry_after is not None and not 0 <= retry_after < inf:
            raise ValueError(f"retry_after must be a number of seconds, 0 or more, not {retry_after}")
        self.api_keys = None if api_keys is None else tuple(api_keys)
        self._credits = credits
        self._rate_limit = inf if rate_limit is None else rate_limit
        self._bucket = None if burst is None or rate_limit is None else _Bucket(rate_limit, burst, clock())
        self._concurrency_limit = inf if concurrency_limit is None else concurrency_limit
        self._retry_after = retry_after
        self._clock = clock
        self._upstream = upstream
        self._lock = ForkSafeLock()
        self._recent: deque[float] = deque()
        self._processing = 0
        self._billed: Counter[str] = Counter()

    @property
    def credits(self) -> int | None:
        """The credits left; None if they are not limited."""
        return self._credits

    @property
    def texts_billed(self) -> Counter[str]:
        """How often each text was billed (a copy)."""
        with self._lock:
            return self._billed.copy()

    def process(self, request: Request, in_flight: ExitStack) -> Response:
        """
        Respond to *request* as the service does, and bill it if it is embedded.

        A request that reaches the models counts towards the concurrency limit
        until *in_flight* is closed.
        """
        mount = self._upstream.mount
        if (request.method, request.path) == ("GET", mount + _service.BALANCE_PATH):
            return _service.key_error(request, self.api_keys) or _responses.balance(request, self._credits)
        call = _service.gateway(request, api_keys=self.api_keys, mount=mount)
        if isinstance(call, _responses.Response):
            return call
        if not self._hold(call.cost):
            return _responses.documented(request, HTTPStatus.FORBIDDEN.value)
        if self._admit():
            in_flight.callback(self._leave)
            response = self._upstream.respond(call)
        else:
            response = _responses.throttled(request, self._retry_after)
        if response.status != HTTPStatus.OK:
            self._hold(-call.cost)
            return response
        with self._lock:
            self._billed.update(call.texts)
        return response

    def _hold(self, cost: int) -> bool:
        """
        Deduct *cost* if the balance covers it; a negative cost is a refund.

        Source: AI/ML API docs, "API key usage": a hold, rolled back when the
        request fails.
        """
        with self._lock:
            if self._credits is None:
                return True
            if self._credits < cost:
                return False
            self._credits -= cost
            return True

    def _admit(self) -> bool:
        """Count one more request if it is within the limits; return whether it is."""
        with self._lock:
            if self._processing >= self._concurrency_limit or not self._is_within_rate(self._clock()):
                return False
            self._processing += 1
            return True

    def _is_within_rate(self, now: float) -> bool:
        if self._bucket is not None:
            return self._bucket.take(now)
        while self._recent and self._recent[0] <= now - _WINDOW:
            self._recent.popleft()
        if len(self._recent) >= self._rate_limit:
            return False
        self._recent.append(now)
        return True

    def _leave(self) -> None:
        with self._lock:
            self._processing -= 1
