"""
The emulated account: keys, credits, rate limit, faults to come, requests seen.

All of it may be used from any thread. No I/O and no waiting here: transports
and the server ask what to answer, and after how long.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from json import dumps
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any, get_args

from . import _answers, _service, _transports
from ._fault import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    import httpx

    from ._answers import Answer, Request

_REMEMBERED = 10_000
_WINDOW = 1.0  # seconds over which the rate is counted


@dataclass(frozen=True, kw_only=True)
class ReceivedRequest:
    """
    What the emulator remembers of a request; its key is not among it.

    Args:
        model: The body's ``model``, None if it has none that is a string.

        input: The body's ``input``, whatever it was; None if it has none.

        dimensions: The body's ``dimensions``, whatever they were; None if it
            has none.

        status: The status it was answered with; None if it was reset before
            it was processed.

        client_request_id: The id its client gave it, if the service takes it.
    """

    model: str | None
    input: Any
    dimensions: Any
    status: int | None
    client_request_id: str | None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to embed; empty if the input was not made of texts."""
        rows = self.input if isinstance(self.input, list) else [self.input]
        return tuple(row for row in rows if isinstance(row, str))


@dataclass(frozen=True, kw_only=True)
class Reply:
    """
    What a transport does about a request.

    It waits *latency* seconds. Then it breaks the connection if *answer* is
    None, else sends *answer*: all of it, or *cut* bytes of its body.
    """

    latency: float
    answer: Answer | None
    cut: int | None


class Emulator:
    """
    A stand-in for the service, with an account of its own.

    Args:
        api_keys: The keys it knows; others get 401. None: every key that is
            not blank will do.

        latency: Seconds before each answer, default 0.

        rate_limit: Requests a second that reach the models; those beyond get
            429. None: no limit.

        credits: The balance in whole credits, of which a dollar buys
            2,000,000. A request it cannot pay gets 403. None: endless.

        region: Whose rules for ``dimensions`` hold: v3 knows fewer lengths
            in "international", the default, than in "mainland".

        shuffle: Send rows in an order other than that of their index.

        base64: Obey ``encoding_format="base64"``; else it is ignored, as the
            service is believed to do.

        clock: Seconds that only grow; the rate limit goes by it.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(  # noqa: PLR0913 - all are settings of one account, and by name only
        self,
        *,
        api_keys: Collection[str] | None = None,
        latency: float = 0.0,
        rate_limit: int | None = None,
        credits: int | None = None,  # noqa: A002 - the service's word; the builtin is for the REPL
        region: _service.Region = "international",
        shuffle: bool = False,
        base64: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set up an account that has seen no request yet."""
        if isinstance(api_keys, str) or (
            api_keys is not None and not all(key.strip() for key in api_keys or [""])
        ):
            raise ValueError(
                "api_keys must be a collection of keys, none of them blank; or None, to accept any"
            )
        if not 0 <= latency < inf:
            raise ValueError(f"latency must be a number of seconds, 0 or more, not {latency}")
        if rate_limit is not None and rate_limit < 1:
            raise ValueError(f"rate_limit must be 1 request a second or more, not {rate_limit}")
        if credits is not None and credits < 0:
            raise ValueError(f"credits must be 0 or more, not {credits}")
        if region not in get_args(_service.Region):
            raise ValueError(f'region must be "international" or "mainland", not {region!r}')
        self._api_keys = None if api_keys is None else tuple(api_keys)
        self._latency = latency
        self._rate_limit = rate_limit
        self._credits = credits
        self._region = region
        self._shuffle = shuffle
        self._base64 = base64
        self._clock = clock
        self._lock = Lock()
        self._script: deque[Fault | None] = deque()
        self._recent: deque[float] = deque()
        self._requests: deque[ReceivedRequest] = deque(maxlen=_REMEMBERED)
        self._request_count = 0
        self._in_flight = 0
        self._peak_in_flight = 0

    def script(self, *faults: Fault | None) -> None:
        """
        Line up what happens to the requests to come, one each, in order.

        Args:
            faults: A fault, or None for a normal answer. They follow those
                lined up before; when all are used, answers are normal again.
        """
        with self._lock:
            self._script.extend(faults)

    @property
    def requests(self) -> tuple[ReceivedRequest, ...]:
        """The requests received, oldest first: the last 10,000 of them."""
        with self._lock:
            return tuple(self._requests)

    @property
    def request_count(self) -> int:
        """How many requests were received."""
        return self._request_count

    @property
    def peak_in_flight(self) -> int:
        """The most requests that were being answered at the same time."""
        return self._peak_in_flight

    @property
    def credits(self) -> int | None:
        """The credits left; None if they are endless."""
        return self._credits

    def transport(self) -> httpx.MockTransport:
        """Give a transport for `httpx.Client`; it waits with `time.sleep`."""
        return _transports.sync_transport(self)

    def async_transport(self) -> httpx.MockTransport:
        """Give a transport for `httpx.AsyncClient`, on asyncio or Trio."""
        return _transports.async_transport(self)

    def client_options(self) -> dict[str, Any]:
        """
        Give what makes an embeddings class talk to this emulator.

        Returns:
            ``api_key``, ``http_client`` and ``http_async_client``, to be
            passed on by name. The clients are new, and the caller's to close.
        """
        api_key = "emulator" if self._api_keys is None else self._api_keys[0]
        return {"api_key": api_key, **_transports.clients(self)}

    @contextmanager
    def answering(self, request: Request) -> Iterator[Reply]:
        """Decide what *request* gets; it is in flight until this is left."""
        with self._lock:
            fault = (self._script.popleft() if self._script else None) or Fault()
            self._in_flight += 1
            self._peak_in_flight = max(self._peak_in_flight, self._in_flight)
        try:
            answer = None if fault.reset == "before" else self._answer(request, fault)
            self._remember(request, answer)
            yield Reply(
                latency=self._latency + fault.latency,
                answer=None if fault.reset else answer,
                cut=None if fault.cut is None or answer is None else min(fault.cut, len(answer.body) - 1),
            )
        finally:
            with self._lock:
                self._in_flight -= 1

    def _remember(self, request: Request, answer: Answer | None) -> None:
        content = _service.read(request.body)
        if not isinstance(content, dict):
            content = {}
        model = content.get("model")
        received = ReceivedRequest(
            model=model if isinstance(model, str) else None,
            input=content.get("input"),
            dimensions=content.get("dimensions"),
            status=None if answer is None else answer.status,
            client_request_id=request.client_request_id,
        )
        with self._lock:
            self._requests.append(received)
            self._request_count += 1

    def _answer(self, request: Request, fault: Fault) -> Answer:
        """Answer *request* as *fault* has it."""
        if fault.status is not None and fault.status >= HTTPStatus.MULTIPLE_CHOICES:
            answer = _answers.documented(request, fault.status)
        else:
            answer = self._process(request)
            if answer.status != HTTPStatus.OK:
                return answer
        if fault.edit is not None:
            return _edited(answer, fault.edit)
        if fault.status is None:
            return answer
        body = answer.body if fault.body is None else fault.body
        if fault.status in _answers.BODILESS:
            body = b""
        headers = answer.headers | {name.lower(): value for name, value in fault.headers.items()}
        return _answers.Answer(status=fault.status, headers=headers, body=body)

    def _process(self, request: Request) -> Answer:
        """Answer *request* as the service does, and bill it if it is embedded."""
        call = _service.gateway(request, api_keys=self._api_keys)
        if isinstance(call, _answers.Answer):
            return call
        if not self._hold(call.cost):
            return _answers.documented(request, HTTPStatus.FORBIDDEN.value)
        if self._admit():
            answer = _service.upstream(call, region=self._region, shuffle=self._shuffle, base64=self._base64)
        else:
            answer = _answers.throttled(request)
        if answer.status != HTTPStatus.OK:
            self._hold(-call.cost)
        return answer

    def _hold(self, cost: int) -> bool:
        """
        Take *cost* from the balance, if it covers it; give it back if negative.

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
        """Count a request against the rate limit, and say whether it is within it."""
        if self._rate_limit is None:
            return True
        with self._lock:
            now = self._clock()
            while self._recent and self._recent[0] <= now - _WINDOW:
                self._recent.popleft()
            if len(self._recent) >= self._rate_limit:
                return False
            self._recent.append(now)
            return True


def _edited(answer: Answer, edit: Callable[[dict[str, Any]], dict[str, Any] | bytes]) -> Answer:
    content = edit(_service.read(answer.body))
    body = content if isinstance(content, bytes) else dumps(content, separators=(",", ":")).encode()
    return _answers.Answer(status=answer.status, headers=answer.headers, body=body)
