"""How far an FBNet search with the compiled kernels walks from one with the references, and why.

    python benchmarks/kernels/agreement.py [units]

The demo's supernet is trained three times from the same seed: with the compiled kernels, with the references
(ARCHLOOM_KERNELS=python), and with the references from weights that were moved by 1e-7 of themselves, about one
rounding. After each of the first steps and units the distance of all weights from the references' is printed, as
a share of their norm. Two sums of the same numbers differ by rounding; training magnifies that, whoever made it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from archloom.config_files import read_config
from archloom.documents import json_text
from archloom.latency import setting_of
from archloom.plugins import Host
from archloom.ranks import Ranks
from archloom.resolve import make, model_parts

ROOT = Path(__file__).resolve().parents[2]
RUNS = {
    "compiled": {"ARCHLOOM_KERNELS": "native"},
    "references": {"ARCHLOOM_KERNELS": "python"},
    "references, weights moved by 1e-7": {"ARCHLOOM_KERNELS": "python", "MOVED": "1e-7"},
}
STEPS = 8


def child(target: Path, units: int) -> None:
    """Train the demo's supernet for `units` units of one step or one epoch; save all weights after each."""
    config, host = read_config(ROOT / "examples" / "demo.yaml"), Host()
    torch.set_num_threads(1)
    saved = []
    for unit_steps, number in ((1, STEPS), (None, units)):
        entry = host.get("strategy", config.method.type)
        options = {**config.method.options, **({"unit_steps": unit_steps} if unit_steps else {})}
        method = entry.make(
            entry.validate(options),
            space=make(host, "space", config.space),
            task=make(host, "task", config.task),
            seed=config.seed,
            ranks=Ranks(),
            model=model_parts(host, config.model),
            device=torch.device("cpu"),
            precision=config.precision,
            recorded=lambda name, measure: measure(),
        )
        generator = torch.Generator().manual_seed(0)
        moved = float(os.environ.get("MOVED", 0))
        with torch.no_grad():
            for parameter in method.supernet.parameters():
                parameter.mul_(1 + moved * torch.randn(parameter.shape, generator=generator))
        for _, progress in zip(range(number), method.fit(), strict=False):
            weights = torch.cat([p.detach().flatten() for p in method.supernet.parameters()])
            label = f"{'step' if unit_steps else 'unit'} {progress.unit}"
            saved.append((label, weights.clone(), dict(progress.metrics)))
    torch.save([(label, weights) for label, weights, _ in saved], target)


def main(units: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, variables in RUNS.items():
            path = Path(folder) / f"{len(found)}.pt"
            command = [sys.executable, __file__, str(units), str(path)]
            subprocess.run(command, env={**os.environ, **variables}, check=True)
            found[name] = torch.load(path, weights_only=True)
    rows = []
    for position, (label, base) in enumerate(found["references"]):
        row = {"after": label}
        for name in RUNS:
            if name != "references":
                row[name] = float((found[name][position][1] - base).norm() / base.norm())
        rows.append(row)
        print("  ".join(f"{k}: {v:.2e}" if isinstance(v, float) else v for k, v in row.items()), flush=True)
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "setting": setting_of(torch.device("cpu"), 64).__dict__,
        "distance from the references, as a share of the weights' norm": rows,
    }
    (ROOT / "benchmarks" / "results" / "kernels_agreement.json").write_text(
        json_text(document),
        encoding="utf-8",
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        child(Path(sys.argv[2]), int(sys.argv[1]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
