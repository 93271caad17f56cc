"""A model: backbone, neck, head and loss, whatever each of them is."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from .architecture import Architecture
from .drawing import own_rng
from .errors import ArchloomError, ConfigError, SpaceError
from .graphs import is_scripting, typed
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
        backbone = self.shared.extract(architecture)
        return Model(backbone, *(copy.deepcopy(part) for part in (self.neck, self.head, self.loss)))

    @property
    def shared(self) -> SharedNetwork:
        """The backbone, which holds every network of a space; a SpaceError where it holds one."""
        if not isinstance(self.backbone, SharedNetwork):
            raise SpaceError(
                f"{type(self.backbone).__name__} is no shared network: it holds one network alone"
            )
        return self.backbone


class SupernetModel(Model):
    """A model whose backbone is a supernet: `model(x, selection)` runs what the selection says."""

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
        if hasattr(main, "see"):
            self.see = main.see

    @property
    def label_smoothing(self) -> float:
        """That of the loss itself."""
        return float(getattr(self.main, "label_smoothing", 0.0))

    def main_of(self, given: Any) -> Any:
        """The logits of what a network gave; its auxiliary logits are kept for the next call of the loss."""
        whole = given if isinstance(given, tuple) else (given,)
        self._auxiliary = whole[1:]
        return whole[0]

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
        shape: tuple[int, int, int],
        num_classes: int,
        seed: int = 0,
        selection: tuple[Any, ...] = (),
        owns_head: bool = False,
    ) -> Model:
        """A model for images of `shape` (C, H, W); `selection` is one that a supernet can be traced with.

        owns_head: the backbone gives logits by itself, so that neck and head of these parts have no place in it.
        Parts that do not fit one another are refused with a ConfigError that names the part and the shapes.
        """
        if num_classes < 1:
            raise ConfigError(f"num_classes must be at least 1, not {num_classes}")
        with evaluating(backbone), torch.no_grad():
            maps = call_on_meta(_Bound(backbone, selection), meta_image(backbone, shape))
        if owns_head:
            return self._with_own_head(backbone, maps, shape, num_classes, shared=bool(selection))
        with own_rng(seed, "neck and head"):
            neck = _made("neck", self.neck)
            features = _traced("neck", neck, maps, f"what the backbone {type(backbone).__name__} gives")
            if not isinstance(features, Tensor | tuple) or deepest(features).ndim != 2:
                raise ConfigError(
                    f"the neck {type(neck).__name__} gives a tensor of shape {shapes(features)}; a head takes (N, C)"
                )
            head = _made("head", self.head, deepest(features).shape[1], num_classes)
            logits = _traced("head", head, features, f"what the neck {type(neck).__name__} gives")
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, num_classes):
            raise ConfigError(
                f"the head {type(head).__name__} gives a tensor of shape {shapes(logits)} for one image; "
                f"there are {num_classes} classes, so that it must give (1, {num_classes})"
            )
        loss = _made("loss", self.loss)
        check_loss(loss, shape, num_classes)
        return (SupernetModel if selection else Model)(backbone, neck, head, loss)

    def _with_own_head(
        self,
        backbone: nn.Module,
        logits: Any,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        shared: bool,
    ) -> Model:
        """A model of a backbone that gives logits, and gave these for one image."""
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, num_classes):
            raise ConfigError(
                f"the network {type(backbone).__name__}, which owns its head, gives a tensor of shape {shapes(logits)} "
                f"for one image; there are {num_classes} classes, so that it must give (1, {num_classes}), and "
                "auxiliary logits in training mode alone"
            )
        loss = _made("loss", self.loss)
        check_loss(loss, shape, num_classes)
        weighed = AuxiliaryLoss(loss, float(getattr(backbone, "auxiliary_weight", AUXILIARY_WEIGHT)))
        return (SupernetModel if shared else Model)(backbone, nn.Identity(), nn.Identity(), weighed)


AUXILIARY_WEIGHT = 0.4
"""What the loss of auxiliary logits counts where the network has no `auxiliary_weight`."""


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
        raise ConfigError(
            f"the {kind} {type(part).__name__} cannot take {giver}, of shape {shapes(inputs)}: {error}"
        ) from error


def where(module: nn.Module) -> torch.device:
    """The device of a module's numbers; PyTorch's default for a module without any."""
    numbers = itertools.chain(module.parameters(), module.buffers())
    return next((number.device for number in numbers), torch.get_default_device())


def check_loss(loss: nn.Module, shape: tuple[int, int, int], num_classes: int) -> None:
    """Try the loss on two images' logits and labels, unless nothing has numbers here (on the meta device).

    A ConfigError where it cannot take them, or gives more than one number.
    """
    device = where(loss)
    if device.type == "meta":
        return
    tried = copy.deepcopy(loss)  # it may count its calls
    logits = torch.zeros(2, num_classes, device=device)
    labels = torch.zeros(2, dtype=torch.long, device=device)
    told = f"the loss {type(loss).__name__} cannot take logits (2, {num_classes}) and labels (2,)"
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that broadcast: what comes of it is judged below
            see: Any = getattr(tried, "see", None)
            if see is not None:
                see(torch.zeros(2, *shape, device=device))
            value = tried(logits, labels)
    except ArchloomError:
        raise
    except Exception as error:
        raise ConfigError(f"{told}: {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or value.ndim:
        raise ConfigError(
            f"the loss {type(loss).__name__} gives a tensor of shape {shapes(value)} and not one number; "
            "take the reduction 'mean' or 'sum'"
        )


def shapes(value: Any) -> str:
    """The shape of a tensor, or those of a tuple's, as text."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return f"[{', '.join(map(shapes, value))}]" if isinstance(value, tuple | list) else type(value).__name__


def topk_accuracy(logits: Tensor, labels: Tensor, topk: Sequence[int] = (1,)) -> dict[str, float]:
    """{"top1": %, ...}: how many labels (N,) are among the k largest of their logits (N, classes)."""
    if max(topk) > logits.shape[1]:
        raise ConfigError(f"there is no top {max(topk)} of {logits.shape[1]} classes")
    place = places(logits, labels)
    return {f"top{k}": 100 * float((place < k).float().mean()) for k in topk}


def places(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,): at which place each label (N,) stands among its logits (N, classes), 0 the first, as `ranked` orders them.

    The number of classes where a logit is NaN: such an image has no order.
    """
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    before = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return torch.where(logits.isnan().any(1), logits.shape[1], before)


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
    return build_network(space, architecture, parts, shape=shape, num_classes=len(task.classes), seed=seed)


def build_network(
    space: SearchSpace,
    architecture: Architecture,
    parts: ModelParts,
    *,
    shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
) -> Model:
    """The whole model of one architecture for images of `shape` (C, H, W), weights drawn from `seed`."""
    build: Any = space.build  # takes the number of outputs as well where its networks own their head
    with own_rng(seed, "backbone"):
        backbone = build(architecture, *outputs_of(space, num_classes))
    owns_head = bool(getattr(space, "owns_head", False))
    model = parts.assemble(backbone, shape=shape, num_classes=num_classes, seed=seed, owns_head=owns_head)
    model.weight_formats = weight_formats(space, architecture)
    return model


def assemble_shared(
    space: SearchSpace,
    task: Task,
    parts: ModelParts,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> Model:
    """A space's shared network as a model for a task, on the device: `model(x, selection)`, weights from `seed`."""
    classes = len(task.classes)
    model = parts.assemble(
        shared_network(space, seed, classes),
        shape=task.shape,
        num_classes=classes,
        seed=seed,
        selection=(an_architecture(space),),
        owns_head=bool(getattr(space, "owns_head", False)),
    )
    return model.to(device).to(memory_format=torch.channels_last)


class _Bound(nn.Module):
    """A module with the further arguments of its forward fixed."""

    def __init__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.module, self.arguments = module, arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, *self.arguments)


def output_shape(module: nn.Module, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape that `module` gives for one image of `shape` (C, H, W): a trace on the meta device.

    Nothing is computed and nothing of the module changes: neither its mode nor its BatchNorm statistics.
    """
    with evaluating(module), torch.no_grad():
        return tuple(call_on_meta(module, meta_image(module, shape)).shape)


def meta_image(module: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """(1, C, H, W) on the meta device, of the precision that the module's weights have; float32 without weights."""
    numbers = itertools.chain(module.parameters(), module.buffers())
    precisions = (number.dtype for number in numbers if number.is_floating_point() and number.ndim > 1)
    return torch.empty(1, *shape, device="meta", dtype=next(precisions, torch.float32))


def call_on_meta(module: nn.Module, *inputs: Any) -> Any:
    """`module(*inputs)` with its parameters and buffers replaced by meta tensors."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with _SkipNorms():
        return functional_call(module, {key: value.to("meta") for key, value in state.items()}, inputs)


class _SkipNorms(TorchFunctionMode):
    """BatchNorm and GroupNorm give back their input, whose shape they keep: on the meta device PyTorch works
    them out in Python, which takes longer than all the rest of a trace."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (nn.functional.batch_norm, nn.functional.group_norm):
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


class evaluating:  # noqa: N801 - reads as a phrase: `with evaluating(model):`
    """Put a module into eval mode inside the block; every submodule gets its own mode back after it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> nn.Module:
        self._modes = [(child, child.training) for child in self.module.modules()]
        return self.module.eval()

    def __exit__(self, *_: object) -> None:
        for child, mode in self._modes:
            child.training = mode
