"""
Pages of the site that are made, not written: how-to pages from notebooks, tables from results, the changelog.

What is above `on_config` knows nothing of MkDocs: another builder can have the files written into its folder.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # for benchmarks and messages, which are not installed

import messages  # noqa: E402 (after the path)
from benchmarks import behaviour, report  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

DOCS = ROOT / "docs"
NOTEBOOKS = ROOT / "cookbook" / "notebooks"
OPTIONAL = "compatibility.md"  # made by a program that takes long; the site is complete without it
PICTURES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}  # the best one first
TAGS = {  # what people search for, where a page's title does not say it
    "agents": "agent, LangGraph, memory",
    "corpora": "corpus, throughput",
    "crewai_knowledge": "CrewAI",
    "evaluation": "evaluation, nDCG, MRR, recall",
    "frameworks": "Haystack, DSPy, embedding function",
    "hybrid": "hybrid, BM25, reranking",
    "ingestion": "ingestion, indexing, incremental",
    "langgraph_service": "FastAPI, PostgresStore, persistent store",
    "long_documents": "truncate, chunking, long texts",
    "migration": "migrate, migration, OpenAIEmbeddings",
    "parallel": "joblib, Dask, Spark, pandas_udf",
    "pdf_and_web": "PDF, HTML, website",
    "rag": "RAG, citations",
    "search": "multilingual, cross-lingual",
    "testing": "testing, pytest, mock",
    "vector_stores_langchain": "pgvector, FAISS, Chroma, Qdrant, LanceDB",
    "workflow": "LlamaIndex Workflow, Workflow",
}
# What each picture shows, for those who don't see it. All were drawn with the emulator's vectors.
PICTURE_TEXTS = {
    "clustering-1": "Histogram of cosine similarities, stand-in model, not Qwen: edited copies lie around "
    "0.9, above the threshold of 0.69; translations around 0.65; other sayings around 0.57, overlapping them",
    "clustering-2": "Dendrogram of the 30 articles in five groups, stand-in model, not Qwen: arrest, torture "
    "and slavery form one of them",
    "corpora-1": "Two charts over 28 seconds, stand-in model, not Qwen: throughput between 1,200 and 2,300 "
    "texts per second; memory between 250 and 270 MB, and 330 at the end, as files are written",
    "dimensions-1": "Three line charts over 64 to 2048 dimensions. Recall@1 of a stand-in model, not Qwen, "
    "rises up to 512 dimensions and is flat beyond; size rises from 0.3 to 8 GB, and time per query with it",
    "hybrid-1": "Bar chart of recall@1, stand-in model, not Qwen: on names BM25 96 %, vectors 54 %, both "
    "92 %; in other languages 0 %, 62 %, 50 %; in all 48 %, 58 %, 71 %",
    "search-1": "Heat map of recall@1 for each pair of 10 languages, stand-in model, not Qwen: all are at "
    "least 0.9",
    "search-2": "Scatter plot of 300 texts after t-SNE, stand-in model, not Qwen: the translations of an "
    "article form one cluster",
}
COLUMNS = 84  # of a program's output that fit beside the table of contents at 1280 pixels
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and moves of a terminal
DATA = re.compile(r"`(data/\w+\.json)`")
LINKS = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
STYLE = re.compile(r'<style.*?</style>| border="1" class="dataframe"', re.DOTALL)
MARKER = re.compile(r"^<!-- made: (\S+) -->$", re.MULTILINE)


def made_files() -> dict[str, str | bytes]:
    """Make the files of the site that are not in docs/: text, or the bytes of a picture, by path."""
    files: dict[str, str | bytes] = {}
    for name in (pages := _notebooks()):
        notebook = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))
        files |= how_to(name, notebook, pages)
    for data in (NOTEBOOKS.parent / "data").glob("*.json"):
        files[f"how-to/data/{data.name}"] = data.read_bytes()
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return {
        **files,
        "changelog.md": changelog,
        "chart.svg": (ROOT / "benchmarks" / "chart.svg").read_bytes(),
    }


def how_to(name: str, notebook: dict[str, Any], pages: Iterable[str]) -> dict[str, str | bytes]:
    """
    Write a notebook as a page.

    Args:
        name: Of its file.

        notebook: Its parsed JSON, with outputs.

        pages: The names of all notebooks, which it may link to.

    Returns:
        The page and its pictures, by path.

    Raises:
        ValueError: If it does not begin with a title, or a cell failed that was not to fail.
    """
    parts: list[str] = []
    pictures: dict[str, str | bytes] = {}
    for cell in notebook["cells"]:
        source, tags = _text(cell["source"]).strip(), cell["metadata"].get("tags", [])
        if "notebook-only" in tags:  # it finds the page's files
            continue
        if cell["cell_type"] == "markdown":
            parts.append(DATA.sub(r"[`\1`](\1)", relinked(source, pages)))
        elif cell["cell_type"] == "code" and source:
            parts.append(_fence(source, "python"))
            for output in cell["outputs"]:
                if output["output_type"] == "error" and "raises-exception" not in tags:
                    raise ValueError(f"{name}.ipynb holds an error: {output['ename']}: {output['evalue']}")
                parts += _shown(output, name, pictures)
    if not parts or not parts[0].startswith("# "):
        raise ValueError(f"{name}.ipynb does not begin with a title")
    note = f"<small>This page is `cookbook/{name}.py`, with its output. It runs wherever you copy it.</small>"
    title, _, rest = parts[0].partition("\n")
    head = [f"---\ntags: [{TAGS[name]}]\n---"] if name in TAGS else []
    return {f"how-to/{name}.md": "\n\n".join([*head, title, note, rest, *parts[1:], ""]), **pictures}


def relinked(text: str, pages: Iterable[str]) -> str:
    """Let links to other notebooks or programs go to their pages; keep those to data; remove other files'."""

    def turn(link: re.Match[str]) -> str:
        picture, words, target = link.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path or re.fullmatch(r"data/\w+\.json", path):
            return link[0]
        stem, _, kind = path.rpartition("/")[2].rpartition(".")
        if kind in {"ipynb", "py", "md"} and stem in pages and not picture:
            return f"[{words}]({stem}.md{hash_}{anchor})"
        return words

    return LINKS.sub(turn, text)


def _shown(output: dict[str, Any], name: str, pictures: dict[str, str | bytes]) -> Iterator[str]:
    if output["output_type"] == "error":
        yield _printed(f"{output['ename']}: {output['evalue']}")
        return
    if output["output_type"] == "stream":
        yield _printed(_text(output["text"]))
        return
    data = output["data"]
    kind = next((kind for kind in PICTURES if kind in data), None)
    if kind:
        file = f"{name}-{len(pictures) + 1}.{PICTURES[kind]}"
        content = _text(data[kind])
        pictures[f"how-to/{file}"] = (
            content.encode() if kind == "image/svg+xml" else base64.b64decode(content)
        )
        text = PICTURE_TEXTS.get(file.rpartition(".")[0], "What the cell above draws")
        yield f"[![{text}]({file})]({file})"  # a phone shows it large when it is touched
    elif "text/markdown" in data:
        yield _text(data["text/markdown"])
    elif "text/html" in data:
        # The site's own style is better than the one pandas brings.
        html = STYLE.sub("", _text(data["text/html"])).strip()
        yield f'<div class="output">\n{html}\n</div>'
    else:
        yield _printed(_text(data.get("text/plain", "")))


def _printed(text: str) -> str:
    # As a terminal shows it: what a carriage return was followed by is all that is left of a line.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in ESCAPES.sub("", text).split("\n")]
    shown = "\n".join(lines).strip("\n")
    wrapped = " wrap" if max(map(len, lines)) > COLUMNS else ""  # prose: no table is that wide
    return f'<div class="output{wrapped}" markdown="1">\n\n{_fence(shown, "text")}\n\n</div>' if shown else ""


def _fence(text: str, language: str) -> str:
    longest = max((len(ticks) for ticks in re.findall("`{3,}", text)), default=2)
    ticks = "`" * (longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def how_to_pages() -> list[str]:
    """Name the notebooks that cookbook/README.md links to, in its order, then the others."""
    readme = NOTEBOOKS.parent / "README.md"
    index = readme.read_text(encoding="utf-8") if readme.exists() else ""
    places = {page: index.find(f"(notebooks/{page}.ipynb)") for page in _notebooks()}
    return sorted(places, key=lambda page: (places[page] < 0, places[page], page))


def _notebooks() -> list[str]:
    return [path.stem for path in NOTEBOOKS.glob("*.ipynb")]


def _listed(page: str) -> str:
    notebook = json.loads((NOTEBOOKS / f"{page}.ipynb").read_text(encoding="utf-8"))
    title, _, rest = _text(notebook["cells"][0]["source"]).strip().removeprefix("# ").partition("\n")
    summary = relinked(" ".join(rest.strip().partition("\n\n")[0].split()), ())
    return f"- [{title}]({page}.md){': ' if summary else ''}{summary}"


def made_part(name: str) -> str:
    """
    Write what stands in a page for ``<!-- made: NAME -->``.

    Raises:
        ValueError: If there is no such part.
    """
    if name == "behaviour":
        return behaviour.markdown(behaviour.taken())
    if name == "speed":
        results = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
        # The page itself has the main set.
        return f"## Sweep{report.document(results).partition('## Sweep')[2]}".strip()
    if name == "messages":
        return messages.page()
    if name == "how-to":
        return "\n".join(_listed(page) for page in how_to_pages())
    raise ValueError(f"nothing is made for {name!r}")


def labelled(html: str) -> str:
    """Write into each cell, but the first of a row, the name of its column: a phone shows rows as lists."""

    def table(found: re.Match[str]) -> str:
        columns = [re.sub("<.*?>", "", head) for head in re.findall("<th.*?>(.*?)</th>", found[0])]
        cells = itertools.count()

        def cell(start: re.Match[str]) -> str:
            column = next(cells) % len(columns)
            return f'{start[0]} data-column="{columns[column]}"' if column else start[0]

        return re.sub("<td", cell, found[0])

    return re.sub("<table>.*?</table>", table, html, flags=re.DOTALL)


def on_page_content(html: str, page: Page, **_: Any) -> str:
    """Prepare wide tables for phones."""
    del page
    return re.sub(r'<div class="compare.*?</div>', lambda found: labelled(found[0]), html, flags=re.DOTALL)


def site_urls(pyproject: str) -> dict[str, str]:
    """Return MkDocs' options for the URLs that are set in pyproject.toml."""
    [repository] = re.findall(r'^repository = "(.*?)/?"', pyproject, re.MULTILINE)
    [documentation] = re.findall(r'^documentation = "(.*)"', pyproject, re.MULTILINE)
    urls = {
        "repo_url": repository,
        "repo_name": "/".join(repository.split("/")[-2:]),
        "site_url": documentation,
    }
    return {option: value for option, value in urls.items() if value}


def on_config(config: MkDocsConfig) -> None:
    """Set the version, the URLs, and in the navigation the pages that are there."""
    for option, value in site_urls((ROOT / "pyproject.toml").read_text("utf-8")).items():
        setattr(config, option, value)
    [version] = re.findall(r'__version__ = "(.+)"', (ROOT / "qwen_aiml" / "_version.py").read_text("utf-8"))
    config.copyright = f"{config.site_name} {version} · {config.copyright}"
    for section in config.nav or []:
        for title, entries in section.items():
            if title == "How-to":
                entries += [f"how-to/{page}.md" for page in how_to_pages()]
            elif OPTIONAL in entries and not (DOCS / OPTIONAL).exists():
                entries.remove(OPTIONAL)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add what is made."""
    from mkdocs.structure.files import File  # noqa: PLC0415 (tests import this file without MkDocs)

    for path, content in made_files().items():
        files.append(File.generated(config, path, content=content))


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill in what is made, and list the how-to pages on their index."""
    del page
    return MARKER.sub(lambda found: made_part(found[1]), markdown)
