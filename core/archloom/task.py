"""Tasks: the data that networks are trained and judged on, in four disjoint splits.

weights       trains the weights of a supernet or of a network
architecture  trains what decides the architecture (theta, a meta network); part of the training data
              when a network is trained from scratch
validation    selects: architectures, epochs, anything
test          is read once, at the end
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset

from .errors import ConfigError, TaskError
from .randomness import derive_seed, forked_rng, python_rng
from .ranks import Ranks

Split = Literal["weights", "architecture", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@runtime_checkable
class Task(Protocol):
    """Data splits, image shape (C, H, W) and class names.

    `dataset(*splits)` gives images of `shape` as float tensors, normalized, with integer labels.
    `augment` asks for the training transforms; `resolution` for square images of another size.
    """

    name: str
    shape: tuple[int, int, int]
    classes: Sequence[str]

    def dataset(
        self, *splits: Split, augment: bool = False, resolution: int | None = None
    ) -> Dataset[tuple[Tensor, int]]: ...


def stratified_split(
    targets: Sequence[int], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Disjoint index lists, each class shared out in the same proportions.

    Fractions sum to at most one; what remains is left out. Rounding is by largest remainder within a
    class, and seeded, so that small classes do not all lose to the same split.
    """
    total = sum(fractions.values())
    if any(f < 0 for f in fractions.values()) or total > 1 + 1e-9:
        raise ConfigError(f"split fractions must be at least 0 and sum to at most 1, not {dict(fractions)}")
    by_class: dict[int, list[int]] = {}
    for index, target in enumerate(targets):
        by_class.setdefault(int(target), []).append(index)
    parts: dict[str, list[int]] = {name: [] for name in fractions}
    for label, members in sorted(by_class.items()):
        rng = python_rng(seed, "split", label)
        rng.shuffle(members)
        exact = {name: fraction * len(members) for name, fraction in fractions.items()}
        counts = {name: int(share) for name, share in exact.items()}
        order = sorted(exact, key=lambda name: (-(exact[name] - counts[name]), rng.random()))
        for name in order[: round(sum(exact.values())) - sum(counts.values())]:
            counts[name] += 1
        start = 0
        for name in fractions:
            parts[name] += members[start : start + counts[name]]
            start += counts[name]
    return {name: sorted(indices) for name, indices in parts.items()}


class Transformed(Dataset[tuple[Tensor, int]]):
    """Chosen items of a raw data set, each through a transform.

    Indexed by a position, or by (position, seed) where the transform draws: the same pair gives the same
    tensor in whatever worker process.
    """

    def __init__(
        self, items: Dataset[Any], indices: Sequence[int], transform: Callable[[Any], Tensor]
    ) -> None:
        self.items, self.indices, self.transform = items, list(indices), transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, int]:
        position, seed = key if isinstance(key, tuple) else (key, 0)
        image, target = self.items[self.indices[position]]
        with forked_rng(seed):
            return self.transform(image), int(target)


class _Concat(ConcatDataset[tuple[Tensor, int]]):
    """ConcatDataset that understands (position, seed)."""

    def __getitem__(self, key: Any) -> Any:
        position, seed = key if isinstance(key, tuple) else (key, 0)
        part = next(i for i, end in enumerate(self.cumulative_sizes) if position < end)
        start = self.cumulative_sizes[part - 1] if part else 0
        return self.datasets[part][(position - start, seed)]  # type: ignore[index]


@dataclass(frozen=True)
class ImageTask:
    """A task made of raw data sets; what most `register_tasks` factories return.

    train, test: raw data sets whose items are (image, label). train_targets: the labels of `train`, for
    the stratified split into weights, architecture and validation by `fractions`; `train_size` keeps
    that many images of weights and architecture together (None: all).
    train_transform, eval_transform: resolution or None -> (raw image -> float tensor of `shape`).
    """

    name: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train: Dataset[Any]
    train_targets: Sequence[int]
    test: Dataset[Any]
    train_transform: Callable[[int | None], Callable[[Any], Tensor]]
    eval_transform: Callable[[int | None], Callable[[Any], Tensor]]
    fractions: Mapping[Split, float] = field(
        default_factory=lambda: {"weights": 0.6, "architecture": 0.2, "validation": 0.2}
    )
    train_size: int | None = None
    split_seed: int = 0
    in_memory: bool = False

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise TaskError(f"task '{self.name}' has {len(self.classes)} class; a classifier needs two or more")
        if not len(self.train_targets):
            raise TaskError(f"task '{self.name}' has no training images")
        parts = stratified_split(self.train_targets, self.fractions, self.split_seed)
        if self.train_size is not None:
            available = len(parts["weights"]) + len(parts["architecture"])
            if not 1 <= self.train_size <= available:
                raise ConfigError(
                    f"task '{self.name}': train_size must be between 1 and {available}, not {self.train_size}"
                )
            for name in ("weights", "architecture"):
                labels = [self.train_targets[i] for i in parts[name]]
                keep = stratified_split(labels, {"kept": self.train_size / available}, self.split_seed)["kept"]
                parts[name] = [parts[name][i] for i in keep]
        for name, indices in parts.items():
            if not indices:
                raise TaskError(
                    f"task '{self.name}': the {name} split is empty; give it a larger share or more images"
                )
        object.__setattr__(self, "_parts", parts)

    def indices(self, split: Split) -> list[int]:
        """Which items of `train` (of `test` for the test split) a split holds."""
        parts: dict[str, list[int]] = self._parts  # type: ignore[attr-defined]
        return list(range(len(self.test))) if split == "test" else parts[split]  # type: ignore[arg-type]

    def dataset(
        self, *splits: Split, augment: bool = False, resolution: int | None = None
    ) -> Dataset[tuple[Tensor, int]]:
        transform = (self.train_transform if augment else self.eval_transform)(resolution)
        parts = []
        for split in splits:
            if split not in SPLITS:
                raise ConfigError(f"there is no split '{split}'; there are {', '.join(SPLITS)}")
            items = self.test if split == "test" else self.train
            parts.append(Transformed(items, self.indices(split), transform))
        if self.in_memory and not augment:
            pairs = [part[i] for part in parts for i in range(len(part))]
            return TensorDataset(torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs]))  # type: ignore[return-value]
        return parts[0] if len(parts) == 1 else _Concat(parts)


def batches(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    ranks: Ranks | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    channels_last: bool = True,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, labels) of one epoch, on `device`.

    Order and augmentation are functions of (seed, epoch) alone. `batch_size` counts over all ranks; each
    rank gets every world-th image of a batch, so that the ranks' mean gradient is one rank's gradient of
    the whole batch. With `drop_last` the last incomplete batch is left out, unless it is the only one.
    """
    ranks = ranks or Ranks()
    if batch_size < 1 or (drop_last and batch_size % ranks.world):
        raise ConfigError(
            f"batch_size must be at least 1 and a multiple of the {ranks.world} processes, not {batch_size}"
        )
    count = len(dataset)  # type: ignore[arg-type]
    if not count:
        raise TaskError("the data set is empty")
    order = list(range(count))
    if shuffle:
        python_rng(seed, "order", epoch).shuffle(order)
    groups = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    if drop_last and len(groups) > 1 and len(groups[-1]) < batch_size:
        groups.pop()
    groups = [mine for group in groups if (mine := group[ranks.rank :: ranks.world])]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    if isinstance(dataset, TensorDataset):
        images, labels = dataset.tensors
        for group in groups:
            x = images[group].to(device, memory_format=memory_format)
            yield x, labels[group].to(device)
        return
    keys = [[(i, derive_seed(seed, "sample", epoch, i)) for i in group] for group in groups]
    loader = DataLoader(
        dataset, batch_sampler=keys, num_workers=workers, pin_memory=torch.device(device).type == "cuda"
    )
    for x, y in loader:
        yield (
            x.to(device, non_blocking=True, memory_format=memory_format),
            y.to(device, non_blocking=True),
        )
