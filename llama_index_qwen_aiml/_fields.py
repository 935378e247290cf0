"""Field types with a custom JSON schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import SecretStr, SkipValidation, WithJsonSchema

ApiKey = Annotated[
    SkipValidation[SecretStr | str | Callable[[], Any] | None],
    WithJsonSchema({"type": "string", "format": "password", "writeOnly": True}),
]
