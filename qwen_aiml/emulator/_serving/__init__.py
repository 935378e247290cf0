"""Access to an emulator: through httpx in the process, or over HTTP."""
