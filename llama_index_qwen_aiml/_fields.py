"""Field types with an alias or a custom JSON schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AliasChoices, Field, SecretStr, SkipValidation, WithJsonSchema

ModelName = Annotated[str, Field(validation_alias=AliasChoices("model_name", "model"))]
ApiKey = Annotated[
    SkipValidation[SecretStr | str | Callable[[], Any] | None],
    WithJsonSchema({"type": "string", "format": "password", "writeOnly": True}),
]
