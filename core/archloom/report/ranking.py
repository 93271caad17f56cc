"""How well predictors rank networks: the tables and plots of a comparison's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from .markup import BLUE, GREY, RED, amount, axis, escaped, plot, section, table

Row = Mapping[str, Any]

_LEGEND = (
    "Tau: Kendall's tau-b between the predictor's order and the truth's; rho: Spearman's. Precision: how many of the "
    "predictor's best are among the truth's best. Top tenth: tau among the truth's best tenth alone. Against MACs: "
    "tau less that of counting MACs, on the same resamples. In brackets the 95 % interval of a bootstrap over the "
    "networks; it tells nothing of other seeds, tasks or spaces. Params and MACs are baselines: a predictor that does "
    "not beat them is no better than counting."
)


def ranking_sections(document: Mapping[str, Any]) -> str:
    """The page's body: header, table, intervals, scatter plots, provenance."""
    rows, truth = document["rows"], document["truth"]
    title = f"Who ranks networks well? {document['title']}"
    summary = (
        f"{document['networks']:,} networks; the truth is {truth['metric']} ({truth['unit']}) as "
        f"{truth['estimator']} has it{', the lowest held best' if truth.get('best') == 'lowest' else ''}. "
        f"{document['resamples']:,} resamples."
    )
    header = (
        f"<header><h1>{escaped(title)}</h1><p class='summary'>{escaped(summary)}</p>"
        "<noscript><p>The plots need JavaScript; the tables hold the numbers.</p></noscript></header>"
    )
    plots = "".join(_intervals(caption, rows, name) for caption, name in _PLOTS)
    return (
        header
        + section("Agreement with the truth", _table(document), f'<p class="note">{_LEGEND}</p>')
        + section("Intervals", f'<div class="plots">{plots}</div>')
        + section("Every network", f'<div class="plots small">{_scatters(document)}</div>')
        + _provenance(document)
    )


_PLOTS = (("Kendall's tau, all networks", "tau"), ("Kendall's tau, the truth's best tenth", "tau_top"))


def interval_text(figure: Mapping[str, float | None], *, signed: bool = False) -> str:
    """`0.56 [0.50, 0.61]`, or "undefined"; without brackets where the interval is unknown."""
    form = "+.2f" if signed else ".2f"
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return "undefined"
    return (
        f"{value:{form}}" if low is None or high is None else f"{value:{form}} [{low:{form}}, {high:{form}}]"
    )


def remark(row: Row, networks: int) -> str:
    """What a reader must know of a row's figures; empty where there is nothing."""
    told = []
    if row["networks"] < networks:
        told.append(f"measured {row['networks']} of {networks} networks")
    if row["constant"]:
        told.append("the same for all networks, so that it has no order")
    if row["best"] == "lowest":
        told.append("the lowest is held best")
    return "; ".join(told)


def _table(document: Mapping[str, Any]) -> str:
    head = (
        "predictor",
        "tau",
        "rho",
        f"precision at top {document['top']}",
        "tau, top tenth",
        "against MACs",
        "",
    )
    body = []
    for row in document["rows"]:
        name = escaped(row["name"])
        body.append(
            (
                f"{name} <span class='note'>baseline</span>" if row["baseline"] else f"<b>{name}</b>",
                *(interval_text(row[key]) for key in ("tau", "rho", "precision", "tau_top")),
                "" if row["name"] == "macs" else interval_text(row["over"], signed=True),
                escaped(remark(row, document["networks"])),
            )
        )
    return table(head, body)


def _intervals(caption: str, rows: Sequence[Row], name: str) -> str:
    """One mark with a bar for each predictor; the undefined ones are left out."""
    data = []
    for label, colour, symbol, mine in (
        ("baseline", GREY, "diamond", [row for row in rows if row["baseline"]]),
        ("predictor", BLUE, "circle", [row for row in rows if not row["baseline"]]),
    ):
        told = [row for row in mine if row[name]["value"] is not None]
        values = [row[name]["value"] for row in told]
        ends = [(row[name]["high"], row[name]["low"]) for row in told]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label,
                "x": values,
                "y": [escaped(row["name"]) for row in told],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [0 if h is None else h - v for v, (h, _) in zip(values, ends, strict=True)],
                    "arrayminus": [
                        0 if low is None else v - low for v, (_, low) in zip(values, ends, strict=True)
                    ],
                },
                "marker": {"color": colour, "symbol": symbol, "size": 10},
            }
        )
    line = next((row[name]["value"] for row in rows if row["name"] == "macs"), None)
    shapes = [
        {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": c, "dash": d}}
        for x, c, d in ((0, GREY, "solid"), (line, RED, "dot"))
        if x is not None
    ]
    note = "Dotted: counting MACs."
    order = {
        "autorange": "reversed",
        "categoryorder": "array",
        "categoryarray": [escaped(r["name"]) for r in rows],
    }
    return plot(caption, data, note, xaxis=axis("Kendall's tau-b"), yaxis=order, shapes=shapes)


def _scatters(document: Mapping[str, Any]) -> str:
    values, truth = document["values"], document["truth"]
    plots = []
    for row in document["rows"]:
        pairs = [(x, y) for x, y in zip(values[row["name"]], values["truth"], strict=True) if x is not None]
        # figures of some proxies span many powers of ten: where all are positive, the axis may be logarithmic
        wide = bool(pairs) and min(x for x, _ in pairs) > 0 and max(pairs)[0] > 100 * min(pairs)[0]
        data = {
            "type": "scattergl" if len(pairs) > 1000 else "scatter",
            "mode": "markers",
            "x": [x for x, _ in pairs],
            "y": [y for _, y in pairs],
            "marker": {"color": GREY if row["baseline"] else BLUE, "size": 5, "opacity": 0.6},
        }
        title = f"{row['name']}, {row['unit']}"
        plots.append(
            plot(
                escaped(row["name"]),
                [data],
                xaxis=axis(title, **({"type": "log"} if wide else {})),
                yaxis=axis(f"{truth['metric']}, {truth['unit']}"),
                showlegend=False,
            )
        )
    return "".join(plots)


def _provenance(document: Mapping[str, Any]) -> str:
    environment = document["environment"]
    facts = [
        (escaped(name), escaped(_listed(value)))
        for name, value in environment.items()
        if value not in (None, [], {})
    ]
    seconds = [(escaped(name), amount(value)) for name, value in document["seconds"].items()]
    written = escaped(yaml.safe_dump(document["config"], sort_keys=False))
    return section(
        "Provenance",
        table(("", ""), facts, "facts"),
        "<h3>Seconds</h3><p class='note'>A network, or the whole training of a supernet.</p>",
        table(("", ""), seconds, "facts"),
        f"<details><summary>Configuration</summary><pre>{written}</pre></details>",
    )


def _listed(value: Any) -> Any:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
