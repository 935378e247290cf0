"""Qwen Text Embedding v4 and v3, served by AI/ML API, for LlamaIndex."""

import qwen_aiml

try:
    from .base import QwenAIMLEmbedding
    from .cache import KVStoreCache, NamespacedKVStore
except ModuleNotFoundError as error:
    qwen_aiml.refer_to_extra(error, "llama_index.core", "llama-index", __name__)

__all__ = ["KVStoreCache", "NamespacedKVStore", "QwenAIMLEmbedding"]
