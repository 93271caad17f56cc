"""What a module needs so that torch.fx and TorchScript can make a graph of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, get_type_hints

import torch

__all__ = ["is_scripting", "typed"]

is_scripting: Callable[[], bool] = torch.jit.is_scripting  # type: ignore[attr-defined]
"""Whether TorchScript compiles this code. It leaves out the branch of an `if` that is not taken then."""

F = TypeVar("F", bound=Callable[..., object])


def typed(forward: F) -> F:
    """A `forward` whose annotations are types, not their names.

    Under `from __future__ import annotations` they are text, which torch.fx writes into the code that it makes and
    TorchScript then cannot read. To be used where a module may be the root of a graph.
    """
    forward.__annotations__ = get_type_hints(forward)
    return forward
