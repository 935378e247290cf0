"""
Compare how libraries batch texts and handle failures and malformed responses.

    python3 -m benchmarks.behaviour         # all of them, in some minutes; writes behaviour.json
    python3 -m benchmarks.behaviour openai  # one of them; keeps the previous results of the others

Each library runs in its own environment, in one process, against emulators: one server per situation. The
servers report what was sent and billed; behave.py reports the outcome of each call.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from benchmarks import behave
from benchmarks.environments import ROOT, environment, versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qwen_aiml.emulator import Emulator

RESULTS = ROOT / "benchmarks" / "behaviour.json"
SECONDS = 600  # for one library; the slowest waits for minutes, since it retries so often
# The environment of each way, and the packages whose versions are reported.
LIBRARIES = {
    "ours-langchain": ("ours", ("qwen-aiml", "langchain-core")),
    "ours-llama-index": ("ours", ("qwen-aiml", "llama-index-core")),
    "langchain-openai": ("langchain-openai", ("langchain-openai", "openai")),
    "langchain-aimlapi": ("langchain-aimlapi", ("langchain-aimlapi", "openai")),
    "openai-like": ("llama-index-openai-like", ("llama-index-embeddings-openai-like", "openai")),
    "openai": ("openai", ("openai",)),
}
NAMES = {
    "ours-langchain": "qwen-aiml, LangChain",
    "ours-llama-index": "qwen-aiml, LlamaIndex",
    "langchain-openai": "langchain-openai",
    "langchain-aimlapi": "langchain-aimlapi",
    "openai-like": "llama-index openai-like",
    "openai": "openai's own client",
}


def _edited(answer: dict[str, Any], change: Callable[[list[Any], int], None]) -> dict[str, Any]:
    """Change the fourth row, or the last one if there are fewer than four."""
    change(answer["data"], min(3, len(answer["data"]) - 1))
    return answer


def _nan(rows: list[Any], at: int) -> None:
    rows[at]["embedding"][5] = math.nan


def _short(rows: list[Any], at: int) -> None:
    rows[at]["embedding"] = rows[at]["embedding"][:8]


def _missing(rows: list[Any], at: int) -> None:
    del rows[at]


def emulators() -> dict[str, Emulator]:
    """Create an emulator for each situation."""
    from qwen_aiml.emulator import Emulator, Fault

    made = {name: Emulator(api_keys=[behave.KEY]) for name in behave.situations()}
    for name in ("hundred", "hundred_async"):
        made[name] = Emulator(latency=0.1)
    made["other_key"] = Emulator(api_keys=["sk-of-openai"])
    made["shuffled"] = Emulator(shuffle=True)
    made["refused"] = Emulator(refuses=lambda text: text == behave.BAD)
    page = b"<html><body>One moment, please</body></html>"
    first = {
        "missing": Fault(edit=lambda answer: _edited(answer, _missing)),
        "nan": Fault(edit=lambda answer: _edited(answer, _nan)),
        "short": Fault(edit=lambda answer: _edited(answer, _short)),
        "busy": Fault(status=429, headers={"retry-after": "2"}),
        "html": Fault(status=200, headers={"content-type": "text/html"}, body=page),
    }
    for name, fault in first.items():
        made[name].script(fault)
    made["down"].script(*[Fault(status=500)] * 1000)
    return made


def watched(python: Path | str, way: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """
    Run one library in all situations.

    Args:
        python: The interpreter of its environment.

        way: Its name in behave.py.

        env: Environment variables. None: those of this process.

    Returns:
        For each situation, the outcome of the call and the server's counts.
    """
    from qwen_aiml.emulator import Emulator, serve

    made = {"right": Emulator(), **emulators()}
    with ExitStack() as servers:
        urls = {name: servers.enter_context(serve(emulator)) for name, emulator in made.items()}
        program = str(ROOT / "benchmarks" / "behave.py")
        done = subprocess.run(
            [python, program, way, json.dumps(urls)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            env=env,
        )
    found: dict[str, Any] = {}
    for name, told in json.loads(done.stdout.splitlines()[-1]).items():
        emulator = made[name]
        found[name] = {
            **told,
            "requests": emulator.request_count,
            "accepted": Counter(request.status for request in emulator.requests)[200],
            "billed": emulator.texts_billed.total(),
            "at_once": emulator.peak_in_flight,
            "texts": list(emulator.requests[0].texts) if name == "unchanged" and emulator.requests else [],
        }
    return found


def taken() -> dict[str, Any]:
    """Read the latest results."""
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


def markdown(results: dict[str, Any]) -> str:
    """
    Format results as a table: one row per situation, one column per library.

    Args:
        results: The results, as read by `taken`.
    """
    ways = results["ways"]
    lines = [["", *(NAMES[way] for way in ways)], ["---"] * (1 + len(ways))]
    lines += [[question, *(cell(found[name]) for found in ways.values())] for name, question, cell in ROWS]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    told = "; ".join(f"{NAMES[way]}, {results['dates'][way]}: {results['versions'][way]}" for way in ways)
    return f"{table}\n\nMeasured with Python {results['python']}. Dates and versions: {told}."


def _failed(found: dict[str, Any]) -> str:
    why = ": more than 10 texts" if "batch size is invalid" in found["said"] else ""
    return f"`{found['error']}`{why}"


def _rows(found: dict[str, Any]) -> str:
    return _failed(found) if "error" in found else _count(found["rows"], "row")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _plain(found: dict[str, Any]) -> str:
    asked = f"; requests {', '.join(found['asked'])}" if found["asked"] else ""
    return _rows(found) + asked


def _sent(found: dict[str, Any]) -> str:
    if "error" in found:
        return _failed(found)
    together = f"{found['at_once']} in flight" if found["at_once"] > 1 else "one after another"
    return f"{_count(found['requests'], 'request')}, {together}"


def _billed(found: dict[str, Any]) -> str:
    return f"{found['billed']} billed"


def _unchanged(found: dict[str, Any]) -> str:
    return (
        "sent unchanged" if found["texts"] == ["one line\n\tanother"] else f"sent as `{found['texts'][0]!r}`"
    )


def _keyless(found: dict[str, Any]) -> str:
    where = f"after {_count(found['requests'], 'request')}" if found["requests"] else "nothing sent"
    if "error" in found:
        return f"{_failed(found)}, {where}"
    return f"**{_count(found['rows'], 'row')} of {found['lengths'][0]} dimensions**, {where}"


def _other_key(found: dict[str, Any]) -> str:
    return "**sent to the service**" if found["accepted"] else "not sent"


def _right(found: dict[str, Any]) -> str:
    if "error" in found:
        return _failed(found)
    told = f"{found['right']} of {behave.FEW} right"
    if found["right"] < behave.FEW:
        return f"**{_count(found['rows'], 'row')}, {told}**"
    return f"retried, {told}" if found["billed"] > behave.FEW else told


def _waited(found: dict[str, Any]) -> str:
    return f"{_rows(found)}, after {found['seconds']:.0f} s"


def _retried(found: dict[str, Any]) -> str:
    return _failed(found) if "error" in found else f"retried, {_rows(found)}"


def _gave_up(found: dict[str, Any]) -> str:
    return f"{_count(found['requests'], 'request')} in {found['seconds']:.0f} s, then {_failed(found)}"


def _kept(found: dict[str, Any]) -> str:
    return f"{_failed(found)}; {found['billed']} billed, {found['kept']} kept"


def _loops(found: dict[str, Any]) -> str:
    return f"{_failed(found)}: {found['said']}" if "error" in found else "works"


def _hidden(found: dict[str, Any]) -> str:
    shown = "**shown**" if found["in_repr"] or found["in_str"] else "hidden"
    if "pickle" in found:
        return f"{shown}; can't be pickled"
    return f"{shown}; {'**in the pickle**' if found['in_pickle'] else 'not in the pickle'}"


ROWS: list[tuple[str, str, Callable[[dict[str, Any]], str]]] = [
    ("plain", "One text; only model, dimensions, URL and key set", _plain),
    ("eleven", "11 texts, default settings", _sent),
    ("hundred", "100 texts, batch size 10 where configurable", _sent),
    ("hundred_async", "the same, async", _sent),
    ("repeated", "The same text ten times", _billed),
    ("unchanged", "A text with a line break and a tab", _unchanged),
    ("no_key", "No API key, neither given nor in the environment", _keyless),
    ("other_key", "Only OpenAI's key in the environment", _other_key),
    ("shuffled", "10 texts, rows not in the order of `index`", _right),
    ("missing", "10 texts, a row missing in the first response", _right),
    ("nan", "10 texts, NaN in the first response", _right),
    ("short", "10 texts, too few dimensions in one row of the first response", _right),
    ("busy", "429 with `Retry-After: 2`, then success", _waited),
    ("html", "200 with an HTML page, then success", _retried),
    ("down", "500 at every attempt", _gave_up),
    ("refused", "100 texts, batch size 10, one text rejected", _kept),
    ("loops", "One object in three event loops, one after another", _loops),
    ("shown", "API key in `repr` and in a pickle", _hidden),
]


def main() -> None:
    """
    Create the environments, re-run in the one with the emulator, then run, print and write.

    Raises:
        SystemExit: If a library's name is unknown.
    """
    ways = sys.argv[1:] or list(LIBRARIES)
    if unknown := set(ways) - LIBRARIES.keys():
        raise SystemExit(f"no such library: {', '.join(sorted(unknown))}; there are {', '.join(LIBRARIES)}")
    for name in ["ours", *(LIBRARIES[way][0] for way in ways)]:
        environment(name)
    if sys.executable != str(environment("ours")):
        sys.exit(
            subprocess.call([environment("ours"), "-m", "benchmarks.behaviour", *sys.argv[1:]], cwd=ROOT)
        )
    results = taken() if sys.argv[1:] else {"dates": {}, "versions": {}, "ways": {}}
    results["python"] = ".".join(map(str, sys.version_info[:3]))
    for way in ways:
        name, packages = LIBRARIES[way]
        print(f"{way}, up to some minutes", file=sys.stderr, flush=True)
        results["ways"][way] = watched(environment(name), way)
        results["dates"][way] = str(datetime.now(timezone.utc).date())
        results["versions"][way] = ", ".join(f"{package} {versions(name)[package]}" for package in packages)
    print(markdown(results))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
