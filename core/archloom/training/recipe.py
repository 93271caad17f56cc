"""How a network is trained: plain numbers, no objects, so that a run can write them down."""

# No postponed annotations here: a recipe of one's own inherits these fields in a module that need not know
# the names in their types.

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

from ..augmentation import Policy
from ..errors import ConfigError, nearest

ADAMW_EPS, RMSPROP_EPS = 1e-8, 1e-3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. What a field does by default is nothing, unless it says otherwise.

    Steps: `accumulate` batches of `batch_size` make one step of the optimizer, `clip` bounds its gradient's
    norm. optimizer: "rmsprop_tf" is RMSprop as TensorFlow has it. alpha: RMSprop's decay. eps: None is 1e-8
    for AdamW, 1e-3 for RMSprop. decay_all: weight decay for one-dimensional parameters (BatchNorm, biases) too.

    Learning rate: linear from warmup_lr (None: lr / 10) over warmup_epochs, then `schedule`, never below
    min_lr. step_epochs and step_factor: for "step" (every step_epochs) and "exponential" (each step).

    ema: decay of an exponential average of the weights, by which the network is then judged. patience: stop
    after so many epochs without a better validation accuracy.

    Images: `augment` are the task's own training transforms; autoaugment, randaugment (how many operations of
    which magnitude, of 31) and trivialaugment come after them, one of the three; erasing is the probability of a
    rectangle of zeros in the normalized image. mixup, cutmix: alpha of the Beta distribution; with both, each
    batch gets one of them.

    Targets: label_smoothing; a `teacher` (a run folder, an architecture file, a name; with teacher_weights,
    a file), whose part of the loss is distill_weight, at a temperature.

    Judging: recalibrate takes BatchNorm's statistics anew from training images before the network is judged: "auto"
    where the training was too short for the running ones to settle (see `archloom.training.statistics`), "always",
    "never".

    Machine: channels_last is a memory format, compile is torch.compile.
    """

    epochs: int = 30
    batch_size: int = 128
    accumulate: int = 1
    clip: float | None = None
    optimizer: Literal["sgd", "adamw", "rmsprop", "rmsprop_tf"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    alpha: float = 0.9
    eps: float | None = None
    weight_decay: float = 4e-5
    decay_all: bool = True
    schedule: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    warmup_lr: float | None = None
    step_epochs: float = 30.0
    step_factor: float = 0.1
    ema: float | None = None
    patience: int | None = None
    augment: bool = True
    autoaugment: Literal["imagenet", "cifar10", "svhn"] | None = None
    randaugment: tuple[int, int] | None = None
    trivialaugment: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    teacher: str | None = None
    teacher_weights: str | None = None
    distill_weight: float = 0.5
    temperature: float = 4.0
    recalibrate: Literal["auto", "always", "never"] = "auto"
    channels_last: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.randaugment, list):
            object.__setattr__(self, "randaugment", tuple(self.randaugment))
        for field in fields(self):
            _check_choice(field.name, field.type, getattr(self, field.name))
        for name, (holds, told) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and holds(value)):
                raise ConfigError(f"recipe: {name} must {told}, not {value}")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ConfigError(f"recipe: warmup_epochs must lie in 0..{self.epochs}, not {self.warmup_epochs}")
        if self.nesterov and self.momentum == 0:
            raise ConfigError("recipe: nesterov needs a momentum above 0")
        if self.min_lr > self.lr:
            raise ConfigError(f"recipe: min_lr = {self.min_lr} is larger than lr = {self.lr}")
        if self.teacher_weights is not None and self.teacher is None:
            raise ConfigError("recipe: teacher_weights without a teacher; name the teacher too")
        self._check_augmentation()

    def _check_augmentation(self) -> None:
        if self.randaugment is not None and not (
            len(self.randaugment) == 2 and self.randaugment[0] >= 1 and 0 <= self.randaugment[1] <= 30
        ):
            raise ConfigError(
                "recipe: randaugment is [operations, magnitude], at least 1 and 0 to 30, "
                f"not {list(self.randaugment)}"
            )
        named = [name for name in ("autoaugment", "randaugment", "trivialaugment") if getattr(self, name)]
        if len(named) > 1:
            raise ConfigError(f"recipe: {' and '.join(named)} are alternatives; keep one of them")
        if not self.augment and (named or self.erasing):
            raise ConfigError(
                f"recipe: augment is false, yet {(named or ['erasing'])[0]} is set; set augment to true, or leave "
                "the other out"
            )

    @property
    def policy(self) -> Policy | None:
        """The augmentation policy that the task is asked for; None where there is none."""
        policy = Policy(self.autoaugment, self.randaugment, self.trivialaugment)
        return policy if policy else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_choice(name: str, kind: Any, value: Any) -> None:
    """Refuse a value that is not among a Literal's."""
    options = [o for part in (kind, *get_args(kind)) if get_origin(part) is Literal for o in get_args(part)]
    if options and value is not None and value not in options:
        near = nearest(str(value), options)
        hint = f"did you mean '{near}'? " if near else ""
        raise ConfigError(
            f"recipe: {name} is none of {', '.join(options)}: {value!r}; {hint}choose one of them"
        )


_POSITIVE = (lambda value: value > 0, "be positive")
_NOT_NEGATIVE = (lambda value: value >= 0, "be at least 0")
_WHOLE = (lambda value: isinstance(value, int) and value >= 1, "be a whole number of at least 1")
_BELOW_ONE = (lambda value: 0 <= value < 1, "lie in 0 to 1, 1 excluded")
_SHARE = (lambda value: 0 <= value <= 1, "lie in 0 to 1")

_BOUNDS: Mapping[str, tuple[Any, str]] = {
    "epochs": (_WHOLE[0], "be positive and a whole number"),
    "batch_size": (_WHOLE[0], "be positive and a whole number"),
    "accumulate": _WHOLE,
    "patience": _WHOLE,
    "lr": _POSITIVE,
    "clip": _POSITIVE,
    "eps": _POSITIVE,
    "temperature": _POSITIVE,
    "step_epochs": _POSITIVE,
    "step_factor": _POSITIVE,
    "min_lr": _NOT_NEGATIVE,
    "warmup_lr": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "mixup": _NOT_NEGATIVE,
    "cutmix": _NOT_NEGATIVE,
    "momentum": _BELOW_ONE,
    "alpha": _BELOW_ONE,
    "label_smoothing": _BELOW_ONE,
    "erasing": _SHARE,
    "distill_weight": _SHARE,
    "ema": (lambda value: 0 < value < 1, "lie between 0 and 1 (0.9999 averages over about 10,000 steps)"),
}


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The learning rate at a point of the training, `epoch` in 0..epochs, fractions allowed."""
    if epoch < recipe.warmup_epochs:
        if recipe.warmup_lr is None:
            return recipe.lr * (0.1 + 0.9 * epoch / recipe.warmup_epochs)
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * epoch / recipe.warmup_epochs
    after = epoch - recipe.warmup_epochs
    match recipe.schedule:
        case "cosine":
            share = 0.5 * (1 + math.cos(math.pi * after / (recipe.epochs - recipe.warmup_epochs)))
            return recipe.min_lr + (recipe.lr - recipe.min_lr) * share
        case "step":
            rate = recipe.lr * recipe.step_factor ** math.floor(after / recipe.step_epochs)
        case "exponential":
            rate = recipe.lr * recipe.step_factor ** (after / recipe.step_epochs)
        case "constant":
            rate = recipe.lr
    return max(rate, recipe.min_lr)
