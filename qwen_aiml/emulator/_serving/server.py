"""Starting and stopping the emulator as an HTTP server. uvicorn is imported only then."""

from __future__ import annotations

import socket
from contextlib import closing, contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from qwen_aiml import refer_to_extra

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._emulator import Emulator

_START = _STOP = 5.0  # seconds


@contextmanager
def serve(emulator: Emulator, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """
    Run *emulator* as an HTTP server in a thread while a ``with`` block runs.

    Requests in flight at the end of the block are aborted.

    Args:
        emulator: The emulator.

        host: The IPv4 address to listen on, or a name that resolves to one.

        port: The port to listen on; 0 picks a free one.

    Yields:
        The base URL, such as ``http://127.0.0.1:8080/v1``, or
        ``http://127.0.0.1:8080/usem3/v1`` if vectors are not lexical.

    Raises:
        ModuleNotFoundError: If uvicorn is not installed (extra ``emulator``).

        OSError: If it cannot listen on that address.
    """
    try:
        from . import asgi  # noqa: PLC0415 - imports uvicorn, which only servers need
    except ModuleNotFoundError as error:
        refer_to_extra(error, "uvicorn", "emulator", "the emulator's server")
    with closing(socket.create_server((host, port), backlog=2048)) as listener:
        server = asgi.Server(emulator)
        thread = Thread(target=server.run, args=([listener],), name="qwen-aiml-emulator", daemon=True)
        thread.start()
        # Requests sent before would be queued, and then processed all at once, whatever their rate.
        server.ready.wait(_START)
        try:
            yield f"http://{host}:{listener.getsockname()[1]}{emulator.mount}/v1"
        finally:
            server.should_exit = True
            thread.join(_STOP)
