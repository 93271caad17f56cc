"""Parts of a network that are not trained: neither their weights nor their BatchNorm statistics move."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from archloom.errors import ConfigError, nearest

NORMS = (nn.modules.batchnorm._BatchNorm,)


def freeze(modules: Iterable[nn.Module]) -> None:
    """No gradients for the modules, and eval mode. Call it again after each `train()`, which undoes the latter."""
    for module in modules:
        module.eval()
        module.requires_grad_(False)


def still_norms(module: nn.Module) -> None:
    """Every BatchNorm in eval mode: its running statistics are used, and stay."""
    for child in module.modules():
        if isinstance(child, NORMS):
            child.eval()


def submodules(module: nn.Module, names: Iterable[str], who: str) -> list[nn.Module]:
    """The submodules of these dotted names; a ConfigError where there is none."""
    known = dict(module.named_modules())
    found = []
    for name in names:
        if not name or name not in known:
            near = nearest(name, known)
            hint = (
                f"did you mean '{near}'?"
                if near
                else f"It has: {', '.join(n for n, _ in module.named_children())}"
            )
            raise ConfigError(f"{who} has no submodule '{name}' to freeze; {hint}")
        found.append(known[name])
    return found
