"""
A server that costs less than any client: it parses the least it can and answers with rows made beforehand.

    python benchmarks/server.py --latency 0.1 --floats 1024

Rows are numbers or, where that is asked for, base64. It prints its address, and serves until its standard
input ends, an hour at the most. The latency is added to what each request takes. A limit of requests a second
refuses what is above it with 429, in any second, within 20 ms as the emulator does, and without saying how
long to wait. A GET answers with how many requests came, and how many were refused, since the last one; it
resets both counts and the limit.
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

DISTINCT = 64  # rows made beforehand
REFUSAL_SECONDS = 0.02
MOST_SECONDS = 3600  # that the server lives, should nobody end it


@cache
def _rows(floats: int, form: str) -> list[bytes]:
    """Write rows as the service does, floats in full, with a place for the index."""
    numbers = random.Random(1)  # noqa: S311 (no secret)
    rows = ([numbers.gauss(0, 0.03) for _ in range(floats)] for _ in range(DISTINCT))
    return [b',"embedding":' + orjson.dumps(_base64(row) if form == "base64" else row) + b"}" for row in rows]


def _base64(row: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


@cache
def _body(count: int, floats: int, form: str = "float") -> bytes:
    """Write the whole answer for so many texts."""
    rows = _rows(floats, form)
    data = b",".join(b'{"object":"embedding","index":%d' % at + rows[at % DISTINCT] for at in range(count))
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}' % (5 * count, 5 * count)
    body = b'{"object":"list","data":[' + data + b'],"model":"text-embedding-v4",' + usage + b',"id":"bench"}'
    return _head(200, len(body)) + body


def _head(status: int, length: int) -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, length)


class Service:
    """
    What all connections share.

    Args:
        latency: Seconds each request takes.

        floats: Length of the rows; a request that names dimensions gets those.

        rate: Requests accepted in any second; None for all.
    """

    def __init__(self, latency: float, floats: int, rate: int | None) -> None:
        self.latency, self.floats, self.rate = latency, floats, rate
        self.requests = self.refused = 0
        self.recent: deque[float] = deque()

    def answer(self, body: bytes) -> tuple[float, bytes]:
        """Give the seconds to take, and the whole answer, headers included."""
        self.requests += 1
        if self.rate is not None and not self._admit(time.monotonic()):
            self.refused += 1
            said = b'{"message":"Requests rate limit exceeded"}'
            return min(self.latency, REFUSAL_SECONDS), _head(429, len(said)) + said
        asked = orjson.loads(body)
        count = 1 if isinstance(asked["input"], str) else len(asked["input"])
        form = asked.get("encoding_format", "float")
        return self.latency, _body(count, asked.get("dimensions", self.floats), form)

    def counts(self) -> bytes:
        """Give the counts as an answer, and reset them and the limit."""
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
    """One connection, on which requests come one after the other."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to write."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
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
    """Serve until standard input ends, or the time is up."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=512)
    port = server.sockets[0].getsockname()[1]
    _body(10, service.floats)  # before anybody waits for it
    print(f"http://127.0.0.1:{port}/v1", flush=True)
    ended = asyncio.Event()
    # A daemon, and no reader of sys.stdin, whose lock would stand in the way of the end.
    threading.Thread(target=_await_end, args=(loop, ended), daemon=True).start()
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(ended.wait(), MOST_SECONDS)
    server.close()


def _await_end(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    while os.read(0, 1024):
        pass
    with suppress(RuntimeError):  # the loop has ended by itself
        loop.call_soon_threadsafe(ended.set)


def main() -> None:
    """Read the options and serve."""
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
