"""Whether a model, a task and a recipe fit one another: asked before a training, so that nothing is half done."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArchloomError, ConfigError
from ..metrics import Classification, refuse_other, scoring_of
from ..model import check_loss, output_shape, where
from ..randomness import forked_rng
from ..task import Split, Task
from .recipe import Recipe


def check_trainable(
    loss: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    watch: Split | None = "validation",
    teacher: nn.Module | None = None,
    shape: tuple[int, ...] | None = None,
) -> None:
    """Refuse, with a ConfigError, what could not be trained with the loss of a model (see `Model`).

    shape: of one input, (C, H, W) for images, by default the task's. Nothing changes, and no data is read.
    """
    scoring, shape = scoring_of(task), tuple(shape or task.shape)
    if recipe.patience is not None and watch is None:
        raise ConfigError(
            f"recipe: patience waits for a better validation {scoring.metrics[0].name}, and no split is watched here"
        )
    if recipe.policy is not None:
        _check_policy(task, recipe)
    if recipe.erasing and len(shape) != 3:
        raise ConfigError(
            f"recipe: erasing is for images, and an input of task '{task.name}' has shape {shape}"
        )
    check_loss(loss, shape, scoring)
    if not isinstance(scoring, Classification):
        _check_other(task, recipe, teacher)
        return
    classes = scoring.classes
    if asking := [name for name in ("mixup", "cutmix", "label_smoothing") if getattr(recipe, name)]:
        _check_soft(loss, asking, shape, classes)
    if recipe.label_smoothing and getattr(loss, "label_smoothing", 0):
        raise ConfigError(
            f"labels would be smoothed twice: by the recipe ({recipe.label_smoothing}) and by the loss "
            f"{type(loss).__name__} ({loss.label_smoothing}); keep one of them"
        )
    if recipe.teacher is not None and teacher is None:
        raise ConfigError(
            f"the recipe names the teacher '{recipe.teacher}', and no network was handed over for it; give "
            "train(teacher=...) the network with its weights"
        )
    if teacher is not None:
        _check_teacher(teacher, shape, classes)


def check_single_images(network: nn.Module, shape: tuple[int, ...], way_out: str, *selection: Any) -> None:
    """Refuse, with a ConfigError that ends with `way_out`, to train a network on batches of one image of `shape`
    (C, H, W) where a BatchNorm of it gets a map of one pixel: one value per channel has no variance.

    Tried on a copy of the network; selection: what a supernet runs.
    """
    tried = copy.deepcopy(network).train()
    image = torch.zeros(1, *shape, device=where(network))
    try:
        with torch.no_grad(), forked_rng(0, "one image"):
            tried(image, *selection)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"batches of one image cannot train this network: its maps of one pixel give BatchNorm one value per "
            f"channel, which has no variance; {way_out}"
        ) from error


def way_out_of_single_images(batch_size: int, option: str, splits: Sequence[str], world: int = 1) -> str:
    """What to change where batches have one image: the option of that name, or the splits."""
    if batch_size == world:
        return f"{option} = {batch_size} must be at least {2 * world}"
    return f"the {' and '.join(splits)} split must have {2 * world} images or more, not {world}"


def soft(targets: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Labels (N,) or probabilities (N, classes) as probabilities, `smoothing` of each shared out evenly."""
    rows = F.one_hot(targets, classes).float() if targets.ndim == 1 else targets
    return rows * (1 - smoothing) + smoothing / classes


def _check_other(task: Task, recipe: Recipe, teacher: nn.Module | None) -> None:
    """Refuse what a recipe can do with classes alone."""
    asking = [name for name in ("mixup", "cutmix", "label_smoothing", "teacher") if getattr(recipe, name)]
    if teacher is not None and "teacher" not in asking:
        asking.append("teacher")
    if asking:
        refuse_other(task, f"recipe: {' and '.join(asking)}")


def _check_policy(task: Task, recipe: Recipe) -> None:
    name = next(n for n in ("autoaugment", "randaugment", "trivialaugment") if getattr(recipe, n))
    if not getattr(task, "policies", False):
        raise ConfigError(
            f"recipe: {name} needs a task that puts a policy among its training transforms, and task '{task.name}' "
            "does not; leave it out (erasing, mixup and cutmix work with every task), or choose another task"
        )
    if len(task.shape) != 3 or task.shape[0] not in (1, 3):
        raise ConfigError(
            f"recipe: {name} is for images of 1 or 3 channels; those of task '{task.name}' have shape "
            f"{tuple(task.shape)}"
        )


def _check_soft(loss: nn.Module, asking: list[str], shape: tuple[int, ...], classes: int) -> None:
    """A loss takes probabilities where rows of zeros with a one give what the labels give."""
    device = where(loss)
    logits = torch.linspace(-1, 1, 2 * classes, device=device).reshape(2, classes)
    labels = torch.tensor([0, classes - 1], device=device)
    told = (
        f"recipe: {' and '.join(asking)} give the loss probabilities (N, {classes}) instead of labels (N,), and "
        f"{type(loss).__name__} does not take them"
    )
    way_out = "leave them out, or take a loss such as CrossEntropyLoss"
    values = []
    for targets in (labels, soft(labels, classes)):
        tried: Any = copy.deepcopy(loss)  # it may count its calls
        try:
            with torch.no_grad():
                if hasattr(tried, "see"):
                    tried.see(torch.zeros(2, *shape, device=device))
                values.append(tried(logits, targets))
        except ArchloomError:
            raise
        except Exception as error:
            raise ConfigError(f"{told} ({type(error).__name__}: {error}); {way_out}") from error
    if values[1].shape != values[0].shape or not torch.allclose(values[0], values[1], rtol=1e-3, atol=1e-5):
        raise ConfigError(f"{told}: of the same labels it makes another number; {way_out}")


def _check_teacher(teacher: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    try:
        found = output_shape(teacher, shape)
    except Exception as error:
        raise ConfigError(
            f"the teacher {type(teacher).__name__} cannot take images of shape {tuple(shape)}: {error}"
        ) from error
    if found != (1, classes):
        raise ConfigError(
            f"the teacher gives {found} for one image, the network (1, {classes}); both must know the same classes"
        )
