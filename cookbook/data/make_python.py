"""
Make python.json from the language reference that comes with Python 3.11.7.

    python3.11 cookbook/data/make_python.py

Needs the standard library only, and gives the same bytes every time.
"""

import json
import sys
from pathlib import Path
from pydoc_data.topics import topics

VERSION = (3, 11, 7)

TOPICS = [
    "assert",
    "async",
    "attribute-access",
    "augassign",
    "await",
    "break",
    "calls",
    "class",
    "comparisons",
    "context-managers",
    "continue",
    "conversions",
    "customization",
    "debugger",
    "del",
    "exceptions",
    "for",
    "function",
    "global",
    "if",
    "import",
    "in",
    "lambda",
    "naming",
    "nonlocal",
    "numbers",
    "operator-summary",
    "pass",
    "raise",
    "return",
    "slicings",
    "string-methods",
    "truth",
    "try",
    "typesmapping",
    "typesseq-mutable",
    "while",
    "with",
    "yield",
]


def main() -> None:
    """
    Write python.json beside this script, one topic a line.

    Raises:
        ValueError: If this is another Python, or a topic does not begin with its title.
    """
    if sys.version_info[:3] != VERSION:
        msg = f"expected Python {VERSION}, this is {sys.version_info[:3]}"
        raise ValueError(msg)
    lines = []
    for name in TOPICS:
        title, underline, text = topics[name].split("\n", 2)
        if set(underline) != {"*"}:
            msg = f"{name}: no title"
            raise ValueError(msg)
        topic = {"name": name, "title": title, "text": text.strip("\n")}
        lines.append(json.dumps(topic, ensure_ascii=False))
    head = {
        "source": "The Python Language Reference and Library Reference, as in pydoc of CPython 3.11.7",
        "licence": "Python Software Foundation License Version 2; see README.md beside this file",
    }
    document = (
        json.dumps(head)[:-1] + ', "topics": [\n' + ",\n".join(lines) + "\n]}\n"
    )
    json.loads(document)
    (Path(__file__).parent / "python.json").write_text(
        document, encoding="utf-8", newline="\n"
    )


if __name__ == "__main__":
    main()
