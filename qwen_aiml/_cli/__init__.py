"""Commands: ``python -m qwen_aiml``."""
