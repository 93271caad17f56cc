"""Random numbers of a generator of one's own, for code that asks for none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .randomness import derive_seed


@contextmanager
def own_rng(seed: int, *purpose: str | int) -> Iterator[None]:
    """Whatever this thread draws inside the block comes from a generator of the block's own.

    For code that builds networks, whose initialization takes no generator. The numbers are those of `forked_rng`, but
    the process-wide generator is neither read nor seeded: other threads may draw from it meanwhile, and what they draw
    changes nothing here. Each operation costs some microseconds more, so networks are trained under `forked_rng`.
    Numbers drawn on a GPU come from its own generators, which are seeded and given back.
    """
    number = derive_seed(seed, *purpose)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    states = [torch.cuda.default_generators[device].get_state() for device in devices]
    for device in devices:
        torch.cuda.default_generators[device].manual_seed(number)
    try:
        with Drawing(torch.Generator().manual_seed(number)):
            yield
    finally:
        for device, state in zip(devices, states, strict=True):
            torch.cuda.default_generators[device].set_state(state)


class Drawing(TorchDispatchMode):
    """Inside `with Drawing(generator):` the generator is handed to each operation of this thread that draws on the CPU
    and was given none."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags or not _on_cpu(args, kwargs):
            return func(*args, **kwargs)
        drawing, position = _with_generator(func)
        if drawing is None:
            return self._seeded(func, args, kwargs)
        given = args[position] if position < len(args) else kwargs.get("generator")
        return (
            func(*args, **kwargs)
            if given is not None
            else drawing(*args[:position], **(kwargs | {"generator": self._generator}))
        )

    def _seeded(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """An operation that takes no generator: the process-wide one, seeded by ours for as long as it takes."""
        state = torch.default_generator.get_state()
        try:
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=self._generator)))
            return func(*args, **kwargs)
        finally:
            torch.default_generator.set_state(state)


def _on_cpu(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    device = kwargs.get("device")
    if device is None:
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        device = next((tensor.device for tensor in tensors), "cpu")
    return torch.device(device).type == "cpu"


@cache
def _with_generator(func: Any) -> tuple[Any, int]:
    """The overload of an operation that takes a generator, and the generator's position among its arguments."""
    packet, name = func.overloadpacket, func._overloadname
    for overload in (name, "generator" if name == "default" else f"{name}_generator"):
        if overload in packet.overloads():
            found = getattr(packet, overload)
            names = [argument.name for argument in found._schema.arguments]
            if "generator" in names:
                keyword_only = next(a for a in found._schema.arguments if a.name == "generator").kwarg_only
                return found, len(names) if keyword_only else names.index("generator")
    return None, 0
