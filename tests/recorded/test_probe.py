"""The probe: it works on the emulator, records no key, and every assumption names one of its rows."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from qwen_aiml.emulator import Emulator, Fault

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]

spec = importlib.util.spec_from_file_location("probe", Path(__file__).parent / "probe.py")
assert spec is not None
assert spec.loader is not None
probe = importlib.util.module_from_spec(spec)
sys.modules["probe"] = probe  # dataclasses look it up
spec.loader.exec_module(probe)


def asked(emulator: Emulator) -> tuple[Any, list[Any]]:
    """Ask all questions of an emulator."""
    with httpx.Client(transport=emulator.transport()) as client:
        instance = probe.Probe(client, probe.KEY)
        return instance, probe.run(instance)


def test_on_the_emulator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the emulator, which the output names first, nothing differs or fails; the evidence has no key."""
    assert probe.main(tmp_path) == 0

    lines = capsys.readouterr().out.splitlines()
    written = (tmp_path / "probe-emulator.json").read_text(encoding="utf-8")
    evidence = json.loads(written)
    rows = lines[lines.index("") + 2 :][: len(probe.ROWS)]
    assert lines[0].startswith("AIMLAPI_API_KEY is not set, so the emulator is asked")
    assert [line[12:].split()[0] for line in rows] == [row.name for row in probe.ROWS]
    assert {line[:11].strip() for line in rows} == {"as assumed", "answered", "no answer"}
    assert f"{len(evidence)} requests to the emulator" in lines[-1]
    assert {entry["row"] for entry in evidence} == {row.name for row in probe.ROWS}
    assert not [key for key in (probe.KEY, probe.EMPTY_KEY) if key in written]
    assert len(evidence) <= 110  # at a credit each, less than a hundredth of a cent


def test_what_differs() -> None:
    """Differences from the assumptions are detected: status, norms, rows, encoding, billing."""

    def edit(body: Any) -> Any:
        rows = [{**row, "embedding": [2 * number for number in row["embedding"]]} for row in body["data"]]
        return {**body, "data": rows[::-1]}

    emulator = Emulator(api_keys=[probe.KEY], base64=True, max_rows=20)
    emulator.script(None, None, Fault(status=201, edit=None), *[None] * 8, *[Fault(edit=edit)] * 8)
    instance, seen = asked(emulator)
    verdicts = {row.name: probe.verdict(row, found) for row, found in seen}

    assert dict(seen)[probe.ROWS[2]] == "201"
    assert {name for name, verdict in verdicts.items() if verdict == "DIFFERS"} == {
        *("status", "norms", "rows", "encoding", "unbilled"),
    }
    assert [name for name, verdict in verdicts.items() if verdict == "not asked"] == ["no-credits"]
    assert instance.credits > 0
    assert (probe.exit_code(seen, live=True), probe.exit_code(seen, live=False)) == (0, 1)


def test_service_that_fails() -> None:
    """A question that can't be asked does not end the others."""
    emulator = Emulator(api_keys=["another"])
    emulator.script(Fault(reset="before"))
    _, seen = asked(emulator)
    verdicts = [probe.verdict(row, found) for row, found in seen]

    assert verdicts[0] == "failed"
    assert probe.exit_code(seen, live=True) == 1
    assert verdicts.count("as assumed") == 2  # the wrong key, and that failed requests cost nothing
    assert len(seen) == len(probe.ROWS)


def test_assumptions_name_rows() -> None:
    """Every assumption about the service names the row that would refute it, or that none can."""
    rows = {row.name for row in probe.ROWS} | {"none"}
    named = 0
    for path in (ROOT / "qwen_aiml").rglob("*.py"):
        text = re.sub(r"\s+#?\s*", " ", path.read_text(encoding="utf-8"))
        text = text.replace('"assumed" is our guess', "")
        for found in re.finditer(r"\bassumed\b.{0,40}", text):
            row = re.search(r"probe: ([a-z0-9-]+)\)", found[0])
            assert row is not None, f"{path}: {found[0]}"
            assert row[1] in rows, f"{path}: {row[1]}"
            named += 1

    assert named >= 12
    assert len(rows) == len(probe.ROWS) + 1
