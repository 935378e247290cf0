"""Preparation of texts: validation, the query prefix, shortening, tokens. No I/O here."""
