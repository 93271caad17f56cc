"""The small searches, trainings and tables of `benchmarks/behaviour.py`.

A case is the files that it begins with and its steps, done one after the other in a folder of its own. A step is what
follows `archloom` on the command line, and how it is run. All of it is what a user writes: nothing here is archloom's
Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """`archloom ARGUMENTS`.

    save: the file that keeps what it prints, for a document. kill: SIGKILL once the log of the run has so many lines.
    apart: started as a user starts it, since it starts processes itself; otherwise forked from a process that has
    PyTorch loaded. keep: a copy of the folder `run`, as it is after the step, under this name. code: the exit code.
    """

    arguments: str
    save: str = ""
    kill: int = 0
    apart: bool = False
    keep: str = ""
    code: int = 0


@dataclass(frozen=True)
class Case:
    """files: name -> configuration. images: with small image files in `images`. Of an interrupted case the second tree
    also does the steps from `resumes` on in the folder that the first one left."""

    steps: tuple[Step, ...]
    files: dict[str, Any] = field(default_factory=dict)
    images: bool = False
    resumes: int = 0


SPACE = {
    "type": "fbnet",
    "form": "small",
    "in_channels": 1,
    "stem": [8, 1, 1],
    "stages": [[8, 2, 2], [16, 2, 2]],
    "head_width": 32,
    "candidates": ["skip", "ir_k3_e1", "ir_k3_e3", "ir_k5_e6"],
}
CREAM_SPACE = {"type": "cream", "form": "small", "in_channels": 1, "stages": [[8, 2, 2]], "skip": True}
COMMON: dict[str, Any] = {
    "space": SPACE,
    "task": {"type": "digits", "train_size": 128},
    "recipe": {"type": "default", "epochs": 2, "batch_size": 32},
    "verdict": {"seeds": 0},
    "observers": [],
    "threads": 1,
    "checkpoint_every": 0,
}
JUDGED = {"verdict": {"seeds": 1, "random": 1}}
INHERITED = {
    "estimators": ["params", "macs", {"type": "inherited_accuracy", "recalibration": 2}],
    "objectives": ["accuracy.inherited"],
}
TRAINED = {
    "estimators": ["macs", {"type": "accuracy", "epochs": 1, "batch_size": 32}],
    "objectives": ["accuracy.trained"],
}
RISING = TRAINED | {"estimators": ["macs", {"type": "accuracy", "epochs": 4, "batch_size": 32}]}
TABLED = {
    "space": "nasbench_macro",
    "task": "fake",
    "estimators": ["macro_table"],
    "objectives": ["accuracy.table"],
    "budget": {"trials": 40},
}
FBNET = {"type": "fbnet", "epochs": 3, "warmup_epochs": 1, "batch_size": 32, "cost": "macs", "samples": 3}
CREAM = {
    "type": "cream",
    "epochs": 3,
    "start_epoch": 1,
    "batch_size": 32,
    "lr": 0.1,
    "board": 3,
    "meta_every": 2,
    "unit_steps": 1,
    "board_images": 32,
    "recalibration": 1,
}
EVOLUTION = {"type": "evolution", "population": 3, "tournament": 2}
SCALING = {
    "type": "scaling",
    "base": {
        "space": {
            "type": "efficientnet",
            "in_channels": 1,
            "native_resolution": False,
            "head_filters": 32,
            "blocks": ["r1_k3_s11_e1_i8_o8_se0.25", "r1_k3_s22_e2_i8_o16_se0.25"],
        },
        "architecture": {"network": "efficientnet-b0"},
    },
    "alpha": [1.0, 2.0],
    "beta": [1.0, 1.4],
    "gamma": [1.0, 1.375],
    "tolerance": 0.6,
}
SMALL_NET = {"type": "ResNet_CIFAR", "depth": 18, "base_channels": 4, "num_stages": 3}
STRONG = {
    "type": "default",
    "epochs": 2,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 0.01,
    "warmup_epochs": 0.5,
    "accumulate": 2,
    "clip": 1.0,
    "ema": 0.9,
    "mixup": 0.2,
    "cutmix": 1.0,
    "erasing": 0.2,
    "label_smoothing": 0.1,
}

LATER: tuple[str, ...] = ()
"""Strategies that came after the commit of record, which can do no case with them; given one when that moves on."""


def search(configuration: dict[str, Any], *more: Step, apart: bool = False) -> Case:
    first = Step("search config.yaml --folder run", apart=apart)
    return Case((first, *more), {"config.yaml": COMMON | configuration})


def interrupted(configuration: dict[str, Any], begin: str = "", go_on: str = "", kill: int = 0) -> Case:
    """A search that is stopped, by a budget or by SIGKILL, and resumed; the folder between is kept."""
    first = Step(f"search config.yaml --folder run {begin}".strip(), kill=kill, keep="interrupted")
    steps = (first, Step(f"resume run {go_on}".strip()))
    return Case(steps, {"config.yaml": COMMON | configuration}, resumes=1)


AFTER_RETRAINING = (
    Step("retrain net.yaml --out run"),
    Step("evaluate run --topk 1,3 --tta flip --json", save="evaluate.json"),
    Step("predict run images/val --json", save="predict.json"),
    Step("export run --format safetensors --out run/plain"),
    Step("export run --format torchscript --out run/script"),
    Step("evaluate run/plain --json", save="evaluate_exported.json"),
    Step("look run --out run/look"),
)

COMPARED = {
    "space": "nasbench_macro",
    "task": "fake",
    "estimators": ["macro_table"],
    "strategies": {
        "evolution": {"type": "evolution", "population": 5, "tournament": 2},
        "local search": "local_search",
        "surrogate": {"type": "surrogate", "costs": ["macs.table"], "initial": 4, "batch": 2},
    },
    "select": "accuracy.table.seed1",
    "score": {"mean": "accuracy.table", "others": ["accuracy.table.seed2", "accuracy.table.seed3"]},
    "optimum": "exhaustive",
    "budget": {"trials": 12},
    "seeds": 3,
    "resamples": 200,
    "processes": 1,
}
COMPARED_BY_TRAINING = {
    "space": SPACE,
    "task": {"type": "digits", "train_size": 96},
    "estimators": TRAINED["estimators"],
    "strategies": {"evolution": EVOLUTION, "fbnet": {"method": FBNET | {"epochs": 2}}},
    "select": "accuracy.trained",
    "score": {"trained": "accuracy.trained"},
    "budget": {"trials": 2},
    "seeds": 2,
    "resamples": 100,
    "processes": 1,
    "threads": 1,
}
RANKED = {
    "space": SPACE,
    "task": {"type": "digits", "train_size": 128},
    "truth": "digits_table",
    "metric": "accuracy.table",
    "supernets": [{k: v for k, v in FBNET.items() if k != "samples"} | {"epochs": 2}, CREAM | {"epochs": 2}],
    "predictors": [{"type": "inherited_accuracy", "recalibration": 1}],
    "networks": 6,
    "top": 2,
    "resamples": 100,
    "threads": 1,
}
PROXIES = ("grad_norm", "snip", "grasp", "fisher", "naswot", "jacob_cov")
RANKED_BY_PROXIES = RANKED | {
    "supernets": [],
    "predictors": [
        *({"type": name, "batch_size": 8} for name in PROXIES),
        "synflow",
        {"type": "zen", "batch_size": 8},
    ],
}

CASES: dict[str, Case] = {
    "fbnet": search({"method": FBNET} | INHERITED | JUDGED, Step("report run")),
    "fbnet top k": search({"method": FBNET | {"mode": "top_k"}} | INHERITED),
    "fbnet single path": search({"method": FBNET | {"mode": "single_path"}} | INHERITED),
    "cream": search({"space": CREAM_SPACE, "method": CREAM} | INHERITED),
    "cream then evolution": search(
        {"space": CREAM_SPACE, "method": CREAM, "strategy": EVOLUTION, "budget": {"trials": 5}} | INHERITED
    ),
    "random with a constraint": search(
        TRAINED | JUDGED | {"strategy": "random", "constraints": ["macs <= 3e4"], "budget": {"trials": 3}}
    ),
    "evolution": search(TRAINED | {"strategy": EVOLUTION, "budget": {"trials": 5}}),
    "successive halving": search(
        RISING
        | {
            "strategy": {"type": "successive_halving", "width": 4, "eta": 2, "rungs": 3},
            "budget": {"trials": 7},
        }
    ),
    "hyperband": search(
        RISING | {"strategy": {"type": "hyperband", "eta": 2, "rungs": 3}, "budget": {"trials": 7}}
    ),
    "local search": search(TABLED | {"strategy": "local_search"}),
    "surrogate": search(
        TABLED | {"strategy": {"type": "surrogate", "initial": 5, "batch": 5, "costs": ["macs.table"]}}
    ),
    "optuna tpe": search(
        TABLED | {"strategy": {"type": "optuna", "sampler": "tpe"}, "budget": {"trials": 20}}
    ),
    "optuna nsga2": search(
        TABLED
        | {
            "space": SPACE,
            "task": "digits",
            "estimators": ["params", "macs"],
            "objectives": ["params", "macs"],
            "strategy": {"type": "optuna", "sampler": "nsga2", "options": {"population_size": 6}},
            "reference": {"macs": 4e6, "params": 1e5},
            "pick": {"best": "macs", "within": {"params": 1000}},
        }
    ),
    "efficientnet scaling": search(
        TRAINED
        | {
            "space": SCALING,
            "task": {"type": "digits", "train_size": 96, "resolution": 16},
            "strategy": "grid",
        }
    ),
    "workers: 2": search(
        TRAINED | {"strategy": EVOLUTION, "budget": {"trials": 4}, "workers": 2}, apart=True
    ),
    "fbnet interrupted": interrupted(
        {"method": FBNET} | INHERITED, "--set budget.epochs=2", "--set budget.epochs=null"
    ),
    "cream interrupted": interrupted(
        {"space": CREAM_SPACE, "method": CREAM} | INHERITED,
        "--set budget.epochs=2",
        "--set budget.epochs=null",
    ),
    "evolution killed": interrupted(TRAINED | {"strategy": EVOLUTION, "budget": {"trials": 5}}, kill=6),
    "halving interrupted": interrupted(
        RISING | {"strategy": {"type": "successive_halving", "width": 4, "eta": 2, "rungs": 3}},
        "--set budget.trials=5",
        "--set budget.trials=7",
    ),
    "compare": Case((Step("compare config.yaml --folder run"),), {"config.yaml": COMPARED}),
    "compare by training": Case(
        (Step("compare config.yaml --folder run"),), {"config.yaml": COMPARED_BY_TRAINING}
    ),
    "rank with supernets": Case((Step("rank config.yaml --folder run"),), {"config.yaml": RANKED}),
    "rank with proxies": Case((Step("rank config.yaml --folder run"),), {"config.yaml": RANKED_BY_PROXIES}),
    "retrain": Case(
        AFTER_RETRAINING,
        {
            "net.yaml": {
                "model": {"backbone": SMALL_NET, "head": "LinearClsHead"},
                "task": {"type": "digits", "train_size": 300, "augment": "shift"},
                "recipe": STRONG,
            }
        },
        images=True,
    ),
    "retrain on image files": Case(
        (
            Step("retrain net.yaml --out run"),
            Step("evaluate run --images images/val --json", save="evaluate.json"),
            Step("export run --format onnx --out run/onnx"),
        ),
        {
            "net.yaml": {
                "model": {"backbone": SMALL_NET, "neck": "GeneralizedMean", "head": "HiddenClsHead"},
                "task": {"type": "imagefolder", "root": "images", "resolution": 16, "workers": 0},
                "recipe": {"type": "default", "epochs": 2, "batch_size": 8, "randaugment": [2, 9]},
            }
        },
        images=True,
    ),
    "published networks": Case(
        tuple(
            Step(f"info {name} --json", save=f"{name}.json")
            for name in ("fbnet_a", "fbnet_c", "cream_14", "efficientnet-b0", "efficientnet-b3")
        )
    ),
}
