"""Plain technical English: phrases that hinder reading and searching are not used."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
PACKAGES = ("qwen_aiml", "daft_qwen_aiml", "langchain_qwen_aiml", "llama_index_qwen_aiml", "pytest_qwen_aiml")
PROSE = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "noxfile.py")),
    *(ROOT / "docs").rglob("*.md*"),
    *(ROOT / "docs").rglob("*.py"),
    *(ROOT / "cookbook").glob("*.py"),
    *(ROOT / "cookbook").glob("*.md"),
    *(ROOT / "benchmarks").glob("*.md"),
]
CODE = [path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py")]
CODE.remove(Path(__file__))
# Phrases that are not used, and the terms to use instead.
PHRASES = {
    r"(both|each|either|one) colours?\b": "sync and async",
    r"\banew\b": "again, re-embed, rebuild",
    r"\b(paid|pays|pay) for\b": "billed; cached",
    r"\bgo(es)? on where\b": "resumes",
    r"\bheld against\b": "tested against",
    r"\b(tries|tried|trying|asked|asks) again\b": "retried",
    r"\b(un)?sound (embedding|row|answer|response)": "valid, malformed",
    r"\bunsound\b": "malformed",
    r"\bnobody tells\b": "undisclosed",
    r"\btries after the first\b": "retries",
    r"\bhalving\b": "bisection",
    r"\bunder way\b": "in flight, in progress",
    r"\bat the most\b": "at most, maximum",
    r"\blets? go of\b": "release",
    r"\bmay pass\b": "transient",
    r"\bat the end you (have|know)\b": "this page shows",
    r"\bsees to it\b": "ensures, handles",
    r"\blest\b": "so that ... not",
    r"\bof another length\b": "of other dimensions",
    r"\b5xx but\b": "5xx except",
    r"\bkeys are made at\b": "create one at",
    r"\bno longer so\b": "changes",
    r"\bputs? into words\b": "describe",
    r"\bNone for (none|nothing|nobody|never|nowhere)\b": "None means no ...",
    r"\b(what|which|it|that) is no (?!longer)\w": "is not a",
    r"\b\d[\d,]* (texts|rows|requests|tokens|bytes) an? (request|second|minute|text|call)\b": "per",
}


def words(path: Path) -> str:
    """Return the prose of a file: a whole page, or a module's comments and strings; collapse white space."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py" and "cookbook" not in path.parts:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
        text = " ".join(token.string for token in tokens if token.type in kinds)
    return re.sub(r"\s+#?\s*", " ", text)


@pytest.mark.parametrize("path", [*PROSE, *CODE], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_phrases(path: Path) -> None:
    """No page, comment, docstring or message contains one of the phrases."""
    text = words(path)
    found = {
        text[max(0, match.start() - 40) : match.end() + 20]: instead
        for phrase, instead in PHRASES.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    }

    assert found == {}


def test_phrases_are_found(tmp_path: Path) -> None:
    """A phrase is found in a page and in a comment, even across lines, but not in code."""
    page, module = tmp_path / "page.md", tmp_path / "module.py"
    page.write_text("It is held\nagainst it.", encoding="utf-8")
    module.write_text("anew = 1\n# It is held\n# against it.\n", encoding="utf-8")

    assert "held against" in words(page)
    assert "held against" in words(module)
    assert "anew" not in words(module)
