"""Connections of our own, in both colours, over real sockets: what is kept, and what goes wrong."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import tracemalloc
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from qwen_aiml import EmbeddingConfig, _dial, _lines
from qwen_aiml._await import AsyncConnection
from qwen_aiml._lines import Connection, Target
from qwen_aiml._loop import Loop
from qwen_aiml._steps import LATE, Fault, Send
from qwen_aiml._wire import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qwen_aiml._loop import Task

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789abcdef"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
LONG = b"HTTP/1.1 200 OK\r\ncontent-length: 500000\r\n\r\n" + b"x" * 500_000
STEP = Send(b"{}", None, 1_000_000)
CERTIFICATE = Path(__file__).parent.parent / "matrix" / "self_signed.pem"


class Server:
    """Gives one of its answers to each request, over any number of connections, for ten seconds."""

    def __init__(self, answers: tuple[bytes, ...], *, close_after: bool, tls: ssl.SSLContext | None) -> None:
        self.left, self.close_after, self.tls = list(answers), close_after, tls
        self.connections = 0
        self.closing = threading.Event()

    def accept(self, listener: socket.socket) -> None:
        """Take connections until it is over."""
        threads = []
        listener.settimeout(0.05)
        for _ in range(200):
            if self.closing.is_set():
                break
            with suppress(OSError):
                connection, _ = listener.accept()
                self.connections += 1
                threads.append(threading.Thread(target=self.talk, args=(connection,)))
                threads[-1].start()
        for thread in threads:
            thread.join(10)

    def talk(self, plain: socket.socket) -> None:
        """Answer what comes over one connection."""
        plain.settimeout(5)
        try:
            connection = self.tls.wrap_socket(plain, server_side=True) if self.tls else plain
        except ssl.SSLError:  # it was not trusted
            plain.close()
            return
        connection.settimeout(0.05)
        with connection:
            for _ in range(200):
                if self.closing.is_set():
                    return
                with suppress(TimeoutError):
                    if not connection.recv(65536):
                        return
                    connection.sendall(self.left.pop(0))
                    if self.close_after:
                        return


@contextmanager
def serving(
    *answers: bytes, close_after: bool = False, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[str, Server]]:
    """Serve such answers."""
    server = Server(answers, close_after=close_after, tls=tls)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.accept, args=(listener,))
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}", server
        finally:
            server.closing.set()
            thread.join(15)


def target(address: str) -> Target:
    return Target(EmbeddingConfig(api_key=KEY, base_url=address), time.monotonic)


def post(line: Connection, step: Send = STEP, limit: float = 5.0) -> Any:
    """Post once in a loop."""
    outcomes = []

    def task() -> Task:
        outcomes.append((yield from line.post(step, limit)))

    Loop(time.monotonic, 1).run([task()])
    return outcomes[0]


class Both:
    """A connection of either colour, used in the same way."""

    def __init__(self, colour: str, address: str) -> None:
        self.line: Any = (Connection if colour == "sync" else AsyncConnection)(target(address))

    async def post(self, limit: float = 5.0, step: Send = STEP) -> Any:
        """Post once."""
        if isinstance(self.line, Connection):
            return await anyio.to_thread.run_sync(post, self.line, step, limit)
        return await self.line.post(step, limit)

    async def close(self) -> None:
        """Close it."""
        if isinstance(self.line, Connection):
            self.line.close()
        else:
            await self.line.aclose()


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> str:
    """Give each colour."""
    return str(request.param)


def test_memory() -> None:
    """To read an answer, no memory is asked for but that of the answer, however much may come at a time."""
    with serving(OK, OK) as (address, _), closing(Connection(target(address))) as line:
        post(line)
        tracemalloc.start()
        try:
            answer = post(line)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert isinstance(answer, Answer)
    assert peak < _lines.RECEIVED / 2  # a fourth is the server's


async def test_kept(colour: str) -> None:
    """A second request goes over the same connection."""
    with serving(OK, OK) as (address, server):
        line = Both(colour, address)
        assert not line.line.is_reusable
        for _ in range(2):
            answer = await line.post()
            assert (answer.status, answer.body) == (200, b"{}")
            assert line.line.is_reusable
            assert line.line.is_open
        await line.close()

    assert server.connections == 1


async def test_tls(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS is spoken with whom the environment's certificates vouch for, over one connection too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with serving(OK, LONG, tls=context) as (address, server):
        line = Both(colour, address)
        assert (await line.post()).body == b"{}"
        assert line.line.is_open
        answer = await line.post()
        await line.close()

    assert len(answer.body) == 500_000
    assert server.connections == 1


async def test_tls_that_nobody_vouches_for(colour: str) -> None:
    """Others are refused before anything is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with serving(OK, tls=context) as (address, server):
        line = Both(colour, address)
        fault = await line.post()
        await line.close()

    assert fault.kind == "certificate"
    assert "self-signed" in fault.detail or "self signed" in fault.detail
    assert server.left == [OK]


async def test_closed_by_the_server(colour: str) -> None:
    """A connection that the server has closed meanwhile is not used again."""
    with serving(OK, close_after=True) as (address, _):
        line = Both(colour, address)
        await line.post()
        with anyio.fail_after(5):
            while line.line.is_open:  # noqa: ASYNC110 (nobody tells)
                await anyio.sleep(0.01)
        await line.close()


async def test_unused_for_long(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that was not used for some seconds, which the server may be about to close."""
    with serving(OK) as (address, _):
        line = Both(colour, address)
        await line.post()
        assert line.line.is_open
        monkeypatch.setattr(_lines, "KEPT", -1)
        assert not line.line.is_open
        await line.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{}", "closed after 2 bytes of the answer's body"),
        (b"HTTP/1.1 2", "closed without an answer"),
        (b"nonsense\r\n\r\n", "what came is no HTTP answer"),
    ],
)
async def test_no_answer(colour: str, answer: bytes, said: str) -> None:
    """What is no whole answer is a fault, and ends the connection."""
    with serving(answer, close_after=True) as (address, _):
        line = Both(colour, address)
        fault = await line.post()
        assert not line.line.is_reusable
        await line.close()

    assert isinstance(fault, Fault)
    assert fault.kind == "connection"
    assert said in fault.detail


async def test_until_closed(colour: str) -> None:
    """An answer that ends with its connection is an answer."""
    with serving(b"HTTP/1.1 200 OK\r\n\r\n{}", close_after=True) as (address, _):
        line = Both(colour, address)
        answer = await line.post()
        assert not line.line.is_reusable
        await line.close()

    assert isinstance(answer, Answer)
    assert answer.body == b"{}"


async def test_silence(colour: str) -> None:
    """Silence is bounded, and each word that comes gives more time."""
    with serving(b"HTTP/1.1 200 OK\r\n") as (address, _):
        line = Both(colour, address)
        fault = await line.post(0.2)
        await line.close()

    assert fault == Fault("timeout", "silence for 0.2 s")


async def test_nobody_there(colour: str) -> None:
    """Nobody listening is told as the system tells it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    line = Both(colour, f"http://127.0.0.1:{port}")
    fault = await line.post()
    await line.close()

    assert fault.kind == "connection"
    assert fault.detail.startswith("no connection (")
    assert "111" in fault.detail or "refused" in fault.detail


async def test_unknown_host(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that nobody knows is told as the system tells it."""

    def unknown(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    line = Both(colour, "https://nowhere.invalid")
    fault = await line.post()

    assert fault == Fault(
        "connection", f"no connection ([Errno {socket.EAI_NONAME}] Name or service not known)"
    )


async def test_no_connection_in_time(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection gets no more than its time."""

    def never(*_: object, **__: object) -> bool:
        return False

    monkeypatch.setattr(_dial, "_is_connected", never)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        line = Both(colour, f"http://127.0.0.1:{listener.getsockname()[1]}")
        fault = await line.post(0.1)

    assert fault == Fault("connection", "no connection within 0.1 s")


async def test_late(colour: str) -> None:
    """A deadline that passes while an answer comes ends it, though each part came in time."""
    with serving(b"HTTP/1.1 200 OK\r\n") as (address, _):
        line = Both(colour, address)
        outcome = await line.post(step=Send(b"{}", time.monotonic() + 0.3, 1000))
        await line.close()

    assert outcome == LATE


class ByHand:
    """A connection between two sockets that are there already, driven by hand at a time of choice."""

    def __init__(self, step: Send = STEP) -> None:
        self.time = 0.0
        self.line = Connection(
            Target(EmbeddingConfig(api_key=KEY, base_url="http://127.0.0.1"), lambda: self.time)
        )
        ours, self.theirs = socket.socketpair()
        ours.settimeout(0.0)
        self.line._socket = ours
        self.steps = self.line.post(step, 5.0)
        self.wait: Any = next(self.steps)

    def told(self, *, ready: bool) -> Any:
        """Say whether it was ready; give what is waited for next, or the outcome."""
        try:
            self.wait = self.steps.send(ready)
        except StopIteration as end:
            self.wait = end.value
        return self.wait

    def close(self) -> None:
        """Close both ends."""
        self.line.close()
        self.theirs.close()


def test_flood() -> None:
    """An answer that comes without a pause ends at the deadline too."""
    with closing(ByHand(Send(b"{}", 4.0, 1_000_000))) as hand:
        assert hand.wait.until == 4.0
        hand.theirs.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
        hand.time = 4.5
        assert hand.told(ready=True) == LATE


def test_request_that_goes_out_slowly() -> None:
    """What the system does not take at once is sent when it can be, in order and once."""
    body = bytes(range(256)) * 20_000
    with closing(ByHand(Send(body, None, 1_000_000))) as hand:
        came = b""
        while hand.wait.to_write:
            came += hand.theirs.recv(1_000_000)
            hand.told(ready=True)
        while len(came) < len(body) or not came.endswith(body[-256:]):
            came += hand.theirs.recv(1_000_000)
    assert came.endswith(b"\r\n\r\n" + body)


def test_request_that_nobody_takes() -> None:
    """Nor is it waited for longer than silence may last."""
    with closing(ByHand(Send(bytes(5_000_000), None, 1_000_000))) as hand:
        assert hand.wait.to_write
        assert hand.told(ready=False) == Fault("timeout", "silence for 5 s")


@pytest.mark.parametrize(
    ("error", "to_write"),
    [(ssl.SSLWantReadError, False), (ssl.SSLWantWriteError, True), (BlockingIOError, True)],
)
def test_what_tls_waits_for(error: type[OSError], to_write: bool) -> None:
    """TLS may have to read in order to write, and the other way about."""
    tries = [error(), None]

    def do() -> str:
        if (raised := tries.pop(0)) is not None:
            raise raised
        return "done"

    with closing(ByHand()) as hand:
        steps = hand.line._when_ready(do, 5.0, writing=True)
        assert next(steps).to_write is to_write
        with pytest.raises(StopIteration, match="done"):
            steps.send(True)


def test_folder_of_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment may name a folder; a file goes before it."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert _lines.tls_context().get_ca_certs() == []

    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    assert len(_lines.tls_context().get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "[Errno 104] Connection reset by peer"),
        (OSError(), "OSError"),
    ],
)
def test_words(error: Exception, said: str) -> None:
    """The system's words are passed on, or else the error's name."""
    assert _lines.no_answer(error, 1.0) == Fault("connection", said)
