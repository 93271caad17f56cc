"""The contract of estimators."""

from __future__ import annotations

import math
import random
from typing import Any, ClassVar

from ..architecture import Architecture
from ..estimator import Context, Metric
from ..factories import NEEDS
from ..space import sample
from .checks import Contract, global_generators_untouched, require, same, snapshot
from .tiny import TinySpace, run_context, tiny_supernet, tiny_task


class EstimatorContract(Contract):
    """Checks an estimator. Override `space` and `task` where it needs certain ones; set `repeatable` to
    False where it measures time, whose numbers differ from call to call."""

    kind = "estimator"
    repeatable: ClassVar[bool] = True

    def space(self) -> Any:
        """The space whose architectures are measured."""
        return TinySpace()

    def task(self) -> Any:
        """The data."""
        return tiny_task()

    def _context(self) -> Context:
        space, task = self.space(), self.task()
        supernet = tiny_supernet(space, task) if "supernet" in self._make().needs else None
        return run_context(space, task, seed=11).measuring(supernet=supernet)

    def _architectures(self, context: Context, count: int = 2) -> list[Architecture]:
        rng = random.Random(0)
        return [sample(context.space, rng) for _ in range(count)]

    def test_it_says_what_it_measures(self) -> None:
        estimator = self._make()
        metrics = getattr(estimator, "metrics", ())
        require(metrics, "an estimator has `metrics`, a tuple of archloom.estimator.Metric")
        for metric in metrics:
            require(isinstance(metric, Metric), f"{metric!r} is not an archloom.estimator.Metric")
            require(metric.direction in ("max", "min"), f"{metric.name}: direction is 'max' or 'min'")
            require(metric.unit, f"{metric.name} has no unit")
        names = [metric.name for metric in metrics]
        require(len(set(names)) == len(names), f"a metric is named twice: {names}")

    def test_it_says_how_dear_it_is_and_what_it_needs(self) -> None:
        estimator = self._make()
        require(getattr(estimator, "expense", None) in (0, 1, 2), "expense is STATIC, INHERITED or TRAINING")
        needs = getattr(estimator, "needs", None)
        require(
            isinstance(needs, tuple | list) and set(needs) <= set(NEEDS["estimator"]),
            f'needs is a tuple, empty or of "supernet" and "task", not {needs!r}',
        )

    def test_an_estimate_has_all_its_metrics_as_finite_numbers(self) -> None:
        estimator, context = self._make(), self._context()
        for architecture in self._architectures(context):
            measured = estimator.estimate(architecture, context)
            declared = {metric.name for metric in estimator.metrics}
            require(
                set(measured) == declared, f"it declares {sorted(declared)} and measured {sorted(measured)}"
            )
            for name, value in measured.items():
                require(
                    isinstance(value, int | float) and math.isfinite(value),
                    f"{name} = {value!r}: an estimate is made of finite numbers of Python",
                )

    def test_an_estimate_can_be_repeated(self) -> None:
        if not self.repeatable:
            return
        estimator, context = self._make(), self._context()
        one, other = self._architectures(context)
        first = dict(estimator.estimate(one, context))
        estimator.estimate(other, context)
        require(
            dict(estimator.estimate(one, context)) == first,
            "the same trial was measured twice with different results; draw from context.seed, and keep "
            "nothing of one estimate for the next (set repeatable = False for timings)",
        )
        require(
            dict(self._make().estimate(one, context)) == first,
            "a fresh estimator, as in another process, measures otherwise; estimates may not build on others",
        )

    def test_it_leaves_the_global_generators_alone(self) -> None:
        estimator, context = self._make(), self._context()
        with global_generators_untouched("the estimate"):
            estimator.estimate(self._architectures(context)[0], context)

    def test_it_leaves_the_supernet_as_it_was(self) -> None:
        estimator, context = self._make(), self._context()
        if context.supernet is None:
            return  # it is handed none
        before = snapshot(context.supernet)
        estimator.estimate(self._architectures(context)[0], context)
        require(
            same(before, snapshot(context.supernet)),
            "the estimate changed the supernet (weights, BatchNorm statistics, gradients or modes); work on "
            "context.supernet.extract(architecture)",
        )
