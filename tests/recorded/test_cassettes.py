"""Cassettes: a note about their origin, no keys, no cassette without a test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from vcr.serializers import yamlserializer

CASSETTES = sorted((Path(__file__).parent / "cassettes").rglob("*.yaml"))

LIKE_A_KEY = re.compile(
    r"bearer|authorization|api[-_]?key\b.{0,4}[:=]|cookie|\bsk-|\b[0-9a-f]{32}\b(?!-)", re.IGNORECASE
)


def test_there_are_some() -> None:
    """The checks below have cassettes to check."""
    assert len(CASSETTES) >= 20


@pytest.mark.parametrize("path", CASSETTES, ids=lambda path: path.stem)
def test_cassette(path: Path, origins: tuple[str, str]) -> None:
    """A cassette states its origin, is small, and contains no key, cookie or account."""
    text = path.read_text(encoding="utf-8")
    content: dict[str, Any] = yamlserializer.deserialize(text)

    assert text.startswith(origins)
    assert len(text) < 200_000
    assert LIKE_A_KEY.findall(text) == []
    for interaction in content["interactions"]:
        assert interaction["request"]["uri"] == "https://api.aimlapi.com/v1/embeddings"
        assert {name.lower() for name in interaction["request"]["headers"]} == {"content-type"}
        assert {name.lower() for name in interaction["response"]["headers"]} <= {
            "content-type",
            "retry-after",
        }


def test_no_orphans(request: pytest.FixtureRequest) -> None:
    """Each cassette belongs to a test."""
    names = {item.name for item in request.session.items if item.path.name == "test_recorded.py"}
    if not names:
        pytest.skip("needs test_recorded.py in the same run")

    assert {path.stem for path in CASSETTES} <= names


@pytest.mark.parametrize(
    "text", ["Authorization: Bearer x", "sk-abc", "set-cookie: a", "api_key=1", "0" * 32]
)
def test_the_check_can_fail(text: str) -> None:
    """The check finds keys and cookies."""
    assert LIKE_A_KEY.search(text)
