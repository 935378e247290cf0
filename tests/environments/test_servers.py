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


def test_celery(run: Callable[..., str], tmp_path: Path) -> None:
    """Prefork workers of Celery use an object of the module that they import."""
    pytest.importorskip("celery")
    (tmp_path / "tasks.py").write_text(
        """
import os
from celery import Celery
from langchain_qwen_aiml import QwenAIMLEmbeddings

folder = os.path.dirname(__file__)
app = Celery(broker="filesystem://", backend=f"file://{folder}/results")
app.conf.broker_transport_options = {
    "data_folder_in": f"{folder}/queue", "data_folder_out": f"{folder}/queue",
    "control_folder": f"{folder}/control",
}
embeddings = QwenAIMLEmbeddings(dimensions=64)
embeddings.embed_query("before the fork")

@app.task
def embed(text):
    return len(embeddings.embed_query(text))
"""
    )
    for folder in ("queue", "control", "results"):
        (tmp_path / folder).mkdir()
    printed = run(
        f"""
        import subprocess, sys

        sys.path.insert(0, {str(tmp_path)!r})
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool", "prefork",
                   "--concurrency", "2", "--loglevel", "critical", "--quiet"]
        worker = subprocess.Popen(command, cwd={str(tmp_path)!r}, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        try:
            from tasks import embed
            jobs = [embed.delay(text) for text in TEXTS[:6]]
            print([job.get(timeout=40) for job in jobs])
        finally:
            worker.terminate()
            worker.wait()
        """
    )
    assert printed == f"{[64] * 6}\n"


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


def test_ray(run: Callable[..., str]) -> None:
    """Ray sends an object to its workers, which take the key from their environment."""
    pytest.importorskip("ray")
    printed = run(
        """
        import contextlib, io, os
        import ray
        from langchain_qwen_aiml import QwenAIMLEmbeddings

        @ray.remote
        def embed(embeddings, text):
            return len(embeddings.embed_query(text))

        embeddings = QwenAIMLEmbeddings(dimensions=64)
        with contextlib.redirect_stderr(io.StringIO()):
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
            found = ray.get([embed.remote(embeddings, text) for text in TEXTS[:6]], timeout=50)
            ray.shutdown()
        print(found)
        """,
        "-W",
        "ignore",
        RAY_USAGE_STATS_ENABLED="0",
    )
    assert printed.splitlines()[-1] == str([64] * 6)


def test_spark(run: Callable[..., str]) -> None:
    """A `pandas_udf` of Spark embeds a column."""
    pytest.importorskip("pyspark")
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    printed = run(
        """
        import os, sys
        os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
        errors = os.dup(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Java's warnings
        import pandas as pd
        from pyspark.sql import SparkSession
        from pyspark.sql.functions import pandas_udf
        from langchain_qwen_aiml import QwenAIMLEmbeddings

        embeddings = QwenAIMLEmbeddings(dimensions=64)

        @pandas_udf("array<double>")
        def embed(texts: pd.Series) -> pd.Series:
            return pd.Series(embeddings.embed_documents(list(texts)))

        settings = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
        spark = settings.config("spark.driver.host", "127.0.0.1").getOrCreate()
        rows = spark.createDataFrame([(text,) for text in TEXTS], ["text"]).select(embed("text").alias("row"))
        found = rows.collect()
        spark.stop()
        print(len(found), {len(one.row) for one in found})
        """,
        "-W",
        "ignore",
    )
    assert printed == "37 {64}\n"


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
