"""Ctrl-C at any time during a sync call."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow


@pytest.fixture
def emulator() -> Emulator:
    """Return an emulator with some latency, so that most interrupts occur while waiting for a response."""
    return Emulator(latency=0.01)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="only there can one thread interrupt another")
@pytest.mark.parametrize("transport", ["auto", pytest.param("httpx", marks=pytest.mark.long)])
def test_interrupts(run: Callable[..., str], transport: str) -> None:
    """After 30 interrupts, no request counts as in flight or waiting, and the client still works."""
    printed = run(
        f"""
        import dataclasses, logging, random, signal, sys, threading, time

        sys.unraisablehook = print  # an interrupt that comes while garbage is collected is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logging.disable()  # of the warnings that embeddings are lost
        main = threading.main_thread().ident
        client = EmbeddingClient(dataclasses.replace(CONFIG, max_concurrency=4, transport={transport!r}))
        client.embed(TEXTS)
        begun = time.perf_counter()
        client.embed(TEXTS)
        took = time.perf_counter() - begun
        chance = random.Random(20261128)
        for _ in range(30):
            timer = threading.Timer(chance.random() * took, signal.pthread_kill, (main, signal.SIGINT))
            try:
                timer.start()
                client.embed(TEXTS)
                timer.join()
            except KeyboardInterrupt:
                pass
            timer.join()
        [session] = client._engine._sessions.values()
        queue = session.queue
        until = time.monotonic() + 20
        while (queue.in_flight or queue._starting.locked()) and time.monotonic() < until:
            time.sleep(0.01)
        print(queue.in_flight, queue._starting.locked(), len(client.embed(TEXTS).embeddings))
        client.close()
        """
    )
    assert printed.splitlines()[-1] == "0 False 37"
