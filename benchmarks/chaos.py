"""Does a search that is killed again and again end as one that was left alone?

    python benchmarks/chaos.py                      every shipped strategy, 10 kills each
    python benchmarks/chaos.py --kills 3 --only random fbnet

For each strategy one small search runs undisturbed; a second one, of the same configuration, is killed
with SIGKILL at random moments and resumed, and resumed to the end at last. Both must agree: trials,
deliveries, the networks trained for the verdict, architecture.json and weights.safetensors, to the bit;
timings alone may differ. Every start is a process of its own, forked from this one so that it need not
import PyTorch anew. Exit code 1, and what differs, where they do not agree.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from archloom.cli import main as archloom_main
from archloom.plugins import Host
from archloom.session import resume, search  # noqa: F401 - loaded before the first fork, not after each

SPACE = {"type": "fbnet", "form": "small", "in_channels": 1}
COMMON: dict[str, Any] = {
    "space": SPACE,
    "task": {"type": "digits", "train_size": 128},
    "recipe": {"type": "default", "epochs": 2, "batch_size": 32},
    "verdict": {"seeds": 1, "random": 1},
    "observers": [],
    "checkpoint_every": 0,
}
COUNTED = {"estimators": ["params", "macs"], "objectives": ["macs"], "budget": {"trials": 12}}
TRAINED = {
    "estimators": ["macs", {"type": "accuracy", "epochs": 1, "batch_size": 32}],
    "objectives": ["accuracy.trained"],
    "budget": {"trials": 4},
}
CONTINUED = {
    "estimators": ["macs", {"type": "accuracy", "epochs": 4, "batch_size": 32}],
    "objectives": ["accuracy.trained"],
    "budget": {"trials": 7},
}
INHERITED = {
    "estimators": ["macs", {"type": "inherited_accuracy", "recalibration": 2}],
    "objectives": ["accuracy.inherited"],
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
CREAM_SPACE = {"type": "cream", "form": "small", "in_channels": 1, "stages": [[8, 2, 2]], "skip": True}
CASES: dict[str, dict[str, Any]] = {
    "random": TRAINED | {"strategy": "random"},
    "evolution": COUNTED | {"strategy": {"type": "evolution", "population": 4, "tournament": 2}},
    "successive_halving": CONTINUED
    | {"strategy": {"type": "successive_halving", "width": 4, "eta": 2, "rungs": 3}},
    "hyperband": CONTINUED | {"strategy": {"type": "hyperband", "eta": 2, "rungs": 3}},
    "fbnet": INHERITED | {"method": FBNET},
    "cream": INHERITED | {"space": CREAM_SPACE, "method": CREAM},
}
"""One search per strategy; a simple strategy without a case is run with `COUNTED`."""


def case(name: str, host: Host) -> dict[str, Any]:
    """The configuration for a strategy."""
    if name in CASES:
        return COMMON | CASES[name]
    if host.get("strategy", name).shares_weights:
        raise SystemExit(f"no case for '{name}', which trains a supernet: add one to CASES")
    return COMMON | COUNTED | {"strategy": name}


def start(arguments: list[str], output: Path) -> int:
    """`archloom ARGUMENTS` in a process of its own; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with output.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        sys.argv = ["archloom", *arguments]
        archloom_main()
        code = 0
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    finally:
        os._exit(code)


def begin_or_resume(config: Path, folder: Path) -> list[str]:
    """The command that goes on with whatever is in `folder`."""
    log = folder / "log.jsonl"
    if log.exists() and log.stat().st_size:
        return ["resume", str(folder)]
    return ["search", str(config), "--out", str(folder)]


def finish(config: Path, folder: Path, output: Path) -> float:
    """Run to the end undisturbed; the seconds that it took."""
    before = time.perf_counter()
    _, status = os.waitpid(start(begin_or_resume(config, folder), output), 0)
    if status:
        raise SystemExit(f"the search failed:\n{output.read_text(encoding='utf-8')[-3000:]}")
    return time.perf_counter() - before


def kill(config: Path, folder: Path, output: Path, after: float) -> bool:
    """Start, and kill after so many seconds; False where it ended by itself before."""
    pid, deadline = start(begin_or_resume(config, folder), output), time.perf_counter() + after
    while time.perf_counter() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            if status:
                raise SystemExit(f"the search failed:\n{output.read_text(encoding='utf-8')[-3000:]}")
            return False
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics without what a clock measured."""
    return {name: value for name, value in metrics.items() if not name.startswith("latency")}


def outcome(folder: Path) -> dict[str, Any]:
    """All that must agree between two runs."""
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]

    def results(kind: str, *left_out: str) -> list[dict[str, Any]]:
        found = {
            (event.get("number"), event.get("name"), event.get("unit")): {
                key: untimed(value) if key == "metrics" else value
                for key, value in event.items()
                if key not in left_out
            }
            for event in events
            if event["event"] == kind
        }
        return [found[key] for key in sorted(found, key=str)]

    document = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    document["metrics"] = untimed(document["metrics"])
    return {
        "proposals": [e["architecture"] for e in events if e["event"] == "propose"],
        "deliveries": [e["number"] for e in events if e["event"] == "observe"],
        "fit": results("fit", "active"),
        "trials": results("result", "active", "cost"),
        "verdict": results("final"),
        "architecture.json": document,
        "weights.safetensors": (folder / "weights.safetensors").read_bytes(),
    }


def compare(
    name: str, configuration: dict[str, Any], kills: int, folder: Path, rng: random.Random
) -> list[str]:
    """Run undisturbed and killed; what differs."""
    folder.mkdir(parents=True)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    seconds = finish(config, folder / "whole", folder / "whole.txt")
    killed = 0
    for _ in range(kills):
        after = rng.uniform(0.02, 0.5 * seconds)
        killed += kill(config, folder / "killed", folder / "killed.txt", after)
    finish(config, folder / "killed", folder / "killed.txt")
    whole, resumed = outcome(folder / "whole"), outcome(folder / "killed")
    differing = [part for part in whole if whole[part] != resumed[part]]
    told = f"differ in {', '.join(differing)}" if differing else "agree"
    print(
        f"{name}: {len(whole['trials'])} trials in {seconds:.1f} s; after {killed} kills the runs {told}",
        flush=True,
    )
    return differing


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kill searches and resume them; compare with undisturbed ones."
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=None, help="strategies; default: all that are installed")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default: the clock's")
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    given = parser.parse_args()
    seed = int(time.time()) if given.seed is None else given.seed
    host = Host()
    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"moments from seed {seed}, folders in {folder}")
    failed = []
    try:
        for name in given.only or host.names("strategy"):
            rng = random.Random(f"{seed} {name}")
            failed += compare(name, case(name, host), given.kills, folder / name, rng)
    finally:
        if not given.keep and not failed:
            shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
