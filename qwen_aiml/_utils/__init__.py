"""Helpers: optional packages, threads, frames of errors, hidden inputs, unknown settings, lazy properties."""
