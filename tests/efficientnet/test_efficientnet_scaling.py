"""Compound scaling: the rule, the grid, the space over any base network, and the family of what is found."""

import json
import math
import random
from pathlib import Path

import pytest
import torch
import yaml
from efficientnet_golden import GOLDEN

from archloom import Host, build, search
from archloom.architecture import Architecture
from archloom.config_files import read_config
from archloom.cost import count
from archloom.errors import ConfigError, SpaceError
from archloom.resolve import resolve
from archloom.space import sample
from archloom.testing import SpaceContract, tiny_task
from archloom.zoo import architecture_document, find
from archloom_efficientnet import NAMED, EfficientNet, ScalingSpace, compound
from archloom_efficientnet.compound import axis, cost_factor, grid

PAPER = Architecture({"alpha": 1.2, "beta": 1.1, "gamma": 1.15})
SMALL = {
    "space": {
        "type": "efficientnet",
        "in_channels": 1,
        "native_resolution": False,
        "head_filters": 64,
        "blocks": ["r1_k3_s11_e1_i16_o16_se0.25", "r2_k3_s22_e4_i16_o24_se0.25"],
    },
    "architecture": {"network": "efficientnet-b0"},
}


class TestTheContract(SpaceContract):
    factory, options, samples = ScalingSpace, {"base": SMALL}, 2
    shape = (1, 16, 16)


def outline(config):
    with torch.device("meta"):
        return EfficientNet(config)


def cost(config):
    return count(outline(config), config.image_size)


def test_the_grid_of_the_paper_holds_its_coefficients_and_nothing_that_does_not_about_double_the_cost():
    values = axis(0.05, math.sqrt(2.1))
    found = list(grid(axis(0.05, 2.1), values, values))
    assert (1.2, 1.1, 1.15) in found
    assert cost_factor(1.2, 1.1, 1.15) == pytest.approx(1.92027)
    assert all(min(one) >= 1 and 1.9 <= a * b * b * c * c <= 2.1 for one in found for a, b, c in [one])
    twentieths = range(20, 43)  # exactly, in whole numbers
    by_hand = {
        (i / 20, j / 20, k / 20)
        for i in twentieths
        for j in twentieths
        for k in twentieths
        if 10 * abs(i * j * j * k * k - 2 * 20**5) <= 20**5
    }
    assert len(found) == len(set(found)) == len(by_hand) > 100
    assert set(found) == by_hand


def test_phi_1_of_the_papers_coefficients_is_b2():
    scaled = NAMED["efficientnet-b0"].compound(compound(1))
    ours, theirs = outline(scaled), outline(NAMED["efficientnet-b2"])
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    assert count(ours, 260).macs == 993_561_872


@pytest.mark.parametrize(
    ("name", "phi"),
    [("b1", 0.25), ("b2", 1), ("b3", 2), ("b4", 3.5), ("b5", 4.5), ("b6", 5.75), ("b7", 6.75)],
)
def test_the_published_networks_follow_from_phi_up_to_their_authors_rounding(name, phi):
    published = NAMED[f"efficientnet-{name}"]
    scaled = NAMED["efficientnet-b0"].compound(compound(phi))
    figures, ours = GOLDEN["models"][f"efficientnet-{name}"], cost(scaled)
    assert ours.params == pytest.approx(figures["params"], rel=0.05)
    assert ours.macs == pytest.approx(figures["macs_native"], rel=0.17)
    assert scaled.image_size == pytest.approx(published.image_size, rel=0.08)


def test_scaling_by_a_released_networks_coefficients_gives_that_network():
    for name in ("efficientnet-b1", "efficientnet-b4", "efficientnet-b7"):
        config = NAMED[name]
        plain = NAMED["efficientnet-b0"]
        scale = compound(1, config.depth_coefficient, config.width_coefficient)
        scaled = plain.scaled(scale.channels, scale.blocks)
        assert (scaled.stages(), scaled.head()) == (config.stages(), config.head())


def test_rounding_is_the_releases_and_floating_point_adds_no_block():
    scale = compound(1, 1.1, 1.1, 1.15)
    assert [scale.blocks(n) for n in (1, 2, 10)] == [2, 3, 11]  # 1.1 * 10 is a little above 11 in binary
    assert [scale.channels(n) for n in (16, 32, 40, 80, 1280)] == [16, 32, 48, 88, 1408]
    assert scale.side(224) == 258
    assert compound(1, side_divisor=4).side(224) == 256
    assert compound(0).blocks(3) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [((1, 0.9, 1.1, 1.1), "alpha must be at least 1"), ((-1,), "phi must be at least 0")],
)
def test_what_would_shrink_the_network_is_refused(arguments, told):
    with pytest.raises(ConfigError, match=told):
        compound(*arguments)


def test_a_grid_without_a_feasible_point_is_refused_at_once():
    with pytest.raises(SpaceError, match="step smaller or the tolerance larger"):
        ScalingSpace(alpha=[1.0], beta=[1.0], gamma=[1.0])


@pytest.mark.parametrize(
    "base", ["efficientnet-b0", "fbnet_a", "fbnet_c", "cream_14", "cream_287", "small fbnet", "small cream"]
)
def test_any_base_grows_by_about_what_is_due_and_not_at_all_at_phi_0(base):
    host, options = Host(), {}
    if base.startswith("small"):
        kind = base.split()[1]
        space = host.get("space", kind).make(host.get("space", kind).validate({"form": "small"}))
        drawn = sample(space, random.Random(3))
        base = {"space": {"type": kind, "form": "small"}, "architecture": drawn.to_json()}
    else:
        space, drawn = (found := find(base, host)).space, found.architecture
    task = tiny_task((3, 64, 64))
    with torch.device("meta"):
        plain = count(space.build(drawn), 64)
        networks = {
            phi: ScalingSpace(host, base=base, base_options=options, phi=phi).build(PAPER)
            for phi in (0, 1, 3)
        }
    same = count(networks[0], 64)
    assert (same.params, same.macs) == (plain.params, plain.macs)
    # at a fixed resolution: alpha beta^2 = 1.452 for each phi, more where depth and width are rounded up
    assert 1.25 < count(networks[1], 64).macs / plain.macs < 2.2
    assert 2.4 < count(networks[3], 64).macs / plain.macs < 5
    assert ScalingSpace(host, base=base, phi=2).input_shape(PAPER, task)[1] in (85, 296)  # 64 or 224, scaled
    real = ScalingSpace(host, base=base, phi=1).build(PAPER)
    assert real(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_a_base_whose_space_cannot_grow_is_refused_in_a_sentence():
    base = {"space": "nasbench_macro", "architecture": {}}
    host = Host()
    made = host.get("space", "nasbench_macro").make(host.get("space", "nasbench_macro").validate({}))
    base["architecture"] = {c.name: c.options[0] for c in made.choices}
    with pytest.raises(SpaceError, match="does not say how its networks grow; it needs a method"):
        ScalingSpace(host, base=base).build(PAPER)
    with pytest.raises(ConfigError, match="an inline base is"):
        ScalingSpace(host, base={"spac": "fbnet"}).build(PAPER)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search over the small base, judged by its cost, since a test has no time to train."""
    folder = tmp_path_factory.mktemp("scaling") / "run"
    config = {
        "space": {"type": "scaling", "base": SMALL, "step": 0.1, "up_to": 3},
        "task": {"type": "digits", "resolution": 16},
        "strategy": "grid",
        "estimators": ["params", "macs"],
        "objectives": ["macs"],
        "verdict": {"seeds": 0},
    }
    return search(yaml.safe_load(yaml.safe_dump(config)), folder)


def test_a_grid_search_asks_each_feasible_point_once_and_the_engine_chooses(run):
    values = axis(0.1, math.sqrt(2.1))
    expected = list(grid(axis(0.1, 2.1), values, values))
    assert len(expected) == 22
    asked = [tuple(trial.architecture.values()) for trial in run.trials]
    assert asked == expected
    assert all(trial.status == "ok" for trial in run.trials)
    best = min(run.trials, key=lambda trial: (trial.metrics["macs"], trial.number))
    assert run.architecture == best.architecture
    assert run.reason == "the strategy has nothing more to propose"


def test_the_family_is_counted_written_down_and_can_be_built_from_its_files(run):
    listing = json.loads((run.folder / "family.json").read_text())
    assert [entry["name"] for entry in listing] == ["phi-0", "phi-1", "phi-2", "phi-3"]
    assert listing == json.loads((run.folder / "result.json").read_text())["family"]
    macs = [entry["macs"] for entry in listing]
    assert macs == sorted(macs)
    found = next(trial for trial in run.trials if trial.architecture == run.architecture)
    assert (listing[1]["params"], listing[1]["macs"]) == (found.metrics["params"], found.metrics["macs"])
    report = (run.folder / "report.html").read_text()
    assert all(f"<td>{entry['macs']:,}</td>" in report for entry in listing)
    gamma = float(run.architecture["gamma"])
    for phi, entry in enumerate(listing):
        assert entry["shape"] == [1] + 2 * [math.floor(16 * gamma**phi + 0.5)]
        model = build(run.folder / entry["file"])
        cost = count(model, tuple(entry["shape"]))
        assert (cost.params, cost.macs) == (entry["params"], entry["macs"])


def test_a_found_network_can_be_the_base_of_the_next_scaling(run):
    again = ScalingSpace(Host(), base=str(run.folder), phi=1)
    with pytest.raises(SpaceError, match="ScalingSpace does not say how its networks grow"):
        again.build(PAPER)  # a scaled network is no base: raise phi instead
    inner = json.loads((run.folder / "architecture.json").read_text())["space"]["base"]
    (run.folder / "base.json").write_text(
        json.dumps({**json.loads((run.folder / "architecture.json").read_text()), **inner})
    )
    space = ScalingSpace(Host(), base=str(run.folder / "base.json"))
    assert space.build(PAPER)(torch.randn(1, 1, 16, 16)).shape == (1, 72, 4, 4)
    assert space.family(PAPER)["phi-2"]["base"]["format"].startswith("archloom")


def test_the_example_is_a_search_over_fourteen_scalings_of_its_base():
    config = read_config(Path(__file__).parents[2] / "examples" / "scaling_digits.yaml")
    resolved = resolve(config, Host())
    strategy, found = resolved.strategy(space=resolved.space), []
    while (architecture := strategy.propose()) is not None:
        found.append(architecture)
    assert len(found) == 14
    networks = [resolved.space.build(architecture) for architecture in found]
    macs = [
        count(network, resolved.space.input_shape(architecture, resolved.task)).macs
        for network, architecture in zip(networks, found, strict=True)
    ]
    base = count(build(resolved_base(resolved)), (1, 16, 16)).macs
    assert all(1.7 < one / base < 3.6 for one in macs)  # a network so small is rounded up by much


def resolved_base(resolved):
    """The example's base as an architecture document."""
    space = resolved.config.space.options["base"]
    return architecture_document(
        space["space"],
        Architecture(space["architecture"]),
        shape=(1, 16, 16),
        classes=resolved.task.classes,
        model={},
    )
