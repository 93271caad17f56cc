"""The meta network's gradient: against the reference's recorded one, and against second-order autograd."""

from __future__ import annotations

import pytest
import torch
from cream_golden import det_input, fill, filled, golden
from torch import nn
from torch.nn import functional as F

from archloom.model import GlobalAverage, Model
from archloom.shared import Supernet
from archloom.testing import run_context
from archloom_cream import CreamHead, CreamSpace
from archloom_cream.board import Board, Entry
from archloom_cream.matching import MatchingNetwork, distillation, joined_loss, meta_gradient
from archloom_cream.named import SIX
from archloom_cream.paths import PathCosts
from archloom_cream.running import Runner


class Colours:
    name, shape, classes = "colours", (3, 64, 64), tuple(map(str, range(1000)))


def path(name):
    stages = golden()["supernet"]["paths"][name][1:-1]
    return CreamSpace().architecture([[SIX[op] for op in stage] for stage in stages])


@pytest.fixture(scope="module", params=["float32", "float64"])
def recorded(request):
    """The reference's case: the filled supernet, eight images, path A and a board of path C alone.

    It was recorded in float32. In float64 our central difference has no rounding to speak of.
    """
    dtype = getattr(torch, request.param)
    space = CreamSpace()
    model = Model(Supernet(space, 0), GlobalAverage(), CreamHead(320, 1000), nn.CrossEntropyLoss())
    fill(model, space.supernet_format.theirs)
    runner = Runner(model.train(), PathCosts(model, space, Colours()), run_context(space, Colours()))
    meta = MatchingNetwork(4, 1000)
    meta.load_state_dict(
        {
            "weight": filled("meta_layer.weight", torch.empty(1, 4000)),
            "bias": filled("meta_layer.bias", torch.empty(1)),
        }
    )
    model.to(dtype), meta.to(dtype)
    x = det_input(8, 64).to(dtype)
    return runner, meta, x, runner.told(path("C"), x[:4]).to(dtype)


def gradients(recorded, *, first_only):
    runner, meta, x, q = recorded
    a = path("A")
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)

    def weigh(w):
        return meta(runner.probabilities(a, x[:4], w)[None] - q[None])[0]

    def inner(w):
        # the reference's m is the sigmoid of the negated weight
        return torch.sigmoid(-weigh(w)) * distillation(runner.logits(a, x[:4], w), q)

    def outer(w):
        return smooth(runner.logits(a, x[4:], w), torch.tensor([5, 6, 7, 8]))

    w = runner.weights_of(a)
    found = meta_gradient(inner, outer, w, list(meta.parameters()), 0.5, scale=1e-4, first_only=first_only)
    return w, weigh(None), inner(w), found


def test_weight_and_loss_of_the_recorded_match_are_the_reference_s(recorded):
    expected = golden()["supernet"]["meta_golden"]
    w, weight, kd, _ = gradients(recorded, first_only=True)
    assert len(w) == expected["n_path_params"]
    assert next(iter(w)) == "backbone.network.stem.conv.conv.weight"
    assert weight.item() == pytest.approx(expected["weight"], abs=1e-5)
    assert torch.sigmoid(-weight).item() == pytest.approx(expected["meta_value"], abs=1e-5)
    assert kd.item() == pytest.approx(expected["kd"], abs=1e-4)


@pytest.mark.parametrize("form", ["full", "first_only"])
def test_the_meta_gradient_is_the_recorded_one_of_second_order_autograd(recorded, form):
    expected = golden()["supernet"]["meta_golden"][form]
    _, _, _, (weight, bias) = gradients(recorded, first_only=form == "first_only")
    norm, precise = expected["weight_norm"], weight.dtype == torch.float64
    assert weight.norm().item() == pytest.approx(norm, rel=2e-3 if precise else 0.02)
    # the bias's part is a hundredth of the whole, so that float32 has it up to the rounding of the whole
    assert bias.item() == pytest.approx(
        expected["bias"], rel=5e-3 if precise else 0, abs=0 if precise else 2e-3 * norm
    )
    largest = max(map(abs, expected["weight8"]))
    theirs = torch.tensor(expected["weight8"], dtype=weight.dtype)
    torch.testing.assert_close(weight[0, :8], theirs, atol=(3e-3 if precise else 0.03) * largest, rtol=0)


def test_the_whole_gradient_is_not_that_of_the_first_tensor(recorded):
    full, first = (gradients(recorded, first_only=only)[3][0].flatten() for only in (False, True))
    expected = golden()["supernet"]["meta_golden"]["cosine_first_vs_full"]
    assert F.cosine_similarity(full, first, dim=0).item() == pytest.approx(expected, abs=0.02)


def test_the_meta_update_s_forwards_leave_no_trace_in_the_supernet(recorded):
    runner = recorded[0]
    before = {key: value.clone() for key, value in runner.supernet.state_dict().items()}
    gradients(recorded, first_only=False)
    for key, value in runner.supernet.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, before[key]), key


def second_order(inner, outer, w, theta, lr):
    """The same gradient by autograd through the step itself."""
    leaves = {name: value.detach().requires_grad_() for name, value in w.items()}
    g = torch.autograd.grad(inner(leaves), list(leaves.values()), create_graph=True)
    stepped = {name: leaf - lr * grad for (name, leaf), grad in zip(leaves.items(), g, strict=True)}
    return torch.autograd.grad(outer(stepped), theta)


@pytest.mark.parametrize("seed", range(5))
def test_the_directional_derivative_is_the_exact_second_order_gradient(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 5)).double()
    meta = MatchingNetwork(4, 5).double()
    probe, x, x_val = (torch.randn(n, 6, dtype=torch.float64) for n in (4, 16, 16))
    p, q = (torch.randn(n, 5, dtype=torch.float64).softmax(1) for n in (4, 16))
    y = torch.randint(5, (16,))

    def run(w, images):
        return torch.func.functional_call(net, dict(w), (images,))

    def inner(w):
        m = torch.sigmoid(meta(run(w, probe).softmax(1)[None] - p[None])[0])
        return m * distillation(run(w, x), q)

    def outer(w):
        return F.cross_entropy(run(w, x_val), y)

    w, theta = dict(net.named_parameters()), list(meta.parameters())
    for mine, exact in zip(
        meta_gradient(inner, outer, w, theta, 0.3), second_order(inner, outer, w, theta, 0.3), strict=True
    ):
        torch.testing.assert_close(mine, exact, rtol=1e-5, atol=1e-5 * exact.abs().max().item())


def test_theta_that_follows_the_meta_gradient_makes_the_step_better():
    torch.manual_seed(1)
    net, meta = nn.Linear(6, 5).double(), MatchingNetwork(4, 5).double()
    probe, x = torch.randn(4, 6, dtype=torch.float64), torch.randn(16, 6, dtype=torch.float64)
    p, q, y = torch.full((4, 5), 0.2).double(), torch.randn(16, 5).double().softmax(1), torch.arange(16) % 5

    def inner(w):
        logits = [torch.func.functional_call(net, dict(w), (images,)) for images in (probe, x)]
        return torch.sigmoid(meta(logits[0].softmax(1)[None] - p[None])[0]) * distillation(logits[1], q)

    def outer(w):
        return F.cross_entropy(torch.func.functional_call(net, dict(w), (x,)), y)

    def after_a_step():
        w = dict(net.named_parameters())
        g = torch.autograd.grad(inner(w), list(w.values()))
        return outer({n: v - 0.5 * d for (n, v), d in zip(w.items(), g, strict=True)}).item()

    before = after_a_step()
    for parameter, gradient in zip(
        meta.parameters(),
        meta_gradient(inner, outer, dict(net.named_parameters()), list(meta.parameters()), 0.5),
        strict=True,
    ):
        parameter.data -= 0.1 * gradient / gradient.norm()
    assert after_a_step() < before


def test_ranks_average_every_part_of_the_gradient():
    torch.manual_seed(2)
    net, meta, calls = nn.Linear(3, 2), MatchingNetwork(1, 2), []

    def inner(w):
        return torch.sigmoid(meta(torch.func.functional_call(net, dict(w), (torch.ones(1, 3),))[None])[0])

    def average(values):
        calls.append(values.numel())
        return values

    w = dict(net.named_parameters())
    meta_gradient(inner, inner, w, list(meta.parameters()), 0.1, average=average)
    assert calls == [8, 8, 3, 3]  # dF/dw, dL_val/dw, and dF/dtheta at both ends


def test_a_gradient_of_nothing_is_zero_and_of_no_number_is_none():
    meta, w = MatchingNetwork(1, 2), {"w": torch.ones(2)}
    theta = list(meta.parameters())

    def inner(weights):
        return meta(weights["w"].view(1, 1, 2))[0]

    assert all(not g.any() for g in meta_gradient(inner, lambda w: w["w"].sum() * 0, w, theta, 0.1))
    nans = meta_gradient(inner, lambda w: w["w"].sum() * float("nan"), w, theta, 0.1)
    assert all(g.isnan().all() for g in nans)


def test_all_entries_are_compared_in_one_product_and_as_one_by_one():
    torch.manual_seed(0)
    meta, differences, calls = MatchingNetwork(4, 10), torch.randn(7, 4, 10), []
    meta.register_forward_hook(lambda *_: calls.append(1))
    together = meta(differences)
    assert (together.shape, len(calls)) == ((7,), 1)
    torch.testing.assert_close(together, torch.cat([meta(one[None]) for one in differences]))


def test_the_matching_network_starts_as_the_reference_s():
    torch.manual_seed(0)
    meta = MatchingNetwork(4, 1000)
    assert meta.weight.abs().max() <= 1
    assert meta.weight.var().item() == pytest.approx(1 / 3, rel=0.05)
    assert not meta.bias.any()


def test_the_loss_weighs_teacher_and_labels_by_m():
    kd, ce = torch.tensor(3.0), torch.tensor(1.0)
    assert joined_loss(ce, kd, torch.tensor(0.5)).item() == pytest.approx((0.5 * 3 + 1.5 * 1) / 2)
    logits, q = torch.randn(6, 4), torch.randn(6, 4).softmax(1)
    by_hand = -(q * logits.log_softmax(1)).sum(1).mean()
    assert distillation(logits, q).item() == pytest.approx(by_hand.item(), abs=1e-6)


def entry(accuracy, macs, **options):
    from archloom.architecture import Architecture

    return Entry(
        Architecture({"layer": options.pop("layer", f"{accuracy} {macs}")}), accuracy, macs, torch.zeros(1, 2)
    )


def test_board_entries_go_through_their_state_unchanged():
    one = entry(50.0, 7)
    assert Entry.from_state(one.to_state()) == one
    assert Board(3, (one,)).histogram() == {"50.0 7": 1}
