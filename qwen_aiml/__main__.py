"""Commands of the package: ``python -m qwen_aiml check``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ._cli.check import check
from ._models import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command.

    Args:
        arguments: Command-line arguments; None means those of the process.

    Returns:
        The exit status: 0 on success, 1 if a check failed. argparse exits with 2 on a usage error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qwen_aiml",
        description="The key and the URL are read from the environment: AIMLAPI_API_KEY, AIMLAPI_BASE_URL.",
    )
    parser.add_argument("command", choices=["check"], metavar="COMMAND", help="check: key, balance and model")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model to check (%(default)s)")
    parser.add_argument(
        "--dimensions", type=int, metavar="N", help="dimensions to request (default: the model's own)"
    )
    given = parser.parse_args(arguments)
    return check(model=given.model, dimensions=given.dimensions)


if __name__ == "__main__":
    sys.exit(main())
