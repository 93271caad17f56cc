"""A model: backbone, neck, head and loss, whatever each of them is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .architecture import Architecture
from .drawing import own_rng
from .errors import ArchloomError, ConfigError, SpaceError
from .graphs import is_scripting, typed
from .loss_check import check_loss as check_loss
from .meta import call_on_meta as call_on_meta
from .meta import evaluating as evaluating
from .meta import meta_image as meta_image
from .meta import output_shape as output_shape
from .meta import shapes as shapes
from .meta import where as where
from .metrics import Classification, Scoring, num_outputs, places, scoring_of
from .shared import SharedNetwork, an_architecture, shared_network
from .space import SearchSpace, WeightFormat, check, input_shape, weight_formats
from .task import Task
from .wiring import outputs_of


class Model(nn.Module):
    """backbone -> neck -> head gives the logits; `loss(logits, targets)` a scalar.

    `forward(x)` takes images and nothing else; further arguments of a call go to the backbone alone. The backbone
    gives one feature map (N, C, H, W), or several as a tuple, from which the neck makes (N, C'), or a tuple of these.
    A loss that needs the images themselves, as for a teacher, has a method `see(images)`, which is called before each
    forward of a training.
    A backbone that owns its head gives the logits itself; neck and head are then identities, and in training mode it
    may give a tuple, (logits, auxiliary logits, ...), of which the loss weighs the auxiliary ones (`AuxiliaryLoss`):
    the model gives the logits alone.
    `weight_formats`: how other implementations name the same tensors, as the backbone's space knows them.
    `frozen`: names of submodules that have no gradients and stay in eval mode; see `freeze`.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.loss = backbone, neck, head, loss
        self.weight_formats: tuple[WeightFormat, ...] = ()
        self.frozen: tuple[str, ...] = ()

    def freeze(self, names: Iterable[str]) -> None:
        """Keep the submodules of these names as they are from now on: weights and BatchNorm statistics."""
        self.frozen = (*self.frozen, *names)
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Model:
        """PyTorch's, with what is frozen left in eval mode."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    def __call__(self, x: Tensor, *selection: Any) -> Any:
        see: Any = getattr(self.loss, "see", None)
        if self.training and see is not None:
            see(x)
        if selection and not isinstance(self, SupernetModel):
            given = self.head(self.neck(self.backbone(x, *selection)))
        else:
            given = super().__call__(x, *selection)
        return self.loss.main_of(given) if isinstance(self.loss, AuxiliaryLoss) else given

    @typed
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.backbone(x)))

    def extract(self, architecture: Architecture) -> Model:
        """One architecture of a supernet as a model of its own, with copies of the weights."""
        if not isinstance(self.backbone, SharedNetwork):
            raise SpaceError(
                f"{type(self.backbone).__name__} is no shared network: it holds one network alone"
            )
        backbone = self.backbone.extract(architecture)
        return Model(backbone, *(copy.deepcopy(part) for part in (self.neck, self.head, self.loss)))


class SupernetModel(Model):
    """A model whose backbone is a supernet: `model(x, selection)` runs what the selection says."""

    @property
    def shared(self) -> SharedNetwork:
        """The backbone, as what it is."""
        shared: Any = self.backbone
        found: SharedNetwork = shared
        return found

    def forward(self, x: Tensor, *selection: Any) -> Tensor:
        return self.head(self.neck(self.backbone(x, *selection)))


class AuxiliaryLoss(nn.Module):
    """loss(logits, targets), and `weight` times that of each of the auxiliary logits that came with the logits.

    Made by `ModelParts.assemble` for a backbone that owns its head; the model hands it what came with the logits.
    """

    def __init__(self, main: nn.Module, weight: float) -> None:
        super().__init__()
        self.main, self.weight = main, weight
        self._auxiliary: tuple[Tensor, ...] = ()
        self.label_smoothing = float(getattr(main, "label_smoothing", 0.0))
        if hasattr(main, "see"):
            self.see = main.see

    def main_of(self, given: Any) -> Any:
        """The logits of what a network gave; its auxiliary logits are kept for the next call of the loss."""
        whole = given if isinstance(given, tuple) else (given,)
        self._auxiliary = whole[1:]
        return whole[0]

    @torch.jit.unused  # a graph of the model is of its forward, not of its training
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.main(logits, targets)
        auxiliary, self._auxiliary = self._auxiliary, ()
        for each in auxiliary:
            loss = loss + self.weight * self.main(each, targets)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """Without what a forward left, which belongs to its graph: a copy begins without."""
        return {**self.__dict__, "_auxiliary": ()}


if TYPE_CHECKING:
    Features = Tensor | tuple[Tensor, ...]
    """What backbones and necks give: one tensor, or several of different depth, the deepest last."""
else:
    Features = (
        Tensor  # TorchScript, which reads annotations as it runs, has no such union: it is given one tensor
    )


def deepest(features: Features) -> Tensor:
    """The last of several, or the only one: what a head classifies by."""
    return features[-1] if isinstance(features, tuple | list) else features


class GlobalAverage(nn.Module):
    """(N, C, H, W) -> (N, C), the mean over the image; of a tuple, each by itself."""

    def forward(self, x: Features) -> Features:
        if not is_scripting():  # noqa: SIM102 - TorchScript leaves out a branch, not half of a condition
            if isinstance(x, tuple | list):
                return tuple(each.mean((2, 3)) for each in x)
        return x.mean((2, 3))  # type: ignore[union-attr]


class SeriesAverage(nn.Module):
    """(N, C, L) -> (N, C), the mean over the series; of a tuple, each by itself."""

    def forward(self, x: Features) -> Features:
        if not is_scripting():  # noqa: SIM102 - TorchScript leaves out a branch, not half of a condition
            if isinstance(x, tuple | list):
                return tuple(each.mean(2) for each in x)
        return x.mean(2)  # type: ignore[union-attr]


class LinearHead(nn.Module):
    """Dropout, then one linear layer: (N, in_channels) -> (N, num_classes)."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(in_channels, num_classes)

    def forward(self, x: Features) -> Tensor:
        if not is_scripting():
            x = deepest(x)
        return self.fc(self.dropout(x))


@dataclass(frozen=True)
class ModelParts:
    """How a backbone becomes a model: neck, head and loss, each a factory or a module to be copied.

    The head's factory takes (in_channels, num_classes); in_channels is what backbone and neck give,
    found by a trace that computes nothing.
    """

    neck: Callable[[], nn.Module] | nn.Module = GlobalAverage
    head: Callable[[int, int], nn.Module] | nn.Module = LinearHead
    loss: Callable[[], nn.Module] | nn.Module = nn.CrossEntropyLoss

    def assemble(
        self,
        backbone: nn.Module,
        *,
        shape: tuple[int, ...],
        num_classes: int | None = None,
        task: Any = None,
        seed: int = 0,
        selection: tuple[Any, ...] = (),
        owns_head: bool = False,
    ) -> Model:
        """A model for inputs of `shape`, (C, H, W) for images, and the outputs of `task` (see
        `archloom.metrics.scoring_of`), or for so many classes.

        selection: one that a supernet can be traced with. owns_head: the backbone gives the outputs by itself, so that
        neck and head of these parts have no place in it. Parts that do not fit one another are refused with a
        ConfigError that names the part and the shapes.
        """
        if task is None and (num_classes is None or num_classes < 1):
            raise ConfigError(f"num_classes must be at least 1, not {num_classes}")
        scoring = scoring_of(num_classes if task is None else task)
        with evaluating(backbone), torch.no_grad():
            maps = call_on_meta(_Bound(backbone, selection), meta_image(backbone, shape))
        if owns_head:
            return self._with_own_head(backbone, maps, shape, scoring, shared=bool(selection))
        with own_rng(seed, "neck and head"):
            neck = _made("neck", self.neck)
            features = _traced("neck", neck, maps, f"what the backbone {type(backbone).__name__} gives")
            flat = len(scoring.outputs) == 1
            if not isinstance(features, Tensor | tuple) or (
                deepest(features).ndim != 2 if flat else deepest(features).ndim < 2
            ):
                raise ConfigError(
                    f"the neck {type(neck).__name__} gives a tensor of shape {shapes(features)}; a head takes (N, C)"
                )
            head = _made(
                "head",
                self.head,
                deepest(features).shape[1],
                num_outputs(num_classes if task is None else task),
            )
            outputs = _traced("head", head, features, f"what the neck {type(neck).__name__} gives")
        _check_outputs(head, outputs, scoring)
        loss = _made("loss", self.loss)
        check_loss(loss, shape, scoring)
        return (SupernetModel if selection else Model)(backbone, neck, head, loss)

    def _with_own_head(
        self,
        backbone: nn.Module,
        outputs: Any,
        shape: tuple[int, ...],
        scoring: Scoring,
        *,
        shared: bool,
    ) -> Model:
        """A model of a backbone that gives outputs, and gave these for one input."""
        if not isinstance(outputs, Tensor) or tuple(outputs.shape) != (1, *scoring.outputs):
            raise ConfigError(
                f"the network {type(backbone).__name__}, which owns its head, gives a tensor of shape "
                f"{shapes(outputs)} for one image; {_why(scoring)}, so that it must give {(1, *scoring.outputs)}, and "
                "auxiliary logits in training mode alone"
            )
        loss = _made("loss", self.loss)
        check_loss(loss, shape, scoring)
        weighed = AuxiliaryLoss(loss, float(getattr(backbone, "auxiliary_weight", AUXILIARY_WEIGHT)))
        return (SupernetModel if shared else Model)(backbone, nn.Identity(), nn.Identity(), weighed)


AUXILIARY_WEIGHT = 0.4
"""What the loss of auxiliary logits counts where the network has no `auxiliary_weight`."""


def _check_outputs(head: nn.Module, outputs: Any, scoring: Scoring) -> None:
    wanted = (1, *scoring.outputs)
    if isinstance(outputs, Tensor) and tuple(outputs.shape) == wanted:
        return
    one = "image" if isinstance(scoring, Classification) else "input"
    raise ConfigError(
        f"the head {type(head).__name__} gives a tensor of shape {shapes(outputs)} for one {one}; {_why(scoring)}, so "
        f"that it must give {wanted}"
    )


def _why(scoring: Scoring) -> str:
    if isinstance(scoring, Classification):
        return f"there are {scoring.classes} classes"
    return f"the task's outputs are of shape {tuple(scoring.outputs)}"


def _made(kind: str, part: Callable[..., nn.Module] | nn.Module, *arguments: int) -> nn.Module:
    if isinstance(part, nn.Module):
        return copy.deepcopy(part)
    try:
        return part(*arguments)
    except ArchloomError:
        raise
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(f"the {kind} cannot be made: {type(error).__name__}: {error}") from error


def _traced(kind: str, part: nn.Module, inputs: Any, giver: str) -> Any:
    """What a part makes of meta tensors; a ConfigError with its name and the shapes where it cannot take them."""
    try:
        with evaluating(part), torch.no_grad():
            return call_on_meta(part, inputs)
    except ArchloomError:
        raise
    except Exception as error:
        series = kind == "neck" and isinstance(inputs, Tensor) and inputs.ndim == 3
        hint = "; of series (N, C, L) the neck SeriesAverage makes (N, C)" if series else ""
        raise ConfigError(
            f"the {kind} {type(part).__name__} cannot take {giver}, of shape {shapes(inputs)}: {error}{hint}"
        ) from error


def topk_accuracy(logits: Tensor, labels: Tensor, topk: Sequence[int] = (1,)) -> dict[str, float]:
    """{"top1": %, ...}: how many labels (N,) are among the k largest of their logits (N, classes)."""
    if max(topk) > logits.shape[1]:
        raise ConfigError(f"there is no top {max(topk)} of {logits.shape[1]} classes")
    place = places(logits, labels)
    return {f"top{k}": 100 * float((place < k).float().mean()) for k in topk}


def ranked(logits: Tensor) -> Tensor:
    """(N, classes): the classes from the most to the least probable; of equal logits the first class stands first, as
    for `argmax`."""
    return logits.sort(dim=1, descending=True, stable=True).indices


def assemble(
    space: SearchSpace, architecture: Architecture, task: Task, parts: ModelParts, *, seed: int
) -> Model:
    """The whole model of one architecture for a task, weights drawn from `seed`."""
    architecture = check(space, architecture)
    shape = input_shape(space, architecture, task)
    return build_network(space, architecture, parts, shape=shape, task=task, seed=seed)


def build_network(
    space: SearchSpace,
    architecture: Architecture,
    parts: ModelParts,
    *,
    shape: tuple[int, ...],
    num_classes: int | None = None,
    task: Any = None,
    seed: int,
) -> Model:
    """The whole model of one architecture for inputs of `shape`, (C, H, W) for images, and the outputs of a task or so
    many classes; weights drawn from `seed`."""
    build: Any = space.build  # takes the number of outputs as well where its networks own their head
    outputs = num_outputs(num_classes if task is None else task)
    with own_rng(seed, "backbone"):
        backbone = build(architecture, *outputs_of(space, outputs))
    owns_head = bool(getattr(space, "owns_head", False))
    model = parts.assemble(
        backbone, shape=shape, num_classes=num_classes, task=task, seed=seed, owns_head=owns_head
    )
    model.weight_formats = weight_formats(space, architecture)
    return model


def assemble_shared(
    space: SearchSpace,
    task: Task,
    parts: ModelParts,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> SupernetModel:
    """A space's shared network as a model for a task, on the device: `model(x, selection)`, weights from `seed`."""
    model = parts.assemble(
        shared_network(space, seed, num_outputs(task)),
        shape=tuple(task.shape),
        task=task,
        seed=seed,
        selection=(an_architecture(space),),
        owns_head=bool(getattr(space, "owns_head", False)),
    )
    assert isinstance(model, SupernetModel)  # since it was given a selection
    return model.to(device).to(memory_format=torch.channels_last)


class _Bound(nn.Module):
    """A module with the further arguments of its forward fixed."""

    def __init__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.module, self.arguments = module, arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, *self.arguments)
