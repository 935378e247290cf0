"""
A server that uses less CPU than any client: it parses as little as possible and sends precomputed rows.

    python benchmarks/server.py --latency 0.1 --floats 1024

Rows are numbers or, if requested, base64. It prints its URL, and serves until its standard input is closed,
for up to an hour. The latency is added to the processing time of each request. With a rate limit, requests
beyond it in any second get 429, within 20 ms as from the emulator, without Retry-After. A GET returns the
counts of requests and rejections since the last GET, and resets the counts and the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from functools import cache

import orjson

DISTINCT = 64  # precomputed rows
REFUSAL_SECONDS = 0.02
MAX_SECONDS = 3600  # lifetime of the server if nothing stops it


@cache
def _rows(floats: int, form: str) -> list[bytes]:
    """Encode the part of each row after its index; numbers have full precision, as the service sends them."""
    numbers = random.Random(1)  # noqa: S311 (no secret)
    rows = ([numbers.gauss(0, 0.03) for _ in range(floats)] for _ in range(DISTINCT))
    return [b',"embedding":' + orjson.dumps(_base64(row) if form == "base64" else row) + b"}" for row in rows]


def _base64(row: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


@cache
def _body(count: int, floats: int, form: str = "float") -> bytes:
    """Encode the complete response for *count* texts."""
    rows = _rows(floats, form)
    data = b",".join(b'{"object":"embedding","index":%d' % at + rows[at % DISTINCT] for at in range(count))
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (5 * count, 5 * count)
    body = b'{"object":"list","data":[' + data + b'],"model":"text-embedding-v4",' + usage + b',"id":"bench"}'
    return _head(200, len(body)) + body


def _head(status: int, length: int) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, length)


class Service:
    """
    The state shared by all connections.

    Args:
        latency: Seconds per request.

        floats: Default dimensions of rows, for requests that do not specify any.

        rate: Requests accepted in any second. None: no limit.
    """

    def __init__(self, latency: float, floats: int, rate: int | None) -> None:
        self.latency, self.floats, self.rate = latency, floats, rate
        self.requests = self.refused = 0
        self.recent: deque[float] = deque()

    def answer(self, body: bytes) -> tuple[float, bytes]:
        """Return the delay in seconds and the complete response, including headers."""
        self.requests += 1
        if self.rate is not None and not self._admit(time.monotonic()):
            self.refused += 1
            said = b'{"message":"Requests rate limit exceeded"}'
            return min(self.latency, REFUSAL_SECONDS), _head(429, len(said)) + said
        request = orjson.loads(body)
        count = 1 if isinstance(request["input"], str) else len(request["input"])
        form = request.get("encoding_format", "float")
        return self.latency, _body(count, request.get("dimensions", self.floats), form)

    def counts(self) -> bytes:
        """Return the counts as a response, and reset them and the limit."""
        said = json.dumps({"requests": self.requests, "refused": self.refused}).encode()
        self.requests = self.refused = 0
        self.recent.clear()
        return _head(200, len(said)) + said

    def _admit(self, now: float) -> bool:
        while self.recent and self.recent[0] <= now - 1:
            self.recent.popleft()
        if len(self.recent) >= (self.rate or 0):
            return False
        self.recent.append(now)
        return True


class Connection(asyncio.Protocol):
    """One connection, which receives requests one after another."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Respond to each complete request."""
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.received[:end]).lower()
            length = 0
            if (at := head.find(b"content-length:")) >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self.received) < end + 4 + length:
                return
            body = bytes(self.received[end + 4 : end + 4 + length])
            del self.received[: end + 4 + length]
            if head.startswith(b"get "):
                self.transport.write(self.service.counts())
                continue
            seconds, answer = self.service.answer(body)
            if seconds:
                asyncio.get_running_loop().call_later(seconds, self.transport.write, answer)
            else:
                self.transport.write(answer)


async def serve(service: Service) -> None:
    """Serve until standard input is closed, or the time is up."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=512)
    port = server.sockets[0].getsockname()[1]
    _body(10, service.floats)  # fills the cache before the first request
    print(f"http://127.0.0.1:{port}/v1", flush=True)
    ended = asyncio.Event()
    # A daemon thread that reads the file descriptor: the lock of sys.stdin would block the exit.
    threading.Thread(target=_await_end, args=(loop, ended), daemon=True).start()
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(ended.wait(), MAX_SECONDS)
    server.close()


def _await_end(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    while os.read(0, 1024):
        pass
    with suppress(RuntimeError):  # the loop is already closed
        loop.call_soon_threadsafe(ended.set)


def main() -> None:
    """Parse the options and serve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latency", type=float, default=0.1)
    parser.add_argument("--floats", type=int, default=1024)
    parser.add_argument("--rate", type=int)
    options = parser.parse_args()
    asyncio.run(serve(Service(options.latency, options.floats, options.rate)))


if __name__ == "__main__":
    main()
