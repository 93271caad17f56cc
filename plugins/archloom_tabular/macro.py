"""The published table of NAS-Bench-Macro: accuracies of three trainings, params and FLOPs of 6,561 networks."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from archloom import STATIC, Architecture, ConfigError, Context, Metric, SearchSpace

from .space import NAMES, OPTIONS, decode, encode

FORMAT = "archloom macro table 1"
CODES = tuple("".join(digits) for digits in itertools.product("012", repeat=len(NAMES)))
SEEDS = 3


@dataclass(frozen=True)
class Row:
    """accuracy: top-1 in % on CIFAR-10's test images after each of three trainings. flops: multiply-adds of
    convolutions and linear layers for one 32x32 image, what archloom calls MACs."""

    accuracy: tuple[float, ...]
    params: int
    flops: int

    @property
    def mean(self) -> float:
        """Over the trainings, in %."""
        return sum(self.accuracy) / len(self.accuracy)


def read_macro(path: str | Path | None = None) -> Mapping[str, Row]:
    """code -> row, complete.

    path: a file as NAS-Bench-Macro publishes it (nas-bench-macro_cifar10.json) or in the shipped form; without
    one the shipped file. Raises ConfigError where the file is neither, or lacks or repeats a network.
    """
    where = "the shipped table of NAS-Bench-Macro" if path is None else str(path)
    try:
        text = (
            resources.files(__package__).joinpath("nasbench_macro_cifar10.json").read_text(encoding="utf-8")
            if path is None
            else Path(path).read_text(encoding="utf-8")
        )
        data = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, where))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {where}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where} holds a {type(data).__name__}, not code -> figures")
    return _columns(data, where) if "format" in data else _published(data, where)


def _once(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    table = dict(pairs)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise ConfigError(f"{where} has '{key}' twice; which one counts? Remove the other")
        seen.add(key)
    return table


def _columns(data: Mapping[str, Any], where: str) -> dict[str, Row]:
    if data["format"] != FORMAT:
        raise ConfigError(f"{where} has format {data['format']!r}; this version reads {FORMAT!r}")
    columns = [*data.get("accuracy", []), data.get("params", []), data.get("flops", [])]
    if len(columns) != SEEDS + 2 or {len(column) for column in columns} != {len(CODES)}:
        raise ConfigError(f"{where} is cut short: it must have {SEEDS + 2} columns of {len(CODES)} numbers")
    return {
        code: _row(code, [number / 100 for number in accuracy], params, flops, where)
        for code, *accuracy, params, flops in zip(CODES, *columns, strict=True)
    }


def _published(data: Mapping[str, Any], where: str) -> dict[str, Row]:
    unknown = next((code for code in data if code not in _KNOWN), None)
    if unknown is not None:
        raise ConfigError(
            f"{where}: '{unknown}' is no network of NAS-Bench-Macro; a code has {len(NAMES)} digits 0, 1 or 2"
        )
    rows = {}
    for code in CODES:
        try:
            entry = data[code]
            rows[code] = _row(code, entry["test_acc"], entry["params"], entry["flops"], where)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"{where}: network {code} lacks {error}; the file is incomplete") from error
    return rows


def _row(code: str, accuracy: Any, params: Any, flops: Any, where: str) -> Row:
    numbers = [*accuracy, params, flops]
    if len(accuracy) != SEEDS or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ConfigError(f"{where}: network {code} has {numbers}, not {SEEDS} accuracies, params and FLOPs")
    return Row(tuple(map(float, accuracy)), int(params), int(flops))


_KNOWN = frozenset(CODES)


class MacroTable:
    """NAS-Bench-Macro's published figures of a network: nothing is trained.

    path: the published file, instead of the shipped copy. Metrics: top-1 in % of each of the three trainings and
    their mean, params, and MACs, all for CIFAR-10.
    """

    metrics = (
        *(Metric(f"accuracy.table.seed{seed}", "%", "max") for seed in range(1, SEEDS + 1)),
        Metric("accuracy.table", "%", "max"),
        Metric("params.table", "parameters", "min"),
        Metric("macs.table", "MACs", "min"),
    )
    expense, needs = STATIC, ()

    def __init__(self, *, path: str | None = None) -> None:
        self.rows = read_macro(path)

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        return self.figures(architecture)

    def architectures(self) -> list[Architecture]:
        """All 6,561, in the order of their codes."""
        return [decode(code) for code in CODES]

    def known(self, space: SearchSpace) -> list[Architecture]:
        """All of them, where `space` is NAS-Bench-Macro's; a ConfigError where it is another."""
        if [(c.name, c.options) for c in space.choices] != [(name, OPTIONS) for name in NAMES]:
            raise ConfigError("macro_table has the networks of space 'nasbench_macro', and of no other")
        return self.architectures()

    def figures(self, architecture: Architecture) -> Mapping[str, float]:
        """All metrics of one network."""
        row = self.rows[encode(architecture)]
        seeds = {f"accuracy.table.seed{n}": accuracy for n, accuracy in enumerate(row.accuracy, 1)}
        return seeds | {"accuracy.table": row.mean, "params.table": row.params, "macs.table": row.flops}
