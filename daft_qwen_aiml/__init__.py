"""Qwen Text Embedding v4 and v3, served by AI/ML API, for Daft."""

import qwen_aiml

try:
    from .provider import QwenAIMLProvider, embed
except ModuleNotFoundError as error:
    qwen_aiml.refer_to_extra(error, "daft", "daft", __name__)

__all__ = ["QwenAIMLProvider", "embed"]
