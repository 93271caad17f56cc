"""Latency on this device: of the whole network as measured, or as the sum of a table of its parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from archloom import (
    INHERITED,
    STATIC,
    Architecture,
    Context,
    Metric,
    ModelParts,
    SearchSpace,
    Task,
    layout_of,
    torch_rng,
)
from archloom.latency import LatencyTable, build_table, check_images, measure, table_name
from archloom.metrics import num_outputs


class MeasuredLatency:
    """Milliseconds of a forward in inference mode, channels_last: the median, and the 10th and 90th percentile.

    batch: images at once. runs: timed calls, after warmup untimed ones.
    """

    metrics = (
        Metric("latency.measured", "ms", "min"),
        Metric("latency.measured.low", "ms", "min"),
        Metric("latency.measured.high", "ms", "min"),
    )
    # a timing is nothing that can be recomputed, but it is cheaper than judging a trained network
    expense, needs = INHERITED, ("task",)

    def __init__(self, *, batch: int = 1, runs: int = 30, warmup: int = 5) -> None:
        self.batch, self.runs, self.warmup = batch, runs, warmup

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        model = context.assemble(architecture).to(memory_format=torch.channels_last)
        generator = torch_rng(context.seed, "latency")
        images = torch.randn(self.batch, *context.shape(architecture), generator=generator)
        images = images.to(context.device, memory_format=layout_of(images))
        timing = measure(model, images, device=context.device, runs=self.runs, warmup=self.warmup)
        return {
            "latency.measured": timing.median,
            "latency.measured.low": timing.low,
            "latency.measured.high": timing.high,
        }


class TableLatency:
    """Milliseconds as the sum of a table's entries.

    table: a file that `archloom latency build` wrote, for this space at this size of images; the run keeps a copy of
    it, and goes by that. Without one the table is measured once on this device, with `batch` images and `runs` timed
    calls, and kept with the run.
    """

    metrics = (Metric("latency.table", "ms", "min"),)
    expense, needs = STATIC, ("task",)

    def __init__(self, *, table: str | None = None, batch: int = 1, runs: int = 20) -> None:
        self.batch, self.runs = batch, runs
        self.path, self.given = table, LatencyTable.read(table) if table else None
        self._built: LatencyTable | None = None

    def check(self, space: SearchSpace, task: Task, model: ModelParts) -> None:
        """Refuse a table of another space, or of images of another size."""
        check_images(tuple(task.shape))
        if self.given is not None:
            self.given.check(space, (*task.shape,), num_outputs(task), model)

    def estimate(self, architecture: Architecture, context: Context) -> Mapping[str, float]:
        return {"latency.table": self._table(context).latency(architecture)}

    def _table(self, context: Context) -> LatencyTable:
        if self._built is None:
            if self.path is not None and self.given is not None:
                self.check(context.space, context.task, context.model)
                made = context.recorded(table_name(self.path), self.given.to_json)
            else:
                made = context.recorded("latency_table", lambda: self._measure(context))
            self._built = LatencyTable.from_json(made, "the run's latency table")
        return self._built

    def _measure(self, context: Context) -> object:
        table = build_table(
            context.space,
            (*context.task.shape,),
            num_outputs(context.task),
            parts=context.model,
            device=context.device,
            batch=self.batch,
            runs=self.runs,
        )
        return table.to_json()
