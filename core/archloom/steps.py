"""A network as the steps that an image passes one after another, found by a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .model import call_on_meta, deepest, evaluating, meta_image
from .products import LayerProducts
from .space import Around, Chain


@dataclass(frozen=True)
class Step:
    """A submodule that takes what the step before it gave. shape: (C, H, W) or (C,) of what it gives."""

    name: str
    module: nn.Module = field(repr=False, compare=False)
    shape: tuple[int, ...]
    params: int
    macs: int

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self.module).__name__


_SEQUENCES = (nn.Sequential, Chain, Around)


@dataclass
class _Call:
    """One call of a module: what it was given and gave, its MACs, and the calls inside it."""

    name: str
    module: nn.Module
    given: Any
    macs: int = 0
    result: Any = None
    inner: list[_Call] = field(default_factory=list)


def steps(network: nn.Module, shape: tuple[int, ...]) -> list[Step]:
    """The steps of `network` for images of `shape` (C, H, W).

    The network itself, its backbone and plain sequences are taken apart, where what their parts do one after
    another is all that they do; a block stays whole. Nothing is computed, and nothing of the network changes.
    """
    image = meta_image(network, shape)
    products = LayerProducts(image)
    with evaluating(network), products, _recorded(network, products) as top:
        call_on_meta(network, image)
    found = []
    for call in _taken_apart(top[0]):
        given = deepest(call.result)
        params = sum(p.numel() for p in call.module.parameters() if p.requires_grad)
        found.append(Step(call.name, call.module, tuple(given.shape[1:]), params, call.macs))
    return found


def stages(found: Sequence[Step]) -> list[Step]:
    """The last step at each resolution, from the finest on; of steps that give maps."""
    maps = [step for step in found if len(step.shape) == 3]
    return [
        step
        for number, step in enumerate(maps)
        if number + 1 == len(maps) or maps[number + 1].shape[1:] != step.shape[1:]
    ]


def _taken_apart(call: _Call, outermost: bool = True) -> Iterator[_Call]:
    """The calls that a call is a chain of; itself where it is none, or a block."""
    plain = type(call.module) in _SEQUENCES or len(call.inner) == 1
    if not ((outermost or plain) and call.inner and _is_chain(call)):
        yield call
        return
    for inner in call.inner:
        if not isinstance(inner.module, nn.Identity | nn.Dropout):
            yield from _taken_apart(inner, outermost=inner.name == "backbone")


def _is_chain(call: _Call) -> bool:
    """Whether each inner call takes what the one before gave, the first and the last what the call itself does; of
    several maps that it gives, the deepest counts."""
    value = call.given
    for inner in call.inner:
        if inner.given is not value:
            return False
        value = inner.result
    given = deepest_or_none(value)
    return given is not None and given is deepest_or_none(call.result)


def deepest_or_none(value: Any) -> Tensor | None:
    """The tensor that is meant by what a module gives; None where it gives something else."""
    if isinstance(value, Tensor):
        return value
    return value[-1] if isinstance(value, tuple) and value and isinstance(value[-1], Tensor) else None


@contextmanager
def _recorded(network: nn.Module, products: LayerProducts) -> Iterator[list[_Call]]:
    """The calls of all modules while the block runs, as a tree; the first is the network's own."""
    top: list[_Call] = []
    open_calls: list[_Call] = []
    names = {id(module): name for name, module in network.named_modules()}

    def before(module: nn.Module, given: Any) -> None:
        call = _Call(names[id(module)], module, given[0] if len(given) == 1 else given, -products.macs)
        (open_calls[-1].inner if open_calls else top).append(call)
        open_calls.append(call)

    def after(module: nn.Module, given: Any, result: Any) -> None:
        call = open_calls.pop()
        call.result, call.macs = result, call.macs + products.macs

    handles = []
    for module in network.modules():
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    try:
        yield top
    finally:
        for handle in handles:
            handle.remove()
