"""Connecting to a host by TCP, at the first of its addresses that answers; does not block."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from ._waits import LookUp, Ready

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

AHEAD = 0.25  # seconds that an address has before the next is tried beside it. Source: RFC 8305, section 5.


def dial(
    host: str, port: int, until: float, now: Callable[[], float]
) -> Generator[LookUp | Ready, Any, socket.socket]:
    """
    Connect.

    Args:
        host: A name or an address.

        port: Of TCP.

        until: Reading of the clock at which to give up.

        now: Reads the clock.

    Raises:
        TimeoutError: If it took too long.

        OSError: If the host is not known, or none of its addresses answers; tells why the first does not.
    """
    addresses = yield from _addresses(host, port, until)
    begun: list[socket.socket] = []
    errors: list[OSError] = []
    try:
        while addresses or begun:
            if addresses:
                family, kind, protocol, _, address = addresses.pop(0)
                try:
                    begun.append(_begun(family, kind, protocol, address))
                except OSError as error:
                    errors.append(error)
                    continue
            are_more = bool(addresses) or len(begun) > 1
            wait_until = min(until, now() + AHEAD) if are_more else until
            yield Ready(begun[-1], to_write=True, until=wait_until)
            for each in begun[:]:
                if number := each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    errors.append(OSError(number, os.strerror(number)))
                    begun.remove(each)
                    each.close()
                elif _is_connected(each):
                    begun.remove(each)
                    return each
            if now() >= until:
                raise TimeoutError
        raise errors[0]
    finally:
        errors.clear()  # whose tracebacks hold this frame
        for each in begun:
            each.close()


def _addresses(host: str, port: int, until: float) -> Generator[LookUp, Any, list[Any]]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return list((yield LookUp(host, port, until)))


def _begun(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.settimeout(0.0)
        made.connect(address)
    except BlockingIOError:
        pass
    except OSError:
        made.close()
        raise
    return made


def _is_connected(begun: socket.socket) -> bool:
    try:
        begun.getpeername()
    except OSError:
        return False
    return True
