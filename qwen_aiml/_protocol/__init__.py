"""Requests and responses as bytes: written, read, validated; errors told apart. No I/O here."""
