"""Servers and clusters that start processes by themselves; run by hand, with those that are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.long


def test_gunicorn(run: Callable[..., str], tmp_path: Path) -> None:
    """Workers of `--preload` share an object that was used before they were forked."""
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


def test_dask(run: Callable[..., str], tmp_path: Path) -> None:
    """Dask sends an object to its processes."""
    pytest.importorskip("distributed")
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


def test_langserve(run: Callable[..., str]) -> None:
    """LangServe serves an object as a runnable, synchronously and in batches."""
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
    assert printed == f"64\n{[64] * 5}\n"
