"""What happened in a unit, as the numbers that the log keeps and the report draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from .board import Board

_NAMES = {
    "loss": ("weights.loss", 1.0),
    "ce": ("weights.ce", 1.0),
    "kd": ("weights.kd", 1.0),
    "accuracy": ("batch.accuracy", 100.0),
    "teacher": ("batch.teacher_accuracy", 100.0),
    "m": ("teacher.m", 1.0),
}


class Record:
    """Collects the steps of a unit; all its numbers are means over the ranks already."""

    def __init__(self) -> None:
        self._seen: defaultdict[str, list[float]] = defaultdict(list)
        self._places: defaultdict[str, list[float]] = defaultdict(list)
        self._lr = 0.0

    def step(self, seen: Mapping[str, float], lr: float, macs: int) -> None:
        """One step's numbers."""
        for name, value in seen.items():
            key, factor = _NAMES[name]
            self._seen[key].append(factor * value)
        self._seen["path.macs"].append(float(macs))
        self._lr = lr

    def teacher(self, place: int, weights: Sequence[float]) -> None:
        """Who taught, and sigmoid(w_k) of each entry."""
        for k, weight in enumerate(weights):
            self._places[f"teacher_weight.{k + 1}"].append(weight)
            self._places[f"teacher_share.{k + 1}"].append(float(k == place))

    def metrics(self, board: Board) -> dict[str, float]:
        """Means over the steps, and the board as it is; places are counted from 1, the best first."""
        metrics = {name: fmean(values) for name, values in (self._seen | self._places).items()}
        metrics["lr"] = self._lr
        for k, entry in enumerate(board.entries):
            metrics[f"board_accuracy.{k + 1}"] = entry.accuracy
            metrics[f"board_macs.{k + 1}"] = float(entry.macs)
        return metrics
