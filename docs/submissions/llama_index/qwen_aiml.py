# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Qwen Text Embedding, served by AI/ML API
#
# Qwen Text Embedding v4 and v3 through [AI/ML API](https://aimlapi.com), as a LlamaIndex embedding model.
#
# If you're opening this notebook on Colab, you will need to install LlamaIndex and the package.

# %% [markdown]
# ```
# %pip install llama-index "qwen-aiml[llama-index]"
# ```

# %% [markdown]
# ## Credentials
#
# Create a key at <https://aimlapi.com/app/keys> and set it as `AIMLAPI_API_KEY`.

# %%
import getpass
import os

if not os.getenv("AIMLAPI_API_KEY"):
    os.environ["AIMLAPI_API_KEY"] = getpass.getpass("AI/ML API key: ")

# %% [markdown]
# ## Embed a text

# %%
from llama_index_qwen_aiml import QwenAIMLEmbedding

embed_model = QwenAIMLEmbedding(model_name="text-embedding-v4", dimensions=1024)

embedding = embed_model.get_text_embedding("The cat sat on the mat.")
print(len(embedding))

# %% [markdown]
# ## Embed many texts
#
# Lists of any length are sent in concurrent requests of ten texts.

# %%
embeddings = embed_model.get_text_embedding_batch([f"text {number}" for number in range(25)])
print(len(embeddings))
print(embed_model.usage)

# %% [markdown]
# ## Queries and documents
#
# Qwen recommends a task description before queries, and nothing before documents.

# %%
with_task = QwenAIMLEmbedding(
    query_instruction="Given a web search query, retrieve relevant passages that answer the query"
)
query_embedding = with_task.get_query_embedding("Where did the cat sit?")

# %% [markdown]
# ## In an index

# %%
from llama_index.core import Document, Settings, VectorStoreIndex

Settings.embed_model = embed_model

texts = ["The cat sat on the mat.", "Stocks fell sharply.", "Rain is expected tomorrow."]
index = VectorStoreIndex.from_documents([Document(text=text) for text in texts])
print(index.as_retriever(similarity_top_k=1).retrieve("Where did the cat sit?")[0].text)
