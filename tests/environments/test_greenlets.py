"""gevent and eventlet, which replace threads and sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow


@pytest.fixture
def emulator() -> Emulator:
    """Return an emulator whose responses take long enough for concurrent calls to overlap."""
    return Emulator(latency=0.2)


def test_gevent(run: Callable[..., str], emulator: Emulator) -> None:
    """Ten sync calls in gevent's greenlets run concurrently."""
    pytest.importorskip("gevent")
    printed = run(
        """
        from gevent import monkey, spawn, joinall
        monkey.patch_all()

        client = EmbeddingClient(CONFIG)
        client.embed(["first"])
        jobs = [spawn(client.embed, [text]) for text in TEXTS[:10]]
        joinall(jobs, timeout=60, raise_error=True)
        print(sum(len(job.value.embeddings) for job in jobs))
        client.close()
        """
    )
    assert printed == "10\n"
    assert emulator.peak_in_flight > 1


def test_first_calls_in_gevent(run: Callable[..., str]) -> None:
    """The first sync calls may be concurrent, although the program imported the package before it patched."""
    pytest.importorskip("gevent")
    printed = run(
        """
        from gevent import monkey, spawn, joinall
        monkey.patch_all()

        client = EmbeddingClient(CONFIG)
        jobs = [spawn(client.embed, [text]) for text in TEXTS[:10]]
        joinall(jobs, timeout=60, raise_error=True)
        print(sum(len(job.value.embeddings) for job in jobs))
        client.close()
        """
    )
    assert printed == "10\n"


def test_eventlet(run: Callable[..., str], emulator: Emulator) -> None:
    """Ten sync calls in eventlet's green threads run concurrently."""
    pytest.importorskip("eventlet")
    printed = run(
        """
        import warnings
        warnings.simplefilter("ignore")
        import eventlet
        eventlet.monkey_patch()

        client = EmbeddingClient(CONFIG)
        client.embed(["first"])
        pool = eventlet.GreenPool(10)
        with eventlet.Timeout(60):
            results = list(pool.imap(client.embed, [[text] for text in TEXTS[:10]]))
        print(sum(len(result.embeddings) for result in results))
        client.close()
        """
    )
    assert printed == "10\n"
    assert emulator.peak_in_flight > 1
