"""The trials of a search: plots and table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from ..hypervolume import history
from ..objective import Objective, comparable
from ..trial import Trial
from .markup import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    amount,
    axis,
    bar,
    counted,
    escaped,
    finite,
    plot,
    section,
    table,
)
from .story import Story

ROWS = 50
"""How many trials the table shows."""
DRAWN = 4000
"""How many trials a plot draws; of more, an even selection with the whole front in it."""


_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ok": ("ok", {"color": BLUE, "symbol": "circle", "size": 7, "opacity": 0.75}),
    "infeasible": ("infeasible", {"color": ORANGE, "symbol": "triangle-down", "size": 8}),
    "failed": ("failed", {"color": INK, "symbol": "x-thin", "size": 8, "line": {"width": 2, "color": INK}}),
    "partial": ("measured in part", {"color": GREY, "symbol": "circle", "size": 6, "opacity": 0.7}),
    "repeat": ("repeat", {"color": BLUE, "symbol": "circle-open", "size": 11}),
}


def _kind(trial: Trial) -> str:
    if trial.source is not None:
        return "repeat"
    return "partial" if trial.status == "ok" and trial.fidelity < 1 else trial.status


def _drawn(story: Story) -> list[Trial]:
    """All trials, or an even selection of too many: the front and each new best stay in it."""
    trials = story.trials
    if len(trials) <= DRAWN:
        return trials
    records = {number for i in range(len(story.objectives)) for number, _ in _best_so_far(trials, i)}
    keep = {t.number for t in story.front} | records
    step = math.ceil(len(trials) / DRAWN)
    return [trial for i, trial in enumerate(trials) if i % step == 0 or trial.number in keep]


def _best_so_far(trials: Sequence[Trial], i: int) -> list[tuple[int, float]]:
    """(number, score) of each comparable trial that is better in objective `i` than all before it."""
    records: list[tuple[int, float]] = []
    for trial in comparable(trials):
        if trial.scores is not None and (not records or trial.scores[i] > records[-1][1]):
            records.append((trial.number, trial.scores[i]))
    return records


def trials_section(story: Story) -> str:
    if not story.trials:
        return section("Trials", "<p>No trial has been measured yet.</p>")
    drawn, axes = _drawn(story), _axes(story)
    plots = [_progress(story, drawn, i, objective) for i, objective in enumerate(story.objectives[:2])]
    if axes is not None:
        plots.insert(0, _scatter(story, drawn, *axes))
    plots += _hypervolume(story)
    note = ""
    if len(drawn) < len(story.trials):
        note = f'<p class="note">{len(drawn):,} of {len(story.trials):,} trials are drawn, evenly chosen.</p>'
    return section("Trials", f'<div class="plots three">{"".join(plots)}</div>', note)


def _axes(story: Story) -> tuple[str, str] | None:
    """The metrics across and up: the first two objectives, or a cost (any metric) and the one objective."""
    names = [objective.metric for objective in story.objectives]
    if len(names) > 1:
        return names[1], names[0]
    measured = dict.fromkeys(name for trial in story.trials for name in trial.metrics)
    cost = (story.config.get("verdict") or {}).get("cost")
    others = sorted((name for name in measured if name not in names), key=lambda name: name != cost)
    return (others[0], names[0]) if others and names else None


def _marks(
    trials: Sequence[Trial], x: Callable[[Trial], float], y: Callable[[Trial], float]
) -> list[dict[str, Any]]:
    """One trace for each kind of trial; trials without the values have no place."""
    traces = []
    for kind, (name, marker) in _KINDS.items():
        mine = [
            trial
            for trial in trials
            if _kind(trial) == kind and x(trial) is not None and y(trial) is not None
        ]
        if mine:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [finite(x(trial)) for trial in mine],
                    "y": [finite(y(trial)) for trial in mine],
                    "text": [_hover(trial) for trial in mine],
                    "hovertemplate": "%{text}<extra></extra>",
                    "marker": marker,
                }
            )
    return traces


def _hover(trial: Trial) -> str:
    part = f", fidelity {trial.fidelity:.3g}" if trial.fidelity < 1 else ""
    lines = [f"trial {trial.number}, {_kind(trial)}{part}"]
    lines += [f"{escaped(name)} {amount(value)}" for name, value in trial.metrics.items()]
    words = str(trial.architecture).split(" ")
    lines += [escaped(" ".join(words[i : i + 6])) for i in range(0, min(len(words), 30), 6)]
    return "<br>".join(lines + ([escaped(trial.error[:120])] if trial.error else []))


def _scatter(story: Story, drawn: Sequence[Trial], across: str, up: str) -> str:
    # a cast, for the helper leaves out the trials that have no value
    data = _marks(
        drawn, lambda t: cast(float, t.metrics.get(across)), lambda t: cast(float, t.metrics.get(up))
    )
    note = []
    if len(story.objectives) > 1:
        line = sorted(story.front, key=lambda trial: (trial.metrics[across], trial.metrics[up]))
        least = next(o.direction for o in story.objectives if o.metric == across) == "min"
        flat = len(story.objectives) == 2
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if flat else "markers",
                "name": "Pareto front",
                "x": [finite(trial.metrics[across]) for trial in line],
                "y": [finite(trial.metrics[up]) for trial in line],
                "hoverinfo": "skip",
                # between two of its points, the front is no better than the one that costs less
                "line": {"color": GREEN, "width": 2, "shape": "hv" if least else "vh"},
                "marker": {"color": GREEN, "symbol": "diamond-open", "size": 12, "line": {"width": 2}},
            }
        )
        if not flat:
            note.append(f"The front is one of {len(story.objectives)} objectives, of which two are drawn.")
    chosen = next((t for t in comparable(story.trials) if t.architecture == story.found), None)
    if chosen is not None and across in chosen.metrics:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "found",
                "x": [finite(chosen.metrics[across])],
                "y": [finite(chosen.metrics[up])],
                "hoverinfo": "skip",
                "marker": {
                    "color": RED,
                    "symbol": "star",
                    "size": 15,
                    "line": {"color": "#fff", "width": 1},
                },
            }
        )
    placeless = sum(across not in trial.metrics or up not in trial.metrics for trial in story.trials)
    if placeless:
        note.append(f"{counted(placeless, 'trial')} lack one of the two metrics and have no place here.")
    title = f"{escaped(up)} against {escaped(across)}"
    return plot(title, data, " ".join(note), xaxis=axis(across), yaxis=axis(up))


def _progress(story: Story, drawn: Sequence[Trial], i: int, objective: Objective) -> str:
    name, sign = objective.metric, 1 if objective.direction == "max" else -1
    data = _marks(drawn, lambda t: t.number, lambda t: cast(float, t.metrics.get(name)))
    records = _best_so_far(story.trials, i)
    if records:
        last = (story.trials[-1].number, records[-1][1])
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "x": [number for number, _ in [*records, last]],
                "y": [finite(sign * score) for _, score in [*records, last]],
                "line": {"color": RED, "width": 2, "shape": "hv"},
            }
        )
    lacking = [trial for trial in drawn if name not in trial.metrics]
    named = {trace["name"] for trace in data}
    for trace in _marks(lacking, lambda t: t.number, lambda t: 0.02):
        data.append(trace | {"yaxis": "y2", "cliponaxis": False, "showlegend": trace["name"] not in named})
    note = f"At the lower edge: {counted(len(lacking), 'trial')} without this metric." if lacking else ""
    hidden = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}
    title = f"Best {escaped(name)} so far"
    return plot(title, data, note, xaxis=axis("trial"), yaxis=axis(name), yaxis2=hidden)


def _hypervolume(story: Story) -> list[str]:
    """With several objectives, how much the front dominates after each trial."""
    if len(story.objectives) < 2:
        return []
    found = history(story.trials, story.objectives, story.config.get("reference") or {})
    if found is None:
        return []
    changes = [n for n, value in enumerate(found.values) if n == 0 or value != found.values[n - 1]]
    shown = sorted({*changes, len(found.values) - 1})
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "hypervolume",
            "x": [found.numbers[n] for n in shown],
            "y": [finite(found.values[n]) for n in shown],
            "line": {"color": GREEN, "width": 2, "shape": "hv"},
        }
    ]
    point = ", ".join(f"{escaped(name)} {amount(value)}" for name, value in found.reference.items())
    where = "the configuration's" if found.given else "the worst of each objective in this run"
    return [
        plot(
            "Hypervolume of the front",
            data,
            f"Measured from the reference point {point}: {where}.",
            xaxis=axis("trial"),
            yaxis=axis("hypervolume", rangemode="tozero"),
        )
    ]


def table_section(story: Story) -> str:
    """The first ROWS trials: the front, then the ok ones by the first objective, then the others."""
    if not story.trials:
        return ""
    first = {trial.number for trial in story.front}
    place = {"ok": 1, "partial": 2, "repeat": 3, "infeasible": 4, "failed": 5}
    ordered = sorted(
        story.trials,
        key=lambda t: (0 if t.number in first else place[_kind(t)], -(t.score or 0.0), t.number),
    )
    names = list(dict.fromkeys(name for trial in story.trials for name in trial.metrics))
    rows = []
    for trial in ordered[:ROWS]:
        status = f"repeat of {trial.source}" if trial.source is not None else trial.status
        if trial.fidelity < 1:
            status += f", fidelity {trial.fidelity:.3g}"
        if trial.number in first and len(story.objectives) > 1:
            status += ", on the front"
        if trial.architecture == story.found and trial.source is None:
            status += ", <b>found</b>"
        error = f'<div class="error">{escaped(trial.error)}</div>' if trial.error else ""
        metrics = [amount(trial.metrics.get(name)) for name in names]
        rows.append([str(trial.number), status + error, *metrics, bar(trial.architecture, story.colours)])
    shown = f"the first {ROWS} of {len(story.trials):,}" if len(story.trials) > ROWS else "all"
    order = "the Pareto front first, then by" if len(story.objectives) > 1 else "the best in"
    objective = escaped(story.objectives[0].metric) if story.objectives else "number"
    return section(
        "Table of trials",
        f'<p class="note">{shown.capitalize()}: {order} {objective}, then the infeasible and the failed.</p>',
        table(["trial", "status", *map(escaped, names), "architecture"], rows),
    )
