"""The processes of one run: one by default, several under torchrun.

Everything that decides (a stop, a choice, a board entry) must come from numbers that were averaged or
broadcast here; everything random comes from (seed, step) and agrees without a message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process's `rank` among `world` processes. With one, every method is the identity."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Rank 0: the only one that writes, proposes and estimates."""
        return self.rank == 0

    def average(self, values: Tensor) -> Tensor:
        """The mean of `values` over the ranks, equal on all to the bit."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world
        return values

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over the ranks."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the ranks.

        Parameters without a gradient are left out: all ranks run the same path, so all leave out the
        same ones. One message carries all gradients of a dtype.
        """
        if self.world == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_dtype.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            flat /= self.world
            for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Rank 0's buffers to all: BatchNorm's running statistics differ between ranks otherwise."""
        if self.world > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value on all ranks."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def join(device: torch.device) -> Ranks:
    """The ranks that torchrun's environment names; one rank outside of torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> Ranks:
    """End the talk between ranks; each goes on by itself, as the one rank that is returned."""
    if dist.is_initialized():
        dist.destroy_process_group()
    return Ranks()
