"""A network drawn: its steps as boxes, a row for each resolution that an image passes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report.markup import GREY, INK, OPTIONS, escaped
from ..steps import Step

WIDTH, HEIGHT, GAP, ROW = 132, 66, 20, 6
"""Of a box, between boxes, in pixels; and how many boxes stand in a row before it is broken."""

LEFT, TOP = 116, 12


def draw(found: Sequence[Step], shape: Sequence[int], options: Mapping[str, Any] | None = None) -> str:
    """SVG of the steps. options: choice -> option, for steps that are named after a choice of the search space.

    Boxes of one kind have one colour; the bar below each is its share of the MACs, against the largest.
    """
    options = options or {}
    rows = _rows(found)
    largest = max((step.macs for step in found), default=0) or 1
    colours = _colours(found, options)
    columns = max((len(row) for row in rows), default=1)
    width = LEFT + columns * (WIDTH + GAP)
    parts = []
    for number, row in enumerate(rows):
        y = TOP + number * (HEIGHT + GAP)
        parts.append(_label(y, row, number, rows, shape))
        for column, step in enumerate(row):
            x = LEFT + column * (WIDTH + GAP)
            if column or number:
                parts.append(_arrow(x, y, column, rows[number - 1]))
            parts.append(_box(step, x, y, colours, options, step.macs / largest))
    height = TOP + len(rows) * (HEIGHT + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" role="img" aria-label="the network">'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


def _rows(found: Sequence[Step]) -> list[list[Step]]:
    """The steps by the resolution that they give, long rows broken."""
    rows: list[list[Step]] = []
    for step in found:
        if not rows or rows[-1][-1].shape[1:] != step.shape[1:] or len(rows[-1]) == ROW:
            rows.append([])
        rows[-1].append(step)
    return rows


def _kind(step: Step, options: Mapping[str, Any]) -> str:
    """What a box is coloured by and headed with: the option that was chosen, else the module's class."""
    return str(options.get(step.name.rpartition(".")[2], step.kind))


def _colours(found: Sequence[Step], options: Mapping[str, Any]) -> dict[str, str]:
    """Chosen options in colours of their own; everything that was no choice is grey, unless nothing was chosen."""
    chosen = [kind for step in found if (kind := _kind(step, options)) in map(str, options.values())]
    kinds = list(dict.fromkeys(chosen or [_kind(step, options) for step in found]))
    return {kind: OPTIONS[number % len(OPTIONS)] for number, kind in enumerate(kinds)}


def _label(
    y: int, row: Sequence[Step], number: int, rows: Sequence[Sequence[Step]], shape: Sequence[int]
) -> str:
    """What resolution the row has, where it is another than the row's above."""
    size = row[0].shape[1:]
    if number and rows[number - 1][0].shape[1:] == size:
        return ""
    told = " x ".join(map(str, size)) if size else "vector"
    return (
        f'<text x="8" y="{y + HEIGHT / 2 + 5:.0f}" font-size="15" font-weight="600" fill="{INK}">{told}</text>'
        + ("" if number else _small(y + HEIGHT // 2 - 15, f"image {shape[1]} x {shape[2]}"))
    )


def _small(y: int, text: str) -> str:
    return f'<text x="8" y="{y}" font-size="11" fill="{GREY}">{text}</text>'


def _arrow(x: int, y: int, column: int, above: Sequence[Step]) -> str:
    middle = y + HEIGHT // 2
    if column:
        return f'<path d="M{x - GAP + 2} {middle}H{x - 5}m-5 -4l6 4l-6 4" fill="none" stroke="{INK}"/>'
    # from the end of the row above, down and back to the left
    end = LEFT + (len(above) - 1) * (WIDTH + GAP) + WIDTH // 2
    between = y - GAP // 2
    return (
        f'<path d="M{end} {y - GAP + 1}V{between}H{x + WIDTH // 2}V{y - 4}m-4 -5l4 6l4 -6" fill="none" '
        f'stroke="{INK}"/>'
    )


def _box(
    step: Step, x: int, y: int, colours: Mapping[str, str], options: Mapping[str, Any], share: float
) -> str:
    kind = _kind(step, options)
    colour = colours.get(kind, "#e6ebf0")
    light = sum(weight * int(colour[i : i + 2], 16) for i, weight in ((1, 0.299), (3, 0.587), (5, 0.114)))
    ink = "#111111" if light > 130 else "#ffffff"
    gives = f"{step.shape[0]} {'ch' if len(step.shape) == 3 else 'val'}"
    size = " x ".join(map(str, step.shape))
    told = f"{step.name}: {step.kind}, gives {size}, {step.params:,} params, {step.macs:,} MACs"

    def line(at: int, text: str, size: int, weight: int = 400) -> str:
        return (
            f'<text x="{x + 8}" y="{y + at}" font-size="{size}" font-weight="{weight}" fill="{ink}">'
            f"{escaped(_short(text, 16 if size > 11 else 22))}</text>"
        )

    return (
        f"<g><title>{escaped(told)}</title>"
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{colour}" stroke="#9aa5b1"/>'
        + line(20, kind, 13, 600)
        + line(35, step.name, 10)
        + line(49, f"{gives}, {_compact(step.params)} params", 10)
        + f'<rect x="{x + 8}" y="{y + 55}" width="{(WIDTH - 16) * share:.1f}" height="4" fill="{ink}"/></g>'
    )


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else "…" + text[1 - limit :]


def _compact(number: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)
