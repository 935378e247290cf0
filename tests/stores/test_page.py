"""The compatibility page: it is generated from the results, and complete."""

from __future__ import annotations

import json

import pytest

import langchain_stores
import llama_index_stores
import page

pytestmark = pytest.mark.once

FOUND = json.loads((page.DOCS / "compatibility.json").read_text(encoding="utf-8"))
SHOWN = (page.DOCS / "compatibility.md").read_text(encoding="utf-8")


def test_made() -> None:
    """The page is what `make compatibility` generates from the results."""
    assert page.render(FOUND) == SHOWN


@pytest.mark.parametrize(
    ("suite", "stores"),
    [
        ("langchain", langchain_stores.STORES),
        ("standard", langchain_stores.STORES),
        ("llama_index", llama_index_stores.STORES),
    ],
)
def test_every_store_has_a_row(suite: str, stores: tuple[type[langchain_stores.Place], ...]) -> None:
    """Each store was tested in each environment, and no others are shown."""
    tried = {check["store"] for check in FOUND["checks"] if check["suite"] == suite}

    assert tried == {store.title for store in stores}
    assert all(check["outcomes"].keys() == FOUND["runs"].keys() for check in FOUND["checks"])


@pytest.mark.parametrize("suite", page.FRAMEWORKS)
def test_every_check_has_a_column(suite: str) -> None:
    """Each test of the scenario was run on each store and is explained."""
    for name, rule in page._rules(suite):
        assert page.COLUMNS[name]
        assert rule in SHOWN
        tried = {
            check["store"] for check in FOUND["checks"] if (check["suite"], check["check"]) == (suite, name)
        }
        assert tried == {check["store"] for check in FOUND["checks"] if check["suite"] == suite}


def test_reasons() -> None:
    """Each check that did not pass has a reason on the page."""
    for check in FOUND["checks"]:
        if set(check["outcomes"].values()) != {"passed"}:
            assert check["reasons"]
        assert all(reason in SHOWN for reason in check["reasons"].values())


@pytest.mark.parametrize(
    ("outcomes", "message"), [(["passed", "failed"], "b: failed in 2"), (["passed"], "b: not tried in 2")]
)
def test_failures_make_no_page(outcomes: list[str], message: str) -> None:
    """A run with a failed or missing check ends with an error, and no page."""
    results = [
        {"suite": "langchain", "store": "a", "check": "b", "outcome": each, "reason": ""} for each in outcomes
    ]
    runs = {str(number): {"results": results[number - 1 : number]} for number in (1, 2)}

    with pytest.raises(SystemExit, match=message):
        page.merge(runs)
