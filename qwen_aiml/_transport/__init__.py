"""Transports that post request bodies over asyncio, httpx or httpx2, and their selection."""
