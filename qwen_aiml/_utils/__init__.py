"""Helpers for event loops, waits, tasks, threads, frames of errors, settings, and optional packages."""
