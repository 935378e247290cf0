# %% [markdown]
# # joblib, Dask, Spark
#
# Embed a table with common tools for data jobs: joblib processes, partitions
# of a Dask DataFrame, a `pandas_udf` of Spark. One client already keeps many
# requests in flight, so one process is often enough: use these tools if your
# data is distributed anyway. For Parquet files, see [Daft](corpora.ipynb).
#
# Spark needs Java 17 or newer, and pandas before 3.

# %%
# %pip install -q "qwen-aiml[emulator,numpy]" "dask[dataframe]" joblib \
#     "pandas<3" pyspark
# Until the first release, install qwen-aiml from a clone: pip install .
import os
import subprocess
import sys
from contextlib import ExitStack

from qwen_aiml.emulator import Emulator, serve

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
running = ExitStack()
emulator = Emulator()
if not HAS_KEY:  # other processes reach it over HTTP
    os.environ["AIMLAPI_BASE_URL"] = running.enter_context(serve(emulator))
    os.environ["AIMLAPI_API_KEY"] = "emulator"

# %% [markdown]
# Workers read the key from the environment: neither a client nor a config
# passes it on to another process.

# %%
import numpy as np
import pandas as pd

table = pd.DataFrame({"text": [f"line {number}" for number in range(80)]})

# %% [markdown]
# ## joblib
#
# Each task embeds a block of rows with one client and closes it at the end; a
# client per row would reconnect each time. Limits apply per process, so divide
# your limit by the number of processes.

# %%
from joblib import Parallel, delayed

from qwen_aiml import EmbeddingClient, EmbeddingConfig

WORKERS = 2


def embed(texts: list[str]) -> np.ndarray:
    """Embed a block of texts, one row per text."""
    config = EmbeddingConfig(
        dimensions=256,
        max_concurrency=8 // WORKERS,
        requests_per_minute=6000 // WORKERS,
    )
    with EmbeddingClient(config) as client:
        return client.embed_array(texts)


blocks = np.array_split(table["text"].to_numpy(), WORKERS)
rows = np.vstack(
    Parallel(n_jobs=WORKERS)(delayed(embed)(list(block)) for block in blocks)
)
print(rows.shape)
assert rows.shape == (80, 256)

# %% [markdown]
# ## Dask
#
# Dask's threads share one client, with its limits and connections. Each
# partition is one call.

# %%
import dask.dataframe as dd

shared = EmbeddingClient(EmbeddingConfig(dimensions=256))


def add_vectors(part: pd.DataFrame) -> pd.DataFrame:
    """Add a column of vectors to a partition."""
    return part.assign(vector=list(shared.embed_array(part["text"])))


parts = dd.from_pandas(table, npartitions=4)
meta = {"text": str, "vector": object}
embedded = parts.map_partitions(add_vectors, meta=meta)
result = embedded.compute(scheduler="threads")
print(f"{len(result)} rows in {parts.npartitions} partitions")
print(shared.usage)
assert np.allclose(np.stack(result["vector"]), rows)

# %% [markdown]
# ## Spark
#
# A `pandas_udf` over an iterator creates one client per task, for all batches
# of its partition.

# %%
from collections.abc import Iterator

from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf

os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
settings = SparkConf().setMaster("local[2]").setAppName("embed")
settings.set("spark.ui.enabled", "false")
# A session as on any cluster, except that Java's log is not shown here.
gateway = launch_gateway(settings, popen_kwargs={"stderr": subprocess.DEVNULL})
spark = SparkSession(SparkContext(conf=settings, gateway=gateway))


@pandas_udf("array<float>")
def vectors(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
    """Embed a column."""
    config = EmbeddingConfig(dimensions=256, max_concurrency=4)  # per task
    with EmbeddingClient(config) as client:
        for batch in batches:
            yield pd.Series(list(client.embed_array(batch)))


frame = spark.createDataFrame(table).repartition(2)
collected = frame.withColumn("vector", vectors("text")).toPandas()
print(f"{len(collected)} rows")
spark.stop()
by_text = dict(zip(collected["text"], collected["vector"], strict=True))
assert np.allclose([by_text[text] for text in table["text"]], rows)

# %%
from joblib.externals.loky import get_reusable_executor

get_reusable_executor().shutdown()  # joblib's processes
shared.close()
running.close()
