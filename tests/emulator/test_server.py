"""The emulator over a real socket responds, and fails, as it does in the process."""

# ruff: noqa: SIM300 - expected == actual, in all tests

from __future__ import annotations

import errno
import gc
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import openai
import pytest
import uvicorn

from qwen_aiml.emulator import Emulator, Fault, serve
from qwen_aiml.emulator.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Post = Callable[..., httpx.Response]

V4 = "alibaba/qwen-text-embedding-v4"

HEADERS = {"authorization": "Bearer key"}


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    """Yield an OpenAI client for the served emulator."""
    with openai.OpenAI(base_url=url, api_key="key", max_retries=0, timeout=10) as client:
        yield client


def threads() -> list[str]:
    """Return the names of the running threads; those of other libraries may vary."""
    return [thread.name for thread in threading.enumerate()]


def test_same_answer(client: httpx.Client, post: Post, body: Callable[..., Any]) -> None:
    """A response is the same as in the process, including headers."""
    there, here = client.post("/embeddings", json=body()), post(Emulator(), body())

    assert (here.status_code, here.content, here.headers) == (there.status_code, there.content, there.headers)


def test_connection_is_kept(emulator: Emulator, client: httpx.Client, body: Callable[..., Any]) -> None:
    """Requests share one connection, including rejected ones, and large bodies arrive complete."""
    streams = set()
    for content in (body(), body(*["a" * 32_768] * 10), body(dimensions=63), body()):
        with client.stream("POST", "/embeddings?a=b", json=content) as response:
            response.read()
            streams.add(response.extensions["network_stream"].get_extra_info("client_addr"))

    assert 1 == len(streams)
    assert [200, 200, 400, 200] == [request.status for request in emulator.requests]


def test_answers_are_sent_at_once(url: str) -> None:
    """TCP_NODELAY is set, so that a body is not delayed until the client acknowledges the head."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.recv(1)
        [served] = [held for held in gc.get_objects() if is_other_end(held, connection)]

        assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def is_other_end(held: object, connection: socket.socket) -> bool:
    """Return whether an object is the open socket at the other end of a connection."""
    if type(held) is not socket.socket or held.fileno() < 0 or held.family != socket.AF_INET:
        return False
    return bool(held.getsockname() == connection.getpeername()) and not held.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    )


def test_path_is_reported(client: httpx.Client) -> None:
    """A path is reported as sent, including query and escapes."""
    assert "/v1/a%20b?c=d%20e" == client.post("/a%20b?c=d%20e").json()["instance"]


@pytest.mark.parametrize("status", [204, 304, 404, 524, 599])
def test_status(emulator: Emulator, client: httpx.Client, body: Callable[..., Any], status: int) -> None:
    """Any status can be sent, including those without a body, and the next request succeeds."""
    emulator.script(Fault(status=status))

    assert [status, 200] == [client.post("/embeddings", json=body()).status_code for _ in range(2)]


def test_latency(emulator: Emulator, client: httpx.Client, body: Callable[..., Any]) -> None:
    """A response takes at least the fault's latency."""
    emulator.script(Fault(latency=0.1))
    started = time.monotonic()
    response = client.post("/embeddings", json=body())

    assert (200, True) == (response.status_code, time.monotonic() - started >= 0.1)


def test_half_a_request(emulator: Emulator, url: str) -> None:
    """An incomplete request is not counted."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf")
        connection.shutdown(socket.SHUT_WR)

        assert b"" == connection.recv(1)
    assert 0 == emulator.request_count


def test_stop_leaves_nothing(body: Callable[..., Any]) -> None:
    """Leaving the context promptly ends the thread and frees the port, even with a request in flight."""
    emulator = Emulator()
    emulator.script(None, Fault(latency=60))
    with serve(emulator) as url, httpx.Client(base_url=url, headers=HEADERS, trust_env=False) as idle:
        idle.post("/embeddings", json=body())
        failures: list[Exception] = []

        def wait() -> None:
            try:
                httpx.post(url + "/embeddings", json=body(), headers=HEADERS, timeout=60, trust_env=False)
            except httpx.TransportError as error:
                failures.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        deadline = time.monotonic() + 10
        while emulator.request_count < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    waiting.join(10)

    assert 1 == len(failures)
    assert "qwen-aiml-emulator" not in threads()
    with closing(socket.create_server(("127.0.0.1", int(url.split(":")[2].removesuffix("/v1"))))):
        pass


def test_started_and_stopped_at_once() -> None:
    """A server that received no request stops too."""
    with serve(Emulator()) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", url)
        assert "qwen-aiml-emulator" in threads()

    assert "qwen-aiml-emulator" not in threads()


def test_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server accepts connections from the start; requests that are queued would arrive all at once."""
    originally, has_started = uvicorn.Server.startup, threading.Event()

    async def slow(server: uvicorn.Server, sockets: list[socket.socket] | None = None) -> None:
        await anyio.sleep(0.2)
        await originally(server, sockets)
        has_started.set()

    monkeypatch.setattr(uvicorn.Server, "startup", slow)
    with serve(Emulator()):
        assert has_started.is_set()


@pytest.mark.parametrize("text", ["Laura", ["Laura", "is", "a", "DJ"]])
@pytest.mark.parametrize("encoded", [False, True])
def test_openai(body: Callable[..., Any], post: Post, text: Any, *, encoded: bool) -> None:
    """The openai package reads lists, and the base64 that it requests if the emulator supports it."""
    with serve(Emulator(base64=encoded)) as url, openai.OpenAI(base_url=url, api_key="any") as sdk:
        plain = sdk.embeddings.create(model=V4, input=text)
        short = sdk.embeddings.create(model=V4, input=text, dimensions=64)

    count = 1 if isinstance(text, str) else 4
    expected = [row["embedding"] for row in post(Emulator(), body(input=text)).json()["data"]]
    assert [1024] * count == [len(row.embedding) for row in plain.data]
    assert expected == [row.embedding for row in short.data]
    assert ("text-embedding-v4", "list") == (plain.model, plain.object)


def test_openai_too_many(sdk: openai.OpenAI) -> None:
    """Too many rows are a BadRequestError with the upstream's message."""
    with pytest.raises(
        openai.BadRequestError, match=r"batch size is invalid, it should not be larger than 10\."
    ):
        sdk.embeddings.create(model=V4, input=["a"] * 11)


def test_openai_errors(emulator: Emulator, sdk: openai.OpenAI) -> None:
    """Each status raises the openai package's error for it, with the gateway's request id."""
    with pytest.raises(openai.AuthenticationError, match="requires a valid API key") as raised:
        sdk.with_options(api_key="wrong").embeddings.create(model=V4, input="a")
    emulator.script(Fault(status=429), Fault(reset="before"))
    with pytest.raises(openai.RateLimitError):
        sdk.embeddings.create(model=V4, input="a")
    with pytest.raises(openai.APIConnectionError):
        sdk.embeddings.create(model=V4, input="a")
    with pytest.raises(openai.NotFoundError):
        sdk.embeddings.create(model="x", input="a")

    assert raised.value.request_id


def test_port_in_use(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A port in use raises OSError in code; the command prints one sentence and exits with 2."""
    port = url.split(":")[2].removesuffix("/v1")
    with pytest.raises(OSError, match="in use") as raised, serve(Emulator(), port=int(port)):
        pass

    assert raised.value.errno == errno.EADDRINUSE
    assert 2 == main(["--port", port])
    assert re.fullmatch(rf"Cannot listen on 127\.0\.0\.1, port {port}: .*in use.*\n", capsys.readouterr().err)


def test_without_uvicorn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without uvicorn, the error names the extra to install; the command prints it and exits with 1."""
    monkeypatch.delitem(sys.modules, "qwen_aiml.emulator._serving.asgi", raising=False)
    monkeypatch.delattr("qwen_aiml.emulator._serving.asgi", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    hint = r'pip install "qwen-aiml\[emulator\]"'
    with pytest.raises(ModuleNotFoundError, match=hint) as raised, serve(Emulator()):
        pass

    assert raised.value.name == "uvicorn"
    assert 1 == main([])
    hint = 'the emulator\'s server needs uvicorn: pip install "qwen-aiml[emulator]" (in'
    assert capsys.readouterr().err.startswith(hint)


def test_import_needs_no_server() -> None:
    """Importing the emulator does not import uvicorn."""
    script = "import sys, qwen_aiml.emulator; sys.exit('uvicorn' in sys.modules)"
    command = [sys.executable, "-c", script]

    assert 0 == subprocess.run(command, timeout=60, check=False).returncode  # noqa: S603 - our own


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--latency", "-1"], "latency"),
        (["--rate-limit", "0"], "rate_limit"),
        (["--rate-limit", "1", "--burst", "0"], "burst"),
        (["--burst", "1"], "rate_limit"),
        (["--port", "70000"], "0 to 65535"),
        (["--port", "-1"], "0 to 65535"),
        (["--port", "x"], "x is not one of 0 to 65535"),
    ],
)
def test_bad_arguments(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid argument is named, and the command exits with 2."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)

    assert (2, True) == (raised.value.code, problem in capsys.readouterr().err)


def test_exit_status() -> None:
    """Run as a module, the process exits with the command's status."""
    command = [sys.executable, "-m", "qwen_aiml.emulator", "--port", "-1"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)  # noqa: S603 - our own

    assert done.returncode == 2


def test_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], body: Callable[..., Any]
) -> None:
    """The command prints its URL and the variables to set, respects options, and exits with 0 on Ctrl-C."""
    statuses = []

    def use(_: float) -> None:
        printed = capsys.readouterr().out
        assert printed.endswith("\n# and one of the keys given\n\n")
        assert "first" not in printed
        [url] = re.findall(r"AIMLAPI_BASE_URL=(\S+)", printed)
        for key in ("other", "second", "second"):
            headers = {"authorization": f"Bearer {key}"}
            response = httpx.post(url + "/embeddings", json=body(), headers=headers)
            statuses.append((response.status_code, response.headers.get("retry-after")))
        raise KeyboardInterrupt

    monkeypatch.setattr("qwen_aiml.emulator.__main__.time.sleep", use)
    # Otherwise two requests may take a second on a busy machine, and the bucket is refilled.
    monkeypatch.setattr("qwen_aiml.emulator.__main__.Emulator", partial(Emulator, clock=lambda: 0.0))
    options = [
        "--port",
        "0",
        "--rate-limit",
        "1",
        "--burst",
        "1",
        "--retry-after",
        "7",
        "--latency",
        "0.01",
        "--api-key",
        "first",
        "--api-key",
        "second",
    ]

    assert (0, [(401, None), (200, None), (429, "7")]) == (main(options), statuses)


@pytest.mark.usefixtures("interruptible")
def test_command(body: Callable[..., Any]) -> None:
    """Run as a module, it serves until SIGINT, then exits immediately without a traceback."""
    command = [sys.executable, "-m", "qwen_aiml.emulator", "--port", "0"]
    with subprocess.Popen(  # noqa: S603 - our own
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    ) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 30)[0]
            lines = [process.stdout.readline() for _ in range(5)]
            assert lines[3:] == ["export AIMLAPI_API_KEY=anything\n", "\n"]
            url = lines[2].removeprefix("export AIMLAPI_BASE_URL=").strip()
            response = httpx.post(
                url + "/embeddings", json=body(), headers=HEADERS, timeout=60, trust_env=False
            )
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()

    assert (200, 0, "", "") == (response.status_code, process.returncode, out, err)
