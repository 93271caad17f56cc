"""The strategy: training, sampling, teachers, the board, resuming and several processes."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed as dist
from torch.utils.data import TensorDataset

from archloom.architecture import Choice
from archloom.cost import count
from archloom.errors import ConfigError, SearchError, SpaceError
from archloom.randomness import python_rng
from archloom.ranks import Ranks
from archloom.space import Around, build_chain, sample
from archloom.testing import WeightSharingContract, run_context
from archloom_cream import Cream, CreamSpace
from archloom_cream.schedule import linear, reference_linear


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
        side = resolution or 8
        generator = torch.Generator().manual_seed(sum(map(ord, "".join(splits))))
        y = torch.arange(24) % 2
        wave = torch.tensor([1.0, -1.0]).repeat(side // 2)
        rows, columns = wave.view(side, 1).expand(side, side), wave.view(1, side).expand(side, side)
        x = torch.stack([rows, columns])[y] + 0.3 * torch.randn(24, side, side, generator=generator)
        return TensorDataset(x.unsqueeze(1), y)


def small(**options: Any) -> CreamSpace:
    given = {"stages": [[8, 2, 2]], "candidates": ["k3_e2", "k3_e4", "k5_e2"]} | options
    return CreamSpace(form="small", in_channels=1, **given)


def make(space: Any = None, *, seed: int = 1, ranks: Ranks | None = None, **options: Any) -> Cream:
    defaults: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 8,
        "lr": 0.1,
        "start_epoch": 1,
        "board": 3,
        "slices": 4,
        "meta_every": 2,
        "recalibration": 1,
    }
    handed = {name: options.pop(name) for name in ("model", "precision") if name in options}
    context = run_context(space or small(), options.pop("task", Stripes()), seed=seed, ranks=ranks)
    return Cream(replace(context, **handed), **(defaults | options))


def trained(*args: Any, **options: Any) -> Cream:
    method = make(*args, **options)
    list(method.fit())
    return method


def snapshot(method: Cream) -> dict[str, Any]:
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


def assert_equal(a: Any, b: Any) -> None:
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key], key


def board_of(method: Cream) -> list[tuple[str, float, int]]:
    return [(str(e.architecture), e.accuracy, e.macs) for e in method.board.entries]


# -- the contract, resuming, ranks ---------------------------------------------------------------------


class TestContract(WeightSharingContract):
    factory = Cream
    options = {  # noqa: RUF012
        "epochs": 3,
        "batch_size": 16,
        "start_epoch": 1,
        "board": 3,
        "meta_every": 2,
        "unit_steps": 1,
        "lr": 0.05,
    }


@pytest.mark.parametrize("options", [{}, {"teacher": "top1"}, {"sampling": "board"}, {"reference": True}])
def test_a_search_interrupted_at_any_unit_goes_on_to_the_bit(options):
    options = {"unit_steps": 2, "lr": 1.0} | options  # at lr 1 the reference's schedule is the paper's
    whole = make(**options)
    units = list(whole.fit())
    assert units[-1].epochs == 3
    end = snapshot(whole)
    assert end["board"]
    for stop in (1, 3, len(units) - 1):
        first = make(**options)
        next(progress for progress in first.fit() if progress.unit == stop)
        second = make(**options)
        second.load_state_dict(snapshot(first))
        assert [dict(unit.metrics) for unit in second.fit()] == [dict(unit.metrics) for unit in units[stop:]]
        assert_equal(snapshot(second), end)
        assert second.propose() == first_proposal(whole)


def first_proposal(method):
    return method.board.entries[0].architecture


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name, options in RANKED.items():
        method = make(ranks=Ranks(rank, 2), **options)
        metrics = [dict(progress.metrics) for progress in method.fit()]
        torch.save({"state": method.state_dict(), "metrics": metrics}, f"{folder}/{name}{rank}.pt")
    dist.destroy_process_group()


RANKED: dict[str, dict[str, Any]] = {"paper": {}, "reference": {"reference": True, "lr": 1.0}}


@pytest.mark.slow
def test_two_ranks_end_with_the_same_weights_meta_network_and_board(tmp_path):
    mp.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="spawn")
    for name in RANKED:
        first, second = (torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in (0, 1))
        assert first["state"]["board"]
        assert_equal(first, second)


# -- paths ----------------------------------------------------------------------------------------------


def test_the_path_of_a_step_is_a_function_of_the_seed_and_the_step():
    one, other = make(), make()
    assert [one.path(step) for step in range(20)] == [other.path(step) for step in reversed(range(20))][::-1]
    assert [one.path(step) for step in range(20)] != [make(seed=2).path(step) for step in range(20)]


def shares(method: Cream, draws: int = 3000) -> dict[str, float]:
    histogram = method.board.histogram()
    drawn = Counter(
        option
        for step in range(draws)
        for option in method.sampler.draw(python_rng(0, "test", step), histogram).values()
    )
    return {option: number / sum(drawn.values()) for option, number in drawn.items()}


def test_uniform_sampling_is_uniform():
    assert shares(make()) == pytest.approx({"k3_e2": 1 / 3, "k3_e4": 1 / 3, "k5_e2": 1 / 3}, abs=0.03)


def test_given_probabilities_are_in_force():
    given = {"k3_e2": 0.7, "k3_e4": 0.3, "k5_e2": 0.0}
    assert shares(make(sampling="given", probabilities=given)) == pytest.approx(
        {"k3_e2": 0.7, "k3_e4": 0.3}, abs=0.03
    )


def test_the_board_s_histogram_is_in_force():
    method = trained(sampling="board")
    histogram = method.board.histogram()
    expected = {option: number / sum(histogram.values()) for option, number in histogram.items()}
    assert shares(method) == pytest.approx(expected, abs=0.03)
    assert shares(make(sampling="board")) == pytest.approx(
        dict.fromkeys(("k3_e2", "k3_e4", "k5_e2"), 1 / 3), abs=0.03
    )


def test_the_reference_samples_uniformly_whatever_is_asked_for():
    given = {"k3_e2": 1.0, "k3_e4": 0.0, "k5_e2": 0.0}
    method = make(sampling="given", probabilities=given, reference=["sampling"])
    assert shares(method) == pytest.approx(dict.fromkeys(given, 1 / 3), abs=0.03)


@pytest.mark.parametrize(
    "options", [{}, {"skip": True}, {"resolution": [4, 8]}, {"candidates": ["k3_e2", "basic"]}]
)
def test_the_cost_of_a_path_is_that_of_the_network_cut_out(options):
    space = small(**options)
    method = make(space)
    for seed in range(8):
        a = sample(space, python_rng(seed, "a"))
        shape = space.input_shape(a, Stripes())
        assert method.costs(a) == count(method.supernet.extract(a), shape).macs
    every = [method.costs(sample(space, python_rng(seed, "b"))) for seed in range(200)]
    assert (min(every), max(every)) == method.costs.bounds()


def test_paths_and_board_keep_the_range_of_costs():
    low, high = make().costs.bounds()
    bound = [low, (low + high) / 2]
    method, costs = make(macs=bound, epochs=4), []
    for step in range(200):
        costs.append(method.costs(method.path(step)))
    assert bound[0] <= min(costs) <= max(costs) <= bound[1]
    list(method.fit())
    assert method.board.entries
    assert all(bound[0] <= entry.macs <= bound[1] for entry in method.board.entries)
    free = make(macs=bound, reference=["range"])
    assert max(free.costs(free.path(step)) for step in range(200)) > bound[1]


def test_a_range_that_holds_no_path_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match=r"holds no path: the space's networks have [\d,]+ to"):
        make(macs=[0, 10])
    low, high = make().costs.bounds()
    with pytest.raises(SearchError, match="the nearest has"):
        make(macs=[high - 1, high - 0.5]).path(0)
    assert low < high


def test_a_space_whose_costs_do_not_add_up_is_refused():
    class Strides:
        choices = (Choice("a", (1, 2)), Choice("b", (1, 3)))

        def candidate(self, choice, option):
            stride, kernel = (option, 3) if choice.name == "a" else (1, option)
            return torch.nn.Conv2d(4, 4, kernel, stride, kernel // 2)

        def around(self, body):
            return Around(torch.nn.Conv2d(1, 4, 1), body)

        def build(self, architecture):
            return build_chain(self, architecture)

    with pytest.raises(SpaceError, match="do not add up"):
        make(Strides())


def test_a_path_of_another_resolution_sees_smaller_images():
    space, seen = small(resolution=[4, 8]), []
    method = make(space)

    def note(_, args):
        if args[0].device.type != "meta":  # a path that is run, not one that is counted
            seen.append((args[0].shape[2], args[1]["resolution"]))

    method.supernet.register_forward_pre_hook(note)
    list(method.fit())
    assert {side for side, _ in seen} == {4, 8}
    assert all(side == asked for side, asked in seen)
    assert all(method.judge(entry.architecture) >= 0 for entry in method.board.entries)


# -- schedule and optimizer -------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [0.1, 0.5, 1.0, 3.0])
def test_the_learning_rate_falls_in_a_line_and_never_below_zero(lr):
    rates = [linear(lr, step, 100) for step in range(121)]
    assert rates[0] == lr
    assert rates[50] == pytest.approx(lr / 2)
    assert min(rates) == rates[100] == rates[120] == 0
    assert rates == sorted(rates, reverse=True)


def test_the_reference_s_schedule_is_the_same_at_one_and_turns_negative_below():
    assert [reference_linear(1.0, s, 10) for s in range(10)] == pytest.approx(
        [linear(1.0, s, 10) for s in range(10)]
    )
    assert reference_linear(0.5, 0, 10) == 0.25
    assert reference_linear(0.5, 8, 10) < 0
    method = make(lr=0.5, epochs=4, reference=["schedule"])
    assert [next(iter(method.fit())).metrics["lr"]] == pytest.approx([0.5 * (0.5 - 2 / 12)])


def test_the_schedule_s_length_is_that_of_the_data():
    method, rates = make(epochs=3), []
    for progress in method.fit():
        rates.append(progress.metrics["lr"])
    assert method.steps == 9  # 24 images, batches of 8, three epochs
    assert rates == pytest.approx([0.1 * (1 - step / 9) for step in (2, 5, 8)])


def test_one_dimensional_parameters_do_not_decay():
    method = make(weight_decay=0.1)
    for group in method.optimizer.param_groups:
        for parameter in group["params"]:
            assert (group["weight_decay"] == 0.0) == (parameter.ndim <= 1)


def test_a_step_leaves_all_other_paths_alone():
    method = make(epochs=2, start_epoch=1, weight_decay=0.5)
    stream = iter(torch.utils.data.DataLoader(method.data, 8))
    for step in range(3):
        used = set(method.runner.weights_of(method.path(step)))
        before = {n: p.detach().clone() for n, p in method.supernet.named_parameters()}
        method.supernet.train()
        from archloom_cream.record import Record

        method._step(*next(stream), 0, step, Record())
        moved = {n for n, p in method.supernet.named_parameters() if not torch.equal(p, before[n])}
        assert moved <= used
        assert len(moved) > len(used) / 2


# -- teachers ----------------------------------------------------------------------------------------------


def test_there_is_no_teacher_before_the_board_opens_and_one_after():
    method = make(epochs=4, start_epoch=2)
    units = [progress.metrics for progress in method.fit()]
    assert ["teacher.m" in metrics for metrics in units] == [False, False, True, True]
    assert ["board_accuracy.1" in metrics for metrics in units] == [False, False, True, True]
    assert all(0 < metrics["teacher.m"] < 1 for metrics in units[2:])


def test_the_teacher_is_the_entry_of_the_largest_weight_and_m_its_sigmoid():
    method = trained()
    a = method.path(0)
    w = method.teachers.compare(a, method.board).detach()
    match = method.teachers.match(a, method.board, 0)
    assert match.place == int(w.argmax())
    assert match.m.item() == pytest.approx(torch.sigmoid(w.max()).item(), abs=1e-6)
    assert match.weights == pytest.approx(torch.sigmoid(w).tolist(), abs=1e-6)
    reference = make(reference=["weight"])
    reference.load_state_dict(method.state_dict())
    theirs = reference.teachers.match(a, reference.board, 0)
    assert theirs.m.item() == pytest.approx(torch.sigmoid(-w[-1]).item(), abs=1e-6)


def test_each_weight_compares_the_path_s_own_probabilities_with_the_entry_s():
    method = trained()
    a, probe = method.path(3), method.teachers.probe
    own = method.runner.told(a, probe)
    for entry, w in zip(method.board.entries, method.teachers.compare(a, method.board).tolist(), strict=True):
        theirs = method.runner.told(entry.architecture, probe)  # refreshed at the end of the epoch
        torch.testing.assert_close(entry.features, theirs)
        by_hand = method.teachers.meta.weight @ (own - theirs).flatten() + method.teachers.meta.bias
        assert w == pytest.approx(by_hand.item(), abs=1e-5)


def test_the_reference_keeps_the_teacher_s_probabilities_of_the_entry_s_own_images():
    method = trained(reference=["features"])
    for entry in method.board.entries:
        assert entry.images.shape == (4, 1, 8, 8)
        assert entry.features.shape == (4, 2)
    assert method.teachers.compare(method.path(0), method.board).shape == (3,)


def test_at_top1_the_best_entry_teaches_with_half_a_weight_and_nothing_is_learnt_by_the_meta_network():
    method = make(teacher="top1")
    before = {n: p.clone() for n, p in method.teachers.meta.state_dict().items()}
    units = [progress.metrics for progress in method.fit()]
    assert units[-1]["teacher.m"] == 0.5
    assert method.teachers.match(method.path(0), method.board, 0).place == 0
    assert_equal(method.teachers.meta.state_dict(), before)


def test_the_meta_network_learns_at_its_interval_alone():
    for every, learns in ((1, True), (1000, False)):
        method = make(meta_every=every, meta_lr=0.1)
        before = method.teachers.meta.weight.detach().clone()
        list(method.fit())
        assert torch.equal(before, method.teachers.meta.weight) != learns


def test_in_the_reference_the_meta_network_also_follows_the_loss_of_each_step():
    method = make(meta_every=1000, meta_lr=0.1, reference=["joint"])
    before = method.teachers.meta.weight.detach().clone()
    list(method.fit())
    assert not torch.equal(before, method.teachers.meta.weight)


def test_the_meta_gradient_is_scaled_by_the_path_s_rate_and_in_the_reference_by_the_meta_network_s():
    method, steps = trained(), {}
    x, y = method.data.tensors
    start = method.teachers.meta.weight.detach().clone()
    for name, reference in (("paper", frozenset()), ("inner", frozenset({"inner"}))):
        method.teachers.reference = reference
        method.teachers.optimizer = torch.optim.SGD(method.teachers.theta, lr=1.0)
        method.teachers.lr = 1e-3
        with torch.no_grad():
            method.teachers.meta.weight.copy_(start)
        method.teachers.learn(
            method.path(0), method.board, x[:8], (x[8:16], y[8:16]), method.supernet.loss, 0.01, 0
        )
        steps[name] = method.teachers.meta.weight.detach() - start
    assert steps["paper"].norm() > 0
    torch.testing.assert_close(steps["paper"], 10 * steps["inner"], rtol=1e-2, atol=1e-6)


def test_weights_that_are_no_numbers_stop_the_search_with_the_way_out():
    method = trained()
    with torch.no_grad():
        method.teachers.meta.weight.fill_(float("nan"))
    with pytest.raises(SearchError, match=r"step 7: the meta network weighs.*teacher: top1"):
        method.teachers.match(method.path(0), method.board, 7)


def test_a_meta_gradient_that_is_no_number_stops_the_search_and_leaves_theta():
    method = trained()
    before = method.teachers.meta.weight.detach().clone()
    x, y = method.data.tensors

    def broken(logits, labels):
        return logits.sum() * float("nan")

    with pytest.raises(SearchError, match=r"gradient of the meta network is no number"):
        method.teachers.learn(method.path(0), method.board, x[:8], (x[8:16], y[8:16]), broken, 0.1, 3)
    assert torch.equal(before, method.teachers.meta.weight)


def test_a_loss_that_is_no_number_stops_the_search_with_the_way_out():
    with pytest.raises(SearchError, match=r"step \d+: .*(nan|inf).* at lr .*; lower lr"):
        list(make(lr=1e30).fit())


# -- the board ---------------------------------------------------------------------------------------------


def test_judging_a_path_leaves_the_supernet_as_it_is():
    method = trained()
    before = {k: v.clone() for k, v in method.supernet.state_dict().items()}
    first = method.judge(method.path(0))
    assert_equal(method.supernet.state_dict(), before)
    assert first == method.judge(method.path(0))


def test_entries_are_measured_anew_on_held_out_images_at_the_end_of_each_epoch():
    method = trained()
    for entry in method.board.entries:
        assert entry.accuracy == method.judge(entry.architecture)
    accuracies = [entry.accuracy for entry in method.board.entries]
    assert accuracies == sorted(accuracies, reverse=True)


def test_the_board_is_filled_with_distinct_paths_up_to_its_capacity():
    method = trained(board=4, epochs=6)
    names = [str(entry.architecture) for entry in method.board.entries]
    assert len(names) == len(set(names)) == 4


def test_in_the_reference_an_entry_keeps_the_accuracy_of_its_training_batch():
    method = trained(reference=["score"])
    assert all(entry.accuracy % 12.5 == 0 for entry in method.board.entries)  # of eight images
    kept = board_of(method)
    method.done, method.plan = 0, method.plan[:1]
    list(method.fit())
    assert board_of(method) == kept  # an epoch before the start changes nothing


def test_the_board_is_proposed_best_first_and_then_nothing():
    method = trained()
    proposed = [method.propose() for _ in range(4)]
    assert proposed == [*(entry.architecture for entry in method.board.entries), None]


def test_the_supernet_learns_the_task():
    last = list(make(epochs=10, start_epoch=4).fit())[-1].metrics
    assert last["board_accuracy.1"] > 90


def test_bfloat16_trains():
    method = make(precision="bfloat16")
    assert all(value == value for progress in method.fit() for value in progress.metrics.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_epoch": 3}, "never opens has nothing to propose"),
        ({"board": 0}, "board must be at least 1"),
        ({"slices": 100}, "paths are compared on 100"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"reference": ["features"], "batch_size": 2}, "make batch_size larger"),
        ({"macs": [1.0]}, r"a range \[low, high\]"),
        ({"macs": [9e9, 1e9]}, "holds no path"),
        ({"sampling": "given"}, "go together"),
        ({"probabilities": {"k3_e2": 1.0}}, "go together"),
        ({"sampling": "given", "probabilities": {"k3_e2": 1.0}}, "lacking: .*k3_e4"),
        (
            {"sampling": "given", "probabilities": dict.fromkeys(("k3_e2", "k3_e4", "k5_e2"), 0.0)},
            "no option",
        ),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_the_plugin_registers_its_method():
    from cream_golden import host

    entry = host().get("strategy", "cream")
    assert entry.shares_weights
    assert entry.needs == ("supernet",)
    assert entry.validate({"reference": ["weight", "features"]})["reference"] == ["weight", "features"]
    assert entry.validate({"reference": True})["reference"] is True
    with pytest.raises(ConfigError, match="reference"):
        entry.validate({"reference": ["wieght"]})
    json.dumps(entry.to_json(), default=str)
