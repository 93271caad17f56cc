"""How far from the best network are the baselines after 20, 50 and 100 trials? On NAS-Bench-Macro's table.

    python benchmarks/macro_regret.py [--seeds 200]

Protocol: a strategy sees the first training's accuracy alone, and the incumbent after n trials is the network with
the highest one among the first n that were measured (repeats cost nothing). It is scored by the mean of its three
trainings. Regret: the best mean in the table less that, in percentage points. Printed are the mean over the seeds
and its 95 % interval (normal approximation); the result lands in benchmarks/results/macro_regret.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from archloom.architecture import Architecture
from archloom.engine import Limits, Search
from archloom.latency import setting_of
from archloom.measuring import Here, Outcome
from archloom.objective import Objective
from archloom.plugins import Host
from archloom.randomness import python_rng
from archloom.run import Memory

BUDGETS = (20, 50, 100)
SEEN = "accuracy.table.seed1"
TRUE = "accuracy.table"

STRATEGIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # label: (registered name, options)
    "random": ("random", {}),
    "evolution": ("evolution", {"population": 10, "tournament": 5}),
    "local search": ("local_search", {}),
    "surrogate": ("surrogate", {"costs": ["macs.table"]}),
    "surrogate, decisions alone": ("surrogate", {}),
}


def regrets(
    make: Callable[..., Any], space: Any, figures: Mapping[Architecture, Mapping[str, float]], seed: int
) -> list[float]:
    """Regret after each of `BUDGETS`, in percentage points."""
    cost = {"seconds": 0.0, "epochs": 0.0}
    loop = Search(
        space,
        make(rng=python_rng(seed, "strategy")),
        Here(lambda architecture, _: Outcome("ok", figures[architecture], cost)),
        [Objective(SEEN, "max")],
        Limits(trials=max(BUDGETS)),
        seed=seed,
        log=Memory(),
    )
    loop.run()
    measured = [trial for _, trial in sorted(loop.trials.items()) if trial.source is None]
    best = max(row[TRUE] for row in figures.values())
    return [best - max(measured[:n], key=lambda trial: trial.metrics[SEEN]).metrics[TRUE] for n in BUDGETS]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the half width of its 95 % interval."""
    half = 1.96 * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), half


def main(seeds: int) -> None:
    host = Host()
    space = host.get("space", "nasbench_macro").make({})
    table = host.get("estimator", "macro_table").make({"path": None})
    figures = {architecture: table.figures(architecture) for architecture in table.architectures()}
    rows = []
    for label, (name, options) in STRATEGIES.items():
        entry = host.get("strategy", name)
        started = time.perf_counter()
        make = partial(entry.make, entry.validate(options), space=space)
        found = [regrets(make, space, figures, seed) for seed in range(seeds)]
        seconds = (time.perf_counter() - started) / seeds
        by_budget = {n: interval(column) for n, column in zip(BUDGETS, zip(*found, strict=True), strict=True)}
        rows.append(
            {
                "strategy": label,
                "options": dict(options),
                "regret": {str(n): {"mean": m, "half": h} for n, (m, h) in by_budget.items()},
                "seconds per search": seconds,
            }
        )
        told = "   ".join(f"{n}: {m:.3f} +- {h:.3f}" for n, (m, h) in by_budget.items())
        print(f"{label:27} {told}   ({seconds:.2f} s a search)", flush=True)
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "seeds": seeds,
        "protocol": "select by the first training, score by the mean of three, regret in percentage points",
        "processor": setting_of(torch.device("cpu"), 1).device,
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "scikit-learn")},
        },
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "macro_regret.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="how many searches of each strategy")
    main(parser.parse_args().seeds)
