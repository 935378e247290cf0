"""The transport interface: a request body in; a response, or a `TransportFailure`, out."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .._keys import Secret
from .._protocol.schema import Hidden
from .._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._config import EmbeddingConfig
    from .._protocol.response import Response

CONNECT_TIMEOUT = 10.0
KEEP_ALIVE = 4.0  # seconds that a connection is kept unused; after five many servers close it

FailureKind = Literal["connection", "timeout", "certificate", "local", "loop", "proxy", "refused"]


class Post(Hidden):
    """
    One request to post to the endpoint.

    Attributes:
        body: JSON.

        max_bytes: Bytes of the response body to read, decompressed; the rest is not read.

        secret: The key, which each attempt looks up; empty before the first.
    """

    body: bytes
    max_bytes: int
    secret: Secret = Secret("")


class TransportFailure(Exception):  # noqa: N818 (never raised to users, who get a `TransportError`)
    """
    No response came.

    Attributes:
        kind: What failed; ``certificate``, ``local`` (a request that can't be sent) and ``refused`` (by a
            proxy) are not transient.

        detail: What happened, for people; it holds no key, but may quote what came.
    """

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


class Transport(Protocol):
    """Posts requests, any number at a time; cancelling one closes its connection."""

    async def post(self, request: Post) -> Response:
        """
        Post, with the key and the configured headers, and read the response; redirects are not followed.

        Raises:
            TransportFailure: If no response came. A response whose status came is returned, whatever becomes
                of its body, unless the status is 2xx.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections, those in use as soon as their response is there."""
        ...


async def close_all(each: Iterable[Any]) -> None:
    """
    Close transports or clients, one after the other, whatever the closing of one of them raises.

    Raises:
        BaseException: What the last one raised that did, once all are closed.
    """
    # An event loop that ends cancels what it still runs, and would leave the other sockets open.
    async with AsyncExitStack() as stack:
        for one in each:
            stack.push_async_callback(one.aclose)


def headers_of(config: EmbeddingConfig, **more: str) -> dict[str, str]:
    """Return the headers of each request, the user's over *more* and ours, without the key and the length."""
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
