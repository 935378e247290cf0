"""The transport interface: from a request body to a response or a `TransportFailure`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Literal, Protocol

from .._keys import Secret
from .._protocol.schema import Hidden
from .._version import __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from .._config import EmbeddingConfig
    from .._protocol.response import Response

CONNECT_TIMEOUT = 10.0
KEEP_ALIVE = 4.0  # seconds that an idle connection is kept; many servers close it after five

FailureKind = Literal["connection", "timeout", "certificate", "local", "loop", "proxy", "refused"]


class Post(Hidden):
    """
    One request to post to the endpoint.

    Attributes:
        body: The JSON body.

        max_bytes: Maximum bytes of the response body to read, decompressed; the rest is not read.

        secret: The API key, which each attempt looks up; empty before the first.
    """

    body: bytes
    max_bytes: int
    secret: Secret = Secret("")


class TransportFailure(Exception):  # noqa: N818 (never raised to users, who get a `TransportError`)
    """
    No response was received.

    Attributes:
        kind: The cause; ``certificate``, ``local`` (a request that can't be sent) and ``refused`` (by a
            proxy) are not transient.

        detail: A human-readable description, without the key; it may quote received data.
    """

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Transport(Protocol):
    """Posts any number of requests concurrently; cancelling one closes its connection."""

    async def post(self, request: Post) -> Response:
        """
        Post a request with the key and the configured headers, and return its response.

        Redirects are not followed.

        Raises:
            TransportFailure: If no response was received. Once a status is received, the response is
                returned even if its body is incomplete, unless the status is 2xx.
        """
        ...

    async def aclose(self) -> None:
        """Close idle connections now, and those in use once their response has arrived."""
        ...


async def close_all(closers: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """
    Call functions that close transports or clients, one after the other, even if one of them raises.

    Raises:
        BaseException: The last exception that was raised, once all were called.
    """
    # An event loop that ends cancels its tasks, which would leave the other sockets open.
    async with AsyncExitStack() as stack:
        for close in closers:
            stack.push_async_callback(close)


def request_headers(config: EmbeddingConfig, **more: str) -> dict[str, str]:
    """Return the headers of a request without key and length; the user's override *more* and ours."""
    given = config.default_headers or {}
    replaced = {name.lower() for name in given}
    ours = {
        **more,
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "Content-Type": "application/json",
        "User-Agent": f"qwen-aiml/{__version__}",
    }
    return {name: value for name, value in ours.items() if name.lower() not in replaced} | dict(given)
