"""Usage, cost and tracing of calls."""
