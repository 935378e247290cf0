"""Qwen Text Embedding v4 and v3, served by AI/ML API, for LangChain."""

try:
    from .cache import ByteStoreCache, cache_backed_embeddings
    from .embeddings import QwenAIMLEmbeddings
except ModuleNotFoundError as error:
    message = 'langchain_qwen_aiml needs langchain-core: pip install "qwen-aiml[langchain]"'
    raise ModuleNotFoundError(message, name=error.name) from error

__all__ = ["ByteStoreCache", "QwenAIMLEmbeddings", "cache_backed_embeddings"]
