"""Each proxy against a value that is derived by hand, and against what must hold for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from archloom.architecture import Architecture
from archloom.errors import ConfigError, SearchError
from archloom.estimator import Context
from archloom.model import GlobalAverage, Model, ModelParts
from archloom.plugins import Host
from archloom.testing import EstimatorContract, TinySpace, tiny_task
from archloom_estimators.proxies import NASWOT, PROXIES, JacobianCovariance, SynFlow, ZenNAS
from archloom_estimators.proxies.activations import kernel
from archloom_estimators.proxies.common import first_batch, fresh, scored_weights
from archloom_estimators.proxies.gradients import fisher, gradient_norm, grasp, snip
from archloom_estimators.proxies.jacobian import K, jacobian, score
from archloom_estimators.proxies.synflow import synflow
from archloom_estimators.proxies.zen import without_residuals, zen

# -- a two-layer network, worked out on paper -------------------------------------------------------
#
# One pixel x, one weight in each layer: f(x) = w2 relu(w1 x), w1 = 2, w2 = 3, and the loss L is half the squared
# error, averaged over the batch. For x = 1, y = 1: f = 6, f - y = 5, L = 12.5, and
#   dL/dw1 = (f - y) w2 x = 15          d2L/dw1dw1 = (w2 x)^2 = 9
#   dL/dw2 = (f - y) w1 x = 10          d2L/dw2dw2 = (w1 x)^2 = 4
#                                       d2L/dw1dw2 = w1 w2 x^2 + (f - y) x = 11


class HalfSquare(nn.Module):
    def forward(self, f: Tensor, y: Tensor) -> Tensor:
        return ((f - y.float()) ** 2).mean() / 2


def two_layers() -> Model:
    backbone = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(inplace=True))
    head = nn.Linear(1, 1, bias=False)
    nn.init.constant_(backbone[0].weight, 2.0)
    nn.init.constant_(head.weight, 3.0)
    return Model(backbone, nn.Flatten(), head, HalfSquare())


def pixels(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


@pytest.fixture
def net() -> tuple[Model, Tensor, list[Tensor]]:
    model = two_layers()
    return model, model.loss(model(pixels(1.0)), torch.tensor([[1]])), scored_weights(model)


def test_the_gradient_norm_sums_the_norms_of_the_layers(net):
    _, loss, weights = net
    assert gradient_norm(loss, weights) == pytest.approx(15 + 10)


def test_snip_sums_gradient_times_weight(net):
    _, loss, weights = net
    assert snip(loss, weights) == pytest.approx(abs(15 * 2) + abs(10 * 3))


def test_grasp_sums_minus_the_hessian_times_the_gradient_times_the_weight(net):
    """H g = (9 * 15 + 11 * 10, 11 * 15 + 4 * 10) = (245, 205), and -(245 * 2 + 205 * 3) = -1105."""
    _, loss, weights = net
    assert grasp(loss, weights) == pytest.approx(-1105)


def test_fisher_sums_the_squares_of_activation_times_gradient():
    """Images x = 1 (y = 1) and x = -1 (y = 0), whose ReLU is off: its outputs are -2 and 0, its gradients 0.

    The loss is the mean of two, so that the first image's gradients are half those above: of the convolution's
    output a = 2, g = (f - y) w2 / 2 = 7.5; of the linear layer's, a = 6, g = 2.5. With N = 2:
    ((2 * 7.5)^2 + (6 * 2.5)^2) / (2 * 2) = 112.5.
    """
    assert fisher(two_layers(), pixels(1.0, -1.0), torch.tensor([[1], [0]])) == pytest.approx(112.5)


def test_synflow_counts_the_flow_once_for_each_layer():
    """R = |w2| |w1| * 1 = 6 for an image of ones, whatever the weights' signs; each layer's saliencies sum to R."""
    model = two_layers()
    model.head.weight.data.neg_()
    assert synflow(model, (1, 1, 1)) == pytest.approx(2 * 6)


def residual_network(scale: float = 1.0, norm: Any = nn.BatchNorm2d) -> nn.Module:
    """A stem and two residual blocks; `scale` is that of the norm at each branch's end."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), norm(4)
            self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), norm(4)
            if getattr(self.norm2, "weight", None) is not None:
                nn.init.constant_(self.norm2.weight, scale)

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))).relu()

    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm(4), nn.ReLU(), Block(), Block())


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d,
        nn.SyncBatchNorm,
        lambda c: nn.BatchNorm2d(c, eps=1e-3, momentum=0.01),
        lambda c: nn.BatchNorm2d(c, track_running_stats=False),
        lambda c: nn.GroupNorm(2, c),
        lambda c: nn.InstanceNorm2d(c, affine=True),
        torchvision.ops.FrozenBatchNorm2d,
    ],
)
@pytest.mark.parametrize("scale", [0.0, 1.0, -0.3])
def test_synflow_leaves_norm_layers_out_whatever_their_scale(norm, scale):
    expected = synflow(residual_network(norm=lambda channels: nn.Identity()), (3, 9, 9))
    network = residual_network(scale, norm)
    for module in network.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_var.fill_(3.0)
            module.running_mean.fill_(0.5)
    assert synflow(network, (3, 9, 9)) == pytest.approx(expected, rel=1e-12)


def test_synflow_sees_the_branches_of_a_residual_network_that_starts_with_scale_zero():
    """Values of 32 x 32 images and seed 0, of the networks with each BatchNorm replaced by nn.Identity."""
    found = []
    for name, expected in (("resnet18", 2.78587e26), ("resnet34", 2.0548e48)):
        torch.manual_seed(0)
        network = getattr(torchvision.models, name)(weights=None, zero_init_residual=True)
        found.append(synflow(network, (3, 32, 32)))
        assert found[-1] == pytest.approx(expected, rel=1e-5)
    assert found[1] / found[0] == pytest.approx(7.4e21, rel=0.01)


def test_synflow_leaves_out_the_batchnorm_of_fused_operations_too():
    from archloom_efficientnet import EfficientNet

    found = []
    for scale in (1.0, 0.01):
        torch.manual_seed(0)
        network = EfficientNet.from_name("efficientnet-b0", num_classes=3)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, scale)
        found.append(synflow(network, (3, 32, 32)))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


class Pixelwise(nn.Module):
    """The same 1x1 convolution, as a convolution, as a linear layer of the last axis, or of tokens in the batch."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(2)
        convolution, self.form = nn.Conv2d(3, 5, 1), form
        self.layer: nn.Module = convolution
        if form != "convolution":
            self.layer = nn.Linear(3, 5)
            self.layer.load_state_dict({"weight": convolution.weight[:, :, 0, 0], "bias": convolution.bias})

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "convolution":
            return self.layer(x).relu()
        last = x.permute(0, 2, 3, 1)
        if self.form == "tokens":
            return self.layer(last.flatten(1, 2)).relu().transpose(1, 2).unflatten(2, x.shape[2:])
        if self.form == "rows":
            return self.layer(last.flatten(0, 2)).relu().view(*last.shape[:3], 5).permute(0, 3, 1, 2)
        return self.layer(last).relu().permute(0, 3, 1, 2)


@pytest.mark.parametrize("aggregation", ["blockswap", "abdelfattah"])
@pytest.mark.parametrize("form", ["channels last", "tokens", "rows"])
def test_fisher_of_a_linear_layer_is_that_of_the_same_convolution(form, aggregation):
    def score(form: str) -> float:
        torch.manual_seed(1)
        head = nn.Linear(5, 4)
        model = Model(Pixelwise(form), GlobalAverage(), head, nn.CrossEntropyLoss())
        x = torch.randn(6, 3, 7, 4, generator=torch.Generator().manual_seed(9))
        return fisher(model, x, torch.arange(6) % 4, aggregation)

    assert score(form) == pytest.approx(score("convolution"), rel=1e-5)


def test_fishers_two_aggregations_take_a_channel_once_or_once_for_each_of_its_weights():
    """By the sum over channels of each layer, which is worked out anew here from the layers' own gradients."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 6, 3, groups=3), nn.ReLU())
    model = Model(net, GlobalAverage(), nn.Linear(6, 4), nn.CrossEntropyLoss())
    x, y = torch.randn(5, 2, 7, 7), torch.arange(5) % 4
    a = net[0](x)
    b = net[2](a.relu())
    c = model.head(b.relu().mean((2, 3)))
    grads = torch.autograd.grad(model.loss(c, y), (a, b, c))
    sums = [
        float(((z * g).detach().flatten(2).sum(2) if z.ndim > 2 else (z * g).detach()).square().sum()) / 10
        for z, g in zip((a, b, c), grads, strict=True)
    ]
    assert fisher(model, x, y) == pytest.approx(sum(sums), rel=1e-5)
    weights = (2 * 9, 1 * 9, 6)  # of one filter of each layer
    expected = sum(times * each for times, each in zip(weights, sums, strict=True))
    assert fisher(model, x, y, "abdelfattah") == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ConfigError, match="blockswap, abdelfattah, not 'sum'"):
        PROXIES["fisher"](aggregation="sum")


def gates() -> nn.Module:
    """Three units of two pixels: on where x1 > 0, where x2 > 0, and where x1 + x2 < 0."""
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(2, 3, bias=False), nn.ReLU(inplace=True), nn.Linear(3, 1, bias=False)
    )
    net[1].weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    net[3].weight.data = torch.tensor([[1.0, 2.0, 3.0]])
    return net


def images(*pairs: tuple[float, float]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.float32).view(-1, 1, 1, 2)


def test_naswot_is_the_determinant_of_how_many_units_agree():
    """(2, -1): codes 1 0 0. (1, 1): 1 1 0. (-1, -1): 0 0 1.

    They agree in 2, 1 (first and third) and 0 of 3 units: det [[3, 2, 1], [2, 3, 0], [1, 0, 3]] =
    3 * 9 - 2 * 6 + 1 * (0 - 3) = 12.
    """
    k = kernel(gates(), images((2, -1), (1, 1), (-1, -1)))
    assert k.tolist() == [[3, 2, 1], [2, 3, 0], [1, 0, 3]]
    assert float(torch.linalg.slogdet(k)[1]) == pytest.approx(math.log(12))


def test_the_jacobian_is_the_gradient_of_each_image_and_the_score_that_of_its_correlation():
    """Image (2, -1) has unit 1 on: gradient (1, 0). (1, 1) has 1 and 2: (1, 2). (-1, -1) has 3: (-3, -3).

    Two pixels leave correlations of -1 and 1 only; with a third, r = 0.5 by construction below: the eigenvalues of
    [[1, r], [r, 1]] are 1 + r and 1 - r.
    """
    j = jacobian(gates(), images((2, -1), (1, 1), (-1, -1)))
    assert j.tolist() == [[1, 0], [1, 2], [-3, -3]]
    rows = torch.tensor([[1.0, 0.0, -1.0], [1.0, -1.0, 0.0]])  # both of mean 0; r = 1 / 2
    expected = -sum(math.log(s + K) + 1 / (s + K) for s in (1.5, 0.5))
    assert score(rows) == pytest.approx(expected)


def test_zen_is_the_logarithm_of_the_change():
    """f(x) = 2 x: f(x) - f(x + a e) = -2 a e, of norm 2 a |e|; over e = 1 and e = -3 the mean is 4 a."""
    net = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    assert zen(net, pixels(0.3, 0.7), pixels(1.0, -3.0), 0.01) == pytest.approx(math.log(0.04), abs=1e-5)


def test_zen_puts_back_what_batchnorm_divided_by():
    """BatchNorm scales by 1 / sigma, and log(sigma) is added: the score is that of the network without it."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(1, 1, 3, bias=False), nn.Conv2d(1, 5, 3, bias=False)
    x, e = torch.randn(64, 1, 12, 12), torch.randn(64, 1, 12, 12)
    plain = zen(nn.Sequential(first, last), x, e, 0.01)
    normed = zen(nn.Sequential(first, nn.BatchNorm2d(1), last), x, e, 0.01)
    assert normed == pytest.approx(plain, abs=1e-3)


def test_zen_takes_residual_connections_away_where_blocks_say_that_they_have_one():
    class Block(nn.Module):
        residual = True

        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if self.residual else torch.ones_like(x)

    block = Block()
    assert not without_residuals(nn.Sequential(block))[0].residual
    assert Block.residual  # the class, and other networks, are untouched


# -- what must hold ---------------------------------------------------------------------------------


def context(task: Any = None, seed: int = 3, parts: ModelParts | None = None) -> Context:
    return Context(
        TinySpace(),
        task or tiny_task(),
        parts or ModelParts(),
        seed,
        torch.device("cpu"),
        "float32",
        lambda n, m: m(),
    )


def arch(*options: str) -> Architecture:
    return Architecture({f"layer{i}": option for i, option in enumerate(options)})


DEEP = arch("k3", "k3", "k5", "k3", "k1", "k3")


def make(name: str) -> Any:
    entry = Host().get("estimator", name)
    return entry.make(entry.validate({} if name == "synflow" else {"batch_size": 8}))


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_is_registered_and_is_a_function_of_the_seed(name):
    proxy = make(name)
    (metric,) = proxy.metrics
    assert (metric.name, metric.direction, proxy.expense) == (name, "max", 0)
    first = proxy.estimate(DEEP, context(seed=3))[name]
    assert proxy.estimate(DEEP, context(seed=3))[name] == first
    assert proxy.estimate(DEEP, context(seed=4))[name] != first


@pytest.mark.parametrize("name", ["synflow", "zen"])
def test_these_see_no_data(name):
    class Blind:
        name, shape, classes = "blind", (1, 8, 8), ("a", "b", "c", "d")

        def dataset(self, *splits: str, **options: Any) -> Any:
            raise AssertionError("the data were asked for")

    assert make(name).estimate(DEEP, context(Blind())) == make(name).estimate(DEEP, context())


def test_synflow_is_positive_and_survives_products_that_single_precision_does_not():
    """Sixty layers of 16 channels, weights about 1: R is about 13^60, 10^67."""
    layers = [nn.Conv2d(16, 16, 1, bias=False) for _ in range(60)]
    for layer in layers:
        nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    told = synflow(nn.Sequential(*layers), (16, 2, 2))
    assert 1e40 < told < math.inf
    assert SynFlow().estimate(arch(*["skip"] * 6), context())["synflow"] > 0


def test_synflow_is_conserved_from_layer_to_layer():
    """Without biases each layer's saliencies sum to R (Tanaka et al., theorem 1)."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1, bias=False))
    total = synflow(net, (1, 6, 6))
    r = net(torch.ones(1, 1, 6, 6, dtype=torch.float64)).sum().item()
    assert total == pytest.approx(2 * r)


def test_naswot_knows_neither_the_order_of_the_images_nor_the_scale_of_a_layer():
    x = images((2, -1), (1, 1), (-1, -1))
    one = torch.linalg.slogdet(kernel(gates(), x))[1]
    assert torch.linalg.slogdet(kernel(gates(), x[[2, 0, 1]]))[1] == pytest.approx(float(one))
    scaled = gates()
    scaled[1].weight.data *= 7
    assert torch.equal(kernel(scaled, x), kernel(gates(), x))


def test_naswot_of_images_that_are_alike_is_refused_in_words():
    class Alike:
        name, shape, classes = "alike", (1, 8, 8), ("a", "b")

        def dataset(self, *splits: str, **options: Any) -> Any:
            return torch.utils.data.TensorDataset(torch.ones(8, 1, 8, 8), torch.arange(8) % 2)

    with pytest.raises(SearchError, match="two have the same code"):
        NASWOT(batch_size=4).estimate(DEEP, context(Alike()))


def test_naswot_needs_activations_that_are_modules():
    with pytest.raises(SearchError, match="activations that are modules"):
        NASWOT(batch_size=4).estimate(arch(*["skip"] * 6), context())


def test_images_that_pull_alike_score_worse_than_those_that_do_not():
    base = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    assert score(noise) > score(base + 0.3 * noise) > score(base + 0.1 * noise)


def test_a_linear_network_has_one_gradient_for_all_images_and_no_correlation_to_speak_of():
    """Of "skip" alone nothing depends on the image: correlation 1 everywhere, eigenvalues n, 0, ..., 0."""
    j = torch.randn(1, 20).repeat(4, 1)
    expected = -(math.log(4 + K) + 1 / (4 + K) + 3 * (math.log(K) + 1 / K))
    assert score(j) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(SearchError, match="the same gradient"):
        JacobianCovariance(batch_size=4).estimate(arch(*["skip"] * 6), context())


@pytest.mark.parametrize("name", ["grad_norm", "snip", "grasp"])
def test_a_network_that_fits_its_batch_has_no_gradient(name):
    """f = y: the loss and its gradient vanish, and with them all three scores."""
    model = two_layers()
    loss = model.loss(model(pixels(1.0)), torch.tensor([[6]]))
    told = {"grad_norm": gradient_norm, "snip": snip, "grasp": grasp}[name](loss, scored_weights(model))
    assert told == pytest.approx(0.0)


def test_grasp_is_the_derivative_of_the_gradients_norm_as_all_weights_shrink():
    """d/dt ||g(theta (1 - t))||^2 / 2 at t = 0 is -g H theta: a difference quotient must agree."""
    torch.manual_seed(0)
    net = Model(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.SiLU()), nn.Flatten(), nn.Linear(48, 4), nn.CrossEntropyLoss()
    )
    net = net.double()
    x, y = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.arange(5) % 4
    weights = scored_weights(net)
    told = grasp(net.loss(net(x), y), weights)

    def half_norm(t: float) -> float:
        kept = [w.detach().clone() for w in weights]
        with torch.no_grad():
            for w in weights:
                w *= 1 - t
        squares = sum(g.square().sum() for g in torch.autograd.grad(net.loss(net(x), y), weights))
        with torch.no_grad():
            for w, before in zip(weights, kept, strict=True):
                w.copy_(before)
        return float(squares) / 2

    assert told == pytest.approx((half_norm(1e-5) - half_norm(-1e-5)) / 2e-5, rel=1e-6)


def test_the_batch_is_the_same_for_every_network_and_seed():
    one = first_batch(DEEP, context(seed=1), 8)
    other = first_batch(arch(*["skip"] * 6), context(seed=2), 8)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_a_batch_that_is_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match="lower batch_size"):
        first_batch(DEEP, context(), 1000)
    with pytest.raises(ConfigError, match="at least 2"):
        NASWOT(batch_size=1).estimate(DEEP, context())
    with pytest.raises(ConfigError, match="alpha positive"):
        ZenNAS(alpha=0.0)


def test_batchnorm_takes_the_batchs_statistics_and_nothing_is_dropped():
    parts = ModelParts(head=lambda c, n: nn.Sequential(nn.Dropout(0.5), nn.Linear(c, n)))
    model = fresh(DEEP, context(parts=parts))
    kinds = {type(m): m.training for m in model.modules()}
    assert kinds[nn.BatchNorm2d]
    assert not kinds[nn.Dropout]


# -- the contract -----------------------------------------------------------------------------------


def _contract(name: str) -> type:
    members = {"factory": PROXIES[name], "options": {} if name == "synflow" else {"batch_size": 4}}
    return type(f"Test{PROXIES[name].__name__}Contract", (EstimatorContract,), members)


for _name in PROXIES:
    globals()[f"Test{PROXIES[_name].__name__}Contract"] = _contract(_name)
