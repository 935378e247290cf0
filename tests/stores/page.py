"""
Generate docs/compatibility.md from the results of `make compatibility` in each environment.

    python tests/stores/page.py .nox/reports/stores-*/results.json

The merged results are stored in docs/compatibility.json. Standard library only.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

TESTS = Path(__file__).parent
DOCS = TESTS.parents[1] / "docs"
FRAMEWORKS = {"langchain": "LangChain", "llama_index": "LlamaIndex"}
COLUMNS = {
    "search": "add, search",
    "scores": "scores",
    "filter": "filter",
    "mmr": "MMR",
    "replace": "replace",
    "delete": "delete",
    "delete_document": "delete document",
    "reopen": "reopen",
    "async": "async",
    "roles": "roles",
    "other_length_is_not_searched": "search with other dimensions",
    "other_length_is_not_added": "add with other dimensions",
}
TOP = """---
hide:
  - toc
---

# Vector store compatibility: Chroma, Qdrant, LanceDB, FAISS, pgvector

How vector stores work with `QwenAIMLEmbeddings` and `QwenAIMLEmbedding`. `make compatibility` runs the same
tests on each store, with embeddings from the [emulator](reference/emulator.md), and generates this page. CI
re-runs these tests, on the newest Python and with the oldest frameworks, and fails on any change.

**yes**: behaves as described below the table. **no**: a limitation of the store or its integration,
independent of the embedding class, for the reason given there. **part**: depends on versions.

Other stores that accept an `Embeddings` of LangChain or a `BaseEmbedding` of LlamaIndex, such as Pinecone,
Milvus, Weaviate and Elasticsearch, are not tested.
"""
SUITE = """## LangChain's own suite

`VectorStoreIntegrationTests` of langchain-tests, with `QwenAIMLEmbeddings` in place of its fake embeddings;
each test runs once sync and once async.
"""
LENGTHS = """## Errors when the dimensions changed

An index holds embeddings of one model with one number of dimensions. These errors are raised if it holds 256
dimensions and is searched, or added to, with 128. Use the old `dimensions`, or re-embed all texts into a new
index.
"""
VERSIONS = """## Versions

*oldest*: the oldest supported langchain-core and llama-index-core, with the newest versions of the stores'
packages that accept them.
"""


def merge(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """
    Merge the results of several environments.

    Args:
        runs: The results that conftest.py wrote in each, by the environment's name.

    Raises:
        SystemExit: If a check failed, or not all environments had the same checks.
    """
    checks: dict[tuple[str, str, str], dict[str, Any]] = {}
    for name, run in runs.items():
        for result in run.pop("results"):
            suite, store, check = result["suite"], result["store"], result["check"]
            if result["outcome"] == "failed":
                sys.exit(f"{store}, {check}: failed in {name}")
            kept = checks.setdefault(
                (suite, store, check),
                {"suite": suite, "store": store, "check": check, "outcomes": {}, "reasons": {}},
            )
            kept["outcomes"][name] = result["outcome"]
            if result["reason"]:
                kept["reasons"][name] = result["reason"]
            if "says" in result:
                kept.setdefault("says", result["says"])
    for (_, store, check), kept in checks.items():
        if missing := runs.keys() - kept["outcomes"].keys():
            sys.exit(f"{store}, {check}: not tried in {', '.join(sorted(missing))}")
    return {"runs": runs, "checks": list(checks.values())}


def render(found: dict[str, Any]) -> str:
    """
    Render the page.

    Args:
        found: The result of `merge`.
    """
    parts = [TOP]
    for suite, framework in FRAMEWORKS.items():
        checks = [check for check in found["checks"] if check["suite"] == suite]
        parts += [f"## {framework}\n", _matrix(suite, checks), _meanings(suite, checks), _reasons(checks)]
    parts += [SUITE, _wide(_suite([check for check in found["checks"] if check["suite"] == "standard"]))]
    parts += [LENGTHS, _wide(_lengths(found["checks"]))]
    parts += [VERSIONS, _versions(found["runs"])]
    return "\n".join(parts)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _wide(table: str, kind: str = "text") -> str:
    return f'<div class="compare {kind}" markdown="1">\n\n{table}\n</div>\n'


def _verdict(check: dict[str, Any] | None) -> str:
    outcomes = set(check["outcomes"].values()) - {"skipped"} if check else set()
    if len(outcomes) > 1:
        return "part"
    return {"passed": "yes", "known": "**no**"}[outcomes.pop()] if outcomes else ""


def _by_store(checks: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    stores: dict[str, dict[str, dict[str, Any]]] = {}
    for check in checks:
        stores.setdefault(check["store"], {})[check["check"]] = check
    return stores


def _matrix(suite: str, checks: list[dict[str, Any]]) -> str:
    names = [name for name, _ in _rules(suite)]
    head = [FRAMEWORKS[suite], *(COLUMNS[name] for name in names)]
    rows = (
        [f"**{store.replace(': ', '**: `')}`", *(_verdict(own.get(name)) for name in names)]
        for store, own in _by_store(checks).items()
    )
    return _wide(_table(head, rows), "matrix")


def _rules(suite: str) -> list[tuple[str, str]]:
    """Return the checks and their rules, which are the tests' docstrings, in their order."""
    tree = ast.parse((TESTS / f"test_{suite}.py").read_text(encoding="utf-8"))
    tests = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [
        (test.name.removeprefix("test_"), ast.get_docstring(test) or "")
        for test in tests
        if test.name.startswith("test_")
    ]


def _meanings(suite: str, checks: list[dict[str, Any]]) -> str:
    tried = {check["check"] for check in checks}
    return "".join(f"- *{COLUMNS[name]}*: {rule}\n" for name, rule in _rules(suite) if name in tried)


def _reasons(checks: list[dict[str, Any]]) -> str:
    """List the reasons for each store's failures, with the environments if it passes in others."""
    lines = []
    for store, own in _by_store(checks).items():
        reasons: dict[str, list[str]] = {}
        for name, check in own.items():
            for reason in dict.fromkeys(check["reasons"].values()):
                where = [run for run, given in check["reasons"].items() if given == reason]
                some = f" ({', '.join(where)})" if len(where) < len(check["outcomes"]) else ""
                reasons.setdefault(f"{reason}{some}", []).append(COLUMNS.get(name, name))
        for reason, names in reasons.items():
            whole = len(names) == len(own)
            lines.append(f"- {store}{'' if whole else ', *' + ', '.join(names) + '*'}: {reason}.\n")
    return "Reasons:\n\n" + "".join(lines)


def _suite(checks: list[dict[str, Any]]) -> str:
    rows = []
    for store, own in _by_store(checks).items():
        verdicts = [_verdict(check) for check in own.values()]
        reasons = sorted({reason for check in own.values() for reason in check["reasons"].values()})
        rows.append([store, f"{verdicts.count('yes')} of {len(verdicts)}", "; ".join(reasons)])
    return _table(["", "pass", "why others fail, or are skipped"], rows)


def _lengths(checks: list[dict[str, Any]]) -> str:
    pair = [name for name in COLUMNS if name.startswith("other_length")]
    rows = []
    for suite, framework in FRAMEWORKS.items():
        for store, own in _by_store([check for check in checks if check["suite"] == suite]).items():
            rows.append([f"{framework}, {store}", *(_error(own[name]) for name in pair)])
    return _table(["", "searching", "adding"], rows)


def _error(check: dict[str, Any]) -> str:
    if "says" not in check:
        return "no error"
    text = re.sub(r", /\S+$", "", check["says"])  # position in the store's source
    return f"`{text.replace('`', '').replace('|', '/')}`"


def _versions(runs: dict[str, dict[str, Any]]) -> str:
    packages = list(dict.fromkeys(package for run in runs.values() for package in run["versions"]))
    rows = [["date", *(run["date"] for run in runs.values())]]
    rows.append(["Python", *(run["python"] for run in runs.values())])
    rows += [
        [package, *(run["versions"].get(package) or "" for run in runs.values())] for package in packages
    ]
    rows.append(["system", *(run["system"] for run in runs.values())])
    return _table(["", *runs], rows)


def main() -> None:
    """Read results, and write the page and its data."""
    runs = {}
    for path in map(Path, sys.argv[1:]):
        name = path.parent.name.removeprefix("stores-")
        runs["oldest" if name == "lowest" else name] = json.loads(path.read_text(encoding="utf-8"))
    found = merge(runs)
    checks = ",\n".join(json.dumps(check, ensure_ascii=False) for check in found["checks"])
    text = f'{{"runs": {json.dumps(found["runs"])},\n"checks": [\n{checks}\n]}}\n'
    (DOCS / "compatibility.json").write_text(text, encoding="utf-8")
    (DOCS / "compatibility.md").write_text(render(found), encoding="utf-8")


if __name__ == "__main__":
    main()
