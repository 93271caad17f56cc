"""Does the sum of a latency table's parts say what whole networks take? 100 networks of the small FBNet space.

    python benchmarks/latency_check.py [--networks 100] [--runs 30]

Builds the table on this CPU with one thread, measures random networks as a whole, and writes MAPE, Kendall's tau and
their bootstrap intervals to benchmarks/results/latency_check.json, with and without a calibration to ten of them.
Wanted: MAPE at most 12 %, tau at least 0.85. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from archloom.config import parse_part
from archloom.documents import json_text
from archloom.latency import build_table
from archloom.latency_check import check_table, draw, measure_networks
from archloom.plugins import Host
from archloom.resolve import make

CALIBRATE = 10
MAPE, TAU = 12.0, 0.85


def main(networks: int, runs: int) -> bool:
    """Whether both bounds are kept."""
    torch.set_num_threads(1)
    host = Host()
    space = make(host, "space", parse_part({"type": "fbnet", "form": "small", "in_channels": 1}, "space"))
    task = make(host, "task", parse_part("digits", "task"))
    table = build_table(space, tuple(task.shape), len(task.classes), runs=runs)
    drawn = draw(space, networks + CALIBRATE)
    timings = measure_networks(drawn, space, task, rounds=max(1, runs // 3))
    plain = check_table(table, space, drawn[CALIBRATE:], timings[CALIBRATE:])
    calibrated = check_table(table, space, drawn, timings, calibrate=CALIBRATE)["devices"]["here"]
    here = plain["devices"]["here"]
    found = here["agreement"]["sum of the table"]
    kept = found["mape"] <= MAPE and found["tau"] >= TAU
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "setting": plain["setting"],
        "networks": networks,
        "runs": runs,
        "bounds": {"mape": MAPE, "tau": TAU, "kept": kept},
        "sum of the table": found,
        "calibrated": calibrated["agreement"]["calibrated"] | {"line": calibrated["calibration"]},
        "measured": here["measured"],
        "predicted": here["predicted"]["sum of the table"],
    }
    path = Path(__file__).parent / "results" / "latency_check.json"
    path.write_text(json_text(document), encoding="utf-8")
    for name in ("sum of the table", "calibrated"):
        one = document[name]
        print(
            f"{name:17} MAPE {one['mape']:.1f} % [{one['mape_low']:.1f}, {one['mape_high']:.1f}]   "
            f"tau {one['tau']:.3f} [{one['tau_low']:.3f}, {one['tau_high']:.3f}]"
        )
    return kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument(
        "--runs", type=int, default=30, help="rounds of the table; a third as many of the networks"
    )
    arguments = parser.parse_args()
    sys.exit(0 if main(arguments.networks, arguments.runs) else 1)
