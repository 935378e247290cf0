# %% [markdown]
# # Migrate from OpenAIEmbeddings and other classes
#
# What to change in code that uses `AimlapiEmbeddings`, `OpenAIEmbeddings`,
# `OpenAIEmbedding`, `OpenAILikeEmbedding` or `DashScopeEmbeddings`, what these
# classes send, as recorded by the emulator, and a check with a few texts of
# your index that shows whether you can keep it or must rebuild it.
#
# LangChain, to `QwenAIMLEmbeddings`:
#
# | from | why |
# | --- | --- |
# | `AimlapiEmbeddings` | not for langchain-core 1.x; one text per request |
# | `OpenAIEmbeddings` | by default sends token ids, 1,000 texts per request |
# | `DashScopeEmbeddings` | another account and key; no `dimensions` |
#
# LlamaIndex, to `QwenAIMLEmbedding`:
#
# | from | why |
# | --- | --- |
# | `OpenAIEmbedding` | 100 texts per request; line breaks are replaced |
# | `OpenAILikeEmbedding` | one request at a time; line breaks are replaced |
# | `DashScopeEmbedding` | another account and key; no `dimensions` |
#
# Needs `data/udhr.json`.

# %%
# %pip install -q "qwen-aiml[langchain,llama-index,numpy]" langchain-openai \
#     llama-index-embeddings-openai-like
# Until the first release, install qwen-aiml from a clone: pip install .
import os

from qwen_aiml.emulator import Emulator

HAS_KEY = bool(os.environ.get("AIMLAPI_API_KEY"))
options = {} if HAS_KEY else Emulator().client_options()
VECTORS = "Qwen" if HAS_KEY else "stand-in model, not Qwen"
print("Vectors:", VECTORS)

# %% [markdown]
# ## What the old classes send
#
# This part always runs on an emulator, which records the requests. It accepts
# what the service is documented to accept (ten texts per request, no token
# ids), and responds after 50 milliseconds. The input is 100 short texts of two
# lines.

# %%
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_index.core
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

from qwen_aiml.emulator import Emulator

# OpenAIEmbeddings counts tokens with OpenAI's vocabulary, which it would
# download; LlamaIndex has it. It warns that it does not know the model's.
vocabulary = (
    Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
)
os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(vocabulary))
logging.getLogger("langchain_openai").setLevel("ERROR")

MODEL = "alibaba/qwen-text-embedding-v4"
BASE_URL = "https://api.aimlapi.com/v1"
texts = [f"Line {number}\nand the next one" for number in range(100)]


def measure(
    name: str, embed: Callable[[dict[str, Any]], list[list[float]]]
) -> Emulator:
    """Embed the texts on a new emulator, and print what it received."""
    emulator = Emulator(latency=0.05)
    started = time.perf_counter()
    try:
        vectors = embed(emulator.client_options())
        seconds = time.perf_counter() - started
        outcome = f"{len(vectors)} vectors in {seconds:.1f} s"
    except Exception as error:  # noqa: BLE001
        outcome = type(error).__name__
    first = emulator.requests[0].input
    sent = "token ids" if isinstance(first[0], list) else repr(first[0][:10])
    print(name)
    print(
        f"    {emulator.request_count} requests, {emulator.peak_in_flight} in "
        f"flight; the first with {len(first)} texts as {sent}: {outcome}"
    )
    return emulator


def openai_embeddings(
    **settings: Any,
) -> Callable[[dict[str, Any]], list[list[float]]]:
    """Return a function that embeds with LangChain's class for OpenAI."""
    return lambda to: OpenAIEmbeddings(
        model=MODEL, base_url=BASE_URL, **settings, **to
    ).embed_documents(texts)


def openai_embedding(
    kind: type[OpenAIEmbedding],
) -> Callable[[dict[str, Any]], list[list[float]]]:
    """Return a function that embeds with LlamaIndex's class for OpenAI."""
    return lambda to: kind(
        model_name=MODEL,
        api_base=BASE_URL,
        api_key=to["api_key"],
        http_client=to["http_client"],
    ).get_text_embedding_batch(texts)


tokens = measure("OpenAIEmbeddings", openai_embeddings())
rows = measure(
    "  check_embedding_ctx_length=False",
    openai_embeddings(check_embedding_ctx_length=False),
)
tuned = measure(
    "  and chunk_size=10",
    openai_embeddings(check_embedding_ctx_length=False, chunk_size=10),
)
hundred = measure("OpenAIEmbedding", openai_embedding(OpenAIEmbedding))
like = measure("OpenAILikeEmbedding", openai_embedding(OpenAILikeEmbedding))

assert {
    emulator.requests[-1].status for emulator in (tokens, rows, hundred)
} == {400}
assert tuned.request_count == like.request_count == 10
assert tuned.peak_in_flight == 1
assert "\n" in tuned.requests[0].texts[0]
assert "\n" not in like.requests[0].texts[0]

# %% [markdown]
# Three of the five fail: the service accepts at most ten texts per request, and
# no token ids. The other two send one request at a time. LlamaIndex's classes
# replace line breaks with spaces. The same with the classes of this package:

# %%
from langchain_qwen_aiml import QwenAIMLEmbeddings
from llama_index_qwen_aiml import QwenAIMLEmbedding

ours = [
    measure(
        "QwenAIMLEmbeddings",
        lambda to: QwenAIMLEmbeddings(**to).embed_documents(texts),
    ),
    measure(
        "QwenAIMLEmbedding",
        lambda to: QwenAIMLEmbedding(**to).get_text_embedding_batch(texts),
    ),
]

for emulator in ours:
    assert sorted(
        text for request in emulator.requests for text in request.texts
    ) == sorted(texts)
    assert emulator.request_count == 10
    assert emulator.peak_in_flight > 1

# %% [markdown]
# ## What changes in the code
#
# ### `AimlapiEmbeddings`
#
# ```python
# from langchain_aimlapi import AimlapiEmbeddings                     # before
#
# AimlapiEmbeddings(model="alibaba/qwen-text-embedding-v4", dimensions=512)
# ```
# ```python
# from langchain_qwen_aiml import QwenAIMLEmbeddings                  # after
#
# QwenAIMLEmbeddings(model="alibaba/qwen-text-embedding-v4", dimensions=512)
# ```
#
# The other arguments and `AIMLAPI_API_KEY` stay the same. Without an API key
# there is an error; the old class returned three numbers derived from a hash.
#
# ### `OpenAIEmbeddings`
#
# Some names change, and the option that switched off OpenAI's tokenizer is
# removed.

# %%
before = OpenAIEmbeddings(
    model="alibaba/qwen-text-embedding-v4",
    dimensions=512,
    openai_api_key="my-key",
    openai_api_base="https://api.aimlapi.com/v1",
    check_embedding_ctx_length=False,
    chunk_size=10,
)
after = QwenAIMLEmbeddings(
    model="alibaba/qwen-text-embedding-v4", dimensions=512, api_key="my-key"
)

# %% [markdown]
# Arguments that cannot be carried over raise an error with the reason:

# %%
from qwen_aiml import ConfigurationError

given: list[dict[str, Any]] = [
    {"chunk_size": 1000},
    {"check_embedding_ctx_length": True},
    {"openai_api_key": "my-key"},
]
refusals = []
for setting in given:
    try:
        QwenAIMLEmbeddings(**{"api_key": "my-key", **setting})
    except ConfigurationError as error:
        refusals.append(error)
        print(error)
assert len(refusals) == len(given)

# %% [markdown]
# ### `OpenAIEmbedding` and `OpenAILikeEmbedding`

# %%
earlier = OpenAILikeEmbedding(
    model_name="alibaba/qwen-text-embedding-v4",
    dimensions=512,
    api_key="my-key",
    api_base="https://api.aimlapi.com/v1",
    embed_batch_size=10,
)
later = QwenAIMLEmbedding(
    model_name="alibaba/qwen-text-embedding-v4",
    dimensions=512,
    api_key="my-key",
)

# %% [markdown]
# Remove `additional_kwargs`, `api_version` and `reuse_client`. A saved index
# does not store the embedding class: pass the new one to
# `load_index_from_storage(..., embed_model=later)`, or set
# `Settings.embed_model`.
#
# ### `DashScopeEmbeddings` and `DashScopeEmbedding`
#
# These use Alibaba's own service, so the account, the key and the billing
# change as well.
#
# ```python
# from langchain_community.embeddings import DashScopeEmbeddings      # before
#
# DashScopeEmbeddings(model="text-embedding-v4", dashscope_api_key="...")
# ```
# ```python
# from llama_index.embeddings.dashscope import DashScopeEmbedding     # before
#
# DashScopeEmbedding(model_name="text-embedding-v3", api_key="...")
# ```
# ```python
# from langchain_qwen_aiml import QwenAIMLEmbeddings                  # after
# from llama_index_qwen_aiml import QwenAIMLEmbedding
#
# QwenAIMLEmbeddings(model="text-embedding-v4")
# QwenAIMLEmbedding(model_name="text-embedding-v3")
# ```
#
# They mark each text as a query or a document with a parameter. AI/ML API
# documents no such parameter; for v4, use `query_instruction`, which is part of
# the text. Check an index that was created with the parameter, as shown below.

# %% [markdown]
# ## When to re-index
#
# The same model returns the same vector for the same text, whatever the class.
# What matters is the text that was sent, the model and the dimensions. The
# safest test: take some texts and their vectors from your index, embed the
# texts again, and compare.

# %%
import numpy as np


def lowest_agreement(
    stored: dict[str, list[float]], embeddings: QwenAIMLEmbeddings
) -> float:
    """Return the lowest cosine of old and new vectors; 0 if sizes differ."""
    new, old = (
        np.array(embeddings.embed_documents(list(stored))),
        np.array(list(stored.values())),
    )
    if new.shape != old.shape:
        return 0.0
    cosines = (
        (new * old).sum(1)
        / np.linalg.norm(new, axis=1)
        / np.linalg.norm(old, axis=1)
    )
    return float(cosines.min())


# %% [markdown]
# This cell runs the check on four indexes of ten articles of the Universal
# Declaration of Human Rights, some of which contain line breaks. With an API
# key the service embeds them, at negligible cost.

# %%
import json

from qwen_aiml import EmbeddingConfig

declaration = json.loads(Path("data/udhr.json").read_text(encoding="utf-8"))
(english,) = [
    language
    for language in declaration["languages"]
    if language["name"] == "English"
]
articles = [article["text"] for article in english["articles"]][:10]
assert any("\n" in article for article in articles)

key = options.get("api_key") or EmbeddingConfig().secret.reveal()
base_url = EmbeddingConfig(api_key=key).base_url
http = {"http_client": options["http_client"]} if options else {}
old_settings = {
    "base_url": base_url,
    "api_key": key,
    "check_embedding_ctx_length": False,
    "chunk_size": 10,
    **http,
}

made_by = {
    "OpenAIEmbeddings, v4": OpenAIEmbeddings(
        model=MODEL, **old_settings
    ).embed_documents(articles),
    "OpenAILikeEmbedding, v4": OpenAILikeEmbedding(
        model_name=MODEL, api_base=base_url, api_key=key, **http
    ).get_text_embedding_batch(articles),
    "OpenAIEmbeddings, v3": OpenAIEmbeddings(
        model="alibaba/qwen-text-embedding-v3", **old_settings
    ).embed_documents(articles),
    "OpenAIEmbeddings, v4, 512 numbers": OpenAIEmbeddings(
        model=MODEL, dimensions=512, **old_settings
    ).embed_documents(articles),
}

embeddings = QwenAIMLEmbeddings(model=MODEL, **options)
for name, vectors in made_by.items():
    lowest = lowest_agreement(
        dict(zip(articles, vectors, strict=True)), embeddings
    )
    verdict = "keep it" if lowest > 0.9999 else "rebuild it"
    print(f"{name:35} {lowest:8.5f}  {verdict}")
    if name in {"OpenAIEmbeddings, v3", "OpenAIEmbeddings, v4, 512 numbers"}:
        assert lowest < 0.9999
    if name == "OpenAIEmbeddings, v4" and not HAS_KEY:
        assert lowest > 0.9999

# %% [markdown]
# - **Keep it** if the model and the dimensions are the same and the texts were
#   sent unchanged: `AimlapiEmbeddings`; `OpenAIEmbeddings` with
#   `check_embedding_ctx_length=False`.
# - **Check it** with texts that contain line breaks if these were replaced:
#   `OpenAIEmbedding`, `OpenAILikeEmbedding`. The emulator's vectors do not
#   depend on line breaks; Qwen's may.
# - **Check it** if it was created with Alibaba's own service and the same
#   model.
# - **Rebuild it** at least for texts that were truncated or averaged before
#   they were sent.
# - **Rebuild it** if the vendor, the model (also v3 instead of v4) or the
#   dimensions differ. Whether the first 512 numbers of 1024 equal those of
#   `dimensions=512` is not documented.
#
# The encoding (`base64` or lists), the batch size and retries do not change a
# vector. Nor does `query_instruction`: it is added to queries only, so you can
# set it for an existing index. If your code adds the prefix itself, remove it
# there; LlamaIndex's class for OpenAI sent it without its line break:

# %%
task = "Given a question, find the article that answers it"
emulator = Emulator()
to = emulator.client_options()
OpenAILikeEmbedding(
    model_name=MODEL,
    api_base=BASE_URL,
    api_key="my-key",
    http_client=to["http_client"],
).get_query_embedding(f"Instruct: {task}\nQuery:May I leave my country?")
QwenAIMLEmbedding(query_instruction=task, **to).get_query_embedding(
    "May I leave my country?"
)
for request in emulator.requests:
    print(request.texts)

assert emulator.requests[0].texts[0] == emulator.requests[1].texts[0].replace(
    "\n", " "
)

# %% [markdown]
# ## Pitfall: indexing skips known texts
#
# LangChain's `index` and LlamaIndex's document stores compare texts only. They
# do not notice a change of the model, and skip all texts that they know. Here
# an index of v3 is to be replaced by one of v4:

# %%
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore

documents = [
    Document(article, metadata={"source": number})
    for number, article in enumerate(articles)
]
records = InMemoryRecordManager("articles")
records.create_schema()
old_store = InMemoryVectorStore(
    QwenAIMLEmbeddings(model="text-embedding-v3", **options)
)
new_store = InMemoryVectorStore(embeddings)
how: dict[str, Any] = {
    "cleanup": "full",
    "source_id_key": "source",
    "key_encoder": "sha256",
}

print("v3          ", index(documents, records, old_store, **how))
print(
    "v4          ",
    index(documents, records, new_store, **how),
    f"{len(new_store.store)} texts in the store",
)
print(
    "v4, by force",
    index(documents, records, new_store, force_update=True, **how),
)
assert len(new_store.store) == len(articles)

# %% [markdown]
# Safer than `force_update` is a separate namespace for each model and number of
# dimensions: name the store and the record manager, or the document store,
# after `embeddings.cache_namespace`, which changes whenever the vectors do. The
# old index stays in use until the new one is complete. [Incremental
# ingestion](ingestion.ipynb) shows jobs that fill an index and can be
# interrupted.

# %%
print(embeddings.cache_namespace)
