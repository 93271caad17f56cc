"""Several processes: what torchrun starts ends as one run, and gradients are those of the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from torch import distributed as dist
from torch import multiprocessing as mp

from archloom.model import ModelParts
from archloom.plugins import Host
from archloom.randomness import torch_rng
from archloom.ranks import Ranks
from archloom_fbnet.method import FBNet
from archloom_fbnet.space import FBNetSpace

CONFIG = {
    "space": {"type": "fbnet", "form": "small", "in_channels": 1, "candidates": ["ir_k3_e1", "skip"]},
    "task": {"type": "digits", "train_size": 128},
    # a latency is measured: all ranks must get the one that the first has measured
    "method": {
        "type": "fbnet",
        "epochs": 2,
        "warmup_epochs": 1,
        "batch_size": 32,
        "cost": "latency",
        "samples": 2,
    },
    "estimators": ["macs", {"type": "latency_table", "runs": 2}, "inherited_accuracy"],
    "objectives": ["accuracy.inherited"],
    "verdict": {"seeds": 0},
    "observers": [],
}

SPY = """
import json, os
import archloom
from archloom_fbnet.method import FBNet
from archloom.run import write_json
from pathlib import Path
import hashlib

class Spied(FBNet):
    needs = ("differentiable",)

    def fit(self):
        yield from super().fit()
        digest = hashlib.sha256()
        for tensor in [*self.supernet.state_dict().values(), *self.theta.values()]:
            digest.update(tensor.detach().contiguous().numpy().tobytes())
        likeliest = {name: int(theta.argmax()) for name, theta in self.theta.items()}
        record = {"hash": digest.hexdigest(), "likeliest": likeliest, "costs": self.costs.costs}
        write_json(Path(os.environ["SPY_FOLDER"]) / f"rank{self.ranks.rank}.json", record)

@archloom.hookimpl
def register_strategies(register):
    register("spied", Spied)
"""


def test_a_search_under_torchrun_ends_with_one_run_and_equal_ranks(tmp_path: Path) -> None:
    config = {**CONFIG, "method": {**CONFIG["method"], "type": "spied"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "spy.py").write_text(SPY)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "archloom", "search", str(tmp_path / "config.yaml")]
    command += ["--out", str(tmp_path / "run"), "--plugin", str(tmp_path / "spy.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SPY_FOLDER": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [event["unit"] for event in events if event["event"] == "fit"] == [1, 2, 3]
    assert sum(event["event"] == "start" for event in events) == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["ok"] == 2
    assert done.stdout.count("run folder:") == 1


def _method(ranks: Ranks) -> FBNet:
    host = Host()
    digits = host.get("task", "digits")
    return FBNet(
        FBNetSpace(form="small", in_channels=1, candidates=["ir_k3_e1", "ir_k5_e3", "skip"]),
        digits.make(digits.validate({"train_size": 128})),
        seed=3,
        ranks=ranks,
        model=ModelParts(),
        device=torch.device("cpu"),
        precision="float32",
        recorded=lambda name, measure: measure(),
        epochs=2,
        warmup_epochs=1,
        batch_size=32,
        cost="macs",
    )


def _theta_gradients(ranks: Ranks) -> dict[str, torch.Tensor]:
    """The gradients of one theta step, BatchNorm in eval mode so that it sees no batch."""
    from archloom.task import batches

    torch.set_num_threads(1)
    method = _method(ranks)
    method.supernet.eval()
    x, y = next(batches(method.data["theta"], 32, seed=1, shuffle=True, drop_last=True, ranks=ranks))
    with method.still("theta"):
        _, loss, _ = method.losses(x, y, method.masks(5.0, torch_rng(3, "gumbel", 0)))
        loss.backward()
    ranks.average_gradients(method.theta.values())
    return {name: theta.grad for name, theta in method.theta.items()}


def _one_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(_theta_gradients(Ranks(rank, 2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_give_theta_the_gradient_of_the_doubled_batch(tmp_path: Path) -> None:
    mp.start_processes(_one_rank, (str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = _theta_gradients(Ranks())
    assert (
        max(float(gradient.abs().max()) for gradient in alone.values()) > 1e-3
    )  # there is something to compare
    for name, gradient in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], gradient, rtol=1e-5, atol=1e-5)
