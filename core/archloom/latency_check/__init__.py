"""Does the sum of a latency table's parts say what whole networks take? And what would a learned predictor say?

    check_table(table, space, ...)     whole networks, measured here, against the table's sum
    check_file(measured, space, ...)   networks that others measured, on any number of devices, held out

Both give a document of plain JSON; `page` makes it a page. docs/latency.md tells how to read it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..architecture import Architecture
from ..errors import ConfigError
from ..latency import LatencyTable, Timing, measure
from ..model import ModelParts, assemble
from ..randomness import derive_seed, torch_rng
from ..space import Encoding, input_shape, size
from ..space import draw as space_draw
from ..task import Task
from .agreement import Agreement, Calibration, Floats, agreement, worst_cases
from .data import Measured, read_measured
from .page import page
from .predictors import SumOfParts, choose

__all__ = [
    "Agreement",
    "Calibration",
    "Measured",
    "agreement",
    "check_file",
    "check_table",
    "choose",
    "draw",
    "measure_networks",
    "page",
    "read_measured",
]

FORMAT = "archloom latency check 1"
WORST = 10


def draw(space: Any, number: int, seed: int = 0) -> list[Architecture]:
    """`number` different architectures that break no rule of the space, at random."""
    if number > size(space):
        raise ConfigError(f"the space has {size(space)} architectures, fewer than the {number} asked for")
    found = space_draw(space, number, random.Random(seed))
    if len(found) < number:
        raise ConfigError(
            f"only {len(found)} of {number} architectures that break no rule of the space were found"
        )
    return found


def measure_networks(
    architectures: Sequence[Architecture],
    space: Any,
    task: Task,
    *,
    parts: ModelParts | None = None,
    device: torch.device | str = "cpu",
    batch: int = 1,
    rounds: int = 10,
    runs: int = 5,
    notify: Callable[[int], None] = lambda done: None,
) -> list[Timing]:
    """Whole networks, timed by turns: `rounds` times `runs` calls of each after a few untimed ones.

    Of a network counts the round with the lowest median. What else runs on the machine only ever adds, and it adds
    more to a whole network, which takes long enough to be interrupted, than to one layer.
    """
    device = torch.device(device)
    models, images = [], []
    for architecture in architectures:
        model = assemble(space, architecture, task, parts or ModelParts(), seed=0).to(device)
        models.append(model.to(memory_format=torch.channels_last).eval())
        x = torch.randn(batch, *input_shape(space, architecture, task), generator=torch_rng(0, "latency"))
        images.append(x.to(device, memory_format=torch.channels_last))
    best: list[Timing | None] = [None] * len(models)
    for done in range(rounds):
        for n, (model, x) in enumerate(zip(models, images, strict=True)):
            timing = measure(model, x, device=device, runs=runs, warmup=2)
            known = best[n]
            best[n] = timing if known is None or timing.median < known.median else known
        notify(done + 1)
    return [timing for timing in best if timing is not None]


def check_table(
    table: LatencyTable,
    space: Any,
    architectures: Sequence[Architecture],
    timings: Sequence[Timing],
    *,
    calibrate: int = 0,
) -> dict[str, Any]:
    """The table's sum against measured networks. With `calibrate`, so many of the networks are held in to fit an
    offset and a factor, and plain and calibrated sum are judged on the others."""
    table.check(space)
    measured = np.array([timing.median for timing in timings])
    predicted = np.array([table.latency(architecture) for architecture in architectures])
    if calibrate and not 2 <= calibrate <= len(measured) - 3:
        raise ConfigError(
            f"calibrate must leave at least three of {len(measured)} networks and take at least two, not {calibrate}"
        )
    left = slice(calibrate, None)
    judged = {"sum of the table": agreement(predicted[left], measured[left])}
    shown = {"sum of the table": predicted[left]}
    fitted: Calibration | None = None
    if calibrate:
        fitted = Calibration.fit(predicted[:calibrate], measured[:calibrate])
        shown["calibrated"] = fitted(predicted[left])
        judged["calibrated"] = agreement(shown["calibrated"], measured[left])
    document = _document("here", judged, shown, architectures[calibrate:], measured[left])
    spread = np.array([(timing.high - timing.low) / timing.median for timing in timings])
    document["setting"] = vars(table.setting) | {"table": table.source}
    document["spread"] = float(100 * np.median(spread))
    if fitted is not None:
        document["devices"]["here"]["calibration"] = vars(fitted)
    return document


def check_file(
    measured: Measured, space: Any, *, devices: Sequence[str] = (), train: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """The sum of parts and a learned predictor on networks that neither was fitted to, for each device.

    `train` of the networks, drawn by `seed` (two thirds where not said), are fitted to, the rest is held out: a device
    that grew hot while the file was measured would otherwise be judged at another time than it was learned. The sum of
    parts is the best that any table could do: its entries are fitted to the training networks. The learned predictor
    is chosen by cross-validation within them.
    """
    n = len(measured.architectures)
    train = 2 * n // 3 if train is None else train
    if not 1 <= train <= n - 3:
        raise ConfigError(f"train must leave at least three of the {n} networks to judge by, not {train}")
    order = np.random.default_rng(derive_seed(seed, "held out")).permutation(n)
    architectures = [measured.architectures[place] for place in order]
    X = Encoding(space.choices, numbers=False).of(architectures)
    document: dict[str, Any] = {"format": FORMAT, "devices": {}}
    for device in devices or list(measured.milliseconds):
        y = measured.of(device)[order]
        chosen = choose(X[:train], y[:train], space.choices)
        shown = {
            "sum of parts": SumOfParts().fit(X[:train], y[:train]).predict(X[train:]),
            "learned": chosen.model.predict(X[train:]),
        }
        judged = {name: agreement(values, y[train:], resamples=300) for name, values in shown.items()}
        made = _document(device, judged, shown, architectures[train:], y[train:])
        made["devices"][device] |= {"train": train, "learned": chosen.name, "cross-validated": chosen.errors}
        document["devices"] |= made["devices"]
    return document


def _document(
    device: str,
    judged: dict[str, Agreement],
    shown: dict[str, Floats],
    architectures: Sequence[Architecture],
    measured: Floats,
) -> dict[str, Any]:
    first = next(iter(shown.values()))
    worst = [
        {
            "architecture": architectures[n].to_json(),
            "measured": float(measured[n]),
            **{name: float(values[n]) for name, values in shown.items()},
        }
        for n in worst_cases(first, measured, WORST)
    ]
    entry = {
        "agreement": {name: one.to_json() for name, one in judged.items()},
        "measured": measured.tolist(),
        "predicted": {name: values.tolist() for name, values in shown.items()},
        "worst": worst,
    }
    return {"format": FORMAT, "devices": {device: entry}}
