"""Calls while the interpreter exits, and clients that are never closed."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

SYNC = """
def embed(config, texts):
    client = EmbeddingClient(config)
    clients.append(client)
    return client.embed(texts)
"""

ASYNC = """
import asyncio

def embed(config, texts):
    client = AsyncEmbeddingClient(config)
    clients.append(client)
    return asyncio.run(client.embed(texts))
"""

# No client is closed.
CALL = """
import dataclasses, os
from qwen_aiml import QwenAIMLError

clients = []

def call():
    for url, proxy, count in WAYS:
        os.environ["HTTP_PROXY"] = proxy
        config = dataclasses.replace(CONFIG, base_url=url, max_retries=0)
        try:
            print(len(embed(config, TEXTS[:count]).embeddings), flush=True)
        except QwenAIMLError as error:
            print(type(error).__name__, flush=True)
"""

THREAD = """
import threading, time

def outlive():
    threading.main_thread().join()
    time.sleep(0.1)  # until it has ended for those as well who wait for it in other ways
    call()

threading.Thread(target=outlive).start()
"""

AT_EXIT = """
import atexit

atexit.register(call)
"""


class Proxy(BaseHTTPRequestHandler):
    """A proxy that forwards requests for any host to this machine; subclasses set `port`."""

    protocol_version = "HTTP/1.1"
    port: int

    def do_POST(self) -> None:
        """Forward a request."""
        body = self.rfile.read(int(self.headers["content-length"]))
        server = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {name: self.headers[name] for name in ("authorization", "content-type")}
            server.request("POST", urlsplit(self.path).path, body, headers)
            answer = server.getresponse()
            content = answer.read()
        finally:
            server.close()
        self.send_response(answer.status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def proxy(address: str) -> Iterator[str]:
    """Run a proxy that forwards to a local server."""
    handler = type("Handler", (Proxy,), {"port": urlsplit(address).port, "timeout": 10})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("kind", "when", "earlier"),
    [
        pytest.param(SYNC, THREAD, True, id="sync, thread, again"),
        pytest.param(SYNC, AT_EXIT, False, id="sync, atexit, first"),
        pytest.param(ASYNC, THREAD, False, id="async, thread, first"),
        pytest.param(ASYNC, AT_EXIT, True, id="async, atexit, again"),
        pytest.param(SYNC, THREAD, False, id="sync, thread, first", marks=pytest.mark.long),
        pytest.param(SYNC, AT_EXIT, True, id="sync, atexit, again", marks=pytest.mark.long),
        pytest.param(ASYNC, THREAD, True, id="async, thread, again", marks=pytest.mark.long),
        pytest.param(ASYNC, AT_EXIT, False, id="async, atexit, first", marks=pytest.mark.long),
    ],
)
def test_as_the_interpreter_ends(
    run: Callable[..., str], address: str, kind: str, when: str, earlier: bool
) -> None:
    """Calls work while the interpreter exits, without output; only name lookups with asyncio fail."""
    name = address.replace("127.0.0.1", "localhost")
    with proxy(address) as url:
        ways = [(address, "", 1), (address, "", 37), (name, "", 37), ("http://service.example/v1", url, 37)]
        program = "\n".join([f"WAYS = {ways}", kind, CALL, "call()" if earlier else "", when])
        printed = run(program, "-W", "error")

    works = ["1", "37", "37", "37"]
    at_last = ["1", "37", "TransportError", "37"] if kind == ASYNC else works
    assert printed.splitlines() == (works if earlier else []) + at_last


DROPPED = """
import asyncio, gc, os, time

def sockets():
    # Those of event loops are pairs of their own.
    with open("/proc/net/tcp") as table:
        rows = {row.split()[9] for row in table.read().splitlines()[1:]}
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if link.startswith("socket:[") and link[8:-1] in rows:
            found.append(link)
    return found
"""

DROPPING = {
    "sync": """
client = EmbeddingClient(CONFIG)
client.embed(TEXTS)
assert sockets()
del client
""",
    "async": """
async def main():
    client = AsyncEmbeddingClient(CONFIG)
    await client.embed(TEXTS)
    assert sockets()
    del client
    gc.collect()
    await asyncio.sleep(0.2)
    print(len(sockets()))

asyncio.run(main())
""",
    "async, with its loop": """
async def main():
    await AsyncEmbeddingClient(CONFIG).embed(TEXTS)

for _ in range(2):
    asyncio.run(main())
""",
}

IN_DEL = """
class Index:
    def __init__(self, client):
        self.client = client

    def __del__(self):
        self.client.close()
        print("closed", flush=True)
        try:
            self.client.embed(TEXTS)
        except ConfigurationError as error:
            print(error, flush=True)

from qwen_aiml import ConfigurationError
index = Index(EmbeddingClient(EmbeddingConfig(dimensions=64)))
print(len(index.client.embed(TEXTS).embeddings), flush=True)
"""

LEFT = {
    "sync": "client = EmbeddingClient(CONFIG); print(len(client.embed(TEXTS).embeddings))",
    "async": "client = AsyncEmbeddingClient(CONFIG); print(len(asyncio.run(client.embed(TEXTS)).embeddings))",
    # In a module that is cleared after asyncio's, as programs made by PyInstaller have.
    "held": """
import sys, threading, time, types
held = types.ModuleType("held")
modules = {"held": held, **sys.modules}
sys.modules.clear()
sys.modules.update(modules)
threading.Thread(target=lambda _: time.sleep(60), args=[held], daemon=True).start()
held.client = EmbeddingClient(CONFIG)
print(len(held.client.embed(TEXTS).embeddings))
""",
}


@pytest.mark.skipif(not hasattr(socket, "AF_PACKET"), reason="only Linux lists the sockets of a process")
@pytest.mark.parametrize("transport", ["auto", "httpx"])
@pytest.mark.parametrize("kind", DROPPING)
def test_dropped(run: Callable[..., str], kind: str, transport: str) -> None:
    """A client that is garbage-collected without being closed leaves no socket open, and logs nothing."""
    setting = f"CONFIG = EmbeddingConfig(dimensions=64, transport={transport!r})"
    waiting = """
gc.collect()
for _ in range(100):
    if not sockets():
        break
    time.sleep(0.05)
print(len(sockets()))
"""
    printed = run(f"{DROPPED}\n{setting}\n{DROPPING[kind]}\n{waiting}", "-W", "error")
    assert set(printed.split()) == {"0"}


@pytest.mark.parametrize("transport", ["auto", "httpx"])
@pytest.mark.parametrize("kind", LEFT)
def test_left_open(run: Callable[..., str], kind: str, transport: str) -> None:
    """A program can exit with a client open, without any output."""
    setting = f"CONFIG = EmbeddingConfig(dimensions=64, transport={transport!r})"
    assert run(f"import asyncio\n{setting}\n{LEFT[kind]}", "-W", "error") == "37\n"


@pytest.mark.parametrize("transport", ["auto", "httpx"])
def test_dropped_when_the_loop_stops(run: Callable[..., str], transport: str) -> None:
    """A client that is collected at the end of ``run_until_complete`` leaves no task that asyncio reports."""
    program = f"""
import asyncio

async def main():
    result = await AsyncEmbeddingClient(EmbeddingConfig(dimensions=64, transport={transport!r})).embed(TEXTS)
    print(len(result.embeddings))

for _ in range(2):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.run_until_complete(main())
    loop.close()
"""
    assert run(program) == "37\n" * 4


def test_in_del(run: Callable[..., str]) -> None:
    """An object whose ``__del__`` runs at interpreter shutdown can close its client; a call there raises."""
    first, second, third = run(IN_DEL, "-W", "error").splitlines()

    assert (first, second) == ("37", "closed")
    assert "the interpreter is shutting down" in third
