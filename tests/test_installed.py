"""Optional packages of tests, which skip themselves without: where they are installed."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
OTHER_SESSIONS = ("distributed", "notebooks", "stores")  # folders whose tests have groups of their own
REQUIRED_BY = {"click": "llm", "truststore": "httpx2"}


def test_no_test_is_always_skipped() -> None:
    """Each package without which a test is skipped is an extra, or in a dependency group of the tests."""
    project = (TESTS.parent / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n\n")[0]
    groups = re.findall(r"^(?:tests|tests-base|environments) = \[.*?^\]", project, re.MULTILINE | re.DOTALL)
    installed = "".join([extras, *groups]).replace("-", "")
    paths = [path for path in TESTS.rglob("*.py") if path.relative_to(TESTS).parts[0] not in OTHER_SESSIONS]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    names = set(re.findall(r'importorskip\(f?"(\w+)', "".join(texts)))

    assert len(names) > 15
    assert {name for name in names if REQUIRED_BY.get(name, name).replace("_", "") not in installed} == set()
