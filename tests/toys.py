"""Tiny plugins that several tests share: a space without weights, one with, and estimators by formula."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

import archloom
from archloom.architecture import Architecture, Choice
from archloom.engine import Limits, Search
from archloom.estimator import STATIC, TRAINING, Metric
from archloom.measuring import Here, Outcome
from archloom.objective import Objective
from archloom.plugins import Host
from archloom.run import EventLog, Memory
from archloom.space import Around, build_chain
from archloom.trial import Trial


class Digits:
    """`length` choices of one decimal digit each below `base`; its networks are one pointwise convolution."""

    def __init__(self, *, length: int = 3, base: int = 4) -> None:
        self.choices = [Choice(f"d{i}", tuple(range(base))) for i in range(length)]

    def build(self, architecture: Architecture) -> nn.Module:
        return nn.Conv2d(1, 1 + sum(architecture.values()), 1)


class Blocks:
    """`depth` layers, each a convolution with BatchNorm, kernel 1 or 3, between a stem and a tail."""

    def __init__(self, *, depth: int = 2, width: int = 4, in_channels: int = 1) -> None:
        self.choices = [Choice(f"layer{i}", ("k1", "k3")) for i in range(depth)]
        self.width, self.in_channels = width, in_channels

    def candidate(self, choice: Choice, option: str) -> nn.Module:
        kernel = int(option[1])
        conv = nn.Conv2d(self.width, self.width, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(self.width), nn.ReLU())

    def around(self, body: nn.Module) -> nn.Module:
        return Around(nn.Conv2d(self.in_channels, self.width, 3, padding=1), body)

    def build(self, architecture: Architecture) -> nn.Module:
        return build_chain(self, architecture)


class Additive:
    """The sum of the decisions: known without building anything."""

    metrics = (Metric("sum", "1", "max"),)
    expense, needs = STATIC, ()

    def estimate(self, architecture: Architecture, context: Any) -> Mapping[str, float]:
        return {"sum": float(sum(architecture.values()))}


class Dear:
    """An estimator that pretends to train for two epochs and counts its calls."""

    metrics = (Metric("dear", "1", "max"),)
    expense, needs, epochs = TRAINING, (), 2.0

    def __init__(self) -> None:
        self.calls: list[Architecture] = []

    def estimate(self, architecture: Architecture, context: Any) -> Mapping[str, float]:
        self.calls.append(architecture)
        return {"dear": float(architecture["d0"])}


class Listed:
    """Proposes what it was given, in order, None included; remembers what it observed."""

    def __init__(self, proposals: list[Architecture | None]) -> None:
        self.proposals, self.observed = list(proposals), []

    def propose(self) -> Architecture | None:
        return self.proposals.pop(0) if self.proposals else None

    def observe(self, trial: Trial) -> None:
        self.observed.append(trial)


def digits(*decisions: int) -> Architecture:
    return Architecture({f"d{i}": decision for i, decision in enumerate(decisions)})


def by_sum(architecture: Architecture, seed: int) -> Outcome:
    """Measures without an estimator: the metric `sum`."""
    return Outcome("ok", {"sum": float(sum(architecture.values()))}, {"seconds": 0.0, "epochs": 1.0})


def search(
    strategy: Any,
    *,
    measure: Callable[[Architecture, int], Outcome] = by_sum,
    space: Any = None,
    log: EventLog | None = None,
    limits: Limits | None = None,
    objectives: tuple[Objective, ...] = (Objective("sum", "max"),),
    **options: Any,
) -> tuple[Search, str]:
    """Run the engine's loop alone: the finished `Search`, and why it stopped."""
    loop = Search(
        space or Digits(),
        strategy,
        options.pop("executor", None) or Here(measure),
        objectives,
        limits or Limits(),
        seed=0,
        log=Memory() if log is None else log,
        **options,
    )
    return loop, loop.run()


class ToyPlugin:
    """Registers the toys above."""

    @archloom.hookimpl
    def register_search_spaces(self, register: Any) -> None:
        register("digit_space", Digits)
        register("blocks", Blocks)

    @archloom.hookimpl
    def register_estimators(self, register: Any) -> None:
        register("additive", Additive)


def host(*more: Any) -> Host:
    """Everything installed, the toys, and `more` plugins."""
    made = Host()
    for number, plugin in enumerate((ToyPlugin(), *more)):
        made.add(plugin, f"toy{number}", f"toy-distribution-{number}", "1.0")
    return made


def config(**changes: Any) -> dict[str, Any]:
    """A search over digits that takes milliseconds; `changes` replace whole sections."""
    return {
        "space": "digit_space",
        "task": {"type": "digits", "train_size": 64},
        "strategy": "random",
        "estimators": ["additive"],
        "objectives": ["sum"],
        "budget": {"trials": 6},
        "verdict": {"seeds": 0},
        "observers": [],
    } | changes


def comparable(trial: Trial) -> dict[str, Any]:
    """A trial without what a clock measured."""
    found = trial.to_json()
    return {**found, "cost": found["cost"].get("epochs")}


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def noise(key: str, count: int) -> Any:
    """`count` values in [-1, 1), a function of `key`: the numbers under which golden data was recorded."""
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
    mask = np.uint64(0xFFFFFFFF)
    x = (np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(start)) & mask
    x ^= x >> np.uint64(16)
    x = (x * np.uint64(0x45D9F3B)) & mask
    x ^= x >> np.uint64(16)
    return x.astype(np.float64) / 2**31 - 1


def wave(*shape: int) -> torch.Tensor:
    """Images (N, C, H, W) of golden data: a plane wave of each image and channel, and noise."""
    n, c, y, x = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    plane = np.sin(2 * np.pi * ((c + 1) * (n + 1) * y / shape[2] + (n + c + 1) * x / shape[3]))
    v = noise("input", int(np.prod(shape))).reshape(shape)
    return torch.from_numpy((0.5 * v + plane).astype(np.float32))
