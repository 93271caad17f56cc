"""What an observer sees of a network of a search space: the same with and without gradients, and never written to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import archloom
from archloom_cream.blocks import BlockSpec, make_block
from archloom_fbnet.primitives import PRIMITIVES, primitive

BLOCKS = {
    **{name: lambda name=name: primitive(name, 16, 16, 3, 1) for name in PRIMITIVES},
    "enlarging": lambda: primitive("ir_k3", 16, 24, 3, -2),
    "cream ds": lambda: make_block(BlockSpec("ds", 16, kernels=(3, 5), se=0.25), 16),
    "cream ir": lambda: make_block(BlockSpec("ir", 16, expansion=4, se=0.25), 16),
    "cream cn": lambda: make_block(BlockSpec("cn", 16), 16),
    "cream basic": lambda: make_block(BlockSpec("basic", 16), 16),
    "cream bottleneck": lambda: make_block(BlockSpec("bottleneck", 16), 16),
}
X = torch.randn(2, 16, 9, 8, generator=torch.Generator().manual_seed(0))


def seen(block, gradients, watched):
    """(calls, result): of each hook its module's name, the tensor, and a copy of that moment."""
    block, calls = copy.deepcopy(block), []
    for name, module in block.named_modules():
        if name in watched:
            module.register_forward_pre_hook(
                lambda module, given, name=name: calls.append((f"{name}:", given[0], given[0].clone()))
            )
            module.register_forward_hook(
                lambda module, given, result, name=name: calls.append((name, result, result.clone()))
            )
    with torch.set_grad_enabled(gradients):
        return calls, block(X)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", BLOCKS)
def test_hooks_see_the_same_with_and_without_gradients_and_keep_what_they_hold(name, training):
    torch.manual_seed(0)
    block = BLOCKS[name]().train(training)
    names = [module for module, _ in block.named_modules() if module]
    before, (_, wanted) = X.clone(), seen(block, False, ())
    for watched in [names] if training else [names, *([one] for one in names)]:
        without, result = seen(block, False, watched)
        with_gradients, other = seen(block, True, watched)
        assert [call[0] for call in without] == [call[0] for call in with_gradients]
        assert all(torch.equal(tensor, then) for _, tensor, then in without)
        assert all(torch.equal(tensor, then) for _, tensor, then in with_gradients)
        for (_, ours, _), (_, theirs, _) in zip(without, with_gradients, strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(result, wanted)
        assert torch.equal(other, wanted)
    assert torch.equal(X, before)


@pytest.mark.parametrize("name", ["ir_k3_e3_se", "basic_block", "shift_5x5", "ir_k5_s2"])
def test_what_is_extracted_is_what_the_module_gave(name):
    torch.manual_seed(0)
    block = BLOCKS[name]().eval()
    graph = torch.fx.symbolic_trace(block)
    norms = {f"{n}": m for n, m in block.named_modules() if isinstance(m, nn.BatchNorm2d)}
    held: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for target in norms:
        graph.get_submodule(target).register_forward_hook(
            lambda module, given, result, target=target: held.update({target: (result, result.clone())})
        )
    with torch.no_grad():
        assert torch.equal(graph(X), block(X))
    assert held.keys() == norms.keys()
    assert all(torch.equal(tensor, then) for tensor, then in held.values())


@pytest.mark.parametrize("name", ["fbnet_96_035_1", "cream_14"])
def test_a_whole_network_holds_for_observers_too(name):
    model = archloom.build(name, num_classes=3).eval()
    held = []
    for module in model.modules():
        module.register_forward_hook(lambda module, given, result: held.append((result, result.clone())))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert len(held) > 100
    assert all(torch.equal(tensor, then) for tensor, then in held)
