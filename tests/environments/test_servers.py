"""Servers and clusters that start processes or serve an object; tests are skipped if one is not installed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.once, pytest.mark.slow]


@pytest.mark.long
def test_gunicorn(run: Callable[..., str], tmp_path: Path) -> None:
    """With `--preload`, workers share an object that was used before the fork."""
    pytest.importorskip("gunicorn")
    (tmp_path / "application.py").write_text(
        """
from langchain_qwen_aiml import QwenAIMLEmbeddings

embeddings = QwenAIMLEmbeddings(dimensions=64)
embeddings.embed_query("before the fork")

def application(environ, start_response):
    body = str(len(embeddings.embed_documents([f"text {n}" for n in range(20)]))).encode()
    start_response("200 OK", [("content-length", str(len(body)))])
    return [body]
"""
    )
    printed = run(
        f"""
        import socket, subprocess, sys, time
        import httpx

        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        options = ["--preload", "--workers", "3", "--threads", "2", "--bind", f"127.0.0.1:{{port}}"]
        command = [sys.executable, "-m", "gunicorn", *options, "--log-level", "error"]
        command += ["application:application"]
        with subprocess.Popen(command, cwd={str(tmp_path)!r}) as server:
            try:
                for _ in range(100):
                    try:
                        httpx.get(f"http://127.0.0.1:{{port}}/", timeout=30)
                        break
                    except httpx.ConnectError:
                        time.sleep(0.1)
                print({{httpx.get(f"http://127.0.0.1:{{port}}/", timeout=30).text for _ in range(12)}})
            finally:
                server.terminate()
        """
    )
    assert printed == "{'20'}\n"


@pytest.mark.long
def test_dask(run: Callable[..., str], tmp_path: Path) -> None:
    """Dask can send an object to its processes."""
    pytest.importorskip("distributed.client")  # not "distributed", which is also a folder of our tests
    (tmp_path / "program.py").write_text(
        """
import logging
from distributed import Client, LocalCluster
from langchain_qwen_aiml import QwenAIMLEmbeddings

if __name__ == "__main__":
    embeddings = QwenAIMLEmbeddings(dimensions=64)
    embeddings.embed_query("before")
    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None}
    with LocalCluster(**options, silence_logs=logging.CRITICAL) as cluster, Client(cluster) as client:
        jobs = client.map(embeddings.embed_query, [f"text {n}" for n in range(8)])
        print([len(row) for row in client.gather(jobs)])
"""
    )
    program = f"import runpy; runpy.run_path({str(tmp_path / 'program.py')!r}, run_name='__main__')"
    assert run(program, "-W", "ignore") == f"{[64] * 8}\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_celery(run: Callable[..., str], tmp_path: Path) -> None:
    """The forked processes of a Celery worker share an object that was used before the fork."""
    pytest.importorskip("celery")
    (tmp_path / "tasks.py").write_text(
        """
import os
from celery import Celery
from qwen_aiml import EmbeddingClient, EmbeddingConfig

folders = {"data_folder_in": "queue", "data_folder_out": "queue"}
app = Celery("tasks", broker="filesystem://", backend="file://" + os.path.abspath("results"))
app.conf.update(broker_transport_options=folders, worker_proc_alive_timeout=50)
client = EmbeddingClient(EmbeddingConfig(dimensions=64))
client.embed(["before the fork"])
parent = os.getpid()

@app.task
def embed(texts):
    return [len(client.embed(texts).embeddings), os.getpid() != parent]
"""
    )
    for folder in ("queue", "results"):
        (tmp_path / folder).mkdir()
    printed = run(
        f"""
        import os, subprocess, sys

        os.chdir({str(tmp_path)!r})
        sys.path.insert(0, ".")
        from tasks import embed

        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool", "prefork"]
        command += ["--concurrency", "2", "--without-mingle", "--without-gossip", "--without-heartbeat"]
        with open("log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log) as worker:
            try:
                results = [embed.delay(TEXTS) for _ in range(6)]
                print([result.get(timeout=50, interval=0.1) for result in results])
            finally:
                worker.terminate()
        """,
        "-W",
        "ignore",
    )
    assert printed == f"{[[37, True]] * 6}\n"


def test_langserve(run: Callable[..., str]) -> None:
    """LangServe can serve an object as a runnable, for single inputs and batches."""
    pytest.importorskip("langserve")
    printed = run(
        """
        from fastapi import FastAPI
        from fastapi.testclient import TestClient
        from langchain_core.runnables import RunnableLambda
        from langserve import add_routes
        from langchain_qwen_aiml import QwenAIMLEmbeddings

        embeddings = QwenAIMLEmbeddings(dimensions=64)
        application = FastAPI()
        runnable = RunnableLambda(embeddings.embed_query, afunc=embeddings.aembed_query)
        add_routes(application, runnable.with_types(input_type=str, output_type=list), path="/embed")
        with TestClient(application) as client:
            print(len(client.post("/embed/invoke", json={"input": "text"}).json()["output"]))
            rows = client.post("/embed/batch", json={"inputs": TEXTS[:5]}).json()["output"]
            print([len(row) for row in rows])
        """,
        "-W",
        "ignore",
    )
    assert printed.endswith(f"\n64\n{[64] * 5}\n")  # after a banner
