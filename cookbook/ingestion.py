# %% [markdown]
# # Incremental ingestion that resumes after an interruption
#
# Keep an index up to date with a folder of texts: new and changed texts are
# embedded, removed ones are deleted, and a run without changes costs nothing.
# If the job is killed half-way, the next run sends only what is missing. The
# page uses LangChain's indexing API and LlamaIndex's `IngestionPipeline`. Needs
# `data/python.json`.
#
# State is stored in several places:
#
# | | records | is lost if the job is killed |
# | --- | --- | --- |
# | vector store | which passages are indexed | before it writes |
# | LangChain's record manager | which batches are done | within a batch |
# | LlamaIndex's document store | which documents are done | at any time |
# | `cache` of the embeddings | what was billed | never |

# %%
# %pip install -q "qwen-aiml[langchain,llama-index,emulator]" langchain-chroma \
#     langchain-classic langchain-text-splitters
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator, serve

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
emulator = Emulator(latency=0.2)
serving = serve(emulator)
if not HAS_KEY:
    os.environ["AIMLAPI_BASE_URL"] = serving.__enter__()  # for the whole page
    os.environ["AIMLAPI_API_KEY"] = "emulator"

# %% [markdown]
# The jobs run in separate processes, which cannot reach an emulator inside this
# one. So without an API key the emulator is served on a local port, with
# latency, so that there is something to interrupt. This page does not search,
# so lexical vectors are enough.

# %% [markdown]
# ## The texts and the jobs
#
# The texts are 39 topics of Python's documentation, one file each.

# %%
import json
from pathlib import Path
from tempfile import TemporaryDirectory

temporary = TemporaryDirectory(ignore_cleanup_errors=True)
folder = Path(temporary.name)
(folder / "texts").mkdir()
for topic in json.loads(Path("data/python.json").read_text(encoding="utf-8"))[
    "topics"
]:
    (folder / "texts" / f"{topic['name']}.txt").write_text(
        topic["text"], encoding="utf-8"
    )
print(f"{len(list((folder / 'texts').iterdir()))} files")

# %% [markdown]
# Each job is a function. This one uses LangChain:


# %%
from typing import Any


def with_langchain(folder: Path) -> dict[str, Any]:
    """Bring a Chroma collection up to date with the texts."""
    from langchain_chroma import Chroma
    from langchain_classic.indexes import SQLRecordManager
    from langchain_core.documents import Document
    from langchain_core.indexing import index
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    from langchain_qwen_aiml import QwenAIMLEmbeddings

    # Few requests at a time, so that there is something to interrupt.
    embeddings = QwenAIMLEmbeddings(
        dimensions=512, max_concurrency=4, cache=str(folder / "langchain.db")
    )
    store = Chroma(
        "texts", embeddings, persist_directory=str(folder / "chroma")
    )
    records = SQLRecordManager(
        "chroma/texts", db_url=f"sqlite:///{folder}/records.db"
    )
    records.create_schema()

    splitter = RecursiveCharacterTextSplitter(chunk_size=800, chunk_overlap=0)
    passages = splitter.split_documents(
        [
            Document(
                path.read_text(encoding="utf-8"), metadata={"source": path.name}
            )
            for path in sorted((folder / "texts").glob("*.txt"))
        ]
    )
    outcome = index(
        passages,
        records,
        store,
        cleanup="full",
        source_id_key="source",
        key_encoder="sha256",
        batch_size=100,
    )
    usage = embeddings.usage
    return {**outcome, "requests": usage.requests, "tokens": usage.total_tokens}


# %% [markdown]
# This one uses LlamaIndex:


# %%
def with_llama_index(folder: Path) -> dict[str, Any]:
    """Bring a vector store up to date with the texts."""
    from llama_index.core import Document
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.node_parser import TokenTextSplitter
    from llama_index.core.storage.docstore import SimpleDocumentStore
    from llama_index.core.vector_stores import SimpleVectorStore

    from llama_index_qwen_aiml import QwenAIMLEmbedding

    embedding = QwenAIMLEmbedding(
        dimensions=512, max_concurrency=4, cache=str(folder / "llama_index.db")
    )
    vectors, documents = folder / "vectors.json", folder / "documents.json"
    vector_store = (
        SimpleVectorStore.from_persist_path(str(vectors))
        if vectors.exists()
        else SimpleVectorStore()
    )
    docstore = (
        SimpleDocumentStore.from_persist_path(str(documents))
        if documents.exists()
        else SimpleDocumentStore()
    )
    pipeline = IngestionPipeline(
        transformations=[
            TokenTextSplitter(
                separator="\n\n", chunk_size=200, chunk_overlap=0
            ),
            embedding,
        ],
        vector_store=vector_store,
        docstore=docstore,
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
        disable_cache=True,  # the framework's; ours is written per request
    )
    nodes = pipeline.run(
        documents=[
            Document(text=path.read_text(encoding="utf-8"), id_=path.name)
            for path in sorted((folder / "texts").glob("*.txt"))
        ]
    )
    # The vectors first: documents in the document store count as done.
    vector_store.persist(str(vectors))
    docstore.persist(str(documents))
    usage = embedding.usage
    stored = len(vector_store.data.embedding_dict)
    return {
        "num_added": len(nodes),
        "num_stored": stored,
        "requests": usage.requests,
        "tokens": usage.total_tokens,
    }


# %% [markdown]
# Both jobs are written to a file, so that they can run as a program.

# %%
import inspect

JOBS = {"langchain": with_langchain, "llama-index": with_llama_index}
parts = [
    "import sys\nfrom pathlib import Path\nfrom typing import Any\n",
    *map(inspect.getsource, JOBS.values()),
    "JOBS = {'langchain': with_langchain, 'llama-index': with_llama_index}",
    "print(JOBS[sys.argv[1]](Path(sys.argv[2])))",
]
program = folder / "job.py"
_ = program.write_text("\n\n".join(parts), encoding="utf-8")

# %% [markdown]
# ## Kill the jobs half-way
#
# Each job is started as a program and killed, without a chance to clean up, as
# soon as its cache reaches half a megabyte, well before the end.

# %%
import subprocess
import sys
import time

from qwen_aiml import SQLiteCache


def start(job: str) -> subprocess.Popen[str]:
    """Start a job in a separate process."""
    return subprocess.Popen(  # noqa: S603 (the program above)
        [sys.executable, str(program), job, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_half_way(job: str, cache: str) -> None:
    """Start a job, and kill it while it runs."""
    process = start(job)
    cached = SQLiteCache(folder / f"{cache}.db")
    while cached.size < 500_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    output, _ = process.communicate()
    assert not output, "the job had ended before it was killed"


def to_the_end(job: str) -> str:
    """Run a job to its end, and return its output."""
    process = start(job)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.strip()


for job, cache in {
    "langchain": "langchain",
    "llama-index": "llama_index",
}.items():
    before = emulator.texts_billed
    kill_half_way(job, cache)
    killed = emulator.texts_billed
    print(f"{job}, run again: {to_the_end(job)}")
    if not HAS_KEY:
        first, second = killed - before, emulator.texts_billed - killed
        both = first.keys() & second.keys()
        print(f"    billed before the kill: {first.total()} texts")
        print(f"    billed after it: {second.total()}, again: {len(both)}\n")
        assert len(first) > len(both)
        assert len(second) > len(both)
        assert len(both) <= 40

# %% [markdown]
# Only the requests in flight when the job was killed were billed twice: at most
# four requests of ten texts. Everything else was billed once, although the
# second run had to repeat more work: LangChain's record manager only records
# whole batches of 100 passages, and LlamaIndex's document store is not written
# until the end.

# %% [markdown]
# ## Later runs
#
# From here on, the jobs run in this process. If nothing has changed, nothing is
# sent.


# %%
def update() -> dict[str, dict[str, int]]:
    """Run both jobs, and print what they did."""
    done = {name: job(folder) for name, job in JOBS.items()}
    for name, outcome in done.items():
        print(
            f"{name:12}"
            + ", ".join(
                f"{value} {key.removeprefix('num_')}"
                for key, value in outcome.items()
            )
        )
    return done


for outcome in update().values():
    assert outcome["num_added"] == outcome["requests"] == 0

# %% [markdown]
# One text gets another paragraph, one is added, one is removed. LangChain
# compares passages, so only the passage with the new paragraph counts as new.
# LlamaIndex compares documents and processes all passages of the changed one
# again, but the unchanged ones come from the cache. The cost is the same: one
# request.

# %%
texts = folder / "texts"
with (texts / "string-methods.txt").open("a", encoding="utf-8") as file:
    file.write(
        "\n\nNone of these methods changes the string: they return a new one.\n"
    )
(texts / "shebang.txt").write_text(
    "A first line such as #!/usr/bin/env python3 makes a script a program.\n",
    "utf-8",
)
(texts / "lambda.txt").unlink()

changed = update()
assert changed["langchain"]["num_deleted"] >= 1
assert changed["llama-index"]["num_added"] > 10
for outcome in changed.values():
    assert outcome["requests"] == 1

# %% [markdown]
# Restoring a deleted text costs nothing either: it is still in the cache.

# %%
for topic in json.loads(Path("data/python.json").read_text(encoding="utf-8"))[
    "topics"
]:
    if topic["name"] == "lambda":
        (texts / "lambda.txt").write_text(topic["text"], encoding="utf-8")
for outcome in update().values():
    assert outcome["num_added"] == 1
    assert outcome["requests"] == 0

# %% [markdown]
# ## Larger collections
#
# - `batch_size` of LangChain's `index` is the number of passages that go to the
#   store at a time, and that are repeated after a crash (repeated, but not
#   billed again). A few thousand keep more requests in flight than the default
#   of 100.
# - `cleanup="full"` deletes everything that is not among the texts of this run,
#   so each run must include all texts; `cleanup="incremental"` only considers
#   the sources that it is given.
# - LlamaIndex's `SimpleDirectoryReader` adds the date of the file to the
#   document, so touching a file marks it as changed. With `filename_as_id=True`
#   it remains the same document, and its text comes from the cache.
# - Several machines cannot share the file of `cache`: set `cache` to a store
#   that all of them can reach, such as Redis.
# - [Daft](corpora.ipynb) embeds a column of Parquet files, without an index.
