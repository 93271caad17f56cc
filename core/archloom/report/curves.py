"""The training of a supernet: every metric over the units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .markup import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    axis,
    escaped,
    finite,
    plot,
    section,
)
from .story import Story

_LINES = (BLUE, RED, GREEN, "#CC79A7", ORANGE, "#56B4E9", INK, GREY)


def fit_section(story: Story) -> str:
    fits = story.of("fit")
    if not fits:
        return ""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for fit in fits:
        for name, value in fit["metrics"].items():
            if isinstance(value, int | float):
                units, values = series.setdefault(name, ([], []))
                units.append(fit["unit"])
                values.append(value)
    plots = [_curves(prefix, names, series) for prefix, names in _families(series)]
    told = f"{len(fits)} of the {fits[-1]['of']} resumable units of the training are done."
    note = f'<p class="note">{told} Drag in a plot to enlarge a part, click twice to go back.</p>'
    return section("Training of the supernet", note, f'<div class="plots small">{"".join(plots)}</div>')


def _families(series: Mapping[str, tuple[list[int], list[float]]]) -> list[tuple[str, list[str]]]:
    """Metrics that share a plot, in the log's order: those with one prefix, as far as one scale shows them all."""
    families: list[tuple[str, list[str]]] = []
    prefixes = dict.fromkeys(name.split(".")[0] for name in series)
    for prefix in prefixes:
        mine = [name for name in series if name.split(".")[0] == prefix]
        size = {
            name: max((abs(v) for v in series[name][1] if math.isfinite(v)), default=0.0) for name in mine
        }
        together: list[str] = []
        for name in sorted(mine, key=lambda name: size[name]):
            if together and size[name] > 10 * size[together[0]] > 0:
                families.append((prefix, [n for n in mine if n in together]))
                together = []
            together.append(name)
        families.append((prefix, [n for n in mine if n in together]))
    return families


def _curves(prefix: str, names: Sequence[str], series: Mapping[str, tuple[list[int], list[float]]]) -> str:
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(series[name][0]) <= 60 else "lines",
            "name": escaped(name.removeprefix(f"{prefix}.")),
            "x": series[name][0],
            "y": [finite(value) for value in series[name][1]],
            "line": {
                "color": _LINES[i % len(_LINES)],
                "width": 2,
                "dash": ("solid", "dash", "dot")[i % 3],
            },
            "marker": {"size": 5},
        }
        for i, name in enumerate(names)
    ]
    title = (
        names[0]
        if len(names) == 1
        else f"{prefix}: " + ", ".join(n.removeprefix(f"{prefix}.") for n in names[:6])
    )
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    ticks = {"dtick": 1} if max(max(series[name][0]) for name in names) <= 8 else {}
    return plot(escaped(title) + more, data, xaxis=axis("unit", **ticks), showlegend=1 < len(names) <= 12)
