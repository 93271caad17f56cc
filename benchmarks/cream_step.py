"""What a step of Cream costs: a full one, one with a constant m, and a plain one written without the engine.

    python benchmarks/cream_step.py [--rounds 30]

The reference's supernet of 0 to 600 MFLOPs, batch 16 at 64x64, 1000 classes, a board of ten, slices of four.
The variants take turns, one step each a round, and each round all of them run the same path:

    full     the matching network's scan, the teacher's forward, the step             (target: 1.4 x constant)
    constant the teacher's forward and the step, m = 0.5                              (target: 1.1 x plain)
    plain    the same loss on the same modules in a bare loop: no engine, no plan, no checks, no board
    path     a bare step without a teacher, for scale

Medians and the 10th and 90th percentiles, and the medians and 95 % bootstrap intervals of the ratios round by
round, land in benchmarks/results/cream_step.json: by the clock, and by the CPU time of the process, which other
work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from archloom.documents import json_text
from archloom.latency import setting_of
from archloom.model import ModelParts
from archloom.plugins import Host
from archloom.space import sample
from archloom.testing import run_context
from archloom_cream import Cream, CreamHead, CreamPool, CreamSpace
from archloom_cream.board import Entry
from archloom_cream.record import Record

BATCH, SIDE, CLASSES, BOARD, SLICES = 16, 64, 1000, 10, 4


def cream(device: torch.device, teacher: str) -> Cream:
    """The method, its board filled with random paths."""
    fake = Host().get("task", "fake")
    options = {
        "size": 2 * CLASSES,
        "height": SIDE,
        "width": SIDE,
        "classes": CLASSES,
        "train_size": 10 * BATCH,
    }
    space = CreamSpace()
    context = run_context(space, fake.make(fake.validate(options)))
    parts = ModelParts(neck=CreamPool, head=lambda c, n: CreamHead(c, n))
    method = Cream(
        replace(context, model=parts, device=device),
        epochs=1000,
        # a path of a training step is no path for the board here: the scan and the step are what is timed
        start_epoch=999,
        batch_size=BATCH,
        lr=0.01,
        board=BOARD,
        slices=SLICES,
        meta_every=10**9,
        teacher=teacher,  # type: ignore[arg-type]
    )
    rng, paths = random.Random(0), []
    while len(paths) < BOARD:
        paths.append(sample(space, rng))
    features = [method.runner.told(a, method.teachers.probe).cpu() for a in paths]
    entries = [Entry(a, 0.0, method.costs(a), p) for a, p in zip(paths, features, strict=True)]
    method.board = method.board.refreshed(entries)
    method.supernet.train()
    return method


def steps(method: Cream) -> Callable[[Tensor, Tensor, int], None]:
    """One step of the method."""
    return lambda x, y, step: method._step(x, y, 0, step, Record())


def bare(method: Cream, *, taught: bool) -> Callable[[Tensor, Tensor, int], None]:
    """A step in plain PyTorch on another copy of the same modules; the path is the method's."""
    model = method.supernet
    wide = [p for p in model.parameters() if p.ndim > 1]
    thin = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": wide, "weight_decay": 4e-5}, {"params": thin, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    paths = [method.path(step) for step in range(200)]
    teacher = method.board.entries[0].architecture

    def step(x: Tensor, y: Tensor, number: int) -> None:
        logits = model(x, paths[number])
        loss = F.cross_entropy(logits, y)
        if taught:
            with torch.no_grad():
                q = model(x, teacher).softmax(1)
            loss = (0.5 * F.cross_entropy(logits, q) + 1.5 * loss) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def quantiles(values: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return {
        "median": round(statistics.median(values), 2),
        "p10": round(cuts[0], 2),
        "p90": round(cuts[-1], 2),
        "min": round(min(values), 2),
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """The median of the ratios round by round, and its 95 % bootstrap interval."""
    each, rng = [a / b for a, b in zip(above, below, strict=True)], random.Random(0)
    drawn = sorted(statistics.median(rng.choices(each, k=len(each))) for _ in range(2000))
    return {
        "median": round(statistics.median(each), 3),
        "interval": [round(drawn[50], 3), round(drawn[1949], 3)],
        "of the minima": round(min(above) / min(below), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a step of Cream.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    variants = {
        "full": steps(cream(device, "meta")),
        "constant": steps(cream(device, "top1")),
        "plain": bare(cream(device, "top1"), taught=True),
        "path": bare(cream(device, "top1"), taught=False),
    }
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator).to(device, memory_format=torch.channels_last)
    y = torch.randint(CLASSES, (BATCH,), generator=generator).to(device)
    clock: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(given.warmup + given.rounds):
        order = list(variants)
        random.Random(number).shuffle(order)
        for name in order:
            started, spent = time.perf_counter(), time.process_time()
            variants[name](x, y, number % 200)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= given.warmup:
                clock[name].append(1000 * (time.perf_counter() - started))
                cpu[name].append(1000 * (time.process_time() - spent))
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "setting": setting_of(device, BATCH).__dict__,
        "rounds": given.rounds,
        "targets": {"full / constant": 1.4, "constant / plain": 1.1},
    }
    for kind, times in (("by the clock", clock), ("by CPU time", cpu)):
        document[kind] = {
            "milliseconds": {name: quantiles(values) for name, values in times.items()},
            "full / constant": ratio(times["full"], times["constant"]),
            "constant / plain": ratio(times["constant"], times["plain"]),
        }
    print(json.dumps(document, indent=1))
    (Path(__file__).parent / "results" / "cream_step.json").write_text(json_text(document), encoding="utf-8")


if __name__ == "__main__":
    main()
