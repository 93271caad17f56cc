"""A fast path is the slow path to whoever looks: hooks, captured tensors, modes, transforms and graphs."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from archloom_efficientnet import EfficientNet, SameConv2d, SameMaxPool2d, layers
from archloom_efficientnet.blocks import SqueezeExcite
from archloom_estimators.proxies.gradients import grasp

STRINGS = ["r1_k3_s11_e1_i8_o8_se0.25", "r2_k5_s22_e4_i8_o16_se0.25", "r2_k3_s21_e2_i16_o16"]
IMAGES = torch.randn(3, 3, 22, 17, generator=torch.Generator().manual_seed(0))


def network(**overrides):
    torch.manual_seed(0)
    overrides = {"num_classes": 5, "head_filters": 16, "dropout_rate": 0.0, **overrides}
    model = EfficientNet.from_block_strings(STRINGS, **overrides)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 24, 24))  # statistics that are not 0 and 1
    return model.eval()


MODEL = network()
NAMES = [name for name, module in MODEL.named_modules() if name and not isinstance(module, nn.ModuleList)]


def seen(watched, training, gradients):
    """What hooks on the named modules are given, each time: the tensors themselves, and copies of that moment."""
    model = copy.deepcopy(MODEL).train(training)
    calls = []

    def note(name):
        def hook(module, inputs, output=None):
            found = inputs[0] if output is None else output
            calls.append((name, found, found.detach().clone()))

        return hook

    for name in watched:
        model.get_submodule(name).register_forward_pre_hook(note(f"{name} is given"))
        model.get_submodule(name).register_forward_hook(note(f"{name} gives"))
    torch.manual_seed(1)  # drop-connect draws the same
    with torch.set_grad_enabled(gradients):
        logits = model(IMAGES)
    return calls, logits.detach(), {key: value.clone() for key, value in model.named_buffers()}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_a_hook_on_any_module_sees_the_same_with_and_without_gradients(name, training):
    without, logits, buffers = seen([name], training, False)
    with_gradients, wanted, kept = seen([name], training, True)
    calls = [f"{name} is given", f"{name} gives"]
    assert [call[0] for call in without] == [call[0] for call in with_gradients] == calls
    for (_, tensor, then), (_, other, _) in zip(without, with_gradients, strict=True):
        assert torch.equal(tensor, then), "a captured tensor was written to afterwards"
        torch.testing.assert_close(tensor, other.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(buffers, kept, atol=1e-5, rtol=1e-4)


@settings(max_examples=12, deadline=None)
@given(st.sets(st.sampled_from(NAMES), min_size=2), st.booleans())
def test_hooks_on_any_set_of_modules_are_called_in_one_order(names, training):
    without, logits, _ = seen(sorted(names), training, False)
    with_gradients, wanted, _ = seen(sorted(names), training, True)
    assert [call[0] for call in without] == [call[0] for call in with_gradients]
    assert {call[0].partition(" ")[0] for call in without} == names
    assert all(torch.equal(tensor, then) for _, tensor, then in without)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gradients", [False, True])
def test_global_hooks_and_replaced_forwards_are_called_for_every_module(gradients):
    model, called = copy.deepcopy(MODEL), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(module))
    try:
        with torch.set_grad_enabled(gradients):
            model(IMAGES)
    finally:
        handle.remove()
    assert {id(model.get_submodule(name)) for name in NAMES} <= {id(module) for module in called}
    for name in ("features.stages.1.0.expand", "features.stages.1.0.se", "features.stages.1.0.project.bn"):
        model = copy.deepcopy(MODEL)
        module = model.get_submodule(name)
        calm = module.forward
        module.forward = lambda x, calm=calm: calm(x) * 0
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(model(IMAGES), plain_logits(model), atol=1e-5, rtol=1e-4)


def plain_logits(model):
    """Each module called, one after the other, by its own forward."""
    with torch.no_grad():
        x = model.features.stem(IMAGES)
        for block in model.features.blocks():
            y = x if block.expand is None else block.expand(x)
            y = block.depthwise(y)
            y = y if block.se is None else block.se(y)
            y = block.project(y)
            x = x + y if block.residual else y
        return model.classifier(model.pooling(model.features.head(x)).flatten(1))


@pytest.mark.parametrize("training", [False, True])
def test_full_backward_hooks_are_called_on_every_module(training):
    model, called = copy.deepcopy(MODEL).train(training), []
    for name in NAMES:
        model.get_submodule(name).register_full_backward_hook(lambda *_, name=name: called.append(name))
    model(IMAGES.clone().requires_grad_()).sum().backward()
    assert sorted(called) == sorted(NAMES)


def test_no_module_writes_to_what_it_is_given():
    with torch.no_grad():
        for module in MODEL.modules():
            if isinstance(module, SqueezeExcite):
                x = torch.randn(2, module.reduce.in_channels, 4, 4)
            elif hasattr(module, "conv"):
                x = torch.randn(2, module.conv.in_channels, 6, 5)
            else:
                continue
            before = x.clone()
            module(x)
            assert torch.equal(x, before)


def test_a_parametrized_or_pruned_convolution_is_used_as_it_is():
    for change in (
        lambda m: nn.utils.parametrize.register_parametrization(m, "weight", Doubled()),
        lambda m: prune.random_unstructured(m, "weight", amount=0.5),
    ):
        model = copy.deepcopy(MODEL)
        change(model.features.stages[1][0].depthwise.conv)
        with torch.no_grad():
            logits = model(IMAGES)
        torch.testing.assert_close(logits, model(IMAGES).detach(), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(logits, MODEL(IMAGES))


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("norm", ["no scale", "no shift", "neither", "no statistics", "not counted", "mean"])
@pytest.mark.parametrize("training", [False, True])
def test_norms_of_every_kind_are_what_pytorch_computes(norm, training):
    options = {
        "no scale": {},
        "no shift": {},
        "neither": {"affine": False},
        "no statistics": {"track_running_stats": False},
        "not counted": {},
        "mean": {"momentum": None},
    }[norm]
    ours = nn.BatchNorm2d(6, **options)
    if norm == "no scale":
        ours.weight = None
    if norm == "no shift":
        ours.bias = None
    if norm == "not counted":
        ours.num_batches_tracked = None
    plain = copy.deepcopy(ours)
    ours.train(training), plain.train(training)
    x = torch.randn(3, 6, 5, 4, requires_grad=True)
    for margin in ((0, 0), (1, 1)):
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                y = layers.bn_swish(x, ours, margin)
                wanted = F.pad(F.silu(plain(x)), (0, margin[1], 0, margin[0]))
            torch.testing.assert_close(y, wanted)
            if gradients:
                torch.testing.assert_close(
                    torch.autograd.grad(y.square().sum(), x), torch.autograd.grad(wanted.square().sum(), x)
                )
        torch.testing.assert_close(dict(ours.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("gradients", [False, True])
def test_an_image_without_a_batch_is_refused_as_batch_norm_refuses_it(gradients):
    for training in (False, True):
        with torch.set_grad_enabled(gradients), pytest.raises(ValueError, match="4D input"):
            copy.deepcopy(MODEL).train(training)(IMAGES[0])


# -- derivatives ------------------------------------------------------------------------------------------


def quietly(make, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and still asked for
        return make(*args)


def pair(training=True):
    """The network in double precision, and the same of plain operations."""
    ours = copy.deepcopy(MODEL).double().train(training)
    plain = copy.deepcopy(ours)
    plain.set_swish(memory_efficient=False)
    return ours, plain


@pytest.mark.parametrize("training", [False, True])
def test_second_derivatives_are_those_of_the_plain_form(training):
    found = []
    for model in pair(training):
        images = IMAGES.double().requires_grad_()
        torch.manual_seed(1)
        parameters = [images, *model.parameters()]
        first = torch.autograd.grad(model(images).square().sum(), parameters, create_graph=True)
        value = sum(g.square().sum() for g in first)
        found.append([value.detach(), *torch.autograd.grad(value, parameters)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)
    assert found[0][1].abs().max() > 0


def test_the_second_derivative_of_the_operation_with_a_margin_passes_gradgradcheck():
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    gamma, beta = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def run(x, gamma, beta):
        mean, var = torch.zeros(3).double(), torch.ones(3).double()
        return layers._BatchNormSwish.apply(x, gamma, beta, mean, var, 0.1, 1e-3, (1, 0))

    assert torch.autograd.gradgradcheck(run, (x, gamma, beta))


def test_forward_mode_derivatives_of_a_training_forward_are_those_of_the_plain_form():
    found = []
    for model in pair():
        model.features.gradient_checkpointing = False
        torch.manual_seed(1)
        with forward_ad.dual_level(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own: its rules for forward mode are scripted
            dual = forward_ad.make_dual(IMAGES.double(), torch.ones_like(IMAGES.double()))
            found.append(forward_ad.unpack_dual(model(dual)).tangent)
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[0], found[1])


def test_many_gradients_at_once_are_those_one_by_one():
    model, _ = pair()
    for block in model.features.blocks():
        block.drop_connect_rate = 0.0
    images = IMAGES.double()

    def logits(x):
        return copy.deepcopy(model)(x).sum(0)

    together = torch.autograd.functional.jacobian(logits, images, vectorize=True)
    torch.testing.assert_close(together, torch.autograd.functional.jacobian(logits, images))


def test_functional_transforms_take_the_network():
    model, _ = pair()
    for block in model.features.blocks():
        block.drop_connect_rate = 0.0

    def loss(x):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        return torch.func.functional_call(copy.deepcopy(model), state, (x,)).square().sum()

    images = IMAGES.double()
    wanted = torch.autograd.functional.jacobian(loss, images)
    torch.testing.assert_close(torch.func.grad(loss)(images), wanted)
    _, along = quietly(torch.func.jvp, loss, (images,), (torch.ones_like(images),))
    torch.testing.assert_close(along, wanted.sum())


# -- modes and graphs -----------------------------------------------------------------------------------


class Holding(TorchDispatchMode):
    """Keeps the results of all operations, and a copy of each as it was then."""

    def __init__(self):
        super().__init__()
        self.held = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and func.overloadpacket is torch.ops.aten.native_batch_norm:
            self.held.append((result, result.clone()))
        if isinstance(result, tuple):
            self.held.append((result[0], result[0].clone()))
        return result


def test_a_mode_that_holds_tensors_finds_them_as_they_were():
    with torch.no_grad(), Holding() as mode:
        MODEL(IMAGES)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in MODEL.modules())
    assert len(mode.held) >= norms  # each gives a tuple
    assert all(torch.equal(tensor, then) for tensor, then in mode.held)


SIZES = [(22, 17), (64, 64), (33, 31), (9, 40)]


@pytest.mark.parametrize("kind", ["script", "trace", "fx", "scripted fx"])
def test_a_graph_computes_the_network_at_every_size(kind):
    made = {
        "script": lambda: quietly(torch.jit.script, copy.deepcopy(MODEL)),
        "trace": lambda: quietly(torch.jit.trace, MODEL, IMAGES),
        "fx": lambda: torch.fx.symbolic_trace(MODEL),
        "scripted fx": lambda: quietly(torch.jit.script, torch.fx.symbolic_trace(MODEL)),
    }[kind]()
    for size in SIZES:
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(made(images), MODEL(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["script", "trace", "fx", "export", "compile"])
def test_a_graph_of_frozen_padding_refuses_every_other_size(kind):
    model = copy.deepcopy(MODEL)
    model.set_static_padding((22, 17))
    made = {
        "script": lambda: quietly(torch.jit.script, model),
        "trace": lambda: quietly(torch.jit.trace, model, IMAGES),
        "fx": lambda: torch.fx.symbolic_trace(model),
        "export": lambda: torch.export.export(model, (IMAGES,)).module(),
        "compile": lambda: torch.compile(model, backend="eager"),
    }[kind]()
    with torch.no_grad():
        torch.testing.assert_close(made(IMAGES), MODEL(IMAGES), atol=1e-5, rtol=1e-4)
        for size in ((33, 17), (22, 33), (44, 34)):
            with pytest.raises(Exception, match=r"frozen|Guard failed|size\(\)\[\d\] == "):
                made(torch.randn(3, 3, *size))


def test_max_pooling_becomes_a_graph_too():
    net = nn.Sequential(SameMaxPool2d(3, 2), SameConv2d(3, 2, 4, 3))
    for made in (
        quietly(torch.jit.script, net),
        torch.fx.symbolic_trace(net),
        quietly(torch.jit.trace, net, IMAGES),
    ):
        for size in SIZES:
            images = -1 - torch.rand(2, 3, *size)
            torch.testing.assert_close(made(images), net(images))


@pytest.mark.parametrize("training", [False, True])
def test_the_network_compiles_without_a_graph_break(training):
    model = copy.deepcopy(MODEL).train(training)
    for block in model.features.blocks():
        block.drop_connect_rate = 0.0
    other = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    y, wanted = compiled(IMAGES), other(IMAGES)
    torch.testing.assert_close(y, wanted, atol=1e-5, rtol=1e-4)
    y.sum().backward(), wanted.sum().backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3)
    torch._dynamo.reset()


def test_an_exported_program_takes_every_batch():
    program = torch.export.export(MODEL, (IMAGES,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for batch in (1, 2, 32):
        images = torch.randn(batch, *IMAGES.shape[1:])
        with torch.no_grad():
            torch.testing.assert_close(program(images), MODEL(images), atol=1e-5, rtol=1e-4)


# -- the mode of what is put in later ------------------------------------------------------------------------


@pytest.mark.parametrize("include_top", [False, True])
def test_a_fresh_classifier_has_the_networks_mode(include_top):
    model = network(include_top=include_top, dropout_rate=0.5)
    model.reset_classifier(4)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(IMAGES), model(IMAGES))
    model.train().reset_classifier(3)
    assert model.dropout.training
    assert all(module.training for module in model.modules())


def test_a_proxy_of_second_derivatives_is_that_of_the_plain_form():
    found = []
    for model in pair():
        for block in model.features.blocks():
            block.drop_connect_rate = 0.0
        loss = F.cross_entropy(model(IMAGES.double()), torch.tensor([0, 1, 2]))
        weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        found.append(grasp(loss, weights))
    assert found[0] == pytest.approx(found[1], rel=1e-8)
    assert abs(found[0]) > 1e-3
