# %% [markdown]
# # Daft: 50,000 texts from Parquet to Parquet
#
# Embed a corpus that does not fit into one call: Daft reads Parquet files,
# embeds a column and writes Parquet files.
#
# This page shows a job that can be killed and restarted, its throughput and
# memory, and an estimate for a million texts and more.

# %%
# %pip install -q "qwen-aiml[daft,emulator]" matplotlib psutil
# Until the first release, install qwen-aiml from a clone: pip install .
import atexit
import os
import subprocess
import sys

os.environ["DAFT_ANALYTICS_ENABLED"] = "0"  # or importing Daft reports it
os.environ["DAFT_PROGRESS_BAR"] = "0"
HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
COUNT = 400 if HAS_KEY else 50_000  # with a key, start small: texts cost money
if not HAS_KEY:  # in a separate process, whose memory is not measured
    command = "-m qwen_aiml.emulator --port 0 --latency 0.1"
    emulator = subprocess.Popen(  # noqa: S603 (our own program)
        [sys.executable, *command.split()], stdout=subprocess.PIPE, text=True
    )
    atexit.register(emulator.kill)
    assert emulator.stdout
    (url,) = (
        line.partition("=")[2].strip()
        for line in (emulator.stdout.readline() for _ in range(3))
        if "AIMLAPI_BASE_URL" in line
    )
    os.environ["AIMLAPI_BASE_URL"] = url
    os.environ["AIMLAPI_API_KEY"] = "emulator"
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## The corpus
#
# A table with an id and a text per row, in eight files. Daft reads files in
# parallel and returns rows in any order; the id identifies each row.

# %%
from pathlib import Path
from tempfile import mkdtemp

import pyarrow as pa
import pyarrow.parquet as pq

folder = Path(mkdtemp())
(folder / "texts").mkdir()
ids = list(range(COUNT))
table = pa.table({"id": ids, "text": [f"ticket {number}" for number in ids]})
for part in range(8):
    rows = table.take(ids[part::8])
    pq.write_table(rows, folder / "texts" / f"{part}.parquet")
print(f"{len(table):,} texts")

# %% [markdown]
# ## The job
#
# `embed_text` is Daft's; the provider is this package's. The cache makes the
# job resumable, and `overwrite` keeps a second run from adding rows.
#
# The extra column `second` records when each row was embedded, and
# `batch_size=50` makes these times finer. Omit both from your job: they only
# serve the plot below.

# %%
import time

import daft
from daft.functions import embed_text

from daft_qwen_aiml import QwenAIMLProvider

# Floats hardly compress in Parquet. Daft assumes that they do, and would hold
# more in memory.
daft.set_execution_config(
    parquet_inflation_factor=1.0, parquet_target_row_group_size=32 << 20
)
began = time.monotonic()


@daft.func.batch(return_dtype=daft.DataType.float64())
def seconds(embeddings: daft.Series) -> list[float]:
    """Return the time since the start for each row."""
    return [time.monotonic() - began] * len(embeddings)


def job() -> daft.DataFrame:
    """Embed the texts of one folder, and write them to another."""
    provider = QwenAIMLProvider(
        dimensions=64, cache=str(folder / "embeddings.db")
    )
    df = daft.read_parquet(f"{folder}/texts/*.parquet")
    column = embed_text(df["text"], provider=provider, batch_size=50)
    df = df.with_column("embedding", column)
    df = df.with_column("second", seconds(df["embedding"]))
    return df.write_parquet(f"{folder}/embedded", write_mode="overwrite")


# %% [markdown]
# A thread records the memory of this process while the job runs.

# %%
from threading import Event, Thread

import psutil

memory: list[tuple[float, float]] = []
done = Event()


def watch() -> None:
    """Record the memory of this process, in MB, twenty times per second."""
    process = psutil.Process()
    while not done.wait(0.05):
        used = process.memory_info().rss / 1e6
        memory.append((time.monotonic() - began, used))


watcher = Thread(target=watch, daemon=True)
watcher.start()
began = time.monotonic()
ran = job()
done.set()
watcher.join()

# %% [markdown]
# ## What was written
#
# The output has each id once, with an embedding of the requested dimensions.
# Usage is in Daft's metrics of the operator `embed_text`.

# %%
written = daft.read_parquet(f"{folder}/embedded/*.parquet")
found = written.select("id", "second").sort("id").to_pydict()
assert found["id"] == ids
print(written.schema()["embedding"].dtype)


def counted(df: daft.DataFrame) -> dict[str, float]:
    """Return a job's metrics: requests, tokens, texts from the cache."""
    assert df.metrics is not None
    operators = df.metrics.to_pydict()["stats"]
    counts = dict(count for operator in operators for count in operator)
    names = ("requests", "total tokens", "cached")
    return {name: counts[name]["value"] for name in names}


usage = counted(ran)
print(usage)
assert usage["requests"] == COUNT / 10  # each file fills its batches

# %% [markdown]
# ## Throughput and memory
#
# Daft runs up to 64 batches at once (of 320 texts by default), and holds their
# embeddings and the rows that the Parquet writers have collected. Memory
# depends on those, not on the number of texts; files are written at the end.

# %%
import matplotlib.pyplot as plt
import numpy as np

seen = np.array(found["second"])
counts, edges = np.histogram(seen, bins=10, range=(0, seen.max()))
figure, (rate, held) = plt.subplots(1, 2, figsize=(9, 3.6))
rate.stairs(counts / np.diff(edges), edges, fill=True, color="tab:blue")
rate.set_title(f"Throughput ({VECTORS})")
rate.set_ylabel("texts per second")
held.plot(*zip(*memory, strict=True), color="tab:orange")
held.set_title("Memory of the process")
held.set_ylabel("MB")
for axes in (rate, held):
    axes.set_xlabel("seconds since the start")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
figure.tight_layout()
plt.show()

# %% [markdown]
# The throughput is that of the emulator on this machine. With the service, it
# depends on the limit of your account.
#
# ## Run it again
#
# To resume a job that was killed, run it again unchanged: texts that were
# embedded come from the cache. This one had finished, so nothing is sent.

# %%
again = counted(job())
print(again)
assert again["cached"] == COUNT

# %% [markdown]
# ## A million texts, and more
#
# At 10 texts per request. The limit is an example: the service publishes none.
# If you set a price, the last column shows the cost. It uses the tokens per
# text of the texts above: replace them with those of a sample of your texts.

# %%
PER_SECOND = 50  # requests; an example
USD_PER_MILLION_TOKENS: float | None = None
tokens = usage["total tokens"] / COUNT

print(f"{'texts':>14} {'requests':>14} {'days':>8} {'USD':>10}")
for texts in (10**6, 10**8, 10**10):
    requests = texts // 10
    days = requests / PER_SECOND / 86_400
    price = USD_PER_MILLION_TOKENS
    usd = "-" if price is None else f"{texts * tokens / 1e6 * price:,.0f}"
    print(f"{texts:14,} {requests:14,} {days:8.2f} {usd:>10}")

# %% [markdown]
# ## Next
#
# - [Incremental ingestion](ingestion.ipynb) keeps a vector store up to date.
# - [joblib, Dask, Spark](parallel.ipynb), if your data is in one of these.
