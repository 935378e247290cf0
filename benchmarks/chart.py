"""
A bar chart as SVG, on white, so that it is legible in light and dark themes.
"""

from __future__ import annotations

from html import escape
from math import ceil, floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, LABELS, PANEL, ROW, TOP, BOTTOM = 720, 230, 420, 30, 56, 70
# Contrast with white: text 15.8, our bars 5.2, other bars 4.6; WCAG AA requires 4.5 and 3.
PAPER, INK, OURS, PEERS, GRID = "#ffffff", "#1f2328", "#0969da", "#6e7781", "#d0d7de"


def bars(title: str, unit: str, note: str, rows: Sequence[tuple[str, bool, float]]) -> str:
    """
    Draw horizontal bars on a logarithmic axis.

    Args:
        title: The title, at the top.

        unit: The unit of the axis.

        note: A note, at the bottom.

        rows: A label, whether it is ours, and a number above 0.

    Returns:
        The whole SVG file.
    """
    numbers = [number for *_, number in rows]
    first, last = floor(log10(min(numbers)) - 1e-9), ceil(log10(max(numbers)))
    height, bottom = TOP + ROW * len(rows) + BOTTOM, TOP + ROW * len(rows)

    def right(number: float) -> float:
        return LABELS + PANEL * (log10(number) - first) / (last - first)

    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    font = f'font-family="sans-serif" font-size="14" fill="{INK}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {font}>',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        _text(12, 24, title, bold=True),
    ]
    for power in range(first, last + 1):
        x = right(10.0**power)
        parts.append(f'<path d="M{x:.1f} {TOP - 8}V{bottom}" stroke="{GRID}"/>')
        parts.append(_text(x, bottom + 18, f"{10.0**power:g}", anchor="middle"))
    parts.append(_text(LABELS + PANEL / 2, bottom + 36, f"{unit} (logarithmic)", anchor="middle"))
    parts.append(_text(12, bottom + 60, note))
    for number, (label, ours, value) in enumerate(rows):
        y = TOP + ROW * number
        parts.append(_text(LABELS - 10, y + 16, label, bold=ours, anchor="end"))
        place = f'x="{LABELS}" y="{y}" width="{right(value) - LABELS:.1f}" height="{ROW - 8}"'
        parts.append(f'<rect {place} fill="{OURS if ours else PEERS}"/>')
        parts.append(_text(right(value) + 6, y + 16, f"{value:.3g}", bold=ours))
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, said: str, *, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}"{weight}>{escape(said)}</text>'
