"""Makes tests/data/archive: what an earlier archloom left, which every later one must open.

    python benchmarks/archive.py --out tests/data/archive             at behaviour.BASE
    python benchmarks/archive.py --base COMMIT --out another-folder

All of it is made at one commit, in /var/tmp/archive, so that no file holds a path of a developer's machine, and by
the command line alone. Run folders are kept without their pages and without the checkpoints before the last; all else
is as it was left. `archive.json` says by which commit, with which versions and on what processor it was made, and holds
the logits of two fixed images. tests/test_archive.py opens everything.

The archive is made once for a commit and then left alone: a later version must open it as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from behaviour import BASE
from source_trees import announce, equip, files_of

PLACE = Path("/var/tmp/archive")
LEFT_OUT = ("*.previous", "*.html", ".lock", "tensorboard", "__pycache__")
EXAMPLES = ("archloom-annealing", "archloom-memory", "archloom-plainnet")
LIBRARIES = ("torch", "torchvision", "numpy", "scikit-learn", "onnx", "safetensors", "setuptools")

PLUGIN = '''"""A space of 27 networks of a few hundred weights."""

from torch import nn

import archloom
from archloom.space import build_chain


@archloom.hookimpl
def register_search_spaces(register):
    register("tiny", Tiny)


class Around(nn.Module):
    """A convolution, and the layers behind it."""

    def __init__(self, body):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.body = body

    def forward(self, x):
        return self.body(self.stem(x))


class Tiny:
    """Three layers of four channels: nothing, or a convolution of width 1 or 3."""

    def __init__(self):
        self.choices = [archloom.Choice(f"layer{i}", ("skip", "k1", "k3")) for i in range(3)]

    def candidate(self, choice, option):
        if option == "skip":
            return nn.Identity()
        kernel = int(option[1:])
        conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU())

    def around(self, body):
        return Around(body)

    def build(self, architecture):
        return build_chain(self, architecture)
'''

COMMON: dict[str, Any] = {
    "space": "tiny",
    "task": {"type": "digits", "train_size": 128},
    "recipe": {"type": "default", "epochs": 1, "batch_size": 32},
    "verdict": {"seeds": 0},
    "observers": [],
    "threads": 1,
    "checkpoint_every": 0,
    "plugins": ["tiny.py"],
}
INHERITED = {
    "estimators": ["params", "macs", {"type": "inherited_accuracy", "recalibration": 1}],
    "objectives": ["accuracy.inherited"],
}
TRAINED = {
    "estimators": ["macs", {"type": "accuracy", "epochs": 1, "batch_size": 32}],
    "objectives": ["accuracy.trained"],
}
FBNET = {"type": "fbnet", "epochs": 2, "warmup_epochs": 1, "batch_size": 32, "cost": "macs"}
CREAM = {
    "type": "cream",
    "epochs": 3,
    "start_epoch": 1,
    "batch_size": 32,
    "lr": 0.1,
    "board": 3,
    "meta_every": 2,
    "board_images": 32,
    "recalibration": 1,
}
EVOLUTION = {"type": "evolution", "population": 3, "tournament": 2}
COUNTED = {"space": "tiny", "task": "digits", "plugins": ["tiny.py"]}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "fbnet": COMMON | INHERITED | {"method": FBNET | {"samples": 3}, "verdict": {"seeds": 1, "random": 1}},
    "cream": COMMON | INHERITED | {"method": CREAM},
    "evolution": COMMON | TRAINED | {"strategy": EVOLUTION, "budget": {"trials": 5}},
    "compare": COUNTED
    | {
        "estimators": ["params", "macs"],
        "strategies": {"evolution": EVOLUTION, "local": "local_search"},
        "select": "macs",
        "score": {"macs": "macs", "params": "params"},
        "optimum": "exhaustive",
        "budget": {"trials": 6},
        "seeds": 2,
        "resamples": 100,
        "processes": 1,
    },
    "rank": COUNTED
    | {
        "task": {"type": "digits", "train_size": 128},
        "truth": {"type": "table", "path": "table.csv", "metrics": {"top1": "max %"}},
        "metric": "top1.table",
        "supernets": [FBNET],
        "predictors": [
            {"type": "inherited_accuracy", "recalibration": 1},
            {"type": "naswot", "batch_size": 8},
        ],
        "networks": 8,
        "top": 2,
        "resamples": 100,
        "threads": 1,
    },
}
RETRAINED = ["task.train_size=200", "recipe.ema=0.9", "recipe.mixup=0.2", "recipe.epochs=2"]


class Maker:
    """Runs commands of the archived commit in PLACE, beside a copy of its source tree."""

    def __init__(self, base: str) -> None:
        PLACE.mkdir(parents=True)  # refused where it is there: somebody may be at work in it
        kept = files_of(base)
        equip(kept)
        self.tree, self.work = PLACE / "archloom", PLACE / "folders"
        shutil.copytree(kept, self.tree)
        self.work.mkdir()
        libraries = PLACE / "libraries"  # graphs hold the paths of the modules that made them
        libraries.symlink_to(Path(torch.__file__).resolve().parent.parent, target_is_directory=True)
        parts = [
            announce(self.tree, PLACE / "installed"),
            self.tree / "core",
            self.tree / "plugins",
            libraries,
        ]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, parts)),
            "XDG_DATA_HOME": str(PLACE / "data"),
            "OMP_NUM_THREADS": "1",
        }

    def archloom(self, *words: str) -> None:
        start = "import sys; sys.argv[0] = 'archloom'; from archloom.cli import main; main()"
        self.python("-c", start, *words, cwd=self.work)

    def python(self, *words: str, cwd: Path) -> str:
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, encoding="utf-8", check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout


def runs(maker: Maker) -> None:
    """The folders of searches, of a comparison and of a ranking."""
    work = maker.work
    (work / "tiny.py").write_text(PLUGIN, encoding="utf-8")
    (work / "table.csv").write_text(table(), encoding="utf-8")
    for name, configuration in CONFIGURATIONS.items():
        (work / f"{name}.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")
    maker.archloom("search", "fbnet.yaml", "--folder", "fbnet")
    maker.archloom("search", "cream.yaml", "--folder", "cream-interrupted", "--set", "budget.epochs=2")
    maker.archloom("search", "evolution.yaml", "--folder", "evolution")
    maker.archloom("compare", "compare.yaml", "--folder", "compare")
    maker.archloom("rank", "rank.yaml", "--folder", "rank")
    # the ends that a later version must come to from these, of searches that were not interrupted
    maker.archloom("search", "cream.yaml", "--folder", "ends/cream")
    maker.archloom("search", "evolution.yaml", "--folder", "ends/evolution", "--set", "budget.trials=8")


def table() -> str:
    """A truth that nobody measured: wider is better, and later more so."""
    worth = {"skip": 0, "k1": 1, "k3": 3}
    rows = [
        (f"{a} {b} {c}", 50 + worth[a] + 2 * worth[b] + 3 * worth[c] + 0.1 * len(a + b))
        for a in worth
        for b in worth
        for c in worth
    ]
    return "architecture,top1\n" + "".join(f"{name},{top1:.1f}\n" for name, top1 in rows)


def trained(maker: Maker) -> None:
    """A trained folder, and what is exported of it."""
    sets = [word for one in RETRAINED for word in ("--set", one)]
    maker.archloom("retrain", "evolution", "--out", "trained", *sets)
    for name in ("safetensors", "torchscript", "onnx"):
        maker.archloom("export", "trained", "--format", name, "--out", f"exported/{name}")


def distributions(maker: Maker, out: Path) -> None:
    """The plugins of examples/ as wheels, and as sources with their tests."""
    for name in EXAMPLES:
        source = maker.tree / "examples" / name
        words = (
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(out / "wheels"),
            ".",
        )
        maker.python(*words, cwd=source)
        build = f"from setuptools.build_meta import build_sdist; build_sdist({str(out / 'sources')!r})"
        maker.python("-c", build, cwd=source)


def logits(folder: Path) -> list[list[float]]:
    """Of two fixed images, by the exported program: (2, 10)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=FutureWarning)  # PyTorch deprecates TorchScript
        network = torch.jit.load(str(folder / "model.torchscript.pt")).eval()
    with torch.no_grad():
        rows: list[list[float]] = network(torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)).tolist()
    return rows


def described(maker: Maker, base: str) -> dict[str, Any]:
    return {
        "commit": files_of(base).name,
        "made by": "benchmarks/archive.py",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "capability": torch.backends.cpu.get_cpu_capability(),
        "environment": json.loads((maker.work / "fbnet" / "environment.json").read_text(encoding="utf-8")),
        "logits": logits(maker.work / "exported" / "torchscript"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Make tests/data/archive, once for a commit.")
    parser.add_argument("--base", default=BASE, help="the commit whose work is archived")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True)
    maker = Maker(given.base)
    try:
        runs(maker)
        trained(maker)
        shutil.copytree(maker.work, out, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
        for end in (out / "ends").iterdir():
            for path in end.iterdir():
                if path.name not in ("log.jsonl", "architecture.json", "inherited.safetensors"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(
            maker.tree / "examples", out / "configurations", ignore=shutil.ignore_patterns("archloom-*")
        )
        distributions(maker, out)
        (out / "archive.json").write_text(
            json.dumps(described(maker, given.base), indent=1) + "\n", encoding="utf-8"
        )
    finally:
        shutil.rmtree(PLACE)
    files = [path for path in out.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes")


if __name__ == "__main__":
    main()
