"""Connecting: which address is tried when, and what is told if none answers; driven by hand."""

from __future__ import annotations

import errno
import socket
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from qwen_aiml._dial import AHEAD, dial
from qwen_aiml._waits import LookUp, Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

HOST = "service.example"


class Fake:
    """A socket that connects, or fails, when it is told to."""

    made: list[Fake]

    def __init__(self, *_: object) -> None:
        self.address: Any = None
        self.error = 0
        self.connected = self.closed = False
        self.made.append(self)

    def settimeout(self, seconds: float) -> None:
        """Take that it must not block."""
        assert seconds == 0.0

    def connect(self, address: Any) -> None:
        """Begin, or fail at once where the address says so."""
        self.address = address
        if address == "unreachable":
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        raise BlockingIOError

    def getsockopt(self, *_: object) -> int:
        """Tell the error, and forget it."""
        error, self.error = self.error, 0
        return error

    def getpeername(self) -> str:
        """Tell whether it is connected."""
        if not self.connected:
            raise OSError(errno.ENOTCONN, "not connected")
        return "peer"

    def close(self) -> None:
        """Note it."""
        self.closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    """Make no real sockets; give those that were made."""
    Fake.made = []
    monkeypatch.setattr(socket, "socket", Fake)
    return Fake.made


class Dialling:
    """An attempt to connect within ten seconds, to the addresses that a name has."""

    def __init__(self, *addresses: str) -> None:
        self.time = 0.0
        self.steps: Generator[LookUp | Ready, Any, Any] = dial(HOST, 443, 10.0, lambda: self.time)
        asked = next(self.steps)
        assert isinstance(asked, LookUp)
        assert (asked.host, asked.port, asked.until) == (HOST, 443, 10.0)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
        self.wait: Any = self.go(lambda: self.steps.send(found))

    def go(self, step: Callable[[], Any]) -> Any:
        """Go on; give what is waited for, or the connection."""
        try:
            self.wait = step()
        except StopIteration as end:
            self.wait = end.value
        return self.wait

    def told(self, at: float, *, ready: bool = False) -> Any:
        """Say at a time whether the socket was ready."""
        self.time = at
        return self.go(lambda: self.steps.send(ready))


def test_one_address(made: list[Fake]) -> None:
    """A single address has all of the time."""
    dialling = Dialling("a")
    assert (dialling.wait.socket, dialling.wait.to_write, dialling.wait.until) == (made[0], True, 10.0)

    made[0].connected = True
    assert dialling.told(3.0, ready=True) is made[0]
    assert not made[0].closed


def test_the_next_beside_the_first(made: list[Fake]) -> None:
    """An address that does not answer soon is not given up when the next is tried; the others are closed."""
    dialling = Dialling("a", "b")
    assert dialling.wait.until == AHEAD
    assert dialling.told(AHEAD).socket is made[1]
    assert dialling.wait.until == 2 * AHEAD
    assert dialling.told(2 * AHEAD).socket is made[1]

    made[0].connected = True
    assert dialling.told(3 * AHEAD) is made[0]
    assert [each.address for each in made] == ["a", "b"]
    assert [each.closed for each in made] == [False, True]


def test_refused(made: list[Fake]) -> None:
    """After a refusal the next is tried at once; that one has all of the time, as it is the last."""
    dialling = Dialling("a", "b")
    made[0].error = errno.ECONNREFUSED
    assert dialling.told(0.01, ready=True).socket is made[1]
    assert made[0].closed
    assert dialling.wait.until == 10.0


def test_none_answers(made: list[Fake]) -> None:
    """Why the first one does not is told."""
    dialling = Dialling("a", "unreachable", "b")
    made[0].error = errno.ECONNREFUSED
    dialling.told(0.1, ready=True)
    assert made[1].closed
    made[2].error = errno.EHOSTUNREACH
    with pytest.raises(ConnectionRefusedError, match="refused"):
        dialling.told(0.2, ready=True)
    assert all(each.closed for each in made)


@pytest.mark.usefixtures("made")
def test_unreachable() -> None:
    """An address without a way to it needs no waiting."""
    with pytest.raises(OSError, match="unreachable"):
        Dialling("unreachable", "unreachable")


def test_no_time_left(made: list[Fake]) -> None:
    """The time is for all addresses together."""
    dialling = Dialling("a", "b")
    dialling.told(9.9)
    assert dialling.wait.until == 10.0
    with pytest.raises(TimeoutError):
        dialling.told(10.0)
    assert all(each.closed for each in made)


def test_given_up(made: list[Fake]) -> None:
    """Nothing is left open by who does not go on."""
    Dialling("a", "b").steps.close()
    assert [each.closed for each in made] == [True]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_not_looked_up(host: str) -> None:
    """What is an address already needs no look-up, which may block."""
    with closing(dial(host, 9, 10.0, lambda: 0.0)) as steps, suppress(OSError):  # there may be no IPv6
        assert isinstance(next(steps), Ready)
