"""Qwen Text Embedding v4 and v3, served by AI/ML API, for LlamaIndex."""

from .base import QwenAIMLEmbedding

__all__ = ["QwenAIMLEmbedding"]
