"""The example of a weight-sharing method: searched with, killed and resumed, and trained by two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from archloom.run import load_checkpoint
from archloom.testing import same

PLUGIN = Path(__file__).parent.parent / "examples" / "archloom-small-darts" / "archloom_small_darts.py"
CONFIG = {
    "space": {"type": "small_cells", "channels": 4, "cells": 2, "nodes": 3},
    "task": {"type": "digits", "train_size": 256},
    "method": {"type": "small_darts", "epochs": 12, "batch_size": 16, "alpha_lr": 0.01},
    "estimators": ["macs", "inherited_accuracy"],
    "objectives": ["accuracy.inherited"],
    "verdict": {"seeds": 0},
    "observers": [],
    "checkpoint_every": 0,
}
SPY = """
import hashlib, json, os
from pathlib import Path
import archloom
from archloom_small_darts import Darts

class Spied(Darts):
    def fit(self):
        yield from super().fit()
        digest = hashlib.sha256()
        for tensor in [*self.supernet.state_dict().values(), *self.alpha.values()]:
            digest.update(tensor.detach().contiguous().numpy().tobytes())
        record = {"hash": digest.hexdigest(), "alpha": {name: a.tolist() for name, a in self.alpha.items()}}
        (Path(os.environ["SPY_FOLDER"]) / f"rank{self.context.ranks.rank}.json").write_text(json.dumps(record))

@archloom.hookimpl
def register_strategies(register):
    register("spied", Spied)
"""


def command(folder: Path, config: dict[str, Any], *plugins: Path) -> list[str]:
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["-m", "archloom", "search", str(folder / "config.yaml"), "--out", str(folder / "run")]
    return [*words, *(word for plugin in plugins for word in ("--plugin", str(plugin)))]


def run(words: list[str], **variables: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def events(run_folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run_folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    return [event for line in lines if line.endswith(b"\n") and (event := json.loads(line))["event"] == kind]


def test_killed_while_it_trains_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert "found:" in run(command(whole, CONFIG, PLUGIN))
    with subprocess.Popen(
        [sys.executable, *command(killed, CONFIG, PLUGIN)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        deadline = time.monotonic() + 120
        while not (killed / "run" / "log.jsonl").exists() or len(events(killed / "run", "fit")) < 3:
            assert process.poll() is None, "the search ended before it could be killed"
            assert time.monotonic() < deadline, "the search does not get under way"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert not events(killed / "run", "end")
    run(["-m", "archloom", "resume", str(killed / "run"), "--trust"])
    first, second = (load_checkpoint(each / "run" / "checkpoint.pt") for each in (whole, killed))
    assert first is not None
    assert second is not None
    assert same(first["method"], second["method"])
    results = [
        [(e["architecture"], e["metrics"]) for e in events(each / "run", "result")]
        for each in (whole, killed)
    ]
    assert results[0] == results[1]
    assert len(results[0]) == 1


def test_two_processes_train_one_supernet_with_equal_alpha(tmp_path: Path) -> None:
    (tmp_path / "spy.py").write_text(SPY)
    config = {**CONFIG, "method": {**CONFIG["method"], "type": "spied", "epochs": 2}}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    printed = run(
        [*torchrun, *command(tmp_path, config, PLUGIN, tmp_path / "spy.py")],
        SPY_FOLDER=str(tmp_path),
        PYTHONPATH=os.pathsep.join([str(PLUGIN.parent), os.environ.get("PYTHONPATH", "")]),
    )
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert any(abs(a) > 5e-3 for alpha in first["alpha"].values() for a in alpha), "alpha has moved"
    assert printed.count("run folder:") == 1
