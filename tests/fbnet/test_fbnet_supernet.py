"""The supernet against the reference's: mask = softmax(theta / tau) without noise, eval mode, tau 5."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from fbnet_golden import DATA, close, det_input, fill, filled, golden
from torch import Tensor
from torch.utils.data import TensorDataset

from archloom.architecture import Architecture
from archloom.mixing import softmax
from archloom.model import ModelParts
from archloom.ranks import Ranks
from archloom_fbnet.costs import read_table
from archloom_fbnet.loss import expected_cost, paper_loss, reference_loss
from archloom_fbnet.method import FBNet
from archloom_fbnet.space import FBNetSpace


class TenClasses:
    name, shape, classes = "ten", (3, 32, 32), tuple("0123456789")

    def dataset(self, *splits: str, augment: bool = False, resolution: int | None = None) -> TensorDataset:
        return TensorDataset(torch.zeros(4, 3, 32, 32), torch.arange(4))


def unmeasured(name: str, measure: Any) -> Any:
    raise AssertionError("a table was given: nothing is to be measured")


def published_table(folder: Any) -> str:
    """The published measurements, in the text format that they are published in."""
    table = golden()["lookup_table_us"]
    path = folder / "lookup_table.txt"
    rows = [" ".join(table["ops"]), *(" ".join(map(str, row)) for row in table["rows"])]
    path.write_text("\n".join(rows) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> FBNet:
    made = FBNet(
        FBNetSpace(reference=True),
        TenClasses(),
        seed=0,
        ranks=Ranks(),
        model=ModelParts(),
        device=torch.device("cpu"),
        precision="float32",
        recorded=unmeasured,
        table=published_table(tmp_path_factory.mktemp("table")),
        reference=True,
    )
    gain = golden()["supernet"]["gain"]
    fill(made.supernet, made.space.weight_formats[0].theirs, gain)
    with torch.no_grad():
        for index, theta in enumerate(made.theta.values()):
            theta.copy_(filled(f"stages_to_search.{index}.thetas", theta, gain))
    made.draw = softmax  # no noise
    return made


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return golden()["supernet"]["tau_5.0"]


@pytest.fixture
def forward(method: FBNet) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, CE, LAT."""
    for parameter in [*method.weights, *method.theta.values()]:
        parameter.requires_grad_(True)
        parameter.grad = None
    masks = method.masks(5.0, None)
    ce, _, logits = method.losses(det_input(4, 3, 32, 32), torch.tensor([1, 2, 3, 4]), masks)
    lat = expected_cost({n: m.weights for n, m in masks.items()}, method.cost_tensors, method.costs.base)
    return logits, ce, lat


def test_logits_cross_entropy_and_latency_are_the_reference_s(forward, recorded):
    logits, ce, lat = forward
    close(logits, recorded["logits"])
    close(ce, recorded["ce"])
    assert lat.item() == pytest.approx(recorded["latency_us"], rel=1e-6)


def test_the_thetas_are_those_that_were_recorded(method):
    expected = golden()["supernet"]
    close(method.theta["layer0"].detach(), expected["theta_layer0_filled"])
    assert method.propose() == Architecture(
        dict(zip(method.theta, expected["argmax_arch_filled_thetas"], strict=True))
    )


def test_the_reference_s_loss_and_its_gradients_are_the_reference_s(method, forward, recorded):
    _, ce, lat = forward
    loss = reference_loss(ce, lat, 0.2, 0.6)
    close(loss, recorded["loss_reference"])
    loss.backward()
    close(method.theta["layer0"].grad, recorded["theta_grad_layer0"])
    close(method.theta["layer21"].grad, recorded["theta_grad_layer21"])
    total = sum(theta.grad.abs().sum().item() for theta in method.theta.values())
    assert total == pytest.approx(recorded["theta_grad_abs_sum"], rel=1e-3)
    stem = method.supernet.backbone.network.stem.conv.weight.grad
    assert stem.abs().sum().item() == pytest.approx(recorded["w_grad_abs_sum_first_conv"], rel=1e-3)


def test_the_gradients_are_the_reference_s_to_a_thousandth(method, forward, recorded):
    """Many entries are far below the absolute tolerance: compared to the largest of their layer."""
    _, ce, lat = forward
    reference_loss(ce, lat, 0.2, 0.6).backward()
    for layer in ("layer0", "layer21"):
        expected = torch.tensor(recorded[f"theta_grad_{layer}"])
        error = (method.theta[layer].grad - expected).abs().max() / expected.abs().max()
        assert error < 1e-3


def test_the_paper_s_loss_and_its_gradient_are_as_recorded(method, forward, recorded):
    _, ce, lat = forward
    loss = paper_loss(ce, lat, 0.2, 0.6)
    close(loss, recorded["loss_paper_alpha0.2_beta0.6"])
    loss.backward()
    expected = torch.tensor(recorded["theta_grad_paper_layer0"])
    error = (method.theta["layer0"].grad - expected).abs().max() / expected.abs().max()
    assert error < 1e-3


def test_the_method_minimizes_the_loss_that_it_is_asked_for(method, forward, recorded):
    _, loss, _ = method.losses(det_input(4, 3, 32, 32), torch.tensor([1, 2, 3, 4]), method.masks(5.0, None))
    close(loss, recorded["loss_reference"])


@pytest.mark.parametrize("name", golden()["lut_totals_us"])
def test_the_published_table_gives_the_published_networks_their_latency(name, tmp_path):
    space = FBNetSpace(reference=True)
    table = read_table(published_table(tmp_path), space)
    latency = 1000 * table.latency(space.named[name].architecture)
    assert latency == pytest.approx(json.loads(DATA.read_text())["lut_totals_us"][name], rel=1e-12)


@pytest.mark.parametrize(
    ("name", "milliseconds"),
    [("fbnet_c", 82.95), ("fbnet_96_035_1", 44.25), ("fbnet_samsung_s8", 73.64), ("fbnet_iphonex", 73.15),
     ("fbnet_cpu_sample1", 48.91), ("fbnet_cpu_sample2", 44.20)],
)  # fmt: skip
def test_the_published_table_gives_all_named_networks_their_printed_latency(name, milliseconds, tmp_path):
    space = FBNetSpace(reference=True)
    table = read_table(published_table(tmp_path), space)
    assert table.latency(space.named[name].architecture) == pytest.approx(milliseconds, abs=0.005)
