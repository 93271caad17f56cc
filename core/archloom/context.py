"""The run as its parts see it: methods, strategies and estimators are made from this one object, and nowhere by hand.

A factory is handed those of the fields that its signature names; `HANDED` lists them with what they are.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError
from .randomness import python_rng

if TYPE_CHECKING:  # torch comes with these, and a host reads the names of the fields without it
    import torch

    from .architecture import Architecture
    from .estimator import Context, Estimator, Metric
    from .model import Model, ModelParts
    from .objective import Constraint, Objective
    from .ranks import Ranks
    from .resolve import Maker
    from .space import SearchSpace
    from .strategy import Recorded, Strategy, WeightSharing
    from .task import Task


def nothing_counted(architecture: Architecture) -> Mapping[str, float]:
    """The costs of an architecture where no estimator counts any."""
    return {}


def _handed(meaning: str, *, before_star: bool = False) -> dict[str, Any]:
    return {"meaning": meaning, "before_star": before_star}


@dataclass(frozen=True)
class RunContext:
    """What a run is made of. Each field that means something to a plugin says what in its metadata.

    purpose: whose `rng` it is. `method` and `strategy` make theirs from a context of their own purpose.
    """

    space: SearchSpace = field(metadata=_handed("the search space"))
    rng: random.Random = field(
        init=False,
        metadata=_handed("a `random.Random` of the asking part's own, a function of the run's seed"),
    )
    task: Task = field(
        metadata=_handed("the data, an `archloom.task.Task`; None where the configuration says `task: null`")
    )
    model: ModelParts = field(
        metadata=_handed("neck, head and loss as configured, an `archloom.model.ModelParts`")
    )
    seed: int = field(metadata=_handed("the run's seed, for `archloom.randomness`"))
    device: torch.device = field(metadata=_handed("a `torch.device`"))
    precision: str = field(metadata=_handed('`"float32"`, `"bfloat16"` or `"float16"`'))
    recorded: Recorded = field(
        metadata=_handed(
            "`recorded(name, measure)`: a JSON value that is measured once in a run's life and read back on resume, "
            "the same on all ranks; to be called on all of them"
        )
    )
    ranks: Ranks = field(metadata=_handed("the processes of the run, an `archloom.ranks.Ranks`"))
    objectives: Sequence[Objective] = field(
        metadata=_handed(
            "what is improved: `archloom.objective.Objective`s, in the order of a trial's scores; in `archloom rank` "
            "the metric of the truth"
        )
    )
    metrics: Mapping[str, Metric] = field(
        metadata=_handed("all that the estimators measure: name -> `archloom.estimator.Metric`")
    )
    constraints: Sequence[Constraint] = field(
        default=(),
        metadata=_handed(
            "what is feasible: `archloom.objective.Constraint`s; none in `archloom rank`", before_star=True
        ),
    )
    costs: Callable[[Architecture], Mapping[str, float]] = field(
        default=nothing_counted,
        metadata=_handed(
            "`costs(architecture)`: metric -> value of what the estimators that count and look up (`STATIC`) measure; "
            "raises what they raise; on all ranks, as `recorded`",
            before_star=True,
        ),
    )
    purpose: str = "run"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rng", python_rng(self.seed, self.purpose))

    def counting(self, estimators: Sequence[Estimator]) -> RunContext:
        """The same with `costs` by those of `estimators` that are static."""
        from .estimator import STATIC

        static = [e for e in estimators if e.expense == STATIC and "supernet" not in getattr(e, "needs", ())]
        context = self.measuring()

        def costs(architecture: Architecture) -> Mapping[str, float]:
            counted: dict[str, float] = {}
            for estimator in static:
                measured = estimator.estimate(architecture, context)
                counted |= {metric.name: float(measured[metric.name]) for metric in estimator.metrics}
            return counted

        return replace(self, costs=costs)

    def measuring(self, *, supernet: Model | None = None, folder: Path | None = None) -> Context:
        """What an estimate may use: supernet, the trained one; folder, the run's."""
        from .estimator import Context

        return Context(
            space=self.space,
            task=self.task,
            model=self.model,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            recorded=self.recorded,
            supernet=supernet,
            folder=folder,
        )

    def method(self, maker: Maker) -> WeightSharing:
        """Who trains a supernet; a ConfigError where what is made cannot."""
        from .strategy import WeightSharing

        method = self._made(maker, "method")
        if isinstance(method, WeightSharing):
            return method
        whole = ("supernet", "fit", "state_dict", "load_state_dict")
        lacking = ", ".join(name for name in whole if not hasattr(method, name))
        raise ConfigError(
            f"method '{maker.entry.name}' lacks {lacking}. It is taken to train a supernet, since "
            f"{maker.entry.trains_since}"
        )

    def strategy(self, maker: Maker | None, method: WeightSharing | None = None) -> Strategy:
        """Who proposes: what is made or, where nothing is named, the `method`; a ConfigError where it does not."""
        from .strategy import Strategy, WeightSharing

        strategy: Any = method if maker is None else self._made(maker, "strategy")
        if maker is not None and isinstance(strategy, WeightSharing):
            raise ConfigError(
                f"strategy '{maker.entry.name}' makes a {type(strategy).__name__}, which trains a supernet, but its "
                "factory does not say so. Define 'fit' in the class that is registered, or annotate the function with "
                "the class that it returns"
            )
        if isinstance(strategy, Strategy):
            return strategy
        if maker is None:
            raise ConfigError(f"method {type(method).__name__} only trains; name a 'strategy' that proposes")
        raise ConfigError(f"strategy {type(strategy).__name__} lacks propose or observe")

    def _made(self, maker: Maker, purpose: str) -> Any:
        own = replace(self, purpose=purpose)
        return maker(**{name: getattr(own, name) for name in HANDED if name != WHOLE}, **{WHOLE: own})


WHOLE = "context"
"""The name of the parameter that is handed the object itself."""

HANDED: Mapping[str, str] = {
    **{one.name: one.metadata["meaning"] for one in fields(RunContext) if one.metadata},
    WHOLE: "all of these in one, an `archloom.context.RunContext`",
}
"""What a strategy's or a method's factory is handed where it names it, and what that is."""

BEFORE_STAR = (*(one.name for one in fields(RunContext) if one.metadata.get("before_star")), WHOLE)
"""Those that are handed in before the `*` alone: behind it they are options, as they were before they came here."""


def remembered() -> Recorded:
    """`recorded` of a run without a folder: each value is measured once, and comes back as from a file."""
    kept: dict[str, str] = {}

    def recorded(name: str, measure: Callable[[], Any]) -> Any:
        if name not in kept:
            kept[name] = json.dumps(measure())
        return json.loads(kept[name])

    return recorded
