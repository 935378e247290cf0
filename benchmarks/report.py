"""
Format results.json as tables, as a chart and as a section of docs/speed.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from benchmarks.chart import bars

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent
BATCH = 10
START, END = "<!-- bench -->", "<!-- /bench -->"
LABELS = {
    "ours-core-sync": "qwen-aiml: core",
    "ours-core-async": "qwen-aiml: core, async",
    "ours-array-sync": "qwen-aiml: core, to NumPy",
    "ours-array-async": "qwen-aiml: core, async, to NumPy",
    "ours-langchain-sync": "qwen-aiml: LangChain",
    "ours-langchain-async": "qwen-aiml: LangChain, async",
    "ours-llama-index-sync": "qwen-aiml: LlamaIndex",
    "ours-llama-index-async": "qwen-aiml: LlamaIndex, async",
    "ours-httpx-async": "qwen-aiml: core, async, over httpx",
    "ours-client-sync": "qwen-aiml: core, a user's httpx.Client",
    "ours-client-async": "qwen-aiml: core, async, a user's httpx.AsyncClient",
    "ours-client2-async": "qwen-aiml: core, async, a user's httpx2.AsyncClient",
    "langchain-openai-sync": "langchain-openai",
    "langchain-openai-async": "langchain-openai, async",
    "langchain-aimlapi-sync": "langchain-aimlapi",
    "langchain-aimlapi-async": "langchain-aimlapi, async",
    "openai-like-sync": "llama-index openai-like",
    "openai-like-async": "llama-index openai-like, async",
    "openai-async": "openai, async",
    "openai-async-lists": "openai, async, lists",
    "baseten": "baseten (Rust)",
    "baseten-numpy": "baseten (Rust), to NumPy",
    "bare": "bare sockets and orjson",
}
IN_CHART = [
    "ours-langchain-sync",
    "baseten",
    "openai-async",
    "openai-like-sync",
    "langchain-openai-sync",
    "langchain-aimlapi-sync",
]
SEQUENTIAL = [way for way in LABELS if way.startswith("langchain-") or way == "openai-like-sync"]
SCALED = (
    "* sends requests one after another; it embedded fewer texts, and its CPU and wall time are scaled up."
)
BASE64 = (
    "The `openai` package, and clients built on it, request base64, which this server supports. It is not "
    'known whether AI/ML API does; if it does not, expect the figures in the "openai, async, lists" row.'
)
ARRAYS = (
    "The *to NumPy* rows of qwen-aiml are `embed_array` with the extra `simdjson`; they are compared with "
    "baseten to NumPy."
)


@dataclass(frozen=True)
class Table:
    """
    Rows of text under a heading: the legend comes before them, the notes after.
    """

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    legend: str = ""
    notes: str = ""

    def text(self) -> str:
        """Format the table for a terminal."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.columns))]
        return "\n".join(
            [
                self.heading,
                *filter(None, [self.legend]),
                *(
                    "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
                    for line in lines
                ),
                *filter(None, [self.notes]),
            ]
        )

    def markdown(self) -> str:
        """Format the table as Markdown, without the heading."""
        lines = [self.columns, ["---", *("---:" for _ in self.columns[1:])], *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = re.sub(r"^\*", r"\\*", self.notes)
        return "\n\n".join(filter(None, [self.legend, table, notes]))


def ideal(point: dict[str, Any]) -> float:
    """Return the minimum wall time in seconds, given by the rate or else by the requests in flight."""
    requests = point["texts"] / BATCH
    if point["rate"]:
        return float(requests / point["rate"])
    # Rounded up, since an incomplete last wave takes as long as a full one.
    return float(ceil(requests / point["in_flight"]) * point["latency"])


def scaled(point: dict[str, Any], way: str, name: str) -> float | None:
    """Return a way's figure, scaled up to all texts; None if the way failed or was not run."""
    found = point["ways"].get(way, {})
    if "failed" in found or name not in found:
        return None
    return float(found[name] * point["texts"] / found["texts"])


def main_table(taken: dict[str, Any]) -> Table:
    """Compare all ways at the main point."""
    (point,) = taken["points"]
    rows = []
    for way, found in point["ways"].items():
        few = found["texts"] < point["texts"]
        label = LABELS[way] + ("*" if few else "")
        if "failed" in found:
            rows.append([label, "failed: " + found["failed"], *["-"] * 5])
            continue
        cpu, wall = scaled(point, way, "cpu"), scaled(point, way, "wall")
        memory = "-" if few or found["memory"] is None else f"{found['memory']:.0f}"
        # Compare arrays with arrays, since lists cost more.
        rust = "baseten-numpy" if way.startswith(("ours-array", "baseten-numpy")) else "baseten"
        ratios = [_ratio(cpu, scaled(point, base, "cpu")) for base in (rust, "bare")]
        rows.append([label, f"{cpu:.2f}", *ratios, f"{wall:.2f}", _ratio(wall, ideal(point)), memory])
    columns = ["", "CPU s", "/ baseten", "/ bare", "wall s", "/ ideal", "memory MB"]
    few = any(found["texts"] < point["texts"] for found in point["ways"].values())
    ways = list(point["ways"])
    notes = [SCALED] * few + [BASE64] * any("openai" in way for way in ways)
    notes += [ARRAYS] * any(way.startswith("ours-array") for way in ways)
    return Table(f"Main: {_describe(point)}", columns, rows, notes="\n\n".join(notes))


def sweep_table(taken: dict[str, Any]) -> Table:
    """Compare a few ways at many points."""
    points = taken["points"]
    ways = list(points[0]["ways"])
    columns = ["", "ideal s", *(LABELS[way] for way in ways), f"{LABELS[ways[0]]} / baseten"]
    rows = [
        [
            _describe(point),
            f"{ideal(point):.2f}",
            *(_pair(scaled(point, way, "cpu"), scaled(point, way, "wall")) for way in ways),
            _ratio(scaled(point, ways[0], "cpu"), scaled(point, "baseten", "cpu")),
        ]
        for point in points
    ]
    legend = "Cells: CPU seconds, wall-clock seconds. The last column is the ratio of CPU seconds."
    return Table("Sweep: one parameter varied at a time", columns, rows, legend)


def goodput_table(taken: dict[str, Any]) -> Table:
    """Compare a few ways under undisclosed rate limits."""
    points = taken["points"]
    ways = list(points[0]["ways"])
    rows = []
    for point in points:
        cells = []
        for way in ways:
            found = point["ways"][way]
            good = "failed" not in found
            cells.append(
                f"{found['wall'] / ideal(point):.2f}, {found['refused']:.1%}" if good else found["failed"]
            )
        requests = point["texts"] // BATCH
        rows.append([f"{point['rate']} per second", str(requests), f"{ideal(point):.0f}", *cells])
    columns = ["limit", "requests", "ideal s", *(LABELS[way] for way in ways)]
    legend = "Cells: wall-clock time / ideal (requests / limit), share of requests rejected."
    return Table("Goodput: undisclosed limits in requests per second", columns, rows, legend)


TABLES: dict[str, Callable[[dict[str, Any]], Table]] = {
    "main": main_table,
    "sweep": sweep_table,
    "goodput": goodput_table,
}


def section(results: dict[str, Any]) -> str:
    """Format the section of docs/speed.md, including its markers."""
    taken = results["main"]
    intro = (
        f"{_describe(taken['points'][0])}. Measured against a lightweight local server, one process per run. "
        "*CPU*: client CPU time. *Ideal*: latency times number of request waves at full concurrency. "
        "*Memory*: peak increase during the call. *baseten*: Baseten's client, written in Rust. *bare*: "
        f"sockets, threads and orjson, without validation or retries. {_taken(taken)}"
    )
    table = main_table(taken).markdown()
    return "\n\n".join([f"{START}\n## 4,000 texts", fill(intro, 110), f"{table}\n{END}"])


def document(results: dict[str, Any]) -> str:
    """Format results.md."""
    about = "Time and memory of embedding clients, and requests rejected, as measured by `make bench`."
    parts = [f"# Benchmarks\n\n{about} Generated from results.json; do not edit.\n"]
    for name, table in TABLES.items():
        if name in results:
            made, taken = table(results[name]), results[name]
            peers = "; ".join(taken["versions"].values())
            parts.append(f"## {made.heading}\n\n{_taken(taken)}\n\n{made.markdown()}\n\nVersions: {peers}.\n")
    return "\n".join(parts)


def chart(results: dict[str, Any]) -> str:
    """Draw the wall time of six ways in the main set."""
    (point,) = results["main"]["points"]
    rows = []
    for way in IN_CHART:
        if seconds := scaled(point, way, "wall"):
            few = "*" if point["ways"][way]["texts"] < point["texts"] else ""
            rows.append((LABELS[way] + few, way.startswith("ours"), seconds))
    note = "* one request at a time; measured with fewer texts, time scaled up"
    return bars(f"Time to embed {_describe(point)}", "wall-clock seconds", note, rows)


def in_page(text: str, results: dict[str, Any]) -> str:
    """Replace the section between the markers."""
    before, _, rest = text.partition(START)
    return before + section(results) + rest.partition(END)[2]


def write(results: dict[str, Any]) -> None:
    """Write the files generated from the results."""
    here, page = ROOT / "benchmarks", ROOT / "docs" / "speed.md"
    (here / "results.md").write_text(document(results), encoding="utf-8")
    if "main" in results:
        (here / "chart.svg").write_text(chart(results), encoding="utf-8")
        page.write_text(in_page(page.read_text(encoding="utf-8"), results), encoding="utf-8")


def _describe(point: dict[str, Any]) -> str:
    milliseconds = 1000 * point["latency"]
    return (
        f"{point['texts']:,} texts, {point['floats']} dimensions, {milliseconds:g} ms per request, "
        f"{point['in_flight']} in flight"
    )


def _taken(taken: dict[str, Any]) -> str:
    box = taken["machine"]
    rounds = "one round" if taken["rounds"] == 1 else f"medians of {taken['rounds']} rounds"
    return (
        f"Measured on {taken['date']}, {rounds}: {box['processor']}, {box['cores']} cores, {box['system']}, "
        f"Python {box['python']}."
    )


def _ratio(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}" if value is not None and base else "-"


def _pair(cpu: float | None, wall: float | None) -> str:
    return "failed" if cpu is None or wall is None else f"{cpu:.2f}, {wall:.2f}"
