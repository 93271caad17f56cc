"""archloom's trainer beside a loop of plain PyTorch: ResNet-18 of torchvision on noise, epoch by epoch in turn.

    python benchmarks/trainer_overhead.py --rounds 20 --out benchmarks/results
    python benchmarks/trainer_overhead.py --device cuda --precision bfloat16 --size 50000 --batch 256

Both have the same options and do the same work: SGD with momentum, a cosine by step, channels_last, mean loss and
accuracy of the training images, then loss and accuracy of the validation images. "full" adds label smoothing, mixup,
clipping and an average of the weights to both, in the plain loop by torchvision's and PyTorch's own means. Each epoch
of one is followed by an epoch of the other, and who begins changes. A ratio is ours over theirs within a round; its
interval is a bootstrap over rounds of the median ratio.

The process keeps freed memory, as under archloom's commands: without that, both spend several per cent of their time
in page faults, more or fewer by chance.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from archloom.documents import json_text
from archloom.kernels import allocator, keep_freed_memory
from archloom.latency import setting_of
from archloom.model import Model
from archloom.plugins import Host
from archloom.randomness import python_rng
from archloom.training import Recipe, precision_context, train

TARGET = 1.03
FULL = {"label_smoothing": 0.1, "mixup": 0.2, "clip": 1.0, "ema": 0.999}
SETTINGS: dict[str, dict[str, Any]] = {"plain": {}, "full": FULL}


def ours(
    net: nn.Module, task: Any, recipe: Recipe, device: str, precision: str, clock: str
) -> Iterator[float]:
    """Seconds of each epoch of archloom's trainer."""
    model = Model(net, nn.Identity(), nn.Identity(), nn.CrossEntropyLoss())
    epochs = train(model, task, recipe, seed=0, device=device, precision=precision, splits=("weights",))
    yield from timed(epochs, device, clock)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(epochs: Iterator[Any], device: str, clock: str) -> Iterator[float]:
    """How long each step of an iterator takes, the device's work included."""
    now = CLOCKS[clock]
    while True:
        started = now()
        if next(epochs, None) is None:
            return
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        yield now() - started


def bare(
    net: nn.Module, task: Any, recipe: Recipe, device: str, precision: str, clock: str
) -> Iterator[float]:
    """Seconds of each epoch of a plain loop."""
    yield from timed(bare_epochs(net, task, recipe, torch.device(device), precision), device, clock)


def bare_epochs(
    net: nn.Module, task: Any, recipe: Recipe, device: torch.device, precision: str
) -> Iterator[dict[str, float]]:
    """The plain loop: what a person writes who needs no more than this."""
    train_data, held_out = task.dataset("weights"), task.dataset("validation")
    loader = DataLoader(train_data, recipe.batch_size, shuffle=True, drop_last=True)
    validation = DataLoader(held_out, 512)
    net = net.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    average = (
        AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        if recipe.ema
        else None
    )
    mixup = v2.MixUp(alpha=recipe.mixup, num_classes=len(task.classes)) if recipe.mixup else None
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    steps = recipe.epochs * len(loader)
    step = 0
    for _ in range(recipe.epochs):
        net.train()
        total, correct, images = torch.zeros((), device=device), torch.zeros((), device=device), 0
        for x, y in loader:
            x, y = x.to(device, memory_format=torch.channels_last), y.to(device)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            targets = y
            if mixup is not None:
                x, targets = mixup(x, y)
                y = targets.argmax(1)
            with precision_context(device, precision):
                logits = net(x)
                loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            if recipe.clip is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
            scaler.step(optimizer)
            scaler.update()
            if average is not None:
                average.update_parameters(net)
            total += loss.detach() * len(y)
            correct += (logits.argmax(1) == y).sum()
            images += len(y)
            step += 1
        metrics = {"loss": float(total) / images, "accuracy": float(correct) / images}
        for judged in filter(None, (net, average)):
            metrics |= bare_evaluate(judged, validation, device, precision)
        yield metrics


@torch.inference_mode()
def bare_evaluate(net: nn.Module, loader: Any, device: torch.device, precision: str) -> dict[str, float]:
    """Loss and accuracy of a data set."""
    net.eval()
    total, correct, images = torch.zeros((), device=device), torch.zeros((), device=device), 0
    for x, y in loader:
        x, y = x.to(device, memory_format=torch.channels_last), y.to(device)
        with precision_context(device, precision):
            logits = net(x)
        total += F.cross_entropy(logits.float(), y, reduction="sum")
        correct += (logits.argmax(1) == y).sum()
        images += len(y)
    return {"validation.loss": float(total) / images, "validation.accuracy": float(correct) / images}


def interval(ratios: list[float], seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """(median, lower, upper): the 95 % bootstrap interval of the median."""
    rng = python_rng(seed, "bootstrap")
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def measure(arguments: argparse.Namespace, fields: dict[str, Any]) -> dict[str, Any]:
    """Both trainings, an epoch of each in turn; the first of each warms up and does not count."""
    options = {"size": arguments.size, "test_size": 16, "height": arguments.side, "width": arguments.side}
    factory = Host().get("task", "fake")
    task = factory.make(factory.validate(options | {"architecture": 0.0, "validation": arguments.validation}))
    recipe = Recipe(epochs=arguments.rounds + 1, batch_size=arguments.batch, lr=0.05, **fields)
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=len(task.classes))
    how = (task, recipe, arguments.device, arguments.precision, arguments.clock)
    runs = {"archloom": ours(net, *how), "plain": bare(copy.deepcopy(net), *how)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for number in range(arguments.rounds + 1):
        for name in order:
            took = next(runs[name])
            if number:
                seconds[name].append(took)
        order.reverse()
    ratios = [a / b for a, b in zip(seconds["archloom"], seconds["plain"], strict=True)]
    steps = len(task.dataset("weights")) // arguments.batch
    return {"ratio": interval(ratios), "steps_per_epoch": steps, "seconds": seconds}


def main() -> None:
    """Measure, print, and write the result where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--size", type=int, default=512, help="images, those of validation included")
    parser.add_argument("--validation", type=float, default=0.25, help="their share")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: processor time, for a busy machine"
    )
    parser.add_argument(
        "--default-allocator", action="store_true", help="glibc's, and not as archloom's commands"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a folder for trainer_overhead-DEVICE.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.default_allocator:
        keep_freed_memory()
    result: dict[str, Any] = {
        "versions": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
        "where": setting_of(torch.device(arguments.device), 1).device,
        "allocator": allocator(),
        "load_average_before": os.getloadavg(),
        **{key: value for key, value in vars(arguments).items() if key != "output"},
        "target": TARGET,
        "settings": {},
    }
    for name, fields in SETTINGS.items():
        found = measure(arguments, fields)
        result["settings"][name] = {"options": fields, **found}
        median, low, high = found["ratio"]
        print(f"{name}: {median:.3f} of a plain loop's time, 95 % [{low:.3f}, {high:.3f}]; target {TARGET}")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"trainer_overhead-{torch.device(arguments.device).type}.json"
        path.write_text(json_text(result), encoding="utf-8")
        print(f"written to {path}")


if __name__ == "__main__":
    main()
