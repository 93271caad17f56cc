"""EfficientNet-b0 beside timm, torchvision and efficientnet_pytorch: inference, training step, saved bytes.

    OMP_NUM_THREADS=2 python benchmarks/efficientnet_speed.py --rounds 20 --out benchmarks/results

All implementations run in one process, in turn within each round, in an order that rotates from round to
round, each in its faster memory layout (found first, per mode). A ratio is ours over another's within a
round; its interval is a bootstrap over rounds of the median ratio. Peers that are not installed are left
out, and the result says so. Saved bytes: distinct storages that autograd keeps for the backward pass,
parameters and buffers not counted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archloom.documents import json_text
from archloom.randomness import python_rng
from archloom_efficientnet import EfficientNet

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
MODES = ("inference", "training")
TARGETS = {"inference": 1.0, "training": 0.95, "saved_bytes": 0.75}
"""Ours over the fastest of the others; saved bytes: over timm's."""


def peers() -> tuple[dict[str, Callable[[], nn.Module]], dict[str, str]]:
    """(name -> how to build b0, name -> version or why it is missing)."""
    wanted = {
        "timm": ("timm", lambda m: m.create_model("efficientnet_b0")),
        "timm tf": ("timm", lambda m: m.create_model("tf_efficientnet_b0")),
        "torchvision": ("torchvision", lambda m: m.models.efficientnet_b0()),
        "efficientnet_pytorch": ("efficientnet_pytorch", _efficientnet_pytorch),
    }
    found: dict[str, Callable[[], nn.Module]] = {}
    versions: dict[str, str] = {}
    for name, (module, build) in wanted.items():
        try:
            imported = importlib.import_module(module)
        except ImportError as error:
            versions[name] = f"left out: {error}"
            continue
        found[name] = lambda build=build, imported=imported: build(imported)
        versions[name] = getattr(imported, "__version__", "unknown")
    return found, versions


def _efficientnet_pytorch(module: Any) -> nn.Module:
    model = module.EfficientNet.from_name("efficientnet-b0")
    model.set_swish(memory_efficient=False)  # its faster form
    return model


def timed(model: nn.Module, image: Tensor, target: Tensor, mode: str) -> float:
    """Milliseconds of one inference, or of one forward and backward."""
    model.train(mode == "training")
    start = time.perf_counter()
    if mode == "inference":
        with torch.inference_mode():
            model(image)
    else:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(image), target).backward()
    return (time.perf_counter() - start) * 1e3


def saved_bytes(model: nn.Module, image: Tensor, target: Tensor) -> int:
    """Bytes of the distinct storages kept for the backward pass."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    own |= {image.untyped_storage().data_ptr(), target.untyped_storage().data_ptr()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)  # or a freed one's address could come again
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        F.cross_entropy(model(image), target)
    return sum(kept.values())


def interval(ratios: list[float], seed: int, draws: int = 2000) -> tuple[float, float, float]:
    """(median, lower, upper): the 95 % bootstrap interval of the median."""
    rng = python_rng(seed, "bootstrap")
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def measure(rounds: int, batch: int, size: int, seed: int) -> dict[str, Any]:
    """All figures of one run."""
    builders, versions = peers()
    builders = {"archloom": lambda: EfficientNet.from_name("efficientnet-b0"), **builders}
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, size, size, generator=generator)
    target = torch.randint(0, 1000, (batch,), generator=generator)
    inputs = {name: images.to(memory_format=layout) for name, layout in LAYOUTS.items()}
    models = {
        (name, layout): build().to(memory_format=LAYOUTS[layout])
        for name, build in builders.items()
        for layout in LAYOUTS
    }
    result: dict[str, Any] = {"versions": versions, "modes": {}}
    for mode in MODES:
        trial = {
            key: min(timed(model, inputs[key[1]], target, mode) for _ in range(3))
            for key, model in models.items()
        }
        layout = {name: min(LAYOUTS, key=lambda form, name=name: trial[name, form]) for name in builders}
        times: dict[str, list[float]] = {name: [] for name in builders}
        order = list(builders)
        for _ in range(rounds):
            for name in order:
                times[name].append(timed(models[name, layout[name]], inputs[layout[name]], target, mode))
            order = order[1:] + order[:1]
        result["modes"][mode] = _summary(times, layout, seed)
    kept = {
        name: saved_bytes(models[name, "channels_last"], inputs["channels_last"], target) for name in builders
    }
    result["saved_bytes"] = {
        "bytes": kept,
        "ratio_to": {name: kept["archloom"] / value for name, value in kept.items() if name != "archloom"},
    }
    return result


def _summary(times: dict[str, list[float]], layout: dict[str, str], seed: int) -> dict[str, Any]:
    ours = times["archloom"]
    others = {name: values for name, values in times.items() if name != "archloom"}
    ratios = {
        name: interval([a / b for a, b in zip(ours, values, strict=True)], seed)
        for name, values in others.items()
    }
    fastest = [min(values) for values in zip(*others.values(), strict=True)] if others else []
    return {
        "layout": layout,
        "median_ms": {name: statistics.median(values) for name, values in times.items()},
        "min_ms": {name: min(values) for name, values in times.items()},
        "ratio_to": ratios,
        "fastest_peer": min(others, key=lambda name: statistics.median(others[name])) if others else None,
        "ratio_to_the_fastest_of_each_round": interval(
            [a / b for a, b in zip(ours, fastest, strict=True)], seed
        )
        if others
        else None,
        "times_ms": times,
    }


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")
    allocator = {name: value for name, value in os.environ.items() if "MALLOC" in name}
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "load_average_before": os.getloadavg(),
        "allocator_settings": allocator,
        "dtype": "float32",
        "device": "cpu",
    }


def show(result: dict[str, Any]) -> None:
    """The result as a table."""
    for mode, figures in result["modes"].items():
        print(f"{mode}, ms (median, least), ours over theirs [95 % interval]")
        for name, median in figures["median_ms"].items():
            ratio = figures["ratio_to"].get(name)
            text = f"{ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}]" if ratio else ""
            layout, least = figures["layout"][name], figures["min_ms"][name]
            print(f"  {name:22} {layout:14} {median:8.1f} {least:8.1f}   {text}".rstrip())
        print(f"  fastest peer: {figures['fastest_peer']}; target: at most {TARGETS[mode]}")
    for name, version in result["versions"].items():
        if version.startswith("left out"):
            print(f"{name}: {version}")
    print(f"saved for the backward pass, MB; target: at most {TARGETS['saved_bytes']} of timm's")
    for name, value in result["saved_bytes"]["bytes"].items():
        ratio = result["saved_bytes"]["ratio_to"].get(name)
        print(f"  {name:22} {value / 1e6:8.1f}   {'' if ratio is None else f'{ratio:.3f}'}".rstrip())


def main() -> None:
    """Measure, print, and write the result where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder for efficientnet_speed.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = {
        "rounds": arguments.rounds,
        "batch": arguments.batch,
        "size": arguments.size,
        "seed": arguments.seed,
    }
    result = {"environment": environment(), **settings, "targets": TARGETS, **measure(**settings)}
    show(result)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / "efficientnet_speed.json"
        path.write_text(json_text(result), encoding="utf-8")
        print(f"written to {path}")


if __name__ == "__main__":
    main()
