"""Parts of a network that are not trained: neither their weights nor their BatchNorm statistics move."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from archloom import known_parts

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
    return [module.get_submodule(name) for name in known_parts(module, list(names), who)]
