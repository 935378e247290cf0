"""The benchmarks: a correct server, ways that run, tables that match the measurements."""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from benchmarks import behave, behaviour, chart, environments, job, report, run

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
    """Serve with a limit of three requests per second, short rows and no latency; yield the URL."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with run.served(run.Point(latency=0, floats=4, rate=3)) as url:
        yield url


@pytest.mark.once
def test_server(limited: str) -> None:
    """The server sends a row per text in the requested format, rejects excess requests, and counts both."""
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


FEW = ("ours-core-sync", "ours-client2-async", "ours-llama-index-async", "bare")


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("ways", [FEW, pytest.param((*OURS, "bare"), marks=pytest.mark.long)], ids=len)
def test_ways(ways: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of our ways, and the bare one, runs in a separate process and reports its figures."""
    path = os.pathsep.join(filter(None, sys.path))
    monkeypatch.setattr(run, "clean", lambda: {**os.environ, "PYTHONPATH": path})
    point = run.Point(texts=40, floats=64, in_flight=4, latency=0.01)
    with run.served(point) as url:
        with ThreadPoolExecutor(2) as pool:
            each = pool.map(lambda way: run.once(sys.executable, way, url, point, 180), ways)
        for found in each:
            assert found.keys() == {"wall", "cpu", "memory", "refused"}, found
            assert found["wall"] >= 0.01
            assert found["refused"] == 0


@pytest.mark.once
def test_failures() -> None:
    """A run that fails or takes too long is reported as failed."""
    with run.served(run.Point(latency=2)) as url:
        assert run.once(sys.executable, "bare", url, run.Point(), 1) == {"failed": "not done in 1 s"}
        assert "failed" in run.once(sys.executable, "no-way", url, run.Point(), 30)


def test_measure_checks_rows() -> None:
    """A measurement without exactly one row of the right dimensions per text is an error."""
    with pytest.raises(ValueError, match="2 texts gave 1 rows"):
        job.measure(lambda _: [[1.0]], ["a", "b"], 1)
    with pytest.raises(ValueError, match="rows not of 2 floats"):
        job.measure(lambda texts: [[1.0]] * len(texts), ["a", "b"], 2)


def test_same_ways() -> None:
    """The ways that can be run are those that have a label and an environment."""
    assert list(job.WAYS) == list(report.LABELS)
    assert {run.peer(way)[0] for way in job.WAYS} == environments.REQUIREMENTS.keys()


def test_medians() -> None:
    """Each figure has its own median, None if no run has it; a failure replaces all figures."""
    runs = [{"wall": wall, "memory": None} for wall in (3.0, 1.0, 2.0)]

    assert run.medians(runs) == {"wall": 2.0, "memory": None}
    assert run.medians([*runs, {"failed": "why"}]) == {"failed": "why"}


def test_main_table() -> None:
    """Ratios are to baseten, the bare way and the ideal; figures for fewer texts are scaled and marked."""
    table = report.main_table(MAIN)

    assert table.rows == [
        ["qwen-aiml: core", "1.50", "1.50", "3.00", "2.50", "1.92", "300"],
        ["langchain-openai*", "20.00", "20.00", "40.00", "50.00", "38.46", "-"],
        ["openai, async", "failed: not done in 9 s", "-", "-", "-", "-", "-"],
        ["baseten (Rust)", "1.00", "1.00", "2.00", "1.50", "1.15", "-"],
        ["bare sockets and orjson", "0.50", "0.50", "1.00", "1.25", "0.96", "200"],
    ]
    assert table.text().splitlines()[2].split() == ["qwen-aiml:", "core", *table.rows[0][1:]]
    assert table.markdown().splitlines()[2] == "| qwen-aiml: core | 1.50 | 1.50 | 3.00 | 2.50 | 1.92 | 300 |"


def test_other_tables() -> None:
    """The sweep table shows CPU and wall time, the goodput table time over ideal and the share rejected."""
    ways = {way: WAYS[way] for way in ("ours-core-sync", "openai-async", "baseten")}
    swept = report.sweep_table({**TAKEN, "points": [{**POINT, "latency": 0, "ways": ways}]})
    limited = report.goodput_table({**TAKEN, "points": [{**POINT, "rate": 400, "ways": ways}]})

    assert swept.rows[0][1:] == ["0.00", "1.50, 2.50", "failed", "1.00, 1.50", "1.50"]
    assert swept.markdown().index("Cells: CPU seconds, wall-clock seconds") < swept.markdown().index("|")
    assert swept.text().index("Cells: CPU seconds, wall-clock seconds") < swept.text().index("1.50, 2.50")
    assert limited.rows == [["400 per second", "400", "1", "2.50, 1.0%", "not done in 9 s", "1.50, 50.0%"]]


def test_chart() -> None:
    """The chart has six bars on a logarithmic axis, and ours has a separate colour."""
    drawn = chart.bars("title", "seconds", "note", [("ours", True, 1.5), ("other", False, 150.0)])
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="22"', drawn)]

    assert widths[1] - widths[0] == pytest.approx(chart.PANEL * 2 / 3, abs=0.2)
    assert drawn.count(chart.OURS) == 1
    assert re.findall(r'middle">(\d+)<', drawn) == ["1", "10", "100", "1000"]

    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    assert report.chart(results).count('height="22"') == len(report.IN_CHART) == 6


def test_chart_can_be_read() -> None:
    """Text has a contrast of at least 4.5 to its background, and bars 3, as WCAG AA requires."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(colour: str) -> float:
        return (luminance(chart.PAPER) + 0.05) / (luminance(colour) + 0.05)

    assert contrast(chart.INK) >= 4.5
    assert min(contrast(chart.OURS), contrast(chart.PEERS)) >= 3


def test_page_is_what_was_measured() -> None:
    """The section of docs/speed.md, results.md and the chart match results.json."""
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")

    assert report.in_page(page, results) == page
    assert report.section(results) in page
    assert (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8") == report.document(results)
    assert (ROOT / "benchmarks" / "chart.svg").read_text(encoding="utf-8") == report.chart(results)


@pytest.mark.once
@pytest.mark.slow
def test_behaviour_of_ours() -> None:
    """Our classes behave in all situations as the comparison says, each in a separate process."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ways = ["ours-langchain", "ours-llama-index"]
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda way: behaviour.watched(sys.executable, way, env), ways))
    for way, found in zip(ways, both, strict=True):
        taken = behaviour.taken()["ways"][way]

        assert list(found) == behave.situations() == list(taken)
        for name, _, said in behaviour.ROWS:
            differs = name in {"hundred", "hundred_async", "busy", "down"}  # in seconds or concurrency
            assert differs or said(found[name]) == said(taken[name]), name
        assert found["hundred"]["requests"] == found["hundred_async"]["requests"] == 10
        assert found["busy"]["seconds"] >= 2
        assert found["down"]["requests"] == 6


def test_behaviour_is_complete() -> None:
    """Each library is in all tables, with results for all situations, and each situation has its row."""
    taken = behaviour.taken()

    assert list(behave.WAYS) == list(behaviour.LIBRARIES) == list(behaviour.NAMES)
    assert list(taken["ways"]) == list(taken["versions"]) == list(behave.WAYS)
    assert {
        environment for environment, _ in behaviour.LIBRARIES.values()
    } <= environments.REQUIREMENTS.keys()
    assert [name for name, _, _ in behaviour.ROWS] == behave.situations()
    assert all(list(found) == behave.situations() for found in taken["ways"].values())


@pytest.mark.parametrize(
    ("row", "found", "said"),
    [
        ("plain", {"rows": 1, "asked": []}, "1 row"),
        ("plain", {"error": "E", "said": "", "asked": ["a.b", "c"]}, "`E`; requests a.b, c"),
        ("eleven", {"rows": 11, "requests": 2, "at_once": 1}, "2 requests, one after another"),
        ("eleven", {"error": "E", "said": "the batch size is invalid"}, "`E`: more than 10 texts"),
        ("hundred", {"rows": 100, "requests": 10, "at_once": 6}, "10 requests, 6 in flight"),
        ("repeated", {"billed": 10}, "10 billed"),
        ("unchanged", {"texts": ["one line \tanother"]}, "sent as `'one line \\tanother'`"),
        ("no_key", {"error": "E", "said": "", "requests": 1}, "`E`, after 1 request"),
        ("no_key", {"rows": 1, "lengths": [3], "requests": 0}, "**1 row of 3 dimensions**, nothing sent"),
        ("other_key", {"accepted": 1}, "**sent to the service**"),
        ("shuffled", {"rows": 10, "right": 10, "billed": 10}, "10 of 10 right"),
        ("missing", {"rows": 10, "right": 10, "billed": 20}, "retried, 10 of 10 right"),
        ("missing", {"rows": 9, "right": 3, "billed": 10}, "**9 rows, 3 of 10 right**"),
        ("busy", {"rows": 10, "seconds": 2.04}, "10 rows, after 2 s"),
        ("html", {"rows": 10}, "retried, 10 rows"),
        ("down", {"error": "E", "said": "", "requests": 3, "seconds": 1.4}, "3 requests in 1 s, then `E`"),
        ("refused", {"error": "E", "said": "", "billed": 40, "kept": 0}, "`E`; 40 billed, 0 kept"),
        ("loops", {"error": "E", "said": "closed"}, "`E`: closed"),
        ("shown", {"in_repr": True, "in_str": True, "in_pickle": True}, "**shown**; **in the pickle**"),
        ("shown", {"in_repr": False, "in_str": False, "pickle": "E"}, "hidden; can't be pickled"),
    ],
)
def test_behaviour_in_words(row: str, found: dict[str, Any], said: str) -> None:
    """Results are described in a few words; failures without an error are in bold."""
    (words,) = [words for name, _, words in behaviour.ROWS if name == row]

    assert words(found) == said
