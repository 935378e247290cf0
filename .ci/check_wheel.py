"""
Check that packages are imported from site-packages, and that the framework adapters embed.

    python .ci/check_wheel.py qwen_aiml langchain_qwen_aiml
"""

import sys
from importlib import import_module
from sysconfig import get_path

CLASSES = {"langchain_qwen_aiml": "QwenAIMLEmbeddings", "llama_index_qwen_aiml": "QwenAIMLEmbedding"}


def main(packages: list[str]) -> None:
    """
    Import packages, and embed a query with the classes of the framework adapters.

    Args:
        packages: Names of the packages.
    """
    for name in packages:
        package = import_module(name)
        if not str(package.__file__).startswith(get_path("purelib")):
            sys.exit(f"{name} comes from {package.__file__}")
        if name in CLASSES:
            emulator = import_module("qwen_aiml.emulator").Emulator()
            embeddings = getattr(package, CLASSES[name])(**emulator.client_options(), dimensions=64)
            query = getattr(embeddings, "embed_query", None) or embeddings.get_query_embedding
            if len(query("a")) != 64:  # noqa: PLR2004 - the dimensions requested
                sys.exit(f"{name} does not embed")


if __name__ == "__main__":
    main(sys.argv[1:])
