"""Search spaces: the choices, and how a network is built from one decision for each.

A space is any object with `choices` and `build`. What else it may offer is listed in `SearchSpace`'s
docstring and found by `hasattr`, so that the smallest space is two lines long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ..architecture import Architecture, Choice
from ..errors import ArchloomError, ConfigError, SpaceError, called, shown
from ..graphs import typed

if TYPE_CHECKING:
    from ..task import Task


@runtime_checkable
class SearchSpace(Protocol):
    """What can be searched.

    Required:
        `choices`                 the decisions to make, in order.
        `build(architecture)`     a network (N, C, H, W) -> feature map (N, C', H', W'); no pooling, no
                                  classifier: neck and head are the model's.

    Optional, used where present:
        `input_shape(architecture, task) -> (C, H, W)`   where the resolution is itself a choice.
        `violations(architecture) -> list of sentences`  rules that single choices cannot express.
        `canonical(architecture) -> Architecture`   the same one for all architectures that are equal networks.
        `named`                   name -> `NamedArchitecture`, the published networks.
        `weight_formats`          `WeightFormat`s: state dicts of other implementations; or a function from an
                                  architecture to them, where the names depend on it.
        `recommended_model`       a `model:` section (neck, head) that the space's networks are usually given.
        `scaled(architecture, width, depth) -> nn.Module`   the network with other sizes: `width` takes each
                                  number of channels, `depth` each stage's number of blocks, to the new one.
        `family(architecture) -> {name: options}`   options of the space under which the same architecture
                                  is a further network; a search counts them all and writes them down.

    For weight sharing, one of three. A chain of layers:
        `candidate(choice, option) -> nn.Module | None`  one option as a module; None where the choice is
                                  no layer (a resolution, say).
        `around(body) -> nn.Module`   stem and tail around `body`, the chain of the choices' modules; its forward
                                  takes the image and calls `body` (`Around` does). `build` and the supernet
                                  both use these two, so searched and trained blocks cannot differ.

    Layers that the space wires itself (`build` is `archloom.wiring.build_wired`):
        `layers`                  layer name -> the decision that fills it: a choice, or one of `relaxed`. Several
                                  layers may share a decision.
        `candidate(layer, option) -> nn.Module | None`   one option of a layer; None: nothing stands there.
        `wire(layers) -> nn.Module`   the network around modules by layer name, which it calls with one input or
                                  several and keeps under the same names (`nn.ModuleDict`). In a network that was
                                  built, layers are missing where an architecture leaves them out or puts nothing
                                  there; in the supernet these give None.
        `chosen(architecture) -> {layer: option}`   what fills each layer; by default its choice's option.

    A shared network of its own:
        `shared(seed)`            an `archloom.shared.SharedNetwork`; its weights may be slices of one tensor.

    Further, for weight sharing:
        `differentiable`          False where the options of a decision cannot be run as a weighted sum; with
                                  `shared` True where they can.
        `relaxed`                 name -> how many: architecture parameters that stand apart from the choices.
        `derive(probabilities) -> Architecture`   what these mean, from name -> probabilities.
        `proxy`                   a smaller space with the same choices: its shared network is trained and searched,
                                  and what is found is built by this one.

    `owns_head = True`: the networks end at logits. `build`, `wire`, `around` and `shared` then take the number of
    outputs as a further argument, and the configuration's model has neither neck nor head. In training mode such a
    network may give (logits, auxiliary logits, ...), whose loss counts `auxiliary_weight` (of the network, 0.4).
    """

    choices: Sequence[Choice]

    def build(self, architecture: Architecture) -> nn.Module: ...


class Around(nn.Module):
    """stem -> body -> tail."""

    def __init__(self, stem: nn.Module, body: nn.Module, tail: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.body = stem, body
        self.tail = nn.Identity() if tail is None else tail

    @typed
    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.body(self.stem(x)))


class Chain(nn.Module):
    """Modules in sequence, each under the name of its choice."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    @typed
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


def build_chain(space: Any, architecture: Architecture, *outputs: int) -> nn.Module:
    """`build` for a space that has `candidate` and `around`: the chosen candidates in order, without those of choices
    that are not active. outputs: of a space with `owns_head`, how many its networks have."""
    layers = {
        c.name: space.candidate(c, architecture[c.name]) for c in space.choices if c.name in architecture
    }
    return space.around(Chain({name: layer for name, layer in layers.items() if layer is not None}), *outputs)


@dataclass(frozen=True)
class NamedArchitecture:
    """A published network: its decisions, the options of its space, and the figures its authors print."""

    architecture: Architecture
    resolution: int
    options: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightFormat:
    """How another implementation names the same tensors, and what its weights ask of the network.

    `theirs(our_key) -> their_key`: called for every key of our state dict, None for a key that they do not
    have. `unwrap(state) -> state` peels a checkpoint's layers, where it has some. `classifier`: their keys of
    it, which a network without one leaves out. `adopt(model, header) -> options`: makes the network compute as
    the weights need it (padding, constants of norms), told by the header of a file in this format where there
    is one; called once the weights are known to fit, it refuses a wrong header before it changes anything, and
    gives the options of the space that build such a network. `about`: what it is, for who must choose between
    formats that share their keys.
    """

    name: str
    theirs: Callable[[str], str | None]
    unwrap: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda state: state
    classifier: tuple[str, ...] = ()
    adopt: Callable[[nn.Module, Mapping[str, str]], Mapping[str, Any]] | None = None
    about: str = ""


def weight_formats(space: SearchSpace, architecture: Architecture) -> tuple[WeightFormat, ...]:
    """The other implementations' formats that fit `architecture`; none where the space knows none."""
    formats = getattr(space, "weight_formats", ())
    return tuple(formats(architecture) if callable(formats) else formats)


def violations(space: SearchSpace, architecture: Architecture) -> list[str]:
    """What the space itself forbids about `architecture`, as sentences; empty where nothing. A SpaceError where the
    space's rule raises anything."""
    rule = getattr(space, "violations", None)
    try:
        return list(rule(architecture)) if rule else []
    except ArchloomError:
        raise
    except Exception as error:
        raise SpaceError(
            f"{called(space)} raised {type(error).__name__} from violations of {shown(str(architecture))}: {error}"
        ) from error


def input_shape(space: SearchSpace, architecture: Architecture, task: Task) -> tuple[int, ...]:
    """The shape, (C, H, W) for images, of what `architecture` is given: the space's word, else the task's shape."""
    own = getattr(space, "input_shape", None)
    return tuple(own(architecture, task) if own else task.shape)


def resolution(space: SearchSpace, architecture: Architecture, task: Task) -> int | None:
    """The side to ask the task's images in for `architecture`; None for the task's own shape."""
    return side_of(input_shape(space, architecture, task), task)


def side_of(shape: tuple[int, ...], task: Task) -> int | None:
    """The side to ask the task's images in, to have them in `shape` (C, H, W); None where that is the task's own. A
    ConfigError where another shape is asked of a task that has no images."""
    if tuple(shape) == tuple(task.shape):
        return None
    if len(shape) != 3 or len(task.shape) != 3:
        raise ConfigError(
            f"an input of task '{task.name}' has shape {tuple(task.shape)}, and the network is for {tuple(shape)}; "
            "only images come in other sizes"
        )
    return shape[1]
