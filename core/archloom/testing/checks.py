"""What the contracts share: the way in through the host, and comparisons."""

from __future__ import annotations

import inspect
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .. import hookimpl
from ..errors import ArchloomError
from ..factories import Entry, Kind
from ..plugins import HOOKS, Host
from ..resolve import Maker


def require(condition: object, message: str) -> None:
    """An AssertionError with `message` unless `condition` holds."""
    if not condition:
        raise AssertionError(message)


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal to the bit: tensors (NaN equals NaN), numbers, strings, lists, dicts."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.allclose(a, b, 0, 0, equal_nan=True))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def snapshot(module: nn.Module) -> dict[str, Any]:
    """All that an onlooker must leave alone: parameters, buffers, gradients and modes, copied."""
    return {
        "state": {key: value.detach().clone() for key, value in module.state_dict().items()},
        "gradients": {k: None if p.grad is None else p.grad.clone() for k, p in module.named_parameters()},
        "trainable": {key: p.requires_grad for key, p in module.named_parameters()},
        "modes": {name: child.training for name, child in module.named_modules()},
    }


@contextmanager
def global_generators_untouched(what: str) -> Iterator[None]:
    """An AssertionError where the block draws from, or seeds, a global generator."""

    def states() -> dict[str, Any]:
        legacy: Any = np.random.get_state()  # (kind, keys, position, ...)
        numpy = (legacy[1].tolist(), *legacy[2:])
        return {"random": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state().tolist()}

    before = states()
    yield
    moved = [name for name, state in states().items() if state != before[name]]
    require(
        not moved,
        f"{what} moved the global generator of {', '.join(moved)}; draw from the rng that is handed in, or "
        "from archloom.randomness as a function of (seed, purpose, step)",
    )


class Contract:
    """factory: what the plugin registers, under `name`. options: the user's. All are class attributes."""

    kind: ClassVar[Kind]
    factory: ClassVar[Any]
    options: ClassVar[Mapping[str, Any]] = {}
    name: ClassVar[str] = "tested"

    def _entry(self) -> Entry:
        factory = inspect.getattr_static(type(self), "factory")  # a function would come out bound
        if isinstance(factory, staticmethod):
            factory = factory.__func__
        plugin = ModuleType("tested")

        def implementation(register: Callable[[str, Any], None]) -> None:
            register(self.name, factory)

        setattr(plugin, HOOKS[self.kind], hookimpl(implementation))
        host = Host(entry_points=False)
        host.add(plugin, "tested", "the plugin under test", "-")
        return host.get(self.kind, self.name)

    def _maker(self) -> Maker:
        entry = self._entry()
        return Maker(entry, entry.validate(self.options))

    def _make(self, **available: Any) -> Any:
        return self._maker()(**available)

    def test_the_host_accepts_the_factory_and_its_options(self) -> None:
        try:
            entry = self._entry()
            entry.validate(self.options)
        except ArchloomError as error:
            raise AssertionError(str(error)) from error
        text = json.dumps(entry.to_json(), default=str)
        require(
            entry.to_json()["summary"], f"the factory has no docstring; `archloom plugins` shows it: {text}"
        )


def through_a_file(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state as it comes back from a checkpoint: saved, and read as data alone."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
