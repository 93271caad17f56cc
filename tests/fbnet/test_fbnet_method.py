from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch.utils.data import TensorDataset

import archloom_fbnet
from archloom.architecture import Choice
from archloom.errors import ConfigError, SearchError, SpaceError
from archloom.model import ModelParts
from archloom.plugins import Host
from archloom.ranks import Ranks
from archloom.shared import SharedChoice
from archloom.space import Around, check
from archloom_fbnet.method import FBNet
from archloom_fbnet.space import FBNetSpace


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On images this small a second thread only waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Stripes:
    """8x8 images, class 0 with horizontal and class 1 with vertical stripes, in noise."""

    name, shape, classes = "stripes", (1, 8, 8), ("horizontal", "vertical")

    def dataset(self, *splits: str, augment: bool = False, resolution: int | None = None) -> TensorDataset:
        generator = torch.Generator().manual_seed(sum(map(ord, "".join(splits))))
        y = torch.arange(24) % 2
        wave = torch.tensor([1.0, -1.0]).repeat(4)
        stripes = torch.stack([wave.view(8, 1).expand(8, 8), wave.view(1, 8).expand(8, 8)])[y]
        x = stripes + 0.3 * torch.randn(24, 8, 8, generator=generator)
        return TensorDataset(x.unsqueeze(1), y)


def make(space: Any = None, ranks: Ranks | None = None, seed: int = 1, **options: Any) -> FBNet:
    if space is None:
        space = FBNetSpace(
            form="small",
            in_channels=1,
            stages=[[16, 2, 2]],
            candidates=["ir_k3_e1", "ir_k5_s2", "skip"],
            head_width=16,
            norm=options.pop("norm", "bn"),
        )
    defaults: dict[str, Any] = {
        "cost": "macs",
        "unit": "M",
        "loss": "additive",
        "alpha": 0.1,
        "batch_size": 8,
        "epochs": 3,
    }
    defaults |= {"warmup_epochs": 1, "lr": 0.02}
    return FBNet(
        space,
        Stripes(),
        seed=seed,
        ranks=ranks or Ranks(),
        model=ModelParts(),
        device=torch.device("cpu"),
        precision=options.pop("precision", "float32"),
        recorded=lambda name, measure: json.loads(json.dumps(measure())),
        **(defaults | options),
    )


def snapshot(method: FBNet) -> dict[str, Any]:
    """The state as a checkpoint would hold it."""
    buffer = io.BytesIO()
    torch.save(method.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, value in items for k, v in flat(value, f"{prefix}{key}.").items()}
    return {prefix: state}


def assert_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key], key


@pytest.mark.parametrize(
    "options", [{}, {"mode": "single_path"}, {"mode": "top_k", "k": 2}, {"reference": True}]
)
def test_a_search_interrupted_at_any_unit_goes_on_to_the_bit(options):
    whole = make(unit_steps=2, **options)
    units = list(whole.fit())
    assert [u.unit for u in units] == list(range(1, units[0].of + 1))
    assert units[-1].epochs == 3
    end, proposals = snapshot(whole), [whole.propose() for _ in range(4)]
    for stop in (1, 3, len(units) - 1):
        first = make(unit_steps=2, **options)
        next(progress for progress in first.fit() if progress.unit == stop)
        second = make(unit_steps=2, **options)
        second.load_state_dict(snapshot_between_units(first, stop))
        assert [dict(u.metrics) for u in second.fit()] == [dict(u.metrics) for u in units[stop:]]
        assert_equal(snapshot(second), end)
        assert [second.propose() for _ in range(4)] == proposals


def snapshot_between_units(method: FBNet, done: int) -> dict[str, Any]:
    state = snapshot(method)
    assert state["done"] == done
    return state


def test_each_pass_changes_its_own_parameters_only():
    method = make(epochs=2)
    before = snapshot(method)
    for progress in method.fit():
        after = snapshot(method)
        changed = {
            "weights": any(
                not torch.equal(before["supernet"][name], after["supernet"][name])
                for name, _ in method.supernet.named_parameters()
            ),
            "theta": any(
                not torch.equal(before["theta"][name], after["theta"][name]) for name in method.theta
            ),
        }
        phase = "weights" if "weights.ce" in progress.metrics else "theta"
        assert changed == {"weights": phase == "weights", "theta": phase == "theta"}
        frozen = method.weights if phase == "theta" else method.theta.values()
        assert all(parameter.grad is None for parameter in frozen)
        before = after


def test_theta_is_left_alone_in_the_warm_up():
    method = make(epochs=3, warmup_epochs=3)
    list(method.fit())
    assert all(torch.equal(theta, torch.full((3,), 1 / 3)) for theta in method.theta.values())


def test_the_search_learns_the_task():
    method = make(epochs=12, warmup_epochs=4, lr=0.05, alpha=0.01)
    last = {key: value for progress in method.fit() for key, value in progress.metrics.items()}
    assert last["weights.accuracy"] > 90
    assert last["theta.accuracy"] > 90


def test_a_heavy_cost_draws_theta_to_the_cheapest_candidates():
    method = make(epochs=12, warmup_epochs=0, theta_lr=0.2, alpha=1000.0)
    first, *_, last = [progress.metrics for progress in method.fit()]
    assert last["cost.expected_M"] < first["cost.expected_M"]
    assert last["theta.entropy"] < 0.7 * first["theta.entropy"]
    cheapest = [method.costs.costs[name].index(min(method.costs.costs[name])) for name in method.theta]
    assert [
        c.index(o) for c, o in zip(method.space.choices, method.propose().values(), strict=True)
    ] == cheapest


@pytest.mark.parametrize(
    ("options", "runs"), [({"mode": "soft"}, 3), ({"mode": "single_path"}, 1), ({"mode": "top_k", "k": 2}, 2)]
)
def test_a_mode_runs_so_many_candidates(options, runs):
    method = make(epochs=1, warmup_epochs=0, **options)
    calls: list[int] = []
    for layer in method.supernet.modules():
        if isinstance(layer, SharedChoice):
            for option in layer.options:
                option.register_forward_hook(lambda *_: calls.append(1))
    list(method.fit())
    steps = sum(span.stop - span.start for span in method.plan)
    assert len(calls) == 2 * runs * steps


@pytest.mark.parametrize("options", [{"mode": "soft"}, {"mode": "single_path"}, {"mode": "top_k", "k": 2}])
def test_every_mode_gives_theta_a_gradient_and_the_weights_none(options):
    method = make(**options)
    x, y = method.data["theta"].tensors
    masks = method.masks(1.0, torch.Generator().manual_seed(0))
    with method.still("theta"):
        method.losses(x, y, masks)[1].backward()
    for name, theta in method.theta.items():
        # the k heaviest are scaled to sum one, so that the others cancel out of their weights
        reached = range(3) if options["mode"] != "top_k" else masks[name].active
        assert all(theta.grad[i].abs() > 1e-6 for i in reached)
    assert all(parameter.grad is None for parameter in method.weights)


def searched(**options):
    method = make(epochs=5, warmup_epochs=0, theta_lr=0.2, unit="K", **options)
    metrics = [progress.metrics for progress in method.fit()]
    return method, metrics


def test_alpha_only_scales_over_any_range():
    thetas = []
    for exponent in (40, 70, 110, 900):
        method, metrics = searched(loss="paper", alpha=2.0**exponent, beta=4.0)
        thetas.append(torch.cat(list(method.theta.values())))
        assert metrics[1]["theta.loss"] > 2.0**exponent
    assert all(torch.equal(theta, thetas[0]) for theta in thetas[1:])
    for alpha in (1e-300, 1e-20):
        method, _ = searched(loss="paper", alpha=alpha, beta=4.0, theta_weight_decay=0.0)
        assert torch.allclose(torch.cat(list(method.theta.values())), thetas[0], atol=1e-3)


def test_a_heavy_cost_leads_to_cheap_networks_where_squares_overflow_too(caplog):
    for beta in (24, 30, 60, 120, 1000):
        method, metrics = searched(loss="paper", beta=beta)
        cost = metrics[-1]["cost.expected_K"]
        assert cost < method.costs.cheapest + 0.1 * (method.costs.dearest - method.costs.cheapest)
        assert all(math.isfinite(value) for value in metrics[-1].values())
    assert "stood still" not in caplog.text


@pytest.mark.parametrize("options", [{"mode": "single_path"}, {"mode": "top_k", "k": 1}])
def test_one_path_at_a_time_a_cost_alone_leads_to_the_cheapest_candidates(options):
    # a loss of the cost alone: additive, with a weight beside which the cross entropy is nothing
    method = make(epochs=12, warmup_epochs=0, theta_lr=0.2, loss="additive", alpha=1e6, **options)
    list(method.fit())
    cheapest = [method.costs.costs[name].index(min(method.costs.costs[name])) for name in method.theta]
    assert [int(p.argmax()) for p in method.probabilities().values()] == cheapest
    assert method.entropy() < 0.5


def test_the_weight_pass_minimizes_the_task_s_loss_alone_unless_the_reference_is_asked_for():
    for reference in (False, True):
        method = make(reference=reference, alpha=5.0)
        x, y = method.data["weights"].tensors
        ce, loss, _ = method.losses(x, y, method.masks(1.0, torch.Generator().manual_seed(0)), "weights")
        assert (loss.item() == ce.item()) != reference


def test_proposals_are_the_likeliest_and_then_distinct_draws():
    method = make(samples=5)
    with torch.no_grad():
        method.theta["layer0"].copy_(torch.tensor([0.0, 0.0, 2.0]))
        method.theta["layer1"].copy_(torch.tensor([0.5, 0.0, 0.0]))
    found = [method.propose() for _ in range(6)]
    assert found[0] == method.space.architecture(["skip", "ir_k3_e1"])
    assert found[5] is None
    assert len(set(found[:5])) == 5
    assert all(check(method.space, architecture) for architecture in found[:5])


def test_proposals_end_when_theta_has_nothing_new():
    method = make(samples=50)
    found = []
    while (architecture := method.propose()) is not None:
        found.append(architecture)
    assert len(found) == len(set(found)) == 9


def test_draws_follow_the_probabilities():
    method, counts = make(samples=2), torch.zeros(3)
    with torch.no_grad():
        method.theta["layer0"].copy_(torch.tensor([0.0, 0.0, 1.5]))
        method.theta["layer1"].zero_()
    for seed in range(2000):
        method.seed, method._proposed = seed, []
        _, drawn = method.propose(), method.propose()
        counts[method.space.choices[0].index(drawn["layer0"])] += 1
    expected = torch.softmax(torch.tensor([0.0, 0.0, 1.5]), 0)
    expected = torch.stack([expected[0], expected[1], expected[2] * 2 / 3])  # (skip, ir_k3_e1) was the first
    torch.testing.assert_close(counts / 2000, expected / expected.sum(), atol=0.04, rtol=0)


def test_a_loss_that_is_no_number_stops_the_search_with_the_way_out():
    method = make(lr=1e30)
    with pytest.raises(SearchError, match=r"weights pass became (nan|inf).*in step \d+ .*lower lr"):
        list(method.fit())


def test_bfloat16_trains():
    method = make(precision="bfloat16", epochs=2)
    assert all(value == value for progress in method.fit() for value in progress.metrics.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": 9}, "warmup_epochs must lie in"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"mode": "hard"}, "mode must be"),
        ({"loss": "paper"}, "positive log"),
        ({"loss": "target"}, "needs a target cost in M"),
        ({"unit": "ms"}, "have unit K or M"),
        ({"table": "x.json"}, "a table is of latencies"),
        ({"cost": "latency", "table": "/nowhere/x.json"}, "cannot read"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_a_space_with_a_choice_that_is_no_layer_is_refused():
    class WithResolution(FBNetSpace):
        def __init__(self) -> None:
            super().__init__(form="small", in_channels=1, candidates=["skip", "ir_k3_e1"])
            self.choices = [*self.choices, Choice("resolution", (8, 16))]

        def candidate(self, choice: Choice, option: Any) -> Any:
            return None if choice.name == "resolution" else super().candidate(choice, option)

    with pytest.raises(SpaceError, match=r"\['resolution'\] are none"):
        make(WithResolution())


def test_a_space_with_layers_under_conditions_is_refused():
    class Conditional(FBNetSpace):
        def __init__(self) -> None:
            super().__init__(form="small", in_channels=1, candidates=["skip", "ir_k3_e1"])
            first, second, *others = self.choices
            self.choices = [
                first,
                Choice(second.name, second.options, when={first.name: ("ir_k3_e1",)}),
                *others,
            ]

    with pytest.raises(SpaceError, match=r"\['layer1'\] are there only under conditions"):
        make(Conditional())


def test_a_stranger_s_space_can_be_searched():
    class Widths:
        choices = (Choice("kernel", (1, 3)),)

        def candidate(self, choice: Choice, option: int) -> torch.nn.Module:
            return torch.nn.Conv2d(4, 4, option, padding=option // 2)

        def around(self, body: torch.nn.Module) -> torch.nn.Module:
            return Around(torch.nn.Conv2d(1, 4, 3, padding=1), body)

        def build(self, architecture: Any) -> torch.nn.Module:
            raise NotImplementedError

    method = make(Widths(), epochs=2)
    list(method.fit())
    assert method.propose()["kernel"] in (1, 3)
    assert method.costs.costs["kernel"] == pytest.approx([16 * 64 / 1e6, 9 * 16 * 64 / 1e6])


def test_the_plugin_registers_its_space_and_its_method():
    host = Host(entry_points=False)
    host.add(archloom_fbnet, "fbnet", "archloom", "0")
    entry = host.get("strategy", "fbnet")
    assert entry.shares_weights
    assert entry.needs == ("supernet", "differentiable")
    assert entry.validate({"mode": "top_k", "target": 3})["target"] == 3.0
    with pytest.raises(ConfigError, match="mode"):
        entry.validate({"mode": "hard"})
    space = host.get("space", "fbnet")
    assert len(space.make(space.validate({"form": "small"})).choices) == 7


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for norm in ("bn", "gn"):
        method = make(ranks=Ranks(rank, 2), norm=norm, epochs=2)
        metrics = [dict(progress.metrics) for progress in method.fit()]
        torch.save({"state": method.state_dict(), "metrics": metrics}, f"{folder}/{norm}{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_agree_to_the_bit_and_with_one_process_up_to_rounding(tmp_path):
    mp.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="spawn")
    ended = {
        norm: [torch.load(tmp_path / f"{norm}{rank}.pt", weights_only=True) for rank in (0, 1)]
        for norm in ("bn", "gn")
    }
    for norm in ended:
        assert_equal(*ended[norm])
    # BatchNorm sees half a batch on each rank: only without it is one process the same
    alone = make(norm="gn", epochs=2)
    list(alone.fit())
    for part in ("supernet", "theta"):
        ours, theirs = flat(snapshot(alone)[part]), flat(ended["gn"][0]["state"][part])
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], atol=1e-4, rtol=1e-3)


def test_what_a_user_froze_stays_frozen_and_the_rest_can_be_trained_after_the_search():
    method = make(epochs=3)
    frozen = dict(method.supernet.head.named_parameters())["fc.weight"].requires_grad_(False)
    before = frozen.detach().clone()
    for _ in method.fit():
        assert not frozen.requires_grad
    assert frozen.equal(before)
    others = [p for p in method.weights if p is not frozen]
    assert len(others) == len(method.weights) - 1
    assert all(p.requires_grad for p in others)
    child = method.supernet.extract(method.propose())
    assert [name for name, p in child.named_parameters() if not p.requires_grad] == ["head.fc.weight"]
