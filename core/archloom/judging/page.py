"""An evaluation as files: a page for people, tables and numbers for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..report import document
from ..report.markup import BLUE, GREY, axis, counted, escaped, plot, section, table
from ..run import write_atomically, write_json
from .evaluation import BINS, Evaluation, classes_csv, confusion_csv, reliability

NAMED = 30
"""Classes up to which the confusion matrix shows its counts."""


def write_evaluation(evaluation: Evaluation, folder: str | Path, title: str) -> Path:
    """evaluation.html, metrics.json, classes.csv and confusion.csv in `folder`; the page's path."""
    folder = Path(folder)
    write_json(folder / "metrics.json", evaluation.to_json())
    write_atomically(folder / "classes.csv", classes_csv(evaluation).encode())
    write_atomically(folder / "confusion.csv", confusion_csv(evaluation).encode())
    write_atomically(folder / "evaluation.html", page(evaluation, title).encode())
    return folder / "evaluation.html"


def page(evaluation: Evaluation, title: str) -> str:
    """The whole page; it needs no network."""
    names = {"loss": "loss, nats", "ece": "calibration error (ECE), %"}
    rows = [
        [escaped(names.get(name, name if name == "loss" else f"{name}, %")), f"{value:.4g}"]
        for name, value in evaluation.metrics().items()
    ]
    told = f"<p>{counted(evaluation.images, 'image')}, {counted(len(evaluation.classes), 'class', 'classes')}.</p>"
    if evaluation.unreadable:
        count = counted(len(evaluation.unreadable), "file")
        told += f'<p class="unfinished">{count} could not be read and is left out: '
        told += escaped("; ".join(evaluation.unreadable[:5])) + "</p>"
    return document(
        title,
        f"<header><h1>{escaped(title)}</h1>{told}{table(['figure', 'value'], rows, 'narrow')}</header>"
        + section("Which class is taken for which", _confusion(evaluation), _confused(evaluation))
        + section("Each class", _class_table(evaluation))
        + section("How sure, and how right", _reliability(evaluation)),
    )


def _confusion(evaluation: Evaluation) -> str:
    counts = evaluation.confusion.tolist()
    shares = [[value / sum(row) if sum(row) else 0.0 for value in row] for row in counts]
    labels = [escaped(name) for name in evaluation.classes]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": shares,
        "x": labels,
        "y": labels,
        "customdata": counts,
        "zmin": 0,
        "zmax": 1,
        "xgap": 1 if len(labels) <= NAMED else 0,
        "ygap": 1 if len(labels) <= NAMED else 0,
        "colorscale": [[0, "#ffffff"], [0.001, "#e3eef6"], [1, BLUE]],
        "colorbar": {"title": {"text": "share of the row"}, "tickformat": ".0%"},
        "hovertemplate": "true %{y}, predicted %{x}: %{customdata} (%{z:.1%})<extra></extra>",
    }
    if len(labels) <= NAMED:
        trace |= {
            "text": [[str(value) if value else "" for value in row] for row in counts],
            "texttemplate": "%{text}",
        }
    ticks: dict[str, Any] = {"type": "category"} | ({"showticklabels": False} if len(labels) > 100 else {})
    return plot(
        "Confusion matrix",
        [trace],
        "Each row is a true class, each column what the network said; the numbers are images.",
        xaxis=axis("predicted", **ticks),
        yaxis=axis("true", autorange="reversed", **ticks),
    ).replace(
        'class="plot"', f'class="plot" style="height:{min(900, max(380, 130 + 26 * len(labels)))}px"', 1
    )


def _confused(evaluation: Evaluation) -> str:
    """The pairs that are confused most, as a table."""
    wrong = evaluation.confusion.clone()
    wrong.fill_diagonal_(0)
    count = min(10, int((wrong > 0).sum()))
    if not count:
        return "<p>No image is taken for another class.</p>"
    found = wrong.flatten().topk(count)
    names, size = evaluation.classes, len(evaluation.classes)
    rows = [
        [escaped(names[at // size]), escaped(names[at % size]), str(value)]
        for value, at in zip(found.values.tolist(), found.indices.tolist(), strict=True)
    ]
    return "<h3>Confused most</h3>" + table(["true", "predicted", "images"], rows, "narrow")


def _class_table(evaluation: Evaluation) -> str:
    rows = [
        [escaped(f.name), f"{f.precision:.2f}", f"{f.recall:.2f}", f"{f.f1:.2f}", f"{f.support:,}"]
        for f in evaluation.per_class
    ]
    note = (
        '<p class="note">Precision: of what was said to be the class, the share that is. Recall: of what is the '
        "class, the share that was found. F1: their harmonic mean. 0 where there is nothing to divide by.</p>"
    )
    return note + table(["class", "precision %", "recall %", "F1 %", "images"], rows, "narrow")


def _reliability(evaluation: Evaluation) -> str:
    found = reliability(evaluation)
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "as sure as right",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"color": GREY, "dash": "dash", "width": 1},
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "the network",
            "x": [confidence for confidence, _, _ in found],
            "y": [right for _, right, _ in found],
            "text": [counted(images, "image") for _, _, images in found],
            "hovertemplate": "%{x:.3f} sure, %{y:.3f} right, %{text}<extra></extra>",
            "marker": {
                "color": BLUE,
                "size": [6 + 22 * (images / evaluation.images) ** 0.5 for *_, images in found],
            },
            "line": {"color": BLUE, "width": 1},
        },
    ]
    note = (
        f"Images in {BINS} bins of equal width by the probability of the predicted class; the larger the mark, the "
        "more images. Below the dashed line the network is surer than it is right. "
        "ECE is the mean distance from that line."
    )
    return plot(
        "Calibration",
        data,
        note,
        xaxis=axis("mean probability of the predicted class", range=[0, 1.03]),
        yaxis=axis("share that is right", range=[0, 1.05]),
    )
