"""What a step of FBNet's full ImageNet-form supernet costs: two weight steps and two theta steps at 224.

    python benchmarks/imagenet_supernet.py [batch]

22 layers of nine candidates each, all of them run (soft mode), on the task `fake` with 1000 classes. Prints the
seconds of each step and the peak memory of the process; the result lands in
benchmarks/results/imagenet_supernet.json.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch

from archloom.latency import setting_of
from archloom.model import ModelParts
from archloom.plugins import Host
from archloom.ranks import Ranks
from archloom_fbnet import FBNet, FBNetSpace


def main(batch: int) -> None:
    fake = Host().get("task", "fake")
    options = {"size": 5000, "train_size": 16 * batch, "height": 224, "width": 224, "classes": 1000}
    method = FBNet(
        FBNetSpace(form="imagenet"),
        fake.make(fake.validate(options)),
        seed=0,
        ranks=Ranks(),
        model=ModelParts(),
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        precision="float32",
        recorded=lambda name, measure: measure(),
        epochs=2,
        warmup_epochs=1,
        batch_size=batch,
        cost="macs",
        unit_steps=1,
    )
    # units of one step: two of a weight pass, then two of a pass for theta
    steps = {
        phase: [unit for unit in method.plan if unit.phase == phase][:2] for phase in ("weights", "theta")
    }
    rows = []
    for unit in [*steps["weights"], *steps["theta"]]:
        started = time.perf_counter()
        metrics = method._run(unit)
        rows.append({"phase": unit.phase, "seconds": round(time.perf_counter() - started, 2)})
        print(
            f"{unit.phase:8s} step: {rows[-1]['seconds']:.2f} s, CE {metrics[f'{unit.phase}.ce']:.4f}",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB at batch {batch}")
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "setting": setting_of(method.device, batch).__dict__,
        "steps": rows,
        "peak GiB": round(peak, 2),
    }
    path = Path(__file__).parent / "results" / "imagenet_supernet.json"
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
