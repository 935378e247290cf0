"""The release: the project's URLs, the README's links, and the actions of the publishing job."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from qwen_aiml._version import __version__

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = ROOT / "distributions"
LOWEST = ROOT / ".ci" / "lowest.txt"
WORKFLOW = ROOT / ".github" / "workflows" / "publish.yml"
URL = "https://git.example/me/qwen-aiml"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the build hook without hatchling, which only builds need."""
    interface = SimpleNamespace(MetadataHookInterface=object)
    monkeypatch.setitem(sys.modules, "hatchling.metadata.plugin.interface", interface)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trimmed(version: str) -> str:
    return re.sub(r"(\.0)+$", "", version)


def metadata(build: Any, repository: str) -> dict[str, Any]:
    hook = build.MetadataHook()
    hook.root, hook.config = str(ROOT), {"repository": repository, "documentation": ""}
    fields: dict[str, Any] = {}
    hook.update(fields)
    return fields


def test_with_a_repository(build: ModuleType) -> None:
    """With the repository's URL, the metadata has project URLs, and the README has no relative links."""
    fields = metadata(build, f"{URL}/")

    assert fields["urls"]["Source"] == URL
    assert fields["urls"]["Documentation"] == f"{URL}/tree/main/docs"
    assert build.project_urls(URL, "https://docs.example/")["Documentation"] == "https://docs.example/"
    assert f"]({URL}/blob/main/docs/how-to/proxies.md)" in fields["readme"]["text"]
    assert f"]({URL}/raw/main/benchmarks/chart.svg)" in fields["readme"]["text"]
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", fields["readme"]["text"]) == []


def test_without_a_repository(build: ModuleType) -> None:
    """Without the repository's URL, the metadata has no project URLs, and the README is unchanged."""
    fields = metadata(build, "")

    assert fields["urls"] == {}
    assert fields["readme"]["text"] == (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](b.md)", f"[a]({URL}/blob/main/b.md)"),
        ("![a](b.svg)", f"![a]({URL}/raw/main/b.svg)"),
        ("[a](https://b.example)", "[a](https://b.example)"),
        ("[a](#b)", "[a](#b)"),
        ("[a](mailto:b@c.example)", "[a](mailto:b@c.example)"),
    ],
)
def test_links(build: ModuleType, link: str, expected: str) -> None:
    """Only relative links to files are changed."""
    assert build.absolute(link, URL) == expected


@pytest.mark.skipif(not DISTRIBUTIONS.exists(), reason="the empty distributions are not part of the sdist")
@pytest.mark.parametrize(
    ("name", "extra"),
    [("langchain-qwen-aiml", "langchain"), ("llama-index-embeddings-qwen-aiml", "llama-index")],
)
def test_empty_distribution(name: str, extra: str) -> None:
    """An empty distribution has our version, requires only this release and extra, and names a real class."""
    project = (DISTRIBUTIONS / name / "pyproject.toml").read_text(encoding="utf-8")
    readme = (DISTRIBUTIONS / name / "README.md").read_text(encoding="utf-8")
    (module, found), *rest = re.findall(r"^    from (\w+) import (\w+)$", readme, re.MULTILINE)

    assert f'\nname = "{name}"\ndynamic = ["version"]\n' in project
    assert '\npath = "../../qwen_aiml/_version.py"\n' in project
    assert f'\ndependencies = ["qwen-aiml[{extra}]>={__version__}"]' in project
    assert rest == []
    assert hasattr(importlib.import_module(module), found)


@pytest.mark.skipif(not LOWEST.exists(), reason="the lowest versions are not part of the sdist")
def test_lowest_versions() -> None:
    """The versions that the lowest run installs are the lower bounds in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = text[text.index("\ndependencies = [") : text.index("\n[project.entry-points")]
    claims = dict(re.findall(r'"([\w-]+)>=([\d.]+)', project))
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", LOWEST.read_text(encoding="utf-8"), re.MULTILINE))

    assert "anyio" in claims
    assert {name: trimmed(bound) for name, bound in claims.items()} == {
        name: trimmed(pin) for name, pin in pins.items() if name in claims
    }


@pytest.mark.skipif(not DISTRIBUTIONS.exists(), reason="the empty distributions are not part of the sdist")
def test_empty_distributions_are_known() -> None:
    """There are exactly two empty distributions, and the checks in noxfile.py install both."""
    checks = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    names = sorted(path.name for path in DISTRIBUTIONS.iterdir())

    assert names == ["langchain-qwen-aiml", "llama-index-embeddings-qwen-aiml"]
    assert all(f'built("{name}")' in checks for name in names)


@pytest.mark.skipif(not WORKFLOW.exists(), reason="the workflow is not part of the sdist")
def test_publishing_job_is_pinned() -> None:
    """Every action of the job that may publish is pinned by commit hash."""
    _, _, job = WORKFLOW.read_text(encoding="utf-8").partition("\n  publish:\n")
    used = re.findall(r"uses: (\S+)", job)

    assert "id-token: write" in job
    assert len(used) == 2
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used)
    assert "run:" not in job
