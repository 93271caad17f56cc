"""Tasks: the data that networks are trained and judged on, in four disjoint splits.

weights       trains the weights of a supernet or of a network
architecture  trains what decides the architecture (theta, a meta network); part of the training data
              when a network is trained from scratch
validation    selects: architectures, epochs, anything
test          is read once, at the end
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from .augmentation import Policy
from .drawing import Drawing
from .errors import ConfigError, TaskError
from .loading import loading_error
from .randomness import derive_seed, forked_rng, other_threads, python_rng, torch_rng
from .ranks import Ranks
from .splitting import apportion, lacking, stratified_sample, stratified_split

logger = logging.getLogger("archloom")

Split = Literal["weights", "architecture", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Transform = Callable[[Any], Tensor]


@runtime_checkable
class Task(Protocol):
    """Data splits, the shape of one input, (C, H, W) for images, and class names.

    `dataset(*splits)` gives inputs of `shape` as float tensors, normalized, each with its target: an integer label of
    `classes`, unless the task says itself how it is scored: then it has the attributes of `archloom.metrics.Scoring`,
    targets are what its `score` takes, and `classes` may be empty. A data set with an attribute `collate` makes batches
    (inputs, targets) of its items itself.
    `augment` asks for the training transforms; `resolution` for square images of another size, and of a task that has
    no images nobody asks for any.

    A task with a true attribute `policies` is also asked with an `archloom.augmentation.Policy` for `augment`:
    its training transforms then end with `policy.transform()`, where the image is still uint8, that is before it
    is normalized. No other task is ever asked so.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def classes(self) -> Sequence[str]: ...

    def dataset(
        self, *splits: Split, augment: bool | Policy = False, resolution: int | None = None
    ) -> Dataset[Any]: ...


class Transformed(Dataset[tuple[Tensor, int]]):
    """Chosen items of a raw data set, each through a transform. `workers`: how many processes `batches`
    loads it with when its caller does not say."""

    def __init__(
        self, items: Dataset[Any], indices: Sequence[int], transform: Transform, workers: int = 0
    ) -> None:
        self.items, self.indices, self.transform, self.workers = items, list(indices), transform, workers

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        image, target = self.items[self.indices[position]]
        return self.transform(image), int(target)


@dataclass(frozen=True, eq=False)
class ImageTask:
    """A task made of raw data sets; what most `register_tasks` factories return.

    train, test, validation: raw data sets whose items are (image, label). train_targets: the labels of
    `train`, for the stratified split into weights, architecture and validation by `fractions`; with a
    `validation` of its own, into weights and architecture. A fraction of 0 leaves a split empty.
    train_size: how many images weights and architecture keep together (None: all).
    eval_transform, train_transform: resolution or None -> (raw image -> float tensor of `shape`). The
    training transforms may draw from the global generators of torch, random and numpy, which `batches`
    seeds for each image; None where there is no augmentation.
    policy_transform: (policy, resolution or None) -> the training transforms with the policy among them, placed
    where the image is uint8; None where the task takes no policies.
    raw_image: makes of an image (PIL) what an item of `train` has for one, so that image files can be classified;
    needed only where the items are no PIL images themselves. preprocessing: what that and `eval_transform` do, in
    timm's terms (mean, std, interpolation, crop_pct, crop_mode), written beside exported networks. upright: image
    files are turned as their EXIF orientation says.
    workers: processes that load images by default. in_memory: what is not augmented is kept as tensors.
    """

    name: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train: Dataset[Any]
    train_targets: Sequence[int]
    test: Dataset[Any]
    eval_transform: Callable[[int | None], Transform]
    train_transform: Callable[[int | None], Transform] | None = None
    policy_transform: Callable[[Policy, int | None], Transform] | None = None
    validation: Dataset[Any] | None = None
    fractions: Mapping[str, float] = field(
        default_factory=lambda: {"weights": 0.6, "architecture": 0.2, "validation": 0.2}
    )
    train_size: int | None = None
    split_seed: int = 0
    in_memory: bool = False
    workers: int = 0
    raw_image: Callable[[Any], Any] | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    upright: bool = False

    def __post_init__(self) -> None:
        self._check()
        parts = stratified_split(self.train_targets, self.fractions, self.split_seed)
        if self.train_size is not None:
            parts |= self._thinned(parts, self.train_size)
        sources = {name: (self.train, indices) for name, indices in parts.items()}
        if self.validation is not None:
            sources["validation"] = (self.validation, list(range(len(self.validation))))  # type: ignore[arg-type]
        sources["test"] = (self.test, list(range(len(self.test))))  # type: ignore[arg-type]
        for name, (_, indices) in sources.items():
            if not indices and self.fractions.get(name) != 0:
                raise TaskError(
                    f"task '{self.name}': the {name} split is empty; give it a larger share or more images"
                )
        self._say_lacking(parts)
        object.__setattr__(self, "_sources", sources)
        object.__setattr__(self, "_tensors", {})

    def _check(self) -> None:
        where, targets = f"task '{self.name}'", [int(target) for target in self.train_targets]
        if len(self.classes) < 2:
            raise TaskError(f"{where} has {len(self.classes)} class; a classifier needs two or more")
        if not targets:
            raise TaskError(f"{where} has no training images")
        if len(targets) != len(self.train):  # type: ignore[arg-type]
            raise TaskError(f"{where}: {len(self.train)} training images but {len(targets)} train_targets")  # type: ignore[arg-type]
        if min(targets) < 0 or max(targets) >= len(self.classes):
            raise TaskError(
                f"{where}: labels run from {min(targets)} to {max(targets)}; "
                f"with {len(self.classes)} classes they must be 0 to {len(self.classes) - 1}"
            )
        known = SPLITS[:3] if self.validation is None else SPLITS[:2]
        if set(self.fractions) - set(known):
            raise ConfigError(
                f"{where}: fractions are of {', '.join(known)}, not of {', '.join(self.fractions)}"
            )

    def _say_lacking(self, parts: Mapping[str, Sequence[int]]) -> None:
        """Warn of classes that a split has no image of: what is trained or judged there knows nothing of them."""
        for name, indices in parts.items():
            missing = lacking(self.train_targets, indices, len(self.classes)) if indices else []
            if missing:
                named = ", ".join(self.classes[label] for label in missing[:5])
                more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
                logger.warning(
                    "task '%s': the %s split has no image of %d of the %d classes: %s%s; give it a larger share, or "
                    "these classes more images",
                    *(self.name, name, len(missing), len(self.classes), named, more),
                )

    def _thinned(self, parts: Mapping[str, list[int]], size: int) -> dict[str, list[int]]:
        """The weights and architecture splits with `size` images together, in their old proportion."""
        available = {name: len(parts[name]) for name in SPLITS[:2] if name in parts}
        total = sum(available.values())
        if not 1 <= size <= total:
            raise ConfigError(f"task '{self.name}': train_size must be between 1 and {total}, not {size}")
        exact = {name: size * count / total for name, count in available.items()}
        thinned: dict[str, list[int]] = {}
        for name, count in apportion(exact, size, python_rng(self.split_seed, "train_size")).items():
            labels = [self.train_targets[i] for i in parts[name]]
            thinned[name] = [parts[name][i] for i in stratified_sample(labels, count, self.split_seed)]
        return thinned

    def _source(self, split: str) -> tuple[Dataset[Any], list[int]]:
        sources: dict[str, tuple[Dataset[Any], list[int]]] = self._sources  # type: ignore[attr-defined]
        if split not in sources:
            raise ConfigError(
                f"task '{self.name}' has no split '{split}'; it has {', '.join(sources)}"
                + (f". Its fractions are {dict(self.fractions)}" if split in SPLITS else "")
            )
        return sources[split]

    def indices(self, split: Split) -> list[int]:
        """Which items of its raw data set (`train`; `test` for test) a split holds."""
        return list(self._source(split)[1])

    @property
    def policies(self) -> bool:
        """Whether `dataset` takes a Policy for `augment`."""
        return self.policy_transform is not None

    def dataset(
        self, *splits: Split, augment: bool | Policy = False, resolution: int | None = None
    ) -> Dataset[tuple[Tensor, int]]:
        """The named splits one after another. Raises ConfigError for an unknown split or resolution, or a
        policy that the task cannot take, TaskError where there is no image in them."""
        if resolution is not None and resolution < 1:
            raise ConfigError(f"resolution must be at least 1 pixel, not {resolution}")
        make = self._training_transform(augment) if augment else None
        kept: dict[Any, TensorDataset] = self._tensors  # type: ignore[attr-defined]
        if make is None and (splits, resolution) in kept:
            return kept[splits, resolution]  # type: ignore[return-value]
        sources = [self._source(split) for split in splits]
        if not any(indices for _, indices in sources):
            raise TaskError(f"task '{self.name}': there are no images in {', '.join(splits) or 'no split'}")
        items: Dataset[Any] = ConcatDataset([Subset(raw, indices) for raw, indices in sources])
        transform = (make or self.eval_transform)(resolution)
        data = Transformed(items, range(len(items)), transform, self.workers)  # type: ignore[arg-type]
        if make is not None or not self.in_memory:
            return data
        images, labels = zip(*(data[i] for i in range(len(data))), strict=True)
        kept[splits, resolution] = TensorDataset(torch.stack(images), torch.tensor(labels))
        return kept[splits, resolution]  # type: ignore[return-value]

    def _training_transform(self, augment: bool | Policy) -> Callable[[int | None], Transform] | None:
        if not isinstance(augment, Policy):
            return self.train_transform
        if self.policy_transform is None:
            raise ConfigError(f"task '{self.name}' takes no augmentation policy; ask with augment=True")
        return partial(self.policy_transform, augment)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Give back the global generators of torch, random and numpy as they were."""
    state, legacy = random.getstate(), np.random.get_state()
    try:
        with forked_rng(0):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(legacy)


class _Seeded(Dataset[Any]):
    """A data set in which whatever is drawn while an item loads is a function of (seed, epoch, position).

    The generators are seeded for each item and given back after each batch: the state of numpy's alone
    costs more to save than all three cost to seed.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        items, generator = [], torch.Generator()
        # where other threads may draw meanwhile, this one draws from a generator of its own: the same numbers
        own = Drawing(generator) if other_threads() else nullcontext()
        with kept_generators(), own:
            for position in positions:
                seed = derive_seed(self.seed, "sample", self.epoch, position)
                generator.manual_seed(seed)
                torch.default_generator.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed % 2**32)
                items.append(self.dataset[position])
        return items


def _groups(count: int, batch_size: int, order: Sequence[int], drop_last: bool, ranks: Ranks) -> list[Any]:
    """The positions that this rank takes of each batch."""
    groups = [list(order[i : i + batch_size]) for i in range(0, count, batch_size)]
    if drop_last and len(groups) > 1 and len(groups[-1]) < batch_size:
        groups.pop()
    elif drop_last and len(groups) == 1:
        # a rank with no image, or with fewer than the others, would leave them waiting or weigh too much
        del groups[0][len(groups[0]) - len(groups[0]) % ranks.world :]
        if not groups[0]:
            raise TaskError(f"the data set has {count} images, fewer than the {ranks.world} processes")
    return [mine for group in groups if (mine := group[ranks.rank :: ranks.world])]


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
    workers: int | None = None,
    channels_last: bool = True,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, targets) of one epoch, on `device`; images in channels_last where that is asked for.

    Order and augmentation are functions of (seed, epoch) alone, whatever `workers` is (None: what the
    data set asks for, or 0), and no global generator moves. `batch_size` counts over all ranks; each
    rank gets every world-th image of a batch, so that the ranks' mean gradient is one rank's gradient of
    the whole batch. With `drop_last` the last incomplete batch is left out, unless it is the only one;
    without it the ranks' last shares differ in size, and a rank may get a batch fewer: for evaluation.
    Raises ConfigError for a batch size that cannot be, TaskError for an empty or unreadable data set.
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
    groups = _groups(count, batch_size, order, drop_last, ranks)
    if isinstance(dataset, TensorDataset) and not hasattr(dataset, "collate"):
        yield from _rows(dataset, groups, device, channels_last=channels_last)
        return
    loader = DataLoader(
        _Seeded(dataset, seed, epoch),
        batch_sampler=groups,
        collate_fn=getattr(dataset, "collate", None),
        num_workers=getattr(dataset, "workers", 0) if workers is None else workers,
        pin_memory=torch.device(device).type == "cuda",
        generator=torch_rng(seed, "loader", epoch),  # without it the loader draws from the global one
    )
    try:
        for x, y in loader:
            yield (
                x.to(device, non_blocking=True, memory_format=layout_of(x, channels_last=channels_last)),
                y.to(device, non_blocking=True),
            )
    except (TaskError, RuntimeError, OSError) as error:
        explained = loading_error(error, loader.num_workers)
        if explained is None:
            raise
        raise explained from None


def _rows(
    dataset: TensorDataset,
    groups: Sequence[Sequence[int]],
    device: torch.device | str,
    *,
    channels_last: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of tensors in memory."""
    inputs, targets = dataset.tensors
    for group in groups:
        # index_select copies rows; inputs[chosen] wakes all threads for it, which takes milliseconds
        # where the processors are busy, and microseconds are at stake
        chosen = torch.tensor(group)
        x = inputs.index_select(0, chosen)
        layout = layout_of(x, channels_last=channels_last)
        yield x.to(device, memory_format=layout), targets.index_select(0, chosen).to(device)


def layout_of(x: Tensor, *, channels_last: bool = True) -> torch.memory_format:
    """Of a batch in memory: only images (N, C, H, W) have their channels last."""
    return torch.channels_last if channels_last and x.ndim == 4 else torch.contiguous_format
