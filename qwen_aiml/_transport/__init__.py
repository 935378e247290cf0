"""Posting a request body: over asyncio, or over httpx and httpx2; which of them is used."""
