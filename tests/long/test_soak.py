"""20,000 texts with faults in 20 % of requests: all vectors are right, and nothing is billed needlessly."""

from __future__ import annotations

import gc
import re
import threading
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from qwen_aiml._engine.runner import background_loop
from qwen_aiml.emulator import Emulator, Fault, serve
from qwen_aiml.emulator._vectors import lexical

if TYPE_CHECKING:
    from collections.abc import Callable

    from qwen_aiml import Usage

    Way: TypeAlias = Callable[..., tuple[list[list[float]], Usage]]

pytestmark = pytest.mark.long

TEXTS = [f"text {number}" for number in range(20_000)]
SHARE = 0.2
TIMEOUT = 5.0  # seconds, the cost of a hang
MAX_RETRIES = 12  # the chance of so many faults in a row is about one in a million
MAX_MIB = 250  # increase in memory; the vectors alone take 40, and the emulator records requests


def without_a_row(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "data": answer["data"][1:]}


def same_index(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "data": [{**row, "index": 0} for row in answer["data"]]}


# Faults after which texts are billed, but the client must send them again.
LOST = {
    "reset during": Fault(reset="during"),
    "reset after": Fault(reset="after"),
    "cut": Fault(cut=1000),
    "cut at once": Fault(cut=0),
    "row missing": Fault(edit=without_a_row),
    "index twice": Fault(edit=same_index),
    "HTML": Fault(status=200, headers={"content-type": "text/html"}, body=b"<html>busy</html>"),
    "hang": Fault(hang=True),
    "drip, cut": Fault(drip=0.0001, cut=200),
}
NOT_BILLED = {
    "reset before": Fault(reset="before"),
    "408": Fault(status=408),
    "429": Fault(status=429),
    "429, retry after": Fault(status=429, headers={"retry-after": "1"}),
    "500": Fault(status=500),
    "503": Fault(status=503),
    "503, retry after": Fault(status=503, headers={"retry-after": "0.1"}),
}
HARMLESS = {"slow": Fault(latency=0.2), "gzip": Fault(gzip=True)}
FAULTS = list((LOST | NOT_BILLED | HARMLESS).values())
LOSSES = set(map(id, LOST.values()))
FAILURES = LOSSES | set(map(id, NOT_BILLED.values()))


def sockets() -> int:
    """Return the number of open sockets of this process; 0 if the system does not report it."""
    folder = Path("/proc/self/fd")
    links = (
        [str(entry.readlink()) for entry in folder.iterdir() if entry.is_symlink()] if folder.exists() else []
    )
    return sum(link.startswith("socket:") for link in links)


def resident() -> float:
    """Return the resident memory of this process in MiB; 0 if the system does not report it."""
    status = Path("/proc/self/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text() if status.exists() else "")
    return int(found[1]) / 1024 if found else 0.0


def test_soak(way: Way, tell: Callable[[str], None]) -> None:
    """Every text gets its vector, and is billed again only if a billed response was lost."""
    random = Random(20261122)  # noqa: S311 (no secret)
    script = [random.choice(FAULTS) if random.random() < SHARE else None for _ in range(20_000)]
    emulator = Emulator()
    emulator.script(*script)
    background_loop()  # stays open, with a pair of sockets
    gc.collect()
    threads, open_sockets, memory = set(threading.enumerate()), sockets(), resident()
    with serve(emulator) as url:
        vectors, usage = way(TEXTS, url, timeout=TIMEOUT, max_retries=MAX_RETRIES)
    grown = resident() - memory

    met = Counter(id(fault) for fault in script[: emulator.request_count])
    failed = sum(met[fault] for fault in FAILURES)
    lost = sum(met[fault] for fault in LOSSES)
    billed = emulator.texts_billed
    tell(
        f"{emulator.request_count} requests, {failed} failed, {lost} of them billed; "
        f"{billed.total() - len(TEXTS)} texts billed again; {grown:.0f} MiB more"
    )
    assert vectors == [lexical.embed(text, 64, "embedding-v4").tolist() for text in TEXTS]
    assert emulator.request_count == usage.requests == len(TEXTS) // 10 + failed
    assert billed.keys() == set(TEXTS)
    assert billed.total() - len(TEXTS) == 10 * lost
    assert grown <= MAX_MIB
    gc.collect()
    assert {thread for thread in threading.enumerate() if not thread.daemon} <= threads
    assert sockets() <= open_sockets
