"""What a user does with a network: forward, endpoints, replaced parts, checkpointing, export."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archloom_efficientnet
from archloom_efficientnet import EfficientNet

LEAN = [("efficientnet-b0", 224), ("efficientnet-b0", 256), ("efficientnet-b1", 224)]
FULL = [
    pytest.param(f"efficientnet-b{i}", size, marks=pytest.mark.slow)
    for i in range(4)
    for size in (224, 256, 512)
    if (f"efficientnet-b{i}", size) not in LEAN
]
built: dict[str, EfficientNet] = {}


def network(name):
    """One network per name, for tests that leave it as they found it."""
    if name not in built:
        built[name] = EfficientNet.from_name(name)
    return built[name].eval()


@pytest.mark.parametrize(("name", "size"), [*LEAN, *FULL])
def test_zeros_give_no_nan_in_logits_and_endpoints_of_the_right_sizes(name, size):
    model = network(name)
    image = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        logits = model(image)
        endpoints = model.extract_endpoints(image)
    assert logits.shape == (1, 1000)
    assert not logits.isnan().any()
    assert list(endpoints) == [f"reduction_{i}" for i in range(1, 7)]
    assert not any(value.isnan().any() for value in endpoints.values())
    assert [value.shape[2] for value in endpoints.values()] == [size // 2**i for i in (1, 2, 3, 4, 5, 5)]
    assert endpoints["reduction_5"].shape[1] == model.config.round_filters(320)
    assert endpoints["reduction_6"].shape[1] == model.config.round_filters(1280)


def small(**overrides):
    torch.manual_seed(0)
    return EfficientNet.from_name(
        "efficientnet-b0", width_coefficient=0.25, depth_coefficient=0.6, **{"num_classes": 10, **overrides}
    )


def test_dropout_is_on_in_training():
    model = small(dropout_rate=0.5).train()
    assert model.dropout.training
    assert (model.dropout(torch.ones(1000)) == 0).any()


def test_dropout_is_off_in_eval_mode():
    model = small(dropout_rate=0.5).eval()
    assert not model.dropout.training
    assert torch.equal(model.dropout(torch.ones(1000)), torch.ones(1000))


def test_dropout_follows_the_mode_back_and_forth_and_can_be_changed():
    model = small(dropout_rate=0.2)
    for mode in (True, False, True):
        assert model.train(mode).dropout.training is mode
    model.dropout.p = 0.5
    assert (model.train().dropout(torch.ones(100000)) == 0).float().mean().item() == pytest.approx(
        0.5, abs=0.02
    )


def test_dropout_and_classifier_can_be_replaced():
    model = small()
    model.dropout = nn.Identity()
    model.classifier = nn.Sequential(nn.Linear(model.features.out_channels, 8), nn.ReLU(), nn.Linear(8, 3))
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 3)
    logits.sum().backward()
    assert model.features.stem.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("pooling", [nn.AdaptiveMaxPool2d(1), nn.AvgPool2d(2)])
def test_pooling_can_be_replaced(pooling):
    model = small().eval()
    image = torch.randn(2, 3, 64, 64)
    model.pooling = pooling
    with torch.no_grad():
        wanted = model.classifier(pooling(model.extract_features(image)).flatten(1))
        assert torch.equal(model(image), wanted)


def test_without_a_top_the_forward_gives_the_pooled_features():
    model = small(include_top=False).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.extract_features(image)
        torch.testing.assert_close(model(image), features.mean((2, 3)))
    assert features.shape == (2, model.features.out_channels, 2, 2)
    assert not any(key.startswith("classifier") for key in model.state_dict())
    model.reset_classifier(4)
    assert model(image).shape == (2, 4)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (7, 3), (16, 16), (33, 64)])
def test_endpoints_keep_their_numbers_on_tiny_images(shape):
    model = small().eval()
    channels = [8, 8, 16, 32, 80, 320]
    with torch.no_grad():
        endpoints = model.extract_endpoints(torch.randn(1, 3, *shape))
    assert [value.shape[1] for value in endpoints.values()] == channels
    for level, value in enumerate(endpoints.values(), start=1):
        stride = 2 ** min(level, 5)
        assert value.shape[2:] == (-(-shape[0] // stride), -(-shape[1] // stride))


def test_a_stride_in_width_alone_is_a_reduction_level_too():
    model = EfficientNet.from_block_strings(["r1_k3_s12_e1_i32_o16", "r1_k3_s21_e6_i16_o24"])
    with torch.no_grad():
        shapes = [tuple(v.shape) for v in model.eval().extract_endpoints(torch.randn(1, 3, 16, 16)).values()]
    assert shapes == [(1, 32, 8, 8), (1, 16, 8, 4), (1, 24, 4, 4), (1, 1280, 4, 4)]


def gradients(model, image, target):
    model.zero_grad()
    torch.manual_seed(3)  # the same drop-connect masks
    loss = F.cross_entropy(model(image), target)
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}}


@pytest.mark.parametrize("change", ["plain", "checkpointing"])
def test_a_training_step_is_the_same_with_plain_operations_and_with_checkpointing(change):
    image, target = torch.randn(4, 3, 46, 46), torch.arange(4)
    ours, other = small().double().train(), small().double().train()
    if change == "plain":
        other.set_swish(memory_efficient=False)
    else:
        other.set_gradient_checkpointing()
    torch.testing.assert_close(
        gradients(ours, image.double(), target), gradients(other, image.double(), target)
    )
    torch.testing.assert_close(dict(ours.named_buffers()), dict(other.named_buffers()))


def saved_bytes(model, image):
    storages = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(image).sum()
    assert loss.requires_grad
    return sum(storages.values())


def test_less_is_kept_for_the_backward_pass_than_by_the_plain_operations():
    image = torch.randn(2, 3, 64, 64)
    model = EfficientNet.from_name("efficientnet-b0").train()
    ours = saved_bytes(model, image)
    model.set_gradient_checkpointing()
    checkpointed = saved_bytes(model, image)
    model.set_gradient_checkpointing(False)
    model.set_swish(memory_efficient=False)
    plain = saved_bytes(model, image)
    assert ours <= 0.75 * plain
    assert checkpointed <= 0.25 * plain


def test_the_same_seed_draws_the_same_network_and_forward_leaves_global_state_alone():
    a, b = small(), small()
    assert all(torch.equal(a.state_dict()[key], value) for key, value in b.state_dict().items())
    state = torch.get_rng_state()
    a.eval()(torch.zeros(1, 3, 32, 32))
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_drawn_as_the_release_draws_them():
    model = EfficientNet.from_name("efficientnet-b0")
    head, depthwise = model.features.head.conv.weight, model.features.stages[5][1].depthwise.conv.weight
    assert head.std().item() == pytest.approx((2 / 1280) ** 0.5, rel=0.02)
    assert depthwise.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.02)
    assert model.classifier.weight.abs().max().item() == pytest.approx(1000**-0.5, rel=1e-3)
    assert not model.classifier.bias.any()


@pytest.mark.parametrize("image_size", [48, 47])
def test_a_bfloat16_autocast_forward_and_backward_is_close(image_size):
    model = small().train()
    image = torch.randn(4, 3, image_size, image_size).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(image).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        wanted = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(image).float()
    assert (got - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_a_network_can_be_copied_pickled_and_moved_to_another_dtype():
    import copy
    import pickle

    model = small().eval()
    image = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        wanted = model(image)
        assert torch.equal(copy.deepcopy(model)(image), wanted)
        assert torch.equal(pickle.loads(pickle.dumps(model))(image), wanted)
        assert model.double()(image.double()).dtype == torch.float64


def test_the_plugins_modules_import_nothing_in_a_circle():
    folder = Path(archloom_efficientnet.__file__).parent
    modules = {path.stem: path for path in folder.glob("*.py") if path.stem != "__init__"}
    needs = {}
    for name, path in modules.items():
        found = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level
        ]
        mentioned = {n.module for n in found} | {a.name for n in found if not n.module for a in n.names}
        needs[name] = mentioned & set(modules)
    while free := {name for name in needs if not needs[name] & needs.keys()}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert not needs
