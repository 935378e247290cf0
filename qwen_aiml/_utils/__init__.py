"""Helpers: optional packages, threads, frames of errors, lazy properties."""
