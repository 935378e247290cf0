"""Vectors without Qwen: lexical ones, and those of small models that packages ship."""
