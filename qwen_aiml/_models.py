"""
Properties of models, as data that users can extend. No I/O here.

Source: Alibaba Cloud Model Studio, "Text embedding" (OpenAI-compatible and synchronous API pages), and AI/ML
API's model pages and OpenAPI, as read in November 2026; none of it verified against the live service yet.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_MODEL = "alibaba/qwen-text-embedding-v4"
DEFAULT_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """
    Properties of a model.

    Attributes:
        name: The id sent as ``model``.

        aliases: Short names.

        dimensions: Dimensions that the model offers; empty means unknown, so not checked.

        regional_dimensions: Dimensions that the model offers in some regions only.

        default_dimensions: Dimensions if none are requested; None means unknown, so not checked.

        max_rows: Maximum number of texts per request; None means unknown, so not checked.

        max_tokens: Maximum number of tokens per text, named in errors; None means unknown.

        query_instruction: Whether the model was trained to read ``Instruct: ...`` before a query; None means
            unknown, so not checked.
    """

    name: str
    aliases: tuple[str, ...] = ()
    dimensions: tuple[int, ...] = ()
    regional_dimensions: tuple[int, ...] = ()
    default_dimensions: int | None = None
    max_rows: int | None = None
    max_tokens: int | None = None
    query_instruction: bool | None = None


_models: dict[str, ModelFacts] = {}


def register_model(facts: ModelFacts) -> None:
    """
    Register a model, or replace its properties, for configurations created from now on.

    Args:
        facts: Properties of the model. Its name and aliases are case-insensitive.
    """
    for name in (facts.name, *facts.aliases):
        _models[name.lower()] = facts


def model_facts(name: str) -> ModelFacts:
    """
    Look up a model by name or alias; an unknown one has only its name, and is not checked.

    Args:
        name: Name as given by the user, without surrounding white space.
    """
    return _models.get(name.lower()) or ModelFacts(name=name)


def known_models() -> list[str]:
    """List the names of the registered models, in order of registration."""
    return list(dict.fromkeys(facts.name for facts in _models.values()))


# 256, 128 and 64 of v3: offered in mainland China and not listed for the international region. Which region
# AI/ML API uses is not established (probe: v3-dimensions).
register_model(
    ModelFacts(
        name="alibaba/qwen-text-embedding-v4",
        aliases=("qwen-text-embedding-v4", "text-embedding-v4"),
        dimensions=(2048, 1536, 1024, 768, 512, 256, 128, 64),
        default_dimensions=1024,
        max_rows=10,
        max_tokens=8192,
        query_instruction=True,
    )
)
register_model(
    ModelFacts(
        name="alibaba/qwen-text-embedding-v3",
        aliases=("qwen-text-embedding-v3", "text-embedding-v3"),
        dimensions=(1024, 768, 512, 256, 128, 64),
        regional_dimensions=(256, 128, 64),
        default_dimensions=1024,
        max_rows=10,
        max_tokens=8192,
        query_instruction=False,
    )
)
