"""
Summarise the reports of all sessions; the last line is "N passed, N failed".

    python .ci/summary.py .nox/reports

Reads pytest's JUnit reports (*.xml) and nox's (*.json). Exits with 1 if a test or
a session failed, or if no test ran.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET


def main(folder: Path) -> int:
    """
    Print the reasons for skipped tests, the sessions that failed, and the counts.

    Args:
        folder: Folder with the reports.

    Returns:
        The exit code.
    """
    suites = [suite for path in sorted(folder.glob("*.xml")) for suite in ET.parse(path).iter("testsuite")]  # noqa: S314
    counts = Counter[str]()
    for suite in suites:
        counts.update({name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")})
    skips = [skip for suite in suites for skip in suite.iter("skipped") if skip.get("type") != "pytest.xfail"]
    reasons = Counter(skip.get("message", "") for skip in skips)
    for reason, times in sorted(reasons.items()):
        print(f"skipped tests: {times}: {reason}")
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    sessions = [session for report in reports for session in report["sessions"]]
    for session in sessions:
        if session["result"] != "success":
            name = session["signatures"][0] if session["signatures"] else session["name"]
            print(f"{session['result']} session: {name}: {session['reason'] or 'see above'}")
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0 or passed == 0 or any(session["result_code"] < 1 for session in sessions))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
