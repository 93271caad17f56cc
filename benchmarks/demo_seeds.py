"""Does an example's search win, and how surely? Its configuration under three fixed search seeds.

    python benchmarks/demo_seeds.py                                    the demo, FBNet's
    python benchmarks/demo_seeds.py --example cream_digits --jobs 3    Cream's, the seeds beside one another

For each seed: MACs and test top-1 of the found network and of random ones. A seed counts as won where the
found network reaches at least 98.5 % with at most 60 % of the random networks' mean MACs. The result lands in
benchmarks/results/NAME_seeds.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

import archloom
from archloom.config_files import read_config
from archloom.documents import json_text
from archloom.latency import setting_of

HERE = Path(__file__).parent


def run(example: str, keep: str | None, seed: int) -> dict[str, Any]:
    """One search; its figures. keep: the folder that its run folder stays in."""
    config = read_config(HERE.parent / "examples" / f"{example}.yaml", [f"seed={seed}"])
    started, cpu = time.perf_counter(), _cpu()
    with tempfile.TemporaryDirectory() as passing:
        result = archloom.search(config, Path(keep or passing) / f"{example}-{seed}")
    groups = {group.role: group.to_json() for group in result.groups}
    found, anywhere = groups["found"], groups["random, any cost"]
    share = found["macs"] / anywhere["macs"]
    return {
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "CPU seconds": round(_cpu() - cpu, 1),
        "architecture": str(result.architecture),
        "share of random MACs": round(share, 3),
        "won": found["accuracy"] >= 98.5 and share <= 0.6,
        "groups": groups,
        "verdict": list(result.verdict),
    }


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="An example's search under several seeds.")
    parser.add_argument("seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--example", default="demo", help="a file of examples/, without its .yaml")
    parser.add_argument("--jobs", type=int, default=1, help="seeds that run beside one another")
    parser.add_argument("--keep", default=None, help="a folder for the run folders; by default they go")
    parser.add_argument("--note", default="", help="what else is to be said of the machine")
    given = parser.parse_args()
    rows = []
    # processes of their own: a search sets PyTorch's threads for all of its process
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for row in pool.map(partial(run, given.example, given.keep), given.seeds):
            rows.append(row)
            found, anywhere = row["groups"]["found"], row["groups"]["random, any cost"]
            print(
                f"seed {row['seed']}: found {found['accuracy']:.2f} % at {found['macs']:,.0f} MACs, "
                f"{100 * row['share of random MACs']:.0f} % of random's mean; random, any cost: "
                f"{anywhere['accuracy']:.2f} %; {'won' if row['won'] else 'not won'}; {row['seconds']:.0f} s, "
                f"{row['CPU seconds']:.0f} s of CPU",
                flush=True,
            )
    setting = setting_of(torch.device("cpu"), 1).__dict__
    note = "; ".join(filter(None, [f"{given.jobs} processes at once", given.note]))
    document = {"date": time.strftime("%Y-%m-%d"), "setting": setting | {"note": note}, "rows": rows}
    (HERE / "results" / f"{given.example}_seeds.json").write_text(json_text(document), encoding="utf-8")


if __name__ == "__main__":
    main()
