"""Processes that share an object: by fork, by pickle, or through joblib."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.mark.parametrize(
    "method", [pytest.param("fork", marks=needs_fork), pytest.param("forkserver", marks=needs_fork), "spawn"]
)
def test_pool(run: Callable[..., str], method: str, tmp_path: Path) -> None:
    """A client that has been used can be passed to the processes of a pool, which use it concurrently."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import multiprocessing
from qwen_aiml import EmbeddingClient, EmbeddingConfig

def work(client, text):
    return len(client.embed([text]).embeddings)

if __name__ == "__main__":
    client = EmbeddingClient(EmbeddingConfig(dimensions=64))
    client.embed(["first"])
    context = multiprocessing.get_context(METHOD)
    with context.Pool(3) as pool:
        found = pool.starmap_async(work, [(client, f"text {number}") for number in range(9)])
        client.embed(["meanwhile"])
        print(sum(found.get(50)))
        pool.close()
        pool.join()
    client.close()
""".replace("METHOD", repr(method))
    )
    started = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
    assert run(started, "-W", "ignore") == "9\n"


@needs_fork
def test_prefork(run: Callable[..., str]) -> None:
    """Twelve children, forked while the parent's threads embed, can use its client, and so can the parent."""
    printed = run(
        """
        import os, sys, threading, warnings

        warnings.simplefilter("ignore", DeprecationWarning)
        client = EmbeddingClient(CONFIG)
        client.embed(TEXTS)
        stop = threading.Event()
        rounds = []

        def busy():
            while not stop.is_set():
                rounds.append(len(client.embed(TEXTS).embeddings))

        threads = [threading.Thread(target=busy) for _ in range(4)]
        for thread in threads:
            thread.start()
        children = []
        for _ in range(12):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = 0 if len(client.embed(TEXTS).embeddings) == 37 else 2
                    client.close()
                finally:
                    os._exit(code)
            children.append(child)
        print([os.waitpid(child, 0)[1] for child in children])
        stop.set()
        for thread in threads:
            thread.join()
        print(set(rounds), len(client.embed(TEXTS).embeddings))
        client.close()
        """
    )
    assert printed == f"{[0] * 12}\n{{37}} 37\n"


@needs_fork
def test_prefork_async(run: Callable[..., str]) -> None:
    """Each forked child can use the async client in its own event loop."""
    printed = run(
        """
        import asyncio, os

        client = AsyncEmbeddingClient(CONFIG)
        asyncio.run(client.embed(TEXTS))
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = 0 if len(asyncio.run(client.embed(TEXTS)).embeddings) == 37 else 2
                finally:
                    os._exit(code)
            children.append(child)
        print([os.waitpid(child, 0)[1] for child in children])
        print(len(asyncio.run(client.embed(TEXTS)).embeddings))
        """
    )
    assert printed == f"{[0] * 4}\n37\n"


@needs_fork
@pytest.mark.parametrize("how", ["next", "close", "drop", "progress"])
def test_fork_in_the_middle(run: Callable[..., str], how: str) -> None:
    """A call started before a fork continues in the parent; in the child it ends, silently or not."""
    printed = run(
        f"""
        import gc, os, signal, warnings

        warnings.simplefilter("ignore", DeprecationWarning)
        client = EmbeddingClient(CONFIG)
        client.embed(TEXTS)  # a fork while a module is imported is beyond any cure
        how, children = {how!r}, []

        def fork(*_):
            if not children:
                children.append(os.fork())
                if children == [0]:
                    signal.alarm(20)

        def iterate():
            rows = client.embed_iter(TEXTS * 100, look_ahead=300)
            next(rows)
            fork()
            if children == [0] and how == "close":
                rows.close()
            return 1 + sum(1 for _ in rows) if children != [0] or how != "drop" else 0

        code = 1
        try:
            if how == "progress":
                count = len(client.embed(TEXTS, progress=fork).embeddings)
            else:
                count = iterate()
        except ValueError as error:
            assert "started before a fork" in str(error)
            count = -1
        if children == [0]:
            gc.collect()
            again = len(client.embed(TEXTS).embeddings)
            os._exit(0 if again == 37 and count == {{"close": 1, "drop": 0}}.get(how, -1) else 1)
        print(count, os.waitpid(children[0], 0)[1])
        """
    )
    assert printed == ("37 0\n" if how == "progress" else "3700 0\n")


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib(run: Callable[..., str], backend: str) -> None:
    """An object can be passed to the processes and threads of joblib."""
    pytest.importorskip("joblib")
    printed = run(
        f"""
        import warnings

        warnings.simplefilter("ignore")
        from joblib import Parallel, delayed
        from langchain_qwen_aiml import QwenAIMLEmbeddings

        with QwenAIMLEmbeddings(dimensions=64) as embeddings:
            embeddings.embed_query("first")
            jobs = [delayed(embeddings.embed_documents)([text]) for text in TEXTS[:6]]
            print(sum(map(len, Parallel(n_jobs=2, backend={backend!r})(jobs))))
        """
    )
    assert printed == "6\n"
