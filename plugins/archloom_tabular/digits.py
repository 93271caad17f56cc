"""A table of our own: 256 networks of a small FBNet space, each trained three times on handwritten digits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from archloom import (
    STATIC,
    Architecture,
    ConfigError,
    Context,
    Metric,
    SearchSpace,
    SpaceError,
    decide,
    own_rng,
)
from archloom.space import from_text, to_text

FORMAT = "archloom digits table 1"


class DigitsTable:
    """Accuracies on digits of 256 small networks, trained alone by benchmarks/digits_table.py: nothing is trained.

    path: a file that the script wrote, instead of the shipped one. Metrics: test top-1 in % of each training and their
    mean, the mean on the validation split, params, and MACs. The space must be the file's: the key "space" of the
    document, as `archloom_tabular.DigitsTable().document["space"]` gives it.
    """

    expense, needs = STATIC, ()

    def __init__(self, *, path: str | None = None) -> None:
        self.where = "the shipped table of digits" if path is None else path
        self.document = _read(path, self.where)
        self.rows: Mapping[str, Mapping[str, Any]] = self.document["rows"]
        self.metrics = (
            *(Metric(f"accuracy.table.seed{seed}", "%", "max") for seed in self.document["seeds"]),
            Metric("accuracy.table", "%", "max"),
            Metric("accuracy.validation.table", "%", "max"),
            Metric("params.table", "parameters", "min"),
            Metric("macs.table", "MACs", "min"),
        )
        self._checked: SearchSpace | None = None

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        if self._checked is not context.space:
            self._check(context.space)
        return self.figures(architecture)

    def known(self, space: SearchSpace) -> list[Architecture]:
        """All of them, where `space` is the table's; a ConfigError where it is another."""
        self._check(space)
        return [from_text(space, code) for code in self.rows]

    def figures(self, architecture: Architecture) -> Mapping[str, float]:
        """All metrics of one network; a SpaceError for one that the table lacks."""
        row = self.rows.get(str(architecture))
        if row is None:
            raise SpaceError(f"{self.where} has no row for the architecture '{architecture}'")
        told = {
            f"accuracy.table.seed{seed}": value
            for seed, value in zip(self.document["seeds"], row["test"], strict=True)
        }
        return told | {
            "accuracy.table": _mean(row["test"]),
            "accuracy.validation.table": _mean(row["validation"]),
            "params.table": row["params"],
            "macs.table": row["macs"],
        }

    def _check(self, space: SearchSpace) -> None:
        """A ConfigError where the first or the last network of `space` has not the table's params."""
        written = f"it is of the space {json.dumps(self.document['space'])}"
        ends = [to_text(space, decide(space, lambda choice: choice.options[i])) for i in (0, -1)]  # noqa: B023
        if unknown := [code for code in ends if code not in self.rows]:
            raise ConfigError(f"{self.where} has no network '{unknown[0]}'; {written}")
        for code in ends:
            with own_rng(0, "digits_table"), torch.device("meta"):
                network = space.build(from_text(space, code))
            params = sum(p.numel() for p in network.parameters() if p.requires_grad)
            expected = self.rows[code]["params"] - self.document["classifier params"]
            if params != expected:
                raise ConfigError(
                    f"{self.where}: network '{code}' of this space has {params:,} parameters before its classifier, "
                    f"the table's {expected:,}; {written}"
                )
        self._checked = space


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _read(path: str | None, where: str) -> Mapping[str, Any]:
    try:
        shipped = resources.files(__package__).joinpath("digits_networks.json")
        document = json.loads(
            shipped.read_text(encoding="utf-8") if path is None else Path(path).read_text(encoding="utf-8")
        )
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {where}: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError(f"{where} is not of the format {FORMAT!r}; benchmarks/digits_table.py writes it")
    if lacking := [key for key in ("space", "seeds", "rows", "classifier params") if key not in document]:
        raise ConfigError(f"{where} lacks '{lacking[0]}'; it is cut short")
    for code, row in document["rows"].items():
        numbers = [*row.get("test", ()), *row.get("validation", ()), row.get("params"), row.get("macs")]
        good = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
        if not good or len(row["test"]) != len(document["seeds"]) or not row["validation"]:
            raise ConfigError(
                f"{where}: network '{code}' has not {len(document['seeds'])} accuracies, params and MACs"
            )
    return document
