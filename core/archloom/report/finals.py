"""The verdict: networks trained from scratch, accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import columns
from ..architecture import Architecture
from ..columns import Column, Judged
from ..groups import Group
from .markup import (
    BLUE,
    GREEN,
    GREY,
    RED,
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
        if story.config["task"] is None:
            return section(
                "Verdict", "<p>No network was trained from scratch: there is no task to train for.</p>"
            )
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
    for column in columns.COSTS:
        if column.axis and all(network.has(column.metric) for network in story.networks):
            parts.append(_race(story.networks, column, story.judged.column))
    parts.append("</div>")
    parts.append(f'<p class="note">{_LEGEND}</p>')
    if story.finished and story.result is not None:
        parts.append(_group_table(story.result["groups"], story.judged))
    parts.append(_network_table(story))
    return section("Verdict: trained from scratch", *parts)


def _race(networks: Sequence[Network], cost: Column, main: Column) -> str:
    """What the networks are judged by against one of their costs."""
    metric, low, high = cost.metric, *(cost.ends or ("", "", ""))[:2]
    hover = f"%{{y:.{main.decimals}f}}{escaped(f' {main.unit}' if main.unit not in ('', '1') else '')}"
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
                "y": [finite(y) for n in mine for y in n.values(main.metric)],
                "text": [f"{escaped(role)} {n.index}, seed {t['seed']}" for n in mine for t in n.trainings],
                "hovertemplate": f"%{{text}}<br>{hover}<extra></extra>",
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
                "y": [finite(n.mean(main.metric)) for n in mine],
                "error_y": {
                    "type": "data",
                    "array": [n.spread(main.metric) for n in mine],
                    "thickness": 1.5,
                    "width": 5,
                },
                "error_x": bars | {"thickness": 1, "width": 3},
                "text": [f"{escaped(role)} {n.index}" for n in mine],
                "hovertemplate": f"%{{text}}<br>mean {hover}<br>%{{x:,}}<extra></extra>",
                "marker": {
                    "color": colour,
                    "symbol": symbol,
                    "size": 15 if role == "found" else 10,
                    "line": {"color": "#fff", "width": 1},
                },
            }
        )
    reached = main.axis.partition(",")[0]
    title = escaped(f"{reached[:1].upper()}{reached[1:]} against {cost.axis}")
    return plot(title, data, xaxis=axis(cost.axis), yaxis=axis(main.axis))


def _group_table(entries: Sequence[Mapping[str, Any]], by: Judged) -> str:
    """entries: the groups, as result.json has them."""
    main = by.column
    rows, groups = [], [Group.from_json(entry) for entry in entries]
    for group in groups:
        value = group.metrics[main.metric].value
        gap = (
            "" if group is groups[0] else f"{groups[0].metrics[main.metric].value - value:+.{main.decimals}f}"
        )
        cells = [group.role, str(group.networks), str(group.trainings), main.text(value)]
        cells += [main.text(group.metrics[main.metric].spread), gap]
        cells += [column.text(group.value(column.metric)) for column in by.costs]
        rows.append([escaped(cell) for cell in cells])
    head = [
        "group",
        "networks",
        "trainings",
        f"mean {main.title}",
        "spread over trainings",
        "found minus this",
    ]
    return table([escaped(cell) for cell in [*head, *(column.title for column in by.costs)]], rows)


def _network_table(story: Story) -> str:
    rows, main = [], story.judged.column
    for n in story.networks:
        values = n.values(main.metric)
        cells = [f"{n.role} {n.index}", main.text(n.mean(main.metric)), main.text(n.spread(main.metric))]
        cells += [" ".join(main.text(value) for value in values)]
        cells += [_cost(n, column) for column in columns.COSTS]
        rows.append([*(escaped(cell) for cell in cells), bar(n.architecture, story.colours)])
    for failure in story.failures:
        network = Architecture.from_json(failure["architecture"])
        name = f"{escaped(failure['role'])} {failure['index']}, seed {failure['seed']}"
        reason = f'<span class="error">{escaped(failure["error"])}</span>'
        costs = ["-"] * len(columns.COSTS)
        rows.append([name, "failed", "-", reason, *costs, bar(network, story.colours)])
    head = ["network", f"mean {main.title}", "spread over seeds", "each seed"]
    head += [f"{c.title} ({c.ends[2]})" if c.ends else c.title for c in columns.COSTS]
    return table([escaped(cell) for cell in [*head, "architecture"]], rows)


def _cost(network: Network, column: Column) -> str:
    """A network's mean over its trainings, and between which ends most of its values lie."""
    if not network.has(column.metric):
        return "-"
    text = column.text(network.mean(column.metric))
    if column.ends is None:
        return text
    low, high, _ = column.ends
    return f"{text} ({column.text(network.mean(low))} to {column.text(network.mean(high))})"
