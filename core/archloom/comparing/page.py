"""A comparison as one HTML file: what was asked, the curves, the table, the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..objective import exact
from ..report import headed
from ..report.markup import BLUE, GREEN, GREY, INK, ORANGE, RED, amount, axis, escaped, plot, section, table
from ..standing import with_unit

_COLOURS = (BLUE, RED, GREEN, "#CC79A7", ORANGE, "#56B4E9", INK)
_DASHES = ("solid", "dash", "dot", "dashdot")


def page(result: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """The whole page, self-contained. `result` is what comparison.json holds, `environment` what environment.json."""
    protocol, searched = result["protocol"], result["searched"]
    space = searched["space"]["type"]
    opening = (
        f'<p class="summary">{len(result["strategies"])} strategies, {protocol["seeds"]} seeds each, '
        f"{amount(protocol['budget'])} {protocol['axis']} a search. Each search optimizes "
        f"<code>{escaped(protocol['select'])}</code>; its incumbent is the best in that so far. Bands are "
        f"{protocol['confidence']:.0%} bootstrap intervals of the mean over the seeds "
        f"({protocol['resamples']:,} resamples).</p>"
    )
    scores = [_score(result, label, scored) for label, scored in result["scores"].items()]
    where = (_who(result, environment.get("seconds", {})), _provenance(result, environment))
    return headed(f"Strategies on {space}", opening, *scores, *where)


def interval(mean: float, low: float, high: float) -> str:
    """0.123 [0.1, 0.15], with as many digits as a regret needs."""
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def probability(p: float) -> str:
    """A p value, no more exact than it is of use."""
    return "&lt; 0.001" if p < 0.001 else f"{p:.3f}"


def _colour(label: str, labels: Sequence[str], baseline: str) -> tuple[str, str]:
    """A colour and a dash; the baseline is always grey."""
    if label == baseline:
        return GREY, "solid"
    others = [one for one in labels if one != baseline]
    place = others.index(label)
    return _COLOURS[place % len(_COLOURS)], _DASHES[place // len(_COLOURS) % len(_DASHES)]


def _score(result: Mapping[str, Any], label: str, scored: Mapping[str, Any]) -> str:
    protocol = result["protocol"]
    judged = (
        "the mean of " + ", ".join(scored["metrics"]) if len(scored["metrics"]) > 1 else scored["metrics"][0]
    )
    told = (
        f"Score: {escaped(judged)} of the incumbent. Regret: {amount(scored['optimum'])}, the best of "
        f"{escaped(scored['optimum of'].removeprefix('the best of '))}, less that; lower is better."
        if scored["direction"] == "max"
        else f"Score: {escaped(judged)} of the incumbent, lower is better. Regret: that less "
        f"{amount(scored['optimum'])}, the best of {escaped(scored['optimum of'].removeprefix('the best of '))}."
    )
    if "floor" in scored:
        told += (
            f" Whoever measures the whole space and selects by {escaped(protocol['select'])} has regret "
            f"{scored['floor']:.3g}."
        )
    return section(
        escaped(label),
        f'<p class="note">{told}</p>',
        '<div class="plots">',
        _curves(protocol, scored, log=False),
        _curves(protocol, scored, log=True),
        "</div>",
        _table(protocol, scored),
        _tests(protocol, scored),
    )


def _curves(protocol: Mapping[str, Any], scored: Mapping[str, Any], *, log: bool) -> str:
    data: list[dict[str, Any]] = []
    labels = list(scored["curves"])
    for label, curve in scored["curves"].items():
        colour, dash = _colour(label, labels, protocol["baseline"])
        # a logarithm has no place for zero: the curve leaves the picture there
        bound = lambda values: [value if not log or value > 0 else None for value in values]
        around = [
            *zip(curve["at"], curve["high"], strict=True),
            *zip(curve["at"][::-1], curve["low"][::-1], strict=True),
        ]
        least = min((v for v in (*curve["low"], *curve["mean"]) if v > 0), default=1e-6)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [x for x, _ in around],
                "y": [max(y, least) if log else y for _, y in around],
                "fill": "toself",
                "fillcolor": f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},0.16)",
                "line": {"width": 0},
                "hoverinfo": "skip",
                "showlegend": False,
                "legendgroup": label,
            }
        )
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": escaped(label),
                "x": curve["at"],
                "y": bound(curve["mean"]),
                "line": {"color": colour, "width": 2, "dash": dash},
                "legendgroup": label,
            }
        )
    name = with_unit("regret", scored["unit"])
    title = f"Regret over the {protocol['axis']}" + (", logarithmic" if log else "")
    up = axis(name, type="log") if log else axis(name, rangemode="tozero")
    return plot(title, data, xaxis=axis(f"{protocol['axis']} of a search"), yaxis=up)


def _table(protocol: Mapping[str, Any], scored: Mapping[str, Any]) -> str:
    rows = []
    for label, curve in scored["curves"].items():
        cells = [escaped(label)]
        for one in protocol["at"]:
            if one not in curve["at"]:
                cells.append("-")
                continue
            n = curve["at"].index(one)
            cells.append(interval(curve["mean"][n], curve["low"][n], curve["high"][n]))
        rows.append(cells)
    head = ["mean regret", *(f"{exact(one)} {protocol['axis']}" for one in protocol["at"])]
    return table(head, rows)


def _tests(protocol: Mapping[str, Any], scored: Mapping[str, Any]) -> str:
    rows = []
    for test in scored["tests"]:
        surest = max(test["wilcoxon_holm"], test["bootstrap_holm"])
        verdict = "no difference shown"
        if surest < 1 - protocol["confidence"]:
            verdict = "better" if test["difference"] < 0 else "worse"
        rows.append(
            [
                escaped(test["strategy"]),
                exact(test["at"]),
                interval(test["difference"], test["low"], test["high"]),
                f"{test['wins']} / {test['ties']} / {test['losses']}",
                probability(test["wilcoxon_holm"]),
                probability(test["bootstrap_holm"]),
                verdict,
            ]
        )
    head = [
        f"against {escaped(protocol['baseline'])}",
        escaped(protocol["axis"]),
        "difference of regret",
        "wins / ties / losses",
        "p, Wilcoxon",
        "p, bootstrap",
        "",
    ]
    note = (
        '<p class="note">Paired by seed. Both p values are two-sided and corrected by Holm over the rows of this '
        "table; better or worse means that both are below "
        f"{1 - protocol['confidence']:.2g}.</p>"
    )
    return table(head, rows) + note if rows else ""


def _who(result: Mapping[str, Any], seconds: Mapping[str, float]) -> str:
    rows = [
        [
            escaped(label),
            f"<code>{escaped(json.dumps({k: v for k, v in who.items() if k in ('strategy', 'method')}))}</code>",
            amount(who["searches"]),
            f"{who['trials']:.4g}",
            f"{seconds[label]:.3g}" if label in seconds else "-",
        ]
        for label, who in result["strategies"].items()
    ]
    return section("Strategies", table(["label", "options", "searches", "trials each", "seconds each"], rows))


def _provenance(result: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    facts = [
        ["space", escaped(json.dumps(result["searched"]["space"]))],
        ["estimators", escaped(json.dumps(result["searched"]["estimators"]))],
        ["constraints", escaped("; ".join(result["searched"]["constraints"]) or "none")],
        ["device", escaped(environment.get("device", "?"))],
        ["commit", escaped(environment.get("commit") or "none")],
        ["versions", escaped(json.dumps(environment.get("versions", {})))],
    ]
    return section("What was compared, and where", table(["", ""], facts, "facts"))
