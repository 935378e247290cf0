"""Cached embeddings: keys and entries, the SQLite file, the protocol for custom stores."""
