"""What a step of a full supernet costs at 224 pixels: two steps of each kind, for FBNet and for Cream.

    python benchmarks/imagenet_supernet.py [batch]

FBNet: 22 layers of nine candidates each, all of them run (soft mode); two weight steps and two theta steps. Cream:
20 blocks of six candidates, one path a step; two steps of a path alone and, the board filled, two with scan and
teacher, of which the second also trains the meta network. On the task `fake` with 1000 classes. Prints the seconds
of each step and the peak memory of the process; the result lands in benchmarks/results/imagenet_supernet.json.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from archloom.documents import json_text
from archloom.latency import setting_of
from archloom.model import ModelParts
from archloom.plugins import Host
from archloom.ranks import Ranks
from archloom.testing import run_context
from archloom_cream import Cream, CreamSpace
from archloom_cream.board import Entry
from archloom_fbnet import FBNet, FBNetSpace


def task(batch: int) -> Any:
    """Noise, and 1000 classes."""
    fake = Host().get("task", "fake")
    options = {"size": 5000, "train_size": 16 * batch, "height": 224, "width": 224, "classes": 1000}
    return fake.make(fake.validate(options))


def parts(device: torch.device) -> dict[str, Any]:
    """What both methods are handed."""
    return {"seed": 0, "ranks": Ranks(), "model": ModelParts(), "device": device, "precision": "float32"}


def fbnet(batch: int, device: torch.device) -> Iterator[tuple[str, Callable[[], float]]]:
    """(what, a step that gives its cross entropy), four of them."""
    method = FBNet(
        FBNetSpace(form="imagenet"),
        task(batch),
        **parts(device),
        recorded=lambda name, measure: measure(),
        epochs=2,
        warmup_epochs=1,
        batch_size=batch,
        cost="macs",
        unit_steps=1,
    )
    # units of one step: two of a weight pass, then two of a pass for theta
    for phase in ("weights", "theta"):
        for unit in [unit for unit in method.plan if unit.phase == phase][:2]:
            yield f"fbnet {phase}", lambda unit=unit: method._run(unit)[f"{unit.phase}.ce"]


def cream(batch: int, device: torch.device) -> Iterator[tuple[str, Callable[[], float]]]:
    """(what, a step that gives its cross entropy), four of them."""
    method = Cream(
        replace(run_context(CreamSpace(), task(batch)), device=device),
        epochs=10,
        start_epoch=9,
        batch_size=batch,
        lr=0.05,
        board_images=batch,
        recalibration=1,
        unit_steps=1,
        meta_every=4,
    )
    for number, unit in enumerate(method.plan[:4]):
        if number == 2:  # a board of ten, filled by hand: to judge each path would take minutes
            paths = [method.path(step) for step in range(100, 110)]
            features = [method.runner.told(a, method.teachers.probe).cpu() for a in paths]
            entries = [Entry(a, 0.0, method.costs(a), p) for a, p in zip(paths, features, strict=True)]
            method.board = method.board.refreshed(entries)
        kind = ("path", "path", "taught", "taught, and the meta network's step")[number]
        yield f"cream {kind}", lambda unit=unit: method._run(unit)["weights.ce"]


def main(batch: int) -> None:
    device, rows = torch.device("cuda" if torch.cuda.is_available() else "cpu"), []
    for steps in (fbnet, cream):
        for what, step in steps(batch, device):
            started = time.perf_counter()
            ce = step()
            rows.append({"step": what, "seconds": round(time.perf_counter() - started, 2)})
            print(f"{what}: {rows[-1]['seconds']:.2f} s, CE {ce:.4f}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB at batch {batch}")
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "setting": setting_of(device, batch).__dict__,
        "steps": rows,
        "peak GiB": round(peak, 2),
    }
    path = Path(__file__).parent / "results" / "imagenet_supernet.json"
    path.write_text(json_text(document), encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
