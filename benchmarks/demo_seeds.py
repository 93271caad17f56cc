"""Does the demo's search win, and how surely? The demo's configuration under three fixed search seeds.

    python benchmarks/demo_seeds.py [seeds...]

For each seed: MACs and test top-1 of the found network and of random ones. A seed counts as won where the
found network reaches at least 98.5 % with at most 60 % of the random networks' mean MACs. The result lands in
benchmarks/results/demo_seeds.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

import archloom
from archloom.config import read_config
from archloom.latency import setting_of

HERE = Path(__file__).parent


def main(seeds: list[int]) -> None:
    rows = []
    for seed in seeds:
        config = read_config(HERE.parent / "examples" / "demo.yaml", [f"seed={seed}"])
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            result = archloom.search(config, Path(folder) / "run")
        groups = {group.role: group.to_json() for group in result.groups}
        found, anywhere = groups["found"], groups["random, any cost"]
        share = found["macs"] / anywhere["macs"]
        row = {
            "seed": seed,
            "seconds": round(time.perf_counter() - started, 1),
            "architecture": str(result.architecture),
            "share of random MACs": round(share, 3),
            "won": found["accuracy"] >= 98.5 and share <= 0.6,
            "groups": groups,
            "verdict": list(result.verdict),
        }
        rows.append(row)
        print(
            f"seed {seed}: found {found['accuracy']:.2f} % at {found['macs']:,.0f} MACs, "
            f"{100 * share:.0f} % of random's mean; random, any cost: {anywhere['accuracy']:.2f} %; "
            f"{'won' if row['won'] else 'not won'}; {row['seconds']:.0f} s",
            flush=True,
        )
    setting = setting_of(torch.device("cpu"), 1)
    document = {"date": time.strftime("%Y-%m-%d"), "setting": setting.__dict__, "rows": rows}
    (HERE / "results" / "demo_seeds.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [0, 1, 2])
