"""What a client has found out about the service's limits, for all its later calls. No I/O here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._engine.pace import FIRST_WINDOW, Pace

if TYPE_CHECKING:
    from ._config import EmbeddingConfig


class Learned:
    """
    Limits that the service told, or showed.

    Args:
        config: The settings, which bound what can be found out.

    Attributes:
        pace: How fast requests may start.

        rows: Texts that one request may hold.
    """

    def __init__(self, config: EmbeddingConfig) -> None:
        self.rows = config.rows
        self.pace = Pace(
            config.concurrency,
            first=config.max_concurrency or FIRST_WINDOW,
            requests_per_minute=config.requests_per_minute,
            tokens_per_minute=config.tokens_per_minute,
        )
