"""A latency check as one HTML file: the table of errors, predicted against measured, the worst cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..architecture import Architecture
from ..report import headed
from ..report.markup import (
    BLUE,
    GREEN,
    GREY,
    OPTIONS,
    RED,
    amount,
    axis,
    bar,
    escaped,
    plot,
    section,
    table,
)

_MARKS = ((BLUE, "circle"), (RED, "diamond"), (GREEN, "square"))


def page(result: Mapping[str, Any], title: str) -> str:
    """The whole page, self-contained."""
    devices = result["devices"]
    opening = (
        '<p class="summary">Predicted against measured latency, of networks that nothing was fitted to. MAPE is the '
        "mean absolute percentage error, tau is Kendall's rank correlation; 95 % bootstrap intervals over the "
        "networks.</p>"
    )
    if "setting" in result:
        setting = ", ".join(f"{name} {value}" for name, value in result["setting"].items())
        opening += (
            f'<p class="note">{escaped(setting)}. Within a round, the middle four fifths of a network\'s runs lie '
            f"within {result['spread']:.2g} % of their median.</p>"
        )
    parts = [section("Agreement", _summary(devices))]
    parts += [_device(name, entry) for name, entry in devices.items()]
    return headed(title, opening, *parts)


def _summary(devices: Mapping[str, Any]) -> str:
    rows = []
    for name, entry in devices.items():
        for predictor, found in entry["agreement"].items():
            told = f"{predictor}: {entry['learned']}" if predictor == "learned" else predictor
            rows.append(
                [
                    escaped(name),
                    escaped(told),
                    amount(found["networks"]),
                    f"{found['mape']:.3g} [{found['mape_low']:.3g}, {found['mape_high']:.3g}]",
                    f"{found['tau']:.3f} [{found['tau_low']:.3f}, {found['tau_high']:.3f}]",
                    f"{found['bias']:+.2g}",
                    f"{found['worst']:.3g}",
                ]
            )
    head = ["device", "predictor", "networks", "MAPE, %", "tau", "bias, %", "worst, ms"]
    return table(head, rows)


def _device(name: str, entry: Mapping[str, Any]) -> str:
    measured = entry["measured"]
    low, high = min(measured), max(measured)
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "equal",
            "x": [low, high],
            "y": [low, high],
            "line": {"color": GREY, "width": 1, "dash": "dash"},
            "hoverinfo": "skip",
        }
    ]
    for (predictor, values), (colour, symbol) in zip(entry["predicted"].items(), _MARKS, strict=False):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": escaped(predictor),
                "x": measured,
                "y": values,
                "marker": {"color": colour, "symbol": symbol, "size": 6, "opacity": 0.6},
            }
        )
    drawn = plot("Predicted against measured", data, xaxis=axis("measured, ms"), yaxis=axis("predicted, ms"))
    return section(escaped(name), f'<div class="plots">{drawn}</div>', _worst(entry))


def _worst(entry: Mapping[str, Any]) -> str:
    predictors = list(entry["predicted"])
    networks = [Architecture.from_json(case["architecture"]) for case in entry["worst"]]
    options = dict.fromkeys(str(option) for network in networks for option in network.values())
    colours = {option: OPTIONS[n % len(OPTIONS)] for n, option in enumerate(options)}
    rows = [
        [f"{case['measured']:.4g}", *(f"{case[name]:.4g}" for name in predictors), bar(network, colours)]
        for case, network in zip(entry["worst"], networks, strict=True)
    ]
    return "<h3>Where it errs most</h3>" + table(
        ["measured, ms", *(f"{escaped(name)}, ms" for name in predictors), "architecture"], rows
    )
