"""Pieces of HTML: escaped text, tables, plots, architectures as coloured boxes."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..architecture import Architecture

# Okabe and Ito's colours, told apart by the colour-blind; every mark differs in shape as well.
BLUE, RED, GREEN, ORANGE, INK, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#1f2933", "#8a94a0"
# Paul Tol's "muted", for the options of the choices.
OPTIONS = (
    "#88CCEE",
    "#332288",
    "#DDCC77",
    "#117733",
    "#CC6677",
    "#44AA99",
    "#882255",
    "#999933",
    "#AA4499",
    "#DDDDDD",
)


def escaped(value: Any) -> str:
    return html.escape(str(value))


def amount(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, int | float) or not math.isfinite(value):
        return escaped(value)
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def counted(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table that scrolls sideways where it is too wide. Cells are HTML."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def plot(title: str, data: list[dict[str, Any]], note: str = "", **layout: Any) -> str:
    """A figure that plotly.js draws. The numbers are JSON in which no tag can open or close."""
    for name in ("xaxis", "yaxis"):
        layout.setdefault(name, {})
    figure = json.dumps({"data": data, "layout": layout}, allow_nan=False).replace("<", "\\u003c")
    told = f'<p class="note">{note}</p>' if note else ""
    return (
        f'<figure><figcaption>{title}</figcaption><div class="plot"></div>'
        f'<script type="application/json">{figure}</script>{told}</figure>'
    )


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": escaped(title)}, **more}


def finite(value: float | None) -> float | None:
    """JSON has no NaN; plotly leaves out what is null."""
    return value if value is not None and math.isfinite(value) else None


def strip(architecture: Architecture, colours: Mapping[str, str]) -> str:
    """The choices in order as coloured boxes."""
    boxes = []
    for choice, option in architecture.items():
        colour = colours.get(str(option), "#DDDDDD")
        light = sum(weight * int(colour[i : i + 2], 16) for i, weight in ((1, 0.299), (3, 0.587), (5, 0.114)))
        ink = "#111" if light > 130 else "#fff"
        boxes.append(
            f'<li style="background:{colour};color:{ink}">'
            f"<span>{escaped(choice)}</span><b>{escaped(option)}</b></li>"
        )
    return f'<ol class="strip">{"".join(boxes)}</ol>'


def bar(architecture: Architecture, colours: Mapping[str, str]) -> str:
    """The same, small enough for a row of a table, with the options as text below."""
    cells = "".join(
        f'<i style="background:{colours.get(str(o), "#DDDDDD")}" title="{escaped(f"{c}: {o}")}"></i>'
        for c, o in architecture.items()
    )
    return f'<div class="bar">{cells}</div><code>{escaped(architecture)}</code>'


def section(title: str, *content: str) -> str:
    return f"<section><h2>{title}</h2>{''.join(content)}</section>"


def header(title: str, *content: str) -> str:
    """The top of a page: its headline, escaped here, and what stands below."""
    return (
        f"<header><h1>{escaped(title[:1].upper() + title[1:])}</h1>{''.join(content)}"
        "<noscript><p>The plots need JavaScript; the tables hold the numbers.</p></noscript></header>"
    )
