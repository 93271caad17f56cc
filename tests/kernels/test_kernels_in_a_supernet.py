"""A supernet's step with the compiled kernels and with their references."""

from __future__ import annotations

import pytest
import torch
from compiled import needs_kernels

from archloom import shared
from archloom.mixing import Mixture
from archloom.ops import mixed_sum_ref
from archloom.shared import Supernet
from archloom_fbnet import FBNetSpace


def step(seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss and gradients of all weights and of the mixture's, of FBNet's small supernet on random images."""
    torch.manual_seed(seed)
    space = FBNetSpace(form="small", in_channels=1)
    net = Supernet(space, seed).double()  # so that what differs is a fault, and no rounding magnified
    theta = [
        torch.randn(len(choice.options), dtype=torch.float64, requires_grad=True) for choice in space.choices
    ]
    mixture = {
        choice.name: Mixture(torch.softmax(row, 0), tuple(range(len(row))))
        for choice, row in zip(space.choices, theta, strict=True)
    }
    images = torch.randn(16, 1, 8, 8, dtype=torch.float64)
    loss = net(images, mixture).square().mean()
    gradients = torch.autograd.grad(loss, [*theta, *net.parameters()], allow_unused=True)
    return loss.detach(), [g for g in gradients if g is not None]


@needs_kernels
def test_a_fused_and_an_eager_step_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = step(3)
    monkeypatch.setattr(shared, "mixed_sum", mixed_sum_ref)
    eager = step(3)
    torch.testing.assert_close(fused[0], eager[0], rtol=1e-12, atol=0)
    assert len(fused[1]) == len(eager[1]) > 100
    largest = max(float(theirs.abs().max()) for theirs in eager[1])
    for ours, theirs in zip(fused[1], eager[1], strict=True):  # what BatchNorm makes zero is only rounding
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-11 * largest)
