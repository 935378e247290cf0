"""
A bar chart as SVG, in colours that can be read on white and on black.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, LABELS, PANEL, ROW, TOP = 900, 250, 250, 22, 62
GAP = 70  # beside each panel, for the numbers
INK, OURS, PEERS = "#7a828c", "#2f81f7", "#a0a7b0"


def bars(title: str, panels: Sequence[str], rows: Sequence[tuple[str, bool, Sequence[float | None]]]) -> str:
    """
    Draw horizontal bars, a row for each label and a panel for each number of a row.

    Args:
        title: Stands above all.

        panels: Heading of each panel.

        rows: A label, whether it is ours, and a number for each panel; None where there is none.

    Returns:
        The whole SVG file.
    """
    height = TOP + ROW * len(rows) + 10
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    font = f'font-family="sans-serif" font-size="13" fill="{INK}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" {font}>']
    parts += [f"<title>{escape(title)}</title>", _text(0, 18, title, bold=True)]
    for at, heading in enumerate(panels):
        parts.append(_text(_left(at), 46, heading, bold=True))
    most = [max([row[2][at] or 0 for row in rows] + [1e-9]) for at in range(len(panels))]
    for number, (label, ours, values) in enumerate(rows):
        y = TOP + ROW * number
        parts.append(_text(LABELS - 10, y + 13, label, bold=ours, anchor="end"))
        for at, value in enumerate(values):
            if value is None:
                parts.append(_text(_left(at), y + 13, "failed"))
                continue
            length = max(1.0, PANEL * value / most[at])
            colour = OURS if ours else PEERS
            place = f'x="{_left(at)}" y="{y + 2}" width="{length:.1f}" height="{ROW - 6}" rx="2"'
            parts.append(f'<rect {place} fill="{colour}"/>')
            parts.append(_text(_left(at) + length + 5, y + 13, f"{value:.2f}", bold=ours))
    return "\n".join([*parts, "</svg>", ""])


def _left(panel: int) -> int:
    return LABELS + panel * (PANEL + GAP)


def _text(x: float, y: float, said: str, *, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}"{weight}>{escape(said)}</text>'
