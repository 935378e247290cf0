"""
Run our clients and their peers against a local server, in turn, several times; report medians and ratios.

    python -m benchmarks.run    # all sets
    python -m benchmarks.run --set main --ways ours-core-sync bare --texts 500 --rounds 1

Each run is a separate process (job.py), and so is the server. With --ways or --texts, results are only
printed. Otherwise each finished set is written to results.json, from which results.md, the chart and
docs/speed.md are generated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import report
from benchmarks.environments import environment, versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
RUN_SECONDS = 180  # for one run; the slowest takes a fifth of that
GOODPUT_TIMES = 3  # times the ideal time, after which a run under a rate limit is aborted

# By prefix of a way's name: its environment in .venv-bench, and the packages whose versions are reported.
PEERS = {
    "ours": (
        "ours",
        [
            "qwen-aiml",
            "httptools",
            "httpx",
            "httpx2",
            "msgspec",
            "pysimdjson",
            "langchain-core",
            "llama-index-core",
        ],
    ),
    "langchain-openai": ("langchain-openai", ["langchain-openai", "openai"]),
    "langchain-aimlapi": ("langchain-aimlapi", ["langchain-aimlapi", "openai"]),
    "openai-like": ("llama-index-openai-like", ["llama-index-embeddings-openai-like", "openai"]),
    "openai-async": ("openai", ["openai"]),
    "baseten": ("baseten", ["baseten-performance-client"]),
    "bare": ("bare", ["orjson"]),
}
# Texts for ways that send one request after another: few, so that a run takes seconds; see report.scaled.
FEW = {way: 100 if way.startswith("langchain-aimlapi") else 400 for way in report.SEQUENTIAL}
SWEPT = ["ours-core-sync", "ours-langchain-async", "baseten", "bare"]
LIMITED = ["ours-core-sync", "ours-core-async", "openai-async", "langchain-openai-async", "baseten"]


@dataclass(frozen=True)
class Point:
    """
    The conditions of one comparison.

    Attributes:
        texts, floats: Options of job.py.

        in_flight: Option of job.py. None: the client's default.

        latency: Seconds per request.

        rate: Requests per second that the server accepts. None: no limit.
    """

    texts: int = 4000
    floats: int = 1024
    in_flight: int | None = 32
    latency: float = 0.1
    rate: int | None = None


MAIN = Point()
SETS: dict[str, tuple[list[str], list[Point]]] = {
    "main": (list(report.LABELS), [MAIN]),
    "sweep": (
        SWEPT,
        [
            MAIN,
            *(replace(MAIN, latency=latency) for latency in (0, 0.02)),
            *(replace(MAIN, floats=floats) for floats in (64, 2048)),
            # One at a time, all texts of the main point would take 40 s.
            *(replace(MAIN, in_flight=most, texts=400 if most == 1 else MAIN.texts) for most in (1, 8, 128)),
            *(replace(MAIN, texts=texts) for texts in (1000, 10_000, 100_000)),
            replace(MAIN, texts=200_000, in_flight=128),
        ],
    ),
    # Short rows, so that limits matter and not processors; at least ten seconds and 300 requests. Each client
    # uses its default concurrency, except where that may be too low.
    "goodput": (
        LIMITED,
        [
            Point(texts=3000, floats=64, rate=5, in_flight=None),
            Point(texts=5000, floats=64, rate=50, in_flight=None),
            Point(texts=50_000, floats=64, rate=500, in_flight=64),
        ],
    ),
}


def clean() -> dict[str, str]:
    """Return the environment variables of this process, without proxies and PYTHONPATH."""
    unwanted = ("_proxy", "pythonpath")
    return {name: value for name, value in os.environ.items() if not name.lower().endswith(unwanted)}


@contextmanager
def served(point: Point, python: str | Path = sys.executable) -> Iterator[str]:
    """Run the server in a separate process, and yield its URL."""
    words = [python, HERE / "server.py", "--latency", point.latency, "--floats", point.floats]
    words += [] if point.rate is None else ["--rate", point.rate]
    server = subprocess.Popen(
        [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean()
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.stdin.close()
        try:
            server.wait(10)
        finally:
            server.kill()
            server.stdout.close()


def counts(url: str) -> dict[str, int]:
    """Get the server's counts of requests and rejections since the last call."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        found: dict[str, int] = json.load(answer)
    return found


def once(python: str | Path, way: str, url: str, point: Point, seconds: float) -> dict[str, Any]:
    """Run one way once; return its figures and the share of requests rejected, or why it failed."""
    counts(url)
    words = [python, HERE / "job.py", way, "--url", url, "--texts", point.texts]
    words += ["--floats", point.floats]
    words += [] if point.in_flight is None else ["--in-flight", point.in_flight]
    try:
        done = subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=clean(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {seconds:.0f} s"}
    if done.returncode:
        return {"failed": ("exit without a word", *done.stderr.strip().splitlines())[-1][:200]}
    counted = counts(url)
    measured: dict[str, Any] = json.loads(done.stdout)
    return {**measured, "refused": counted["refused"] / max(1, counted["requests"])}


def compare(ways: Sequence[str], point: Point, rounds: int) -> dict[str, Any]:
    """
    Run all ways in turn, in each of *rounds* rounds.

    Returns:
        The point, and for each way the medians and the number of texts per run. A way that fails is not run
        again.
    """
    seconds = RUN_SECONDS if point.rate is None else GOODPUT_TIMES * report.ideal(asdict(point)) + 10
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    texts = {way: point.texts if point.rate else min(FEW.get(way, point.texts), point.texts) for way in ways}
    for number in range(rounds):
        with served(point, python_of("ours")) as url:
            for way in ways:
                if runs[way] and "failed" in runs[way][-1]:
                    continue
                print(f"\r\033[K{number + 1}/{rounds} {way} {point}", end="", file=sys.stderr, flush=True)
                runs[way].append(once(python_of(way), way, url, replace(point, texts=texts[way]), seconds))
    print("\r\033[K", end="", file=sys.stderr, flush=True)
    return {**asdict(point), "ways": {way: {"texts": texts[way], **medians(runs[way])} for way in ways}}


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure, or the failure if there was one."""
    if "failed" in runs[-1]:
        return runs[-1]
    known = {name: [run[name] for run in runs if run[name] is not None] for name in runs[0]}
    return {name: round(median(values), 4) if values else None for name, values in known.items()}


def python_of(way: str) -> Path:
    """Return the interpreter that runs a way."""
    return environment(peer(way)[0])


def peer(way: str) -> tuple[str, list[str]]:
    """Return a way's environment and the packages whose versions are reported."""
    return next(found for start, found in PEERS.items() if way.startswith(start))


def machine() -> dict[str, str]:
    """Describe this machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def peer_versions(ways: Sequence[str]) -> dict[str, str]:
    """Return the versions of the packages compared, by environment."""
    found = {}
    for name, packages in dict(peer(way) for way in ways).items():
        all_of = versions(name)
        found[name] = ", ".join(f"{package} {all_of[package]}" for package in packages if package in all_of)
    return found


def main() -> None:
    """Parse the options, run, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=[*SETS, "all"], default="all")
    parser.add_argument("--goodput", dest="set", action="store_const", const="goodput", help="--set goodput")
    parser.add_argument("--rounds", type=int, help="5 for the main set, 3 for the others")
    parser.add_argument("--ways", nargs="+", choices=list(report.LABELS))
    parser.add_argument("--texts", type=int)
    options = parser.parse_args()
    started = time.monotonic()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in SETS if options.set == "all" else [options.set]:
        ways, points = SETS[name]
        ways = options.ways or ways
        for way in ways:
            python_of(way)
        rounds = options.rounds or (5 if name == "main" else 3)
        points = [replace(point, texts=options.texts or point.texts) for point in points]
        results[name] = {
            "date": str(datetime.now(timezone.utc).date()),
            "machine": machine(),
            "versions": peer_versions(ways),
            "rounds": rounds,
            "points": [compare(ways, point, rounds) for point in points],
        }
        print(report.TABLES[name](results[name]).text(), flush=True)
        print()
        if not options.ways and not options.texts:
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            report.write(results)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
