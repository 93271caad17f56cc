"""Latency: of a module as measured, of an architecture as the sum of a table of its parts."""

from __future__ import annotations

import hashlib
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .architecture import Architecture
from .documents import read_json
from .errors import ConfigError, shown
from .latency_places import Geometry, Place, places
from .latency_places import check_images as check_images
from .model import ModelParts, evaluating
from .randomness import python_rng, torch_rng
from .surroundings import plainly

FORMAT = "archloom latency table 1"


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one forward: the median, and the spread from the 10th to the 90th percentile."""

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Setting:
    """What a latency holds for; two latencies with different settings are not compared."""

    device: str
    dtype: str
    batch: int
    threads: int
    torch: str


def setting_of(device: torch.device, batch: int, dtype: torch.dtype = torch.float32) -> Setting:
    """The setting of measurements made here and now."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return Setting(name, str(dtype).removeprefix("torch."), batch, torch.get_num_threads(), torch.__version__)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@plainly
def measure(
    module: nn.Module,
    *inputs: Any,
    device: torch.device | str = "cpu",
    runs: int = 30,
    warmup: int = 5,
    min_seconds: float = 0.0,
) -> Timing:
    """Time `module(*inputs)` in eval and inference mode; the module's mode is given back.

    After `warmup` untimed calls, at least `runs` timed ones, and on until `min_seconds` have passed.
    """
    device = torch.device(device)
    times: list[float] = []
    with evaluating(module), torch.inference_mode():
        for _ in range(warmup):
            module(*inputs)
        started = time.perf_counter()
        while len(times) < runs or time.perf_counter() - started < min_seconds:
            _synchronize(device)
            before = time.perf_counter()
            module(*inputs)
            _synchronize(device)
            times.append((time.perf_counter() - before) * 1e3)
    return _timing(times)


def _timing(times: Sequence[float]) -> Timing:
    """Median and spread of single times in milliseconds."""
    ordered = sorted(times)
    return Timing(
        median=statistics.median(ordered),
        low=ordered[int(0.1 * (len(ordered) - 1))],
        high=ordered[int(0.9 * (len(ordered) - 1) + 0.5)],
        runs=len(ordered),
    )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of every candidate of a space, of its stem and tail, and of neck and head.

    entries: key -> Timing. The key names the operation and its shapes, so that equal layers are measured
    once. layers: choice -> {option: key}. fixed: keys that every architecture pays.
    """

    entries: Mapping[str, Timing]
    layers: Mapping[str, Mapping[str, str]]
    fixed: Sequence[str]
    setting: Setting
    source: str = field(default="measured here")

    def costs(self, choice: str) -> list[float]:
        """The milliseconds of each option of `choice`, in the options' order."""
        if choice not in self.layers:
            raise ConfigError(
                f"the latency table has no choice '{choice}'; it has {', '.join(self.layers)}. "
                "Build it again for this space: archloom latency build"
            )
        return [self.entries[key].median for key in self.layers[choice].values()]

    @property
    def base(self) -> float:
        """The milliseconds of stem, tail, neck and head."""
        return sum(self.entries[key].median for key in self.fixed)

    def latency(self, architecture: Architecture) -> float:
        """Milliseconds of an architecture, which must fit the space: `base` and one entry for each active choice."""
        total = self.base
        for choice, options in self.layers.items():
            if choice in architecture:
                total += self.entries[options[str(architecture[choice])]].median
        return total

    def check(
        self,
        space: Any,
        shape: tuple[int, ...] | None = None,
        num_classes: int | None = None,
        parts: ModelParts | None = None,
    ) -> LatencyTable:
        """The table itself, if it fits the space's choices and options; a ConfigError if not.

        With the `shape` (C, H, W) of the images, each layer's own shapes are compared too: those in the table with
        those that the space's networks have. A table without shapes, as of the reference code's text, has none to
        compare.
        """
        for choice in space.choices:
            wanted = [str(option) for option in choice.options]
            if choice.name in self.layers and list(self.layers[choice.name]) != wanted:
                raise ConfigError(
                    f"the latency table's options for '{choice.name}' are "
                    f"{shown(str(list(self.layers[choice.name])))}, the space's are {wanted}. "
                    "Build the table for this space: archloom latency build"
                )
        lacking = [c.name for c in space.choices if c.name not in self.layers]
        if lacking and len(lacking) == len(space.choices):
            raise ConfigError("the latency table belongs to another space: none of the choices is in it")
        strange = [name for name in self.layers if name not in [c.name for c in space.choices]]
        if strange:
            raise ConfigError(
                f"the latency table has the layers {', '.join(strange[:5])}, which the space has not. Build the table "
                "for this space: archloom latency build"
            )
        if shape is not None and hasattr(space, "candidate") and hasattr(space, "around"):
            self._check_geometry(space, shape, num_classes, parts)
        return self

    def _check_geometry(
        self, space: Any, shape: tuple[int, ...], num_classes: int | None, parts: ModelParts | None
    ) -> None:
        own = self.geometry
        classes = num_classes or own.classes or 10
        layers, fixed, _ = places(space, shape, classes, parts, torch.device("meta"))
        there = Geometry.of(
            {name: {option: key for option, (key, _) in of.items()} for name, of in layers.items()},
            [key for key, _ in fixed],
        )
        if own.layers.keys() != there.layers.keys() or (differing := own.differs(there)):
            first = "" if own.layers.keys() != there.layers.keys() else f"; first at {differing}"
            raise ConfigError(
                f"the latency table ({shown(self.source)}) holds for another geometry: {own}; here it is "
                f"{there}{first}. Build one for this: archloom latency build"
            )

    @property
    def geometry(self) -> Geometry:
        """What sizes the table holds for, as its entries say."""
        return Geometry.of(self.layers, self.fixed)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with all that `from_json` needs."""
        return {
            "format": FORMAT,
            "unit": "ms",
            "source": self.source,
            "setting": asdict(self.setting),
            "fixed": list(self.fixed),
            "layers": {name: dict(options) for name, options in self.layers.items()},
            "entries": {key: asdict(timing) for key, timing in self.entries.items()},
        }

    @classmethod
    def from_json(cls, data: Any, where: str = "the latency table") -> LatencyTable:
        """The inverse of `to_json`; a ConfigError naming `where` for anything else."""
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where} is no latency table of archloom: it holds no keys and values")
        if data.get("format") != FORMAT:
            told = shown(repr(data.get("format")))
            raise ConfigError(f"{where} has format {told}; this version reads {FORMAT!r}")
        try:
            table = cls(
                entries={key: Timing(**timing) for key, timing in data["entries"].items()},
                layers={name: dict(options) for name, options in data["layers"].items()},
                fixed=list(data["fixed"]),
                setting=Setting(**data["setting"]),
                source=str(data["source"]),
            )
            keys = [key for options in table.layers.values() for key in options.values()]
            for key in [*keys, *table.fixed]:
                timing = table.entries[key]
                for figure in (timing.median, timing.low, timing.high):
                    if not _is_time(figure):
                        raise ConfigError(
                            f"{where}: entry '{shown(key)}' is {shown(repr(figure))}, not a time"
                        )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(f"{where} is no latency table of archloom: {shown(repr(error))}") from error
        return table

    @classmethod
    def read(cls, path: str | Path) -> LatencyTable:
        """A table from a JSON file."""
        return cls.from_json(read_json(path, "the latency table"), str(path))


def table_name(path: str) -> str:
    """Under which name a run keeps its copy of the table in a file."""
    return f"latency_table_{hashlib.sha256(path.encode(errors='surrogateescape')).hexdigest()[:8]}"


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


@plainly
def build_table(
    space: Any,
    shape: tuple[int, ...],
    num_classes: int,
    *,
    parts: ModelParts | None = None,
    device: torch.device | str = "cpu",
    batch: int = 1,
    runs: int = 30,
    warmup: int = 5,
) -> LatencyTable:
    """Measure every candidate of `space` on this device, at the shapes that it has for images of `shape`.

    Alone in a loop a layer finds its weights and its input in the nearest cache, and the sum of such times misses the
    whole network's. So whole paths are run and each layer is timed where it stands, behind a layer that has just
    written its input. Paths are drawn so that in each of `runs` rounds every candidate is on one of them, a round
    measures all candidates in turn, and what disturbs the machine for a while falls on all of them alike.
    """
    device = torch.device(device)
    layers, fixed, modules = places(space, shape, num_classes, parts, device)
    times: dict[str, list[float]] = {key: [] for key in modules}
    images = torch.randn(batch, *shape, generator=torch_rng(0, "latency"))
    x = images.to(device, memory_format=torch.channels_last)
    stem, tail, head = fixed
    with torch.inference_mode():
        for number in range(runs):
            for path in _paths(layers, number):
                for _ in range(warmup if number == 0 else 1):
                    _walk([stem, *path, tail, head], x, device)
                for key, milliseconds in _walk([stem, *path, tail, head], x, device):
                    times[key].append(milliseconds)
    options = {choice: {option: key for option, (key, _) in of.items()} for choice, of in layers.items()}
    entries = {key: _timing(found) for key, found in times.items()}
    return LatencyTable(entries, options, [key for key, _ in fixed], setting_of(device, batch))


def _paths(layers: Mapping[str, Mapping[str, Place]], number: int) -> list[list[Place]]:
    """Paths that together hold every candidate of every choice, shuffled anew for each round."""
    rng = python_rng(0, "latency paths", number)
    columns = []
    for options in layers.values():
        places = list(options.values())
        rng.shuffle(places)
        columns.append(places)
    widest = max((len(column) for column in columns), default=1)
    return [[column[n % len(column)] for column in columns] for n in range(widest)]


def _walk(path: Sequence[Place], x: torch.Tensor, device: torch.device) -> list[tuple[str, float]]:
    """Run the modules one after another: each one's key and milliseconds."""
    found = []
    _synchronize(device)
    for key, module in path:
        before = time.perf_counter()
        x = module(x)
        _synchronize(device)
        found.append((key, (time.perf_counter() - before) * 1e3))
    return found
