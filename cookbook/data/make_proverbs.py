"""
Make proverbs.json from two unpacked Debian packages.

    apt-get download sword-text-web sword-text-sparv
    for package in sword-text-*.deb; do dpkg -x $package unpacked; done
    pip install pysword==0.2.8
    python cookbook/data/make_proverbs.py unpacked

Gives the same bytes every time.
"""

import json
import re
import sys
from pathlib import Path
from unicodedata import normalize

from pysword.modules import SwordModules

# BCP 47 code, English name, module, its version
TRANSLATIONS = [
    ("en", "English", "engWEB2015eb", "426.0"),
    ("es", "Spanish", "spaRV1909eb", "2.60"),
]
# The collection of single sayings: each verse stands for itself. Both count the verses alike.
VERSES = {
    10: 32,
    11: 31,
    12: 28,
    13: 25,
    14: 35,
    15: 33,
    16: 33,
    17: 28,
    18: 24,
    19: 29,
}
HEADINGS = ("The proverbs of Solomon. ", "Las sentencias de Salomón. ")


def plain(osis: str) -> str:
    """
    Take notes, marks and the heading out of a verse; added words stand in marks with no space around them.
    """
    text = re.sub("<note.*?</note>|</?transChange[^>]*>", " ", osis)
    text = " ".join(re.sub("<[^>]*>", "", text).split())
    for heading in HEADINGS:
        text = text.removeprefix(heading)
    return normalize("NFC", re.sub(r" (?=[,;:.?!])", "", text))


def main() -> None:
    """
    Read both translations, check them and write them.
    """
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    library = SwordModules(str(Path(sys.argv[1], "usr", "share", "sword")))
    known = library.parse_modules()
    languages = []
    for code, name, module, version in TRANSLATIONS:
        if known[module]["version"] != version:
            sys.exit(
                f"{module} is version {known[module]['version']}, not {version}"
            )
        bible = library.get_bible_from_module(module)
        verses = []
        for chapter, count in VERSES.items():
            for verse in range(1, count + 1):
                text = plain(
                    bible.get(
                        books=["proverbs"],
                        chapters=[chapter],
                        verses=[verse],
                        clean=False,
                    )
                )
                if not text or set(text) & set("<>{}"):
                    sys.exit(
                        f"{module} {chapter}:{verse} is empty or has mark-up: {text!r}"
                    )
                verses.append({"verse": f"{chapter}:{verse}", "text": text})
        languages.append({"code": code, "name": name, "verses": verses})
    corpus = {
        "source": "Proverbs 10 to 19 of the World English Bible and of Reina-Valera 1909, from eBible.org "
        "by way of Debian's sword-text-web 426.0 and sword-text-sparv 2.60",
        "licence": "public domain",
        "languages": languages,
    }
    target = Path(__file__).with_name("proverbs.json")
    target.write_text(
        json.dumps(corpus, ensure_ascii=False, indent=1) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
