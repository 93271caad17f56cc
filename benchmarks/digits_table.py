"""A ground truth of our own: all 256 networks of a small FBNet space, each trained three times on digits.

    python benchmarks/digits_table.py [--seeds 3] [--out plugins/archloom_tabular/digits_networks.json]

Every training is one line of `<out>.jsonl`, appended when it is done; a second call goes on where the first one was
stopped. At the end the lines become the table. With all images and long trainings every network is perfect on
digits, and with few images two seeds differ as much as two networks; short trainings on all images tell networks
apart. How well is printed, and stands in the table: the standard deviation of the networks' means over the mean
standard deviation of a network's trainings.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau

from archloom.architecture import Architecture
from archloom.config import Part
from archloom.cost import count
from archloom.latency import setting_of
from archloom.model import ModelParts, assemble
from archloom.plugins import Host
from archloom.resolve import make
from archloom.run import write_json
from archloom.space import SearchSpace, everything
from archloom.task import Task, batches
from archloom.training import Recipe, evaluate, train

FORMAT = "archloom digits table 1"
OUT = Path(__file__).parent.parent / "plugins" / "archloom_tabular" / "digits_networks.json"

SPACE: Mapping[str, Any] = {
    "form": "small",
    "in_channels": 1,
    "stem": [8, 1, 1],
    "stages": [[8, 2, 2], [16, 2, 2]],
    "head_width": 32,
    "candidates": ["skip", "ir_k3_e1", "ir_k3_e3", "ir_k5_e6"],
}
RECIPE: Mapping[str, Any] = {"epochs": 6, "batch_size": 64}


def training(space: SearchSpace, task: Task, architecture: Architecture, seed: int) -> dict[str, Any]:
    """One network trained from scratch: accuracies in %, and the seconds that it took."""
    started = time.perf_counter()
    model = assemble(space, architecture, task, ModelParts(), seed=seed)
    for _ in train(model, task, Recipe(**RECIPE), seed=seed, watch=None):
        pass
    judged = {
        split: evaluate(model, batches(task.dataset(split), 512), len(task.classes))["accuracy"]
        for split in ("validation", "test")
    }
    seconds = time.perf_counter() - started
    return {"architecture": str(architecture), "seed": seed, **judged, "seconds": seconds}


def spread(rows: Sequence[Sequence[float]]) -> dict[str, float]:
    """How far networks differ, how far their trainings do, and the ratio; rows: one network's trainings."""
    between = statistics.stdev(map(statistics.fmean, rows))
    within = statistics.fmean(map(statistics.stdev, rows))
    return {"between networks": between, "within a network": within, "ratio": between / within}


def table(lines: Sequence[Mapping[str, Any]], space: SearchSpace, task: Task) -> dict[str, Any]:
    """The document: one row for each network, in the space's order."""
    done: dict[str, list[Mapping[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        done.setdefault(line["architecture"], []).append(line)
    rows = {}
    for architecture in everything(space):
        mine = done[str(architecture)]
        cost = count(assemble(space, architecture, task, ModelParts(), seed=0), tuple(task.shape))  # type: ignore[arg-type]
        rows[str(architecture)] = {
            "test": [round(line["test"], 4) for line in mine],
            "validation": [round(line["validation"], 4) for line in mine],
            "params": cost.params,
            "macs": cost.macs,
        }
    test = [row["test"] for row in rows.values()]
    best = sorted(test, key=statistics.fmean, reverse=True)[: len(test) // 2]
    return {
        "format": FORMAT,
        "space": {"type": "fbnet", **SPACE},
        "task": {"type": "digits"},
        "recipe": RECIPE,
        "classifier params": len(task.classes) * (SPACE["head_width"] + 1),
        "seeds": sorted({line["seed"] for line in lines}),
        "provenance": {
            "script": "benchmarks/digits_table.py",
            "date": time.strftime("%Y-%m-%d"),
            "processor": setting_of(torch.device("cpu"), 1).device,
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in ("torch", "scikit-learn")},
            },
            "seconds of training": round(sum(line["seconds"] for line in lines)),
        },
        "spread of test accuracy in %": {
            "all": spread(test),
            "the better half": spread(best),
            "worst": min(map(statistics.fmean, test)),
            "median": statistics.median(map(statistics.fmean, test)),
            "best": max(map(statistics.fmean, test)),
            "kendall's tau between two trainings": float(
                kendalltau([t[0] for t in test], [t[1] for t in test])[0]
            ),
        },
        "rows": rows,
    }


def main(seeds: int, out: Path) -> None:
    torch.set_num_threads(1)
    host = Host()
    space = make(host, "space", Part(type="fbnet", options=dict(SPACE)))
    task = make(host, "task", Part(type="digits"))
    log = out.with_name(out.name + "l")
    lines = (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    )
    done = {(line["architecture"], line["seed"]) for line in lines}
    with log.open("a", encoding="utf-8") as file:
        for seed, architecture in itertools.product(range(seeds), list(everything(space))):
            if (str(architecture), seed) not in done:
                lines.append(training(space, task, architecture, seed))
                file.write(json.dumps(lines[-1]) + "\n")
                file.flush()
        document = table(lines, space, task)
    write_json(out, document)
    print(json.dumps(document["spread of test accuracy in %"], indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each network")
    parser.add_argument("--out", type=Path, default=OUT, help="the table, a JSON file")
    given = parser.parse_args()
    main(given.seeds, given.out)
