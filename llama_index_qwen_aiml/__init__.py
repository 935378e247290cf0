"""Qwen Text Embedding v4 and v3, served by AI/ML API, for LlamaIndex."""

try:
    from .base import QwenAIMLEmbedding
    from .cache import KVStoreCache, NamespacedKVStore
except ModuleNotFoundError as error:
    message = 'llama_index_qwen_aiml needs llama-index-core: pip install "qwen-aiml[llama-index]"'
    raise ModuleNotFoundError(message, name=error.name) from error

__all__ = ["KVStoreCache", "NamespacedKVStore", "QwenAIMLEmbedding"]
