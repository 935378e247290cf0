"""
Block network access in this Python and its child processes; Python imports this module at startup.

Contacting another host raises an error. It is also logged to the file named in
OFFLINE_LOG, since many libraries would hide the error.
"""

import os
import socket
import sys
import traceback
from ipaddress import ip_address
from typing import Any

HERE = {"", "localhost", socket.gethostname().lower()}


def is_here(host: object) -> bool:
    """
    Return whether a host is this machine.
    """
    if host is None:
        return True
    name = (host.decode() if isinstance(host, bytes) else str(host)).lower()
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        return name in HERE
    return address.is_loopback or address.is_unspecified


def guard(event: str, arguments: tuple[Any, ...]) -> None:
    """
    Block an audit event that would contact another host.

    Raises:
        OSError: If it would.
    """
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        family, address = arguments[0].family, arguments[1]
        if family not in {socket.AF_INET, socket.AF_INET6} or address is None or is_here(address[0]):
            return
        host = address[0]
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        if is_here(arguments[0]):
            return
        host = arguments[0]
    else:
        return
    with open(os.environ["OFFLINE_LOG"], "a", encoding="utf-8") as log:  # noqa: PTH123 - pathlib is not imported
        log.write(f"{event} {host!r}\n{''.join(traceback.format_stack(limit=12))}")
    msg = f"{event} {host!r}: the network is out of bounds"
    raise OSError(msg)


if "OFFLINE_LOG" in os.environ:
    sys.addaudithook(guard)
