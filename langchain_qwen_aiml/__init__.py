"""Qwen Text Embedding v4 and v3, served by AI/ML API, for LangChain."""

from .embeddings import QwenAIMLEmbeddings

__all__ = ["QwenAIMLEmbeddings"]
