"""Qwen Text Embedding v4 and v3, served by AI/ML API, for LangChain."""

import qwen_aiml

try:
    from .cache import ByteStoreCache
    from .cache_backed import cache_backed_embeddings
    from .embeddings import QwenAIMLEmbeddings
except ModuleNotFoundError as error:
    qwen_aiml.refer_to_extra(error, "langchain_core", "langchain", __name__)

__all__ = ["ByteStoreCache", "QwenAIMLEmbeddings", "cache_backed_embeddings"]
