"""The verdict: networks trained from scratch, accuracy against cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..architecture import Architecture
from .markup import (
    BLUE,
    GREEN,
    GREY,
    RED,
    amount,
    axis,
    bar,
    escaped,
    finite,
    plot,
    section,
    table,
)
from .story import Network, Story

_ROLES = {
    "found": (RED, "star"),
    "random, same cost": (BLUE, "circle"),
    "random, any cost": (GREEN, "square"),
}

_LEGEND = (
    "Every network was trained from scratch by the same recipe and read the test split once, with the "
    "weights best by validation. Large mark: mean over seeds, its upright bar one standard deviation each "
    "way (none with a single seed); small dots: single seeds; lying bar: the 10th to the 90th percentile "
    "of latency. Two groups are told apart where the 95 % interval of their difference (Welch's, Student's t over "
    "networks, not over trainings) leaves out zero; without two trainings of each the standard error is unknown, and "
    "they are not distinguishable. Costs are told apart where they differ by more than a tenth."
)


def verdict_section(story: Story) -> str:
    if not story.networks and not story.failures:
        seeds = (story.config.get("verdict") or {}).get("seeds")
        why = "verdict.seeds is 0" if seeds == 0 else "it comes after the search, once one network is found"
        return section("Verdict", f"<p>No network was trained from scratch: {why}.</p>")
    parts = []
    if any(n.role == "found" and n.architecture != story.found for n in story.networks):
        parts.append(
            '<p class="unfinished"><b>The network trained as "found" is not the found architecture '
            "below;</b> it comes from an earlier end of this search.</p>"
        )
    if not story.networks:
        return section("Verdict: trained from scratch", _network_table(story))
    parts.append('<div class="plots">')
    parts.append(_race(story.networks, "macs", "MACs"))
    parts.append(
        _race(
            story.networks,
            "latency.measured",
            "measured latency, ms",
            "latency.measured.low",
            "latency.measured.high",
        )
    )
    parts.append("</div>")
    parts.append(f'<p class="note">{_LEGEND}</p>')
    if story.finished and story.result is not None:
        parts.append(_group_table(story.result["groups"]))
    parts.append(_network_table(story))
    return section("Verdict: trained from scratch", *parts)


def _race(networks: Sequence[Network], metric: str, title: str, low: str = "", high: str = "") -> str:
    data: list[dict[str, Any]] = []
    for role in dict.fromkeys(network.role for network in networks):
        mine = [network for network in networks if network.role == role]
        colour, symbol = _ROLES.get(role, (GREY, "diamond"))
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "showlegend": False,
                "x": [finite(x) for n in mine for x in n.values(metric)],
                "y": [finite(y) for n in mine for y in n.values("test.accuracy")],
                "text": [f"{escaped(role)} {n.index}, seed {t['seed']}" for n in mine for t in n.trainings],
                "hovertemplate": "%{text}<br>%{y:.2f} %<extra></extra>",
                "marker": {"color": colour, "size": 5, "opacity": 0.55},
            }
        )
        x = [n.mean(metric) for n in mine]
        bars = (
            {
                "type": "data",
                "symmetric": False,
                "array": [finite(n.mean(high) - n.mean(metric)) for n in mine],
                "arrayminus": [finite(n.mean(metric) - n.mean(low)) for n in mine],
            }
            if low and high
            else {"visible": False}
        )
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escaped(role),
                "x": [finite(value) for value in x],
                "y": [finite(n.mean("test.accuracy")) for n in mine],
                "error_y": {"type": "data", "array": [n.spread for n in mine], "thickness": 1.5, "width": 5},
                "error_x": bars | {"thickness": 1, "width": 3},
                "text": [f"{escaped(role)} {n.index}" for n in mine],
                "hovertemplate": "%{text}<br>mean %{y:.2f} %<br>%{x:,}<extra></extra>",
                "marker": {
                    "color": colour,
                    "symbol": symbol,
                    "size": 15 if role == "found" else 10,
                    "line": {"color": "#fff", "width": 1},
                },
            }
        )
    return plot(f"Test top-1 against {title}", data, xaxis=axis(title), yaxis=axis("test top-1, %"))


def _group_table(groups: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for group in groups:
        gap = "" if group is groups[0] else f"{groups[0]['accuracy'] - group['accuracy']:+.2f}"
        spread = "-" if group["spread"] is None else f"{group['spread']:.2f}"
        rows.append(
            [
                escaped(group["role"]),
                str(group["networks"]),
                str(group["trainings"]),
                f"{group['accuracy']:.2f}",
                spread,
                gap,
                amount(round(group["macs"])),
                amount(round(group["params"])),
                f"{group['latency']:.2f}",
            ]
        )
    head = [
        "group",
        "networks",
        "trainings",
        "mean test top-1 %",
        "spread over trainings",
        "found minus this",
        "MACs",
        "params",
        "latency ms",
    ]
    return table(head, rows)


def _network_table(story: Story) -> str:
    rows = []
    for n in story.networks:
        values = n.values("test.accuracy")
        latency = n.mean("latency.measured")
        ends = f"{n.mean('latency.measured.low'):.2f} to {n.mean('latency.measured.high'):.2f}"
        rows.append(
            [
                f"{escaped(n.role)} {n.index}",
                f"{statistics.fmean(values):.2f}",
                "-" if n.spread is None else f"{n.spread:.2f}",
                " ".join(f"{value:.2f}" for value in values),
                amount(n.mean("macs")),
                amount(n.mean("params")),
                f"{latency:.2f} ({ends})",
                bar(n.architecture, story.colours),
            ]
        )
    for failure in story.failures:
        network = Architecture.from_json(failure["architecture"])
        name = f"{escaped(failure['role'])} {failure['index']}, seed {failure['seed']}"
        reason = f'<span class="error">{escaped(failure["error"])}</span>'
        rows.append([name, "failed", "-", reason, "-", "-", "-", bar(network, story.colours)])
    head = [
        "network",
        "mean test top-1 %",
        "spread over seeds",
        "each seed",
        "MACs",
        "params",
        "latency ms (10th to 90th percentile)",
        "architecture",
    ]
    return table(head, rows)
