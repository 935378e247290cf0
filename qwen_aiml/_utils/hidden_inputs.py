"""Validation errors of pydantic without the values that were given, which may be secret. Needs pydantic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError, ValidationError
from pydantic_core.core_schema import no_info_wrap_validator_function

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HIDDEN = "**********"


def hide_input(schema: Any) -> Any:
    """
    Return the schema of a model whose errors do not show the model's input, even in another model.

    ``hide_input_in_errors`` has no effect in a model that contains this one and does not set it as well.
    """
    # JSON schemas refer to the outermost schema of a model.
    inner = {name: value for name, value in schema.items() if name != "ref"}
    return no_info_wrap_validator_function(_validate, inner, ref=schema.get("ref"))


def _validate(value: Any, validate: Callable[[Any], Any]) -> Any:
    try:
        return validate(value)
    except ValidationError as error:
        lines = [_hidden(line) for line in error.errors(include_url=False)]
        raise ValidationError.from_exception_data(error.title, lines) from None


def _hidden(line: Mapping[str, Any]) -> Any:
    # Errors of single fields are only seen by `__init__`, which converts them.
    given = line["input"] if line["loc"] else HIDDEN
    kind = PydanticCustomError(line["type"], line["msg"], line.get("ctx"))
    return {"type": kind, "loc": line["loc"], "input": given}
