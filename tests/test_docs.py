"""The documentation: its programs, the generated pages of the site, and the pages to submit to others."""

from __future__ import annotations

import base64
import html
import importlib
import importlib.util
import json
import re
import runpy
import textwrap
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import qwen_aiml
from qwen_aiml import APIStatusError, EmbeddingClient, EmbeddingConfig, QwenAIMLError
from qwen_aiml.emulator import Emulator, Fault, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.once

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *DOCS.rglob("*.mdx")])
NAMES = [page.relative_to(DOCS).as_posix() for page in PAGES]
ERROR = {"output_type": "error", "ename": "KeyError", "evalue": "'a'", "traceback": []}
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^\s*(?:```+|~~~+)\s*\{?\.?(?:py|ipython)", re.MULTILINE | re.IGNORECASE)
LINK = re.compile(r"https?:[^\s\"'`>|]*", re.IGNORECASE)

spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
assert spec is not None
assert spec.loader is not None
hooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hooks)


@pytest.fixture(autouse=True)
def no_waiting() -> None:
    """Override the fixture that disables waits, so that programs run as for a reader."""


def programs(page: Path) -> Iterator[tuple[str, str | None]]:
    """Yield each Python block of a page with the text block that directly follows it, if any."""
    text = page.read_text(encoding="utf-8")
    blocks = list(FENCE.finditer(text))
    for block, following in zip_longest(blocks, blocks[1:]):
        if block[2] == "python":
            follows = (
                following and following[2] == "text" and not text[block.end() : following.start()].strip()
            )
            printed = textwrap.dedent(following[3]) if following and follows else None
            yield textwrap.dedent(block[3]), printed


def test_all_programs_are_found() -> None:
    """All Python blocks are found, whatever the form of their fence, and the pages have many."""
    found = {name: len(list(programs(page))) for name, page in zip(NAMES, PAGES, strict=True)}
    written = {
        name: len(PYTHON.findall(page.read_text(encoding="utf-8")))
        for name, page in zip(NAMES, PAGES, strict=True)
    }

    assert found == written
    assert sum(found.values()) > 40
    assert all(found[name] for name in NAMES if name.startswith(("tutorial/", "submissions/l")))


@pytest.mark.parametrize("page", [page for page in PAGES if "submissions" not in page.parts])
def test_programs_fit(page: Path) -> None:
    """Code is at most 80 columns wide, which fits on the site."""
    lines = [line for program, _ in programs(page) for line in program.splitlines()]

    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.usefixtures("restored_state")
@pytest.mark.skipif(version("langchain-core") < "1", reason="the pages are written for newer versions")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if list(programs(page))],
    ids=lambda page: page.relative_to(DOCS).as_posix(),
)
def test_programs(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The blocks of a page run in sequence with only the API key set, and print the output shown."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs"}
    with serve(Emulator()) as base_url:
        monkeypatch.setenv("AIMLAPI_API_KEY", "a-key")
        monkeypatch.setenv("AIMLAPI_BASE_URL", base_url)
        for program, printed in programs(page):
            exec(compile(program, str(page), "exec"), names)  # noqa: S102 (our own text)
            output = capsys.readouterr().out
            assert printed is None or output == printed, program


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_in_form(page: Path) -> None:
    """Links to other hosts are complete https URLs; whether they work is not tested here."""
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        address = urlsplit(link.rstrip(").,:;"))
        # A name without a dot is a container's.
        host = address.hostname or "."
        local = host == "127.0.0.1" or "." not in host or host.endswith(".example")
        assert local or address.scheme == "https", link
        assert local or re.fullmatch(r"([\w-]+\.)+[a-z]{2,}", address.hostname or ""), link


def cell(kind: str, source: str, *outputs: dict[str, Any], tags: tuple[str, ...] = ()) -> dict[str, Any]:
    """Create a notebook cell with its source as a list of lines, as Jupyter writes it."""
    made = {"cell_type": kind, "source": source.splitlines(keepends=True), "metadata": {"tags": list(tags)}}
    return made if kind == "markdown" else {**made, "outputs": list(outputs)}


def shown(**data: str) -> dict[str, Any]:
    """Create an output from its MIME types, with ``_`` for ``/``."""
    return {
        "output_type": "display_data",
        "data": {kind.replace("_", "/"): value for kind, value in data.items()},
    }


def test_how_to_page() -> None:
    """A notebook is converted to a page with its title, programs and output, and separate pictures."""
    picture = base64.b64encode(b"picture").decode()
    notebook = {
        "cells": [
            cell(
                "markdown",
                "# Search\n\nSee [the other](other.ipynb#part), [a file](data/README.md), `data/udhr.json`.",
            ),
            cell(
                "code",
                "print(1)\n",
                {"output_type": "stream", "name": "stdout", "text": ["1\n", "\x1b[1m2\x1b[0m\r", "3\n"]},
                shown(image_png=picture, text_plain="<Figure>"),
            ),
            cell(
                "code",
                "table\n",
                shown(text_html='<style>a</style><table border="1" class="dataframe"></table>'),
            ),
            cell("code", "value\n", shown(text_plain="'```'")),
            cell("code", "prose\n", shown(text_plain="long " * 20)),
            cell("code", "fail()", ERROR, tags=("raises-exception",)),
            cell("code", "chdir('..')", tags=("notebook-only",)),
            cell("code", ""),
        ]
    }
    made = hooks.how_to("page", notebook, ["search", "other"])
    page = made["how-to/page.md"]

    assert made.keys() == {"how-to/page.md", "how-to/page-1.png"}
    assert made["how-to/page-1.png"] == b"picture"
    assert page.startswith("# Search\n\n")
    assert "[the other](other.md#part), a file, [`data/udhr.json`](data/udhr.json)." in page
    assert "```python\nprint(1)\n```" in page
    assert "```text\n1\n3\n```" in page
    assert "[![What the cell above draws](page-1.png)](page-1.png)" in page
    assert f'<div class="output wrap" markdown="1">\n\n```text\n{"long " * 20}' in page
    assert '<div class="output">\n<table></table>\n</div>' in page
    assert "```python\nfail()\n```" in page
    assert "```text\nKeyError: 'a'\n```" in page
    assert "chdir" not in page
    assert "````text\n'```'\n````" in page


def test_pictures_have_texts() -> None:
    """Each picture of the cookbook has an alternative text, and there are no other texts."""
    pictures = {Path(name).stem for name, content in hooks.generated_files().items() if name.endswith(".png")}

    assert pictures == hooks.PICTURE_TEXTS.keys()


def test_unfit_notebooks() -> None:
    """A notebook that contains an error, or has no title, raises ValueError."""
    for cells, said in (
        ([cell("markdown", "# Title"), cell("code", "a", ERROR)], "holds an error: KeyError"),
        ([cell("code", "a")], "does not begin with a title"),
        ([], "does not begin with a title"),
    ):
        with pytest.raises(ValueError, match=said):
            hooks.how_to("page", {"cells": cells}, ["page"])


def test_how_to_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The list and the navigation have pages in the order of the index, then other pages by name."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("b", "a", "rag", "z"):
        notebook = {"cells": [cell("markdown", f"# Page {name}\n\nWhat it\nshows.\n\nMore.")]}
        (folder / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    lines = [
        f"- [Page]({target}): what it shows"
        for target in ("notebooks/z.ipynb", "a.py", "notebooks/rag.ipynb")
    ]
    (tmp_path / "README.md").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(hooks, "NOTEBOOKS", folder)
    nav: list[dict[str, list[Any]]] = [
        {"How-to": ["how-to/index.md"]},
        {"More": [hooks.OPTIONAL, "x.md"]},
    ]
    config = SimpleNamespace(nav=nav, site_name="the site", copyright="a licence")
    hooks.on_config(config)

    assert config.copyright == f"the site {version('qwen-aiml')} · a licence"
    assert hooks.how_to_pages() == ["z", "rag", "a", "b"]
    pages = [f"how-to/{page}.md" for page in ("z", "rag", "a", "b")]
    assert nav[0]["How-to"] == ["how-to/index.md", {"Cookbook": pages}]
    assert (hooks.OPTIONAL in nav[1]["More"]) == (DOCS / hooks.OPTIONAL).exists()
    assert hooks.generated_part("how-to").splitlines()[2] == "- [Page a](a.md): What it shows."


@pytest.mark.parametrize(
    ("repository", "documentation", "expected"),
    [
        ("", "", {}),
        (
            "https://git.example/me/it/",
            "https://docs.example/it/",
            {
                "repo_url": "https://git.example/me/it",
                "repo_name": "me/it",
                "site_url": "https://docs.example/it/",
            },
        ),
    ],
    ids=["open", "set"],
)
def test_site_urls(repository: str, documentation: str, expected: dict[str, str]) -> None:
    """The site has the URLs of the repository and of itself if they are set in pyproject.toml."""
    pyproject = (DOCS.parent / "pyproject.toml").read_text(encoding="utf-8")
    for name, value in (("repository", repository), ("documentation", documentation)):
        pyproject, count = re.subn(f'^{name} = ".*?"', f'{name} = "{value}"', pyproject, flags=re.MULTILINE)
        assert count == 1

    assert hooks.site_urls(pyproject) == expected


def test_tables_on_phones() -> None:
    """Each cell of a wide table except the first of its row has the name of its column."""
    rows = "<tr><th></th><th><b>A</b></th></tr><tr><td>1</td><td>2</td></tr><tr><td>3</td><td>4</td></tr>"
    made = hooks.on_page_content(
        f'<div class="compare"><table>{rows}</table></div><table>{rows}</table>', None
    )

    assert made.count('<td data-column="A">') == 2
    assert made.index('<td data-column="A">2') < made.index("<td>3") < made.index('<td data-column="A">4')


def test_generated_parts() -> None:
    """Each generated part that a page contains exists, and other names are errors."""
    asked = {name for page in PAGES for name in hooks.MARKER.findall(page.read_text(encoding="utf-8"))}

    assert asked == {"behaviour", "how-to", "messages", "speed"}
    assert hooks.generated_part("speed").startswith("## Sweep: one parameter varied")
    with pytest.raises(ValueError, match="nothing is generated for 'spede'"):
        hooks.generated_part("spede")


@pytest.mark.parametrize(
    ("kind", "options", "texts"),
    [
        ("ConfigurationError", {"dimensions": 5}, ["a"]),
        ("ConfigurationError", {"batch_size": 11}, ["a"]),
        ("ConfigurationError", {"timeout": 0}, ["a"]),
        ("ConfigurationError", {"api_key": "'key'"}, ["a"]),
        ("ConfigurationError", {"base_url": "http://service.example"}, ["a"]),
        ("InputValueError", {}, [" "]),
        ("InputTypeError", {}, [None]),
        ("InputTypeError", {}, "a"),
        ("TransportError", {"base_url": "http://127.0.0.1:1", "max_retries": 0}, ["a"]),
        ("ResponseFormatError", {"max_retries": 0}, ["a"]),
        ("APIStatusError", {"api_key": "another"}, ["a"]),
        ("DeadlineError", {"total_timeout": 0.05}, ["a"]),
    ],
)
def test_messages_are_listed(
    kind: str, options: dict[str, Any], texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of an error is in the page's list for its class."""
    emulator = Emulator(api_keys=["a-key"])
    faults = {"ResponseFormatError": Fault(edit=lambda _: {"data": []}), "DeadlineError": Fault(hang=True)}
    emulator.script(faults.get(kind))
    with serve(emulator) as base_url:
        monkeypatch.setenv("AIMLAPI_API_KEY", "a-key")
        with pytest.raises(QwenAIMLError) as caught:
            EmbeddingClient(EmbeddingConfig(**{"base_url": base_url, **options})).embed(texts)
    said = str(caught.value.args[0])
    parts = [re.split(r"<[a-z_.]+>", text) for text in hooks.messages.errors()[kind]]

    assert kind in {base.__name__ for base in type(caught.value).__mro__}
    assert any(re.fullmatch(".*".join(map(re.escape, part)), said) for part in parts), said


@pytest.mark.parametrize(
    "words",
    [
        "the body is not as documented",
        "remove missing values, and give the text of any other object",
        "remove the blank texts, or set on_blank",
        "or the sign-in page of a network",
    ],
)
def test_constant_words_are_listed(words: str) -> None:
    """Words that each message of a kind contains are in the page, not in a placeholder."""
    assert words in html.unescape(hooks.messages.page())


def test_messages_are_complete() -> None:
    """No message on the page is formatted by Markdown, ends in missing advice, or is only a placeholder."""
    listed = re.findall("^- <code>(.*)</code>$", hooks.messages.page(), re.MULTILINE)

    assert len(listed) > 100
    assert [text for text in listed if "_" in text] == []
    assert [text for text in listed if text.endswith("What to do: ")] == []
    assert [text for text in map(html.unescape, listed) if re.fullmatch("<[^<>]+>", text)] == []


def test_error_classes_have_messages() -> None:
    """The page lists messages of every error class; the subclasses of `APIStatusError` share its message."""
    names = {name for name in qwen_aiml.__all__ if name.endswith("Error")}
    shared = {kind.__name__ for kind in APIStatusError.__subclasses__()} | {"QwenAIMLError"}

    assert names - shared <= hooks.messages.errors().keys()


def test_troubleshooting_quotes_messages() -> None:
    """Messages quoted in the troubleshooting page are messages of the packages or of a store."""
    page = (DOCS / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    messages = html.unescape(hooks.messages.page()) + (DOCS / "compatibility.md").read_text(encoding="utf-8")
    # The text between variable parts: names, numbers and ellipses.
    pieces = [piece for text in quoted for piece in re.split(r"\.\.\.|\d+|AIMLAPI_API_KEY|dimensions", text)]

    assert len(quoted) > 15
    assert [piece for piece in pieces if piece.strip(" :") not in messages] == []


@pytest.mark.parametrize(
    ("searched", "page"),
    [
        ("RAG", "how-to/rag"),
        ("PDF", "how-to/pdf_and_web"),
        ("HTML", "how-to/pdf_and_web"),
        ("evaluation", "how-to/evaluation"),
        ("nDCG", "how-to/evaluation"),
        ("FastAPI", "how-to/langgraph_service"),
        ("Workflow", "how-to/workflow"),
        ("CrewAI", "how-to/crewai_knowledge"),
        ("Haystack", "how-to/frameworks"),
        ("Spark", "how-to/parallel"),
        ("corpus", "how-to/corpora"),
        ("hybrid", "how-to/hybrid"),
        ("proxy", "how-to/proxies"),
        ("certificate", "how-to/proxies"),
        ("migrate", "how-to/migration"),
        ("troubleshooting", "how-to/troubleshooting"),
        ("logging", "how-to/logging"),
        ("rate limit", "explanation/concurrency"),
        ("429", "explanation/concurrency"),
        ("async", "explanation/concurrency"),
        ("cache", "explanation/caching"),
        ("resume", "explanation/caching"),
        ("batch size", "explanation/batching"),
        ("timeout", "explanation/retries"),
        ("cost", "explanation/cost"),
        ("dimensions", "explanation/dimensions"),
        ("API key", "tutorial/index"),
        ("LangGraph", "how-to/agents"),
        ("pgvector", "how-to/vector_stores_langchain"),
        ("FAISS", "how-to/vector_stores_langchain"),
        ("401", "how-to/troubleshooting"),
        ("403", "how-to/troubleshooting"),
        ("insufficient credits", "how-to/troubleshooting"),
        ("pickle", "how-to/troubleshooting"),
        ("Jupyter", "explanation/concurrency"),
        ("Redis", "explanation/caching"),
        ("LiteLLM", "how-to/gateways"),
        ("Docker", "how-to/gateways"),
        ("multilingual", "how-to/search"),
        ("truncate", "how-to/long_documents"),
    ],
)
def test_search(searched: str, page: str) -> None:
    """Each search term is a tag of the right page only; tags rank before titles and texts."""
    texts = {
        name.removesuffix(".md"): path.read_text(encoding="utf-8")
        for name, path in zip(NAMES, PAGES, strict=True)
    }
    texts |= {
        name.removesuffix(".md"): text
        for name, text in hooks.generated_files().items()
        if isinstance(text, str) and name.startswith("how-to/")
    }
    tags = {
        name: re.findall(r"[^,\[\]]+", text.partition("tags: [")[2].partition("]\n")[0])
        for name, text in texts.items()
        if text.startswith("---\ntags: [")
    }
    tagged = [name for name, own in tags.items() if searched in {tag.strip(' "') for tag in own}]

    assert tagged == [page]
    assert re.search(searched.rstrip("ey"), texts[page].partition("---\n\n")[2], re.IGNORECASE)


def test_llama_index_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The example notebook runs, and finds the right text."""
    with serve(Emulator()) as base_url:
        monkeypatch.setenv("AIMLAPI_API_KEY", "a-key")
        monkeypatch.setenv("AIMLAPI_BASE_URL", base_url)
        runpy.run_path(str(DOCS / "submissions" / "llama_index" / "qwen_aiml.py"))

    assert capsys.readouterr().out.endswith("The cat sat on the mat.\n")


def test_llamahub_table() -> None:
    """The table for LlamaHub names an existing class."""
    table = (DOCS.parent / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.llamahub]")[2]
    (path,) = re.findall(r'^import_path = "(\w+)"$', table, re.MULTILINE)
    (name,) = re.findall(
        r"^(\w+) = \"", table.partition("class_authors]\n")[2].partition("\n\n")[0], re.MULTILINE
    )

    assert hasattr(importlib.import_module(path), name)


@pytest.mark.parametrize(
    "package",
    ["qwen_aiml", "qwen_aiml.emulator", "daft_qwen_aiml", "langchain_qwen_aiml", "llama_index_qwen_aiml"],
)
def test_reference_is_complete(package: str) -> None:
    """The reference contains exactly the public classes and functions of the packages."""
    reference = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("reference/*.md"))
    named = re.findall(rf"^::: {re.escape(package)}\.(\w+)$", reference, re.MULTILINE)
    module = importlib.import_module(package)
    public = [name for name in module.__all__ if callable(getattr(module, name))]

    assert sorted(named) == sorted(public)
