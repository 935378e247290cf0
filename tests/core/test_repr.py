"""What a traceback that prints local variables may show of what passes through."""

from __future__ import annotations

import pytest

from qwen_aiml._engine.stream import Block
from qwen_aiml._protocol.response import Response
from qwen_aiml._transport.base import Post


@pytest.mark.parametrize(
    "held",
    [Post(b"secret", 1.0, 10), Response(200, {"x": "secret"}, b"secret"), Block(0, ["secret"], [])],
    ids=lambda held: type(held).__name__,
)
def test_nothing_of_a_text(held: object) -> None:
    """Neither a text nor a response, which may repeat it."""
    assert repr(held).startswith(type(held).__name__)
    assert "secret" not in repr(held)
