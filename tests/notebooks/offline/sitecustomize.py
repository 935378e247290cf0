"""
Keep this Python, and each that it starts, on this machine: Python imports a module of this name by itself.

What asks for another host gets an error, and is written down in the file that
OFFLINE_LOG names, since many libraries would hide that error.
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
    Say whether a host is this machine.
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
    Refuse what would leave this machine.

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
