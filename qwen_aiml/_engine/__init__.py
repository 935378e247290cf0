"""One call from its texts to its embeddings: batches, requests, retries, the rate limiter, streams."""
