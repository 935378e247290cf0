"""The benchmarks: a server that is right, ways that run, tables that say what was measured."""

from __future__ import annotations

import http.client
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from benchmarks import chart, environments, job, report, run

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
OURS = [way for way in report.LABELS if way.startswith("ours")]
POINT = {"texts": 4000, "floats": 1024, "in_flight": 32, "latency": 0.1, "rate": None}
TAKEN: dict[str, Any] = {
    "date": "2030-01-02",
    "machine": {"processor": "A", "cores": "2", "system": "Linux x86_64", "python": "3.13.0"},
    "versions": {"bare": "orjson 3"},
    "rounds": 3,
}
WAYS = {
    "ours-core-sync": {"texts": 4000, "cpu": 1.5, "wall": 2.5, "memory": 300.4, "refused": 0.01},
    "langchain-openai-sync": {"texts": 400, "cpu": 2.0, "wall": 5.0, "memory": 3.0, "refused": 0.0},
    "openai-async": {"texts": 4000, "failed": "not done in 9 s"},
    "baseten": {"texts": 4000, "cpu": 1.0, "wall": 1.5, "memory": None, "refused": 0.5},
    "bare": {"texts": 4000, "cpu": 0.5, "wall": 1.25, "memory": 200.0, "refused": 0.0},
}
MAIN = {**TAKEN, "points": [{**POINT, "ways": WAYS}]}


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve three requests a second, with short rows and no latency."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with run.served(run.Point(latency=0, floats=4, rate=3)) as url:
        yield url


@pytest.mark.once
def test_server(limited: str) -> None:
    """It gives a row a text, in the form asked for, refuses what is above its rate, counts, begins anew."""
    connection = http.client.HTTPConnection(urlsplit(limited).netloc, timeout=10)
    statuses = []
    base64 = {"input": ["a"], "encoding_format": "base64"}
    for sent in ({"input": ["a", "b"], "dimensions": 8}, {"input": "a"}, base64, {"input": ["a"]}):
        connection.request("POST", "/v1/embeddings", json.dumps(sent))
        answer = connection.getresponse()
        rows = json.loads(answer.read()).get("data", [])
        statuses.append((answer.status, [(row["index"], len(row["embedding"])) for row in rows]))
    connection.close()

    assert statuses == [(200, [(0, 8), (1, 8)]), (200, [(0, 4)]), (200, [(0, 24)]), (429, [])]
    assert run.counts(limited) == {"requests": 4, "refused": 1}
    assert run.counts(limited) == {"requests": 0, "refused": 0}


@pytest.mark.once
def test_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way of ours, and the bare one, runs in a process of its own and gives its numbers."""
    path = os.pathsep.join(filter(None, sys.path))
    monkeypatch.setattr(run, "clean", lambda: {**os.environ, "PYTHONPATH": path})
    point = run.Point(texts=40, floats=64, in_flight=4, latency=0.01)
    with run.served(point) as url:
        with ThreadPoolExecutor(2) as pool:
            each = pool.map(lambda way: run.once(sys.executable, way, url, point, 60), (*OURS, "bare"))
        for found in each:
            assert found.keys() == {"wall", "cpu", "memory", "refused"}, found
            assert found["wall"] >= 0.01
            assert found["refused"] == 0


@pytest.mark.once
def test_failures() -> None:
    """A run that fails, or that takes too long, is told as such."""
    with run.served(run.Point(latency=2)) as url:
        assert run.once(sys.executable, "bare", url, run.Point(), 1) == {"failed": "not done in 1 s"}
        assert "failed" in run.once(sys.executable, "no-way", url, run.Point(), 30)


def test_measure_checks_rows() -> None:
    """Numbers are given only for one row of the right length a text."""
    with pytest.raises(ValueError, match="2 texts gave 1 rows"):
        job.measure(lambda _: [[1.0]], ["a", "b"], 1)
    with pytest.raises(ValueError, match="rows not of 2 floats"):
        job.measure(lambda texts: [[1.0]] * len(texts), ["a", "b"], 2)


def test_same_ways() -> None:
    """What can be run, what has a label and what has an environment are the same."""
    assert list(job.WAYS) == list(report.LABELS)
    assert {run.peer(way)[0] for way in job.WAYS} == environments.REQUIREMENTS.keys()


def test_medians() -> None:
    """Each number has its own median; a failure stands for the whole; a number that no run has is None."""
    runs = [{"wall": wall, "memory": None} for wall in (3.0, 1.0, 2.0)]

    assert run.medians(runs) == {"wall": 2.0, "memory": None}
    assert run.medians([*runs, {"failed": "why"}]) == {"failed": "why"}


def test_main_table() -> None:
    """Ratios are to baseten, to the bare way and to the ideal; few texts are multiplied, and marked."""
    table = report.main_table(MAIN)

    assert table.rows == [
        ["ours: core", "1.50", "1.50", "3.00", "2.50", "1.92", "300"],
        ["langchain-openai*", "20.00", "20.00", "40.00", "50.00", "38.46", "-"],
        ["openai, async", "failed: not done in 9 s", "-", "-", "-", "-", "-"],
        ["baseten (Rust)", "1.00", "1.00", "2.00", "1.50", "1.15", "-"],
        ["bare sockets and orjson", "0.50", "0.50", "1.00", "1.25", "0.96", "200"],
    ]
    assert table.text().splitlines()[2].split() == ["ours:", "core", *table.rows[0][1:]]
    assert table.markdown().splitlines()[2] == "| ours: core | 1.50 | 1.50 | 3.00 | 2.50 | 1.92 | 300 |"


def test_other_tables() -> None:
    """The sweep gives pairs, and goodput the time over the ideal and the share refused."""
    ways = {way: WAYS[way] for way in ("ours-core-sync", "openai-async", "baseten")}
    swept = report.sweep_table({**TAKEN, "points": [{**POINT, "latency": 0, "ways": ways}]})
    limited = report.goodput_table({**TAKEN, "points": [{**POINT, "rate": 400, "ways": ways}]})

    assert swept.rows[0][1:] == ["0.00", "1.50, 2.50", "failed", "1.00, 1.50", "1.50"]
    assert limited.rows == [["400 a second", "400", "1", "2.50, 1.0%", "not done in 9 s", "1.50, 50.0%"]]


def test_chart() -> None:
    """Every way has its bars, and a failure its word; ours have a colour of their own."""
    drawn = report.chart({"main": MAIN})

    assert (drawn.count("<rect"), drawn.count(chart.OURS), drawn.count(">failed<")) == (8, 2, 2)


def test_readme_is_what_was_measured() -> None:
    """The README's section, the document and the chart are what results.json gives."""
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    page = (ROOT / "README.md").read_text(encoding="utf-8")

    assert report.in_readme(page, results) == page
    assert report.readme(results) in page
    assert (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8") == report.document(results)
    assert (ROOT / "benchmarks" / "chart.svg").read_text(encoding="utf-8") == report.chart(results)
