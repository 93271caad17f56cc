"""What a module needs so that torch.fx and TorchScript can make a graph of it, and so that nobody who watches it is
passed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, get_type_hints

import torch
from torch import nn
from torch.nn.modules import module as _modules

__all__ = ["is_scripting", "typed", "unhooked"]

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


_all_backward, _all_backward_pre = _modules._global_backward_hooks, _modules._global_backward_pre_hooks
_all_forward, _all_forward_pre = _modules._global_forward_hooks, _modules._global_forward_pre_hooks


def unhooked(module: nn.Module) -> bool:
    """Whether calling `module` runs its class's forward and nothing else, so that the call may be replaced.

    False with a hook of any kind on it or on all modules, with a `forward` of its own, and once it was compiled.
    """
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or _all_forward
        or _all_forward_pre
        or _all_backward
        or _all_backward_pre
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
    )
