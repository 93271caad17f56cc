"""Predictors against a truth: the figures against scipy's, the whole comparison on a space of sixteen networks."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

import archloom
from archloom import cli
from archloom.architecture import Architecture
from archloom.errors import ConfigError, RunError, SpaceError, UnknownName
from archloom.estimator import INHERITED, STATIC, Metric
from archloom.plugins import Host
from archloom.ranking import parse_rank, rank, read_rank
from archloom.ranking.agreement import agreement, kendall, precision, resampling, spearman
from archloom.report.ranking import interval_text
from archloom.testing import TinySpace, tiny_task

# -- the figures ------------------------------------------------------------------------------------

ONCE = resampling(40, 0, np.random.default_rng(0))


def correlated(seed: int, n: int = 40, ties: bool = False) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = x + rng.normal(size=n)
    return (np.round(x), np.round(y)) if ties else (x, y)


@pytest.mark.parametrize("ties", [False, True])
def test_tau_and_rho_are_scipys_on_every_resample(ties):
    x, y = correlated(3, ties=ties)
    index = resampling(40, 25, np.random.default_rng(1))
    assert index[0].tolist() == list(range(40))
    for told, theirs in ((kendall, kendalltau), (spearman, spearmanr)):
        expected = [theirs(x[row], y[row])[0] for row in index]
        assert told(x, y, index) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=6, max_size=30))
@settings(max_examples=60, deadline=None)
def test_tau_is_scipys_for_any_ties(pairs):
    x, y = (np.array(column, float) for column in zip(*pairs, strict=True))
    told = kendall(x, y, resampling(len(x), 0, np.random.default_rng(0)))[0]
    constant = len(set(x)) == 1 or len(set(y)) == 1
    assert math.isnan(told) if constant else told == pytest.approx(kendalltau(x, y)[0], abs=1e-6)


def test_precision_counts_the_common_ones_and_draws_lots_at_ties():
    y = np.arange(6.0)
    once = resampling(6, 0, np.random.default_rng(0))
    assert precision(np.array([0, 1, 2, 3, 5.0, 4]), y, once, 2)[0] == 1.0
    assert precision(np.array([5, 1, 2, 3, 0.0, 4]), y, once, 2)[0] == 0.5
    assert precision(-y, y, once, 2)[0] == 0.0
    # the best is certain, and the other place is drawn among three, one of which is right
    assert precision(np.array([0, 3, 3, 0, 3.0, 9]), y, once, 2)[0] == pytest.approx((1 + 1 / 3) / 2)


def test_a_constant_predictor_has_no_tau_and_the_precision_of_chance():
    y = np.arange(40.0)
    told = agreement(np.ones(40), y, y, k=10, resamples=100, rng=np.random.default_rng(0))
    assert math.isnan(told.tau.value)
    assert math.isnan(told.tau.low)
    assert math.isnan(told.over.value)
    assert told.precision.value == pytest.approx(0.25)
    assert told.to_json()["tau"] == {"value": None, "low": None, "high": None}


def test_the_interval_covers_the_value_that_a_large_sample_has():
    """tau of two normal variables of correlation r is 2 / pi asin(r); 95 % of the intervals should hold it."""
    true, covered = 2 / math.pi * math.asin(1 / 2**0.5), 0
    for seed in range(100):
        x, y = correlated(seed, n=120)
        told = agreement(x, y, x, k=12, resamples=200, rng=np.random.default_rng(seed)).tau
        covered += told.low <= true <= told.high
    assert 88 <= covered <= 100


def test_a_predictor_beats_a_baseline_only_where_their_difference_does():
    x, y = correlated(0, n=200)
    noise = np.random.default_rng(9).normal(size=200)
    against = lambda predicted, baseline: (
        agreement(predicted, y, baseline, k=20, resamples=300, rng=np.random.default_rng(0)).over
    )
    assert against(x, noise).low > 0
    assert against(noise, x).high < 0
    same = against(x, x)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_what_could_not_be_measured_is_left_out_and_counted():
    x, y = correlated(5)
    holes = x.copy()
    holes[:4] = math.nan
    told = agreement(holes, y, y, k=5, resamples=100, rng=np.random.default_rng(0))
    assert told.networks == 36
    assert told.tau.value == pytest.approx(kendalltau(x[4:], y[4:])[0], abs=1e-6)
    few = np.full(40, math.nan)
    few[:4] = 1.0
    assert math.isnan(agreement(few, y, y, k=5, resamples=100, rng=np.random.default_rng(0)).rho.value)


def test_the_best_tenth_is_the_truths():
    y = np.arange(100.0)
    x = np.concatenate(
        [np.arange(90.0), 200 - np.arange(10.0)]
    )  # the best ten in reverse, still above the others
    told = agreement(x, y, y, k=10, resamples=100, rng=np.random.default_rng(0))
    assert told.tau_top.value == pytest.approx(-1.0)
    assert told.precision.value == 1.0
    assert told.tau.value > 0.9


# -- a whole comparison -----------------------------------------------------------------------------


class Kernels:
    """The sum of the kernels, or the same number for all, or a number for some."""

    expense, needs = STATIC, ()

    def __init__(self, *, form: str = "sum") -> None:
        self.form = form
        self.metrics = (Metric(form, "pixels", "min" if form == "negative" else "max"),)

    def estimate(self, architecture: Architecture, context: Any) -> dict[str, float]:
        total = float(
            sum(0 if option == "skip" else int(str(option)[1:]) for option in architecture.values())
        )
        if self.form == "some" and total > 8:
            raise SpaceError("too large for me")
        if self.form == "wrong":
            raise ConfigError("never possible")
        values = {"sum": total, "same": 1.0, "some": total, "negative": -total, "odd": math.nan}
        return {self.form: values[self.form]}


class Truth:
    """Nearly the sum of the kernels; knows the networks of two layers."""

    expense, needs = STATIC, ()
    metrics = (Metric("accuracy", "%", "max"), Metric("other", "%", "max"))

    def estimate(self, architecture: Architecture, context: Any) -> dict[str, float]:
        total = Kernels().estimate(architecture, context)["sum"]
        return {"accuracy": total + 0.4 * (architecture["layer0"] == "skip"), "other": total}


class Known(Truth):
    """The same, of a table with nine networks."""

    def known(self, space: Any) -> list[Architecture]:
        return [
            Architecture({"layer0": a, "layer1": b})
            for a, b in itertools.product(("k1", "k3", "k5"), repeat=2)
        ]


class Costly(Truth):
    """Truths of which less is better: a time, which grows with the kernels, and an error, which falls."""

    metrics = (Metric("ms", "ms", "min"), Metric("error", "%", "min"))

    def estimate(self, architecture: Architecture, context: Any) -> dict[str, float]:
        accuracy = super().estimate(architecture, context)["accuracy"]
        return {"ms": 0.1 * accuracy, "error": 100 - accuracy}


class FromSupernet:
    """The norm of the inherited weights."""

    metrics, expense, needs = (Metric("norm", "1", "max"),), INHERITED, ("supernet",)

    def estimate(self, architecture: Architecture, context: Any) -> dict[str, float]:
        child = context.supernet.extract(architecture)
        return {"norm": float(sum(p.detach().abs().sum() for p in child.parameters()))}


def host() -> Host:
    def spaces(register: Any) -> None:
        register("tiny", lambda: TinySpace(layers=2))

    def tasks(register: Any) -> None:
        register("tiny", lambda: tiny_task())

    def estimators(register: Any) -> None:
        register("kernels", Kernels)
        register("truth", Truth)
        register("known", Known)
        register("costly", Costly)
        register("from_supernet", FromSupernet)

    plugin = ModuleType("ranked")
    plugin.register_search_spaces = archloom.hookimpl(spaces)
    plugin.register_tasks = archloom.hookimpl(tasks)
    plugin.register_estimators = archloom.hookimpl(estimators)
    made = Host()
    made.add(plugin, "ranked", "a test", "0")
    return made


BASE = {
    "space": "tiny",
    "task": "tiny",
    "truth": "truth",
    "metric": "accuracy",
    "predictors": [{"type": "kernels", "form": "sum"}],
    "networks": 16,
    "top": 3,
    "resamples": 100,
}


def run(folder: Path, **changes: Any) -> Any:
    return rank({**BASE, **changes}, folder / "rank", host=host())


def rows(ranking: Any) -> dict[str, Any]:
    return {row["name"]: row for row in ranking.document["rows"]}


def test_a_comparison_shows_its_predictors_and_always_the_baselines(tmp_path):
    ranking = run(tmp_path)
    told = rows(ranking)
    assert list(told) == ["params", "macs", "sum"]
    values = ranking.document["values"]
    assert told["sum"]["tau"]["value"] == pytest.approx(
        kendalltau(values["sum"], values["truth"])[0], abs=1e-6
    )
    assert told["macs"]["tau"]["value"] == pytest.approx(
        kendalltau(values["macs"], values["truth"])[0], abs=1e-6
    )
    assert told["macs"]["over"]["value"] == 0.0
    assert json.loads((tmp_path / "rank" / "rank.json").read_text())["networks"] == 16
    page = (tmp_path / "rank" / "rank.html").read_text()
    assert "Plotly.newPlot" in page
    assert "tau" in page


def test_without_predictors_the_baselines_are_all_there_is(tmp_path):
    assert list(rows(run(tmp_path, predictors=[]))) == ["params", "macs"]


def test_the_lowest_is_best_where_the_metric_says_so(tmp_path):
    forms = [{"type": "kernels", "form": form} for form in ("sum", "negative")]
    told = rows(run(tmp_path, predictors=forms))
    assert told["negative"]["tau"] == told["sum"]["tau"]
    assert told["negative"]["best"] == "lowest"


@pytest.mark.parametrize(("metric", "agreeing"), [("ms", "negative"), ("error", "sum")])
def test_a_truth_of_which_less_is_better_is_ordered_as_its_predictors_are(metric, agreeing, tmp_path):
    forms = [{"type": "kernels", "form": form} for form in ("sum", "negative", "same")]
    ranking = run(tmp_path, truth="costly", metric=metric, predictors=forms, top=4)
    told, values = rows(ranking), ranking.document["values"]
    expected = kendalltau(values["sum"], [-v for v in values["truth"]])[0]
    assert told["sum"]["tau"]["value"] == pytest.approx(expected, abs=1e-6)
    assert told["negative"]["tau"] == told["sum"]["tau"]  # a "min" metric of the values turned round
    assert abs(expected) > 0.9
    assert (expected > 0) == (agreeing == "sum")
    assert told["sum"]["precision"]["value"] == pytest.approx(1.0 if expected > 0 else 0.0, abs=0.26)
    assert told["same"]["tau"]["value"] is None
    assert ranking.document["truth"]["best"] == "lowest"
    for name in ("params", "macs"):  # the direction that is harder to beat, and said
        assert told[name]["tau"]["value"] >= 0
        assert told[name]["best"] == ("lowest" if metric == "ms" else "highest")
    assert "the lowest held best" in (tmp_path / "rank" / "rank.html").read_text()


def test_a_perfect_predictor_of_a_time_has_tau_one_and_finds_all_of_the_best(tmp_path):
    class Stopwatch(Costly):
        metrics = (Metric("predicted_ms", "ms", "min"),)

        def estimate(self, architecture: Architecture, context: Any) -> dict[str, float]:
            return {"predicted_ms": super().estimate(architecture, context)["ms"]}

    made = host()
    plugin = ModuleType("stopwatch")
    plugin.register_estimators = archloom.hookimpl(lambda register: register("stopwatch", Stopwatch))
    made.add(plugin, "stopwatch", "a test", "0")
    config = {**BASE, "truth": "costly", "metric": "ms", "predictors": ["stopwatch"]}
    told = rows(rank(config, tmp_path, host=made))["predicted_ms"]
    assert (told["tau"]["value"], told["rho"]["value"], told["precision"]["value"]) == pytest.approx(
        (1, 1, 1)
    )
    assert told["best"] == "lowest"


def test_predictors_without_an_order_or_with_gaps_are_shown_as_what_they_are(tmp_path):
    forms = [{"type": "kernels", "form": form} for form in ("same", "some", "odd")]
    ranking = run(tmp_path, predictors=forms)
    told = rows(ranking)
    assert told["same"]["tau"]["value"] is None
    assert told["same"]["constant"]
    assert (
        told["some"]["networks"]
        == sum(value is not None for value in ranking.document["values"]["some"])
        < 16
    )
    assert told["odd"]["networks"] == 0
    page = (tmp_path / "rank" / "rank.html").read_text()
    assert "undefined" in page
    assert "NaN" not in page.split("<script>")[0]


def test_an_estimator_that_can_never_work_stops_the_comparison(tmp_path):
    with pytest.raises(ConfigError, match="never possible"):
        run(tmp_path, predictors=[{"type": "kernels", "form": "wrong"}])


def test_the_networks_are_drawn_by_the_seed_and_are_all_different(tmp_path):
    drawn = [
        run(tmp_path / str(n), networks=8, seed=seed).document["architectures"]
        for n, seed in enumerate((0, 0, 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({tuple(a.values()) for a in drawn[0]}) == 8


def test_a_table_gives_the_networks_that_it_has(tmp_path):
    ranking = run(tmp_path, truth="known", networks="all")
    assert ranking.document["networks"] == 9
    with pytest.raises(ConfigError, match=r"12 networks were asked for, and 'known' has 9 .* networks: 9"):
        run(tmp_path / "more", truth="known", networks=12)


def test_a_comparison_that_was_stopped_goes_on(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole").document
    calls = 0
    real = Kernels.estimate

    def counting(self: Any, architecture: Architecture, context: Any) -> Any:
        nonlocal calls
        calls += context is not None and type(context).__name__ == "Context" and self.form == "sum"
        if calls == 20:  # the truth calls it too: sixteen times, and four times the predictor
            raise KeyboardInterrupt
        return real(self, architecture, context)

    monkeypatch.setattr(Kernels, "estimate", counting)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    done = len((tmp_path / "parts" / "rank" / "estimates.jsonl").read_text().splitlines())
    assert 16 <= done < 32
    document = run(tmp_path / "parts").document
    assert document["rows"] == whole["rows"]
    assert calls == 20 + 32 - done


ALL_OF_IT = """
import archloom
from archloom.testing import TinySpace, tiny_task
from test_ranking import Kernels, Truth


@archloom.hookimpl
def register_search_spaces(register):
    register("tiny", lambda: TinySpace(layers=2))


@archloom.hookimpl
def register_tasks(register):
    register("tiny", lambda: tiny_task())


@archloom.hookimpl
def register_estimators(register):
    register("kernels", Kernels)
    register("truth", Truth)
"""


def test_two_workers_estimate_what_one_process_does(tmp_path):
    (tmp_path / "plugin.py").write_text(ALL_OF_IT, encoding="utf-8")
    predictors = [{"type": "kernels", "form": "some"}]
    changes = {"plugins": [str(tmp_path / "plugin.py")], "predictors": predictors, "threads": 1}
    here = rank(BASE | changes, tmp_path / "here")
    elsewhere = rank(BASE | changes | {"workers": 2}, tmp_path / "elsewhere")

    def lines(folder: Path) -> list[dict[str, Any]]:
        events = map(json.loads, (folder / "estimates.jsonl").read_text(encoding="utf-8").splitlines())
        return [{key: value for key, value in event.items() if key != "seconds"} for event in events]

    assert elsewhere.document["rows"] == here.document["rows"]
    assert lines(tmp_path / "elsewhere") == lines(tmp_path / "here")
    assert any("too large for me" in line.get("error", "") for line in lines(tmp_path / "here"))
    # the same comparison, gone on with elsewhere: nothing is left to estimate
    again = rank(BASE | changes | {"executor": "processes"}, tmp_path / "here")
    assert again.document["rows"] == here.document["rows"]


def test_a_folder_with_another_comparison_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(RunError, match="another comparison"):
        run(tmp_path, seed=1)
    assert run(tmp_path, top=5, resamples=200).document["top"] == 5  # these only change what is told


SUPERNET = {
    "type": "fbnet",
    "epochs": 1,
    "warmup_epochs": 0,
    "batch_size": 16,
    "cost": "macs",
    "loss": "additive",
}


def test_a_supernet_is_trained_and_its_weights_are_a_predictor(tmp_path):
    ranking = run(tmp_path, supernets=[SUPERNET, {**SUPERNET, "epochs": 2}], predictors=["from_supernet"])
    told = rows(ranking)
    assert list(told) == ["params", "macs", "fbnet: norm", "fbnet 2: norm"]
    assert ranking.document["values"]["fbnet: norm"] != ranking.document["values"]["fbnet 2: norm"]
    assert {"fbnet, training", "fbnet 2, training"} <= set(ranking.document["seconds"])


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"predictors": ["kernel"]}, UnknownName, "did you mean 'kernels'"),
        ({"metric": "acuracy"}, UnknownName, "did you mean 'accuracy'"),
        ({"predictors": ["from_supernet"]}, ConfigError, "no supernet is named"),
        (
            {"supernets": [SUPERNET]},
            ConfigError,
            "no predictor uses their weights; add one of: .*from_supernet",
        ),
        ({"supernets": ["random"]}, ConfigError, "trains no supernet"),
        ({"predictors": ["kernels", "kernels"]}, ConfigError, "two predictors measure 'sum'"),
        ({"truth": "from_supernet", "metric": "norm"}, ConfigError, "cannot be the truth"),
        ({"networks": 17}, ConfigError, "17 networks were asked for"),
        ({"networks": 4, "top": 2}, ConfigError, "4 networks show no order; at least 5"),
        ({"top": 16}, ConfigError, "it must be fewer"),
        ({"network": 16}, ConfigError, "did you mean 'networks'"),
        ({"networks": "some"}, ConfigError, "networks"),
        ({"resamples": 1}, ConfigError, "resamples"),
        ({"predictors": [{"type": "kernels", "from": "sum"}]}, ConfigError, "did you mean 'form'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(changes, kind, words, tmp_path):
    with pytest.raises(kind, match=words):
        run(tmp_path, **changes)
    assert not (tmp_path / "rank").exists()


def test_a_truth_that_lacks_a_network_is_named(tmp_path, monkeypatch):
    def lacking(self: Any, architecture: Architecture, context: Any) -> Any:
        raise SpaceError("no such row")

    monkeypatch.setattr(Truth, "estimate", lacking)
    with pytest.raises(ConfigError, match="does not tell accuracy of 16 of the networks"):
        run(tmp_path)


def test_the_examples_of_record_can_be_read():
    folder = Path(__file__).parent.parent / "examples"
    for name in ("rank_macro.yaml", "rank_digits.yaml"):
        assert len(read_rank(folder / name).predictors) >= 8
    assert read_rank(folder / "rank_macro.yaml", ["networks=all"]).networks == "all"


# -- the command ------------------------------------------------------------------------------------

PLUGIN = """
import archloom
from archloom.report.ranking import interval_text
from archloom.testing import TinySpace, tiny_task
from tests_ranking import Kernels, Truth

@archloom.hookimpl
def register_search_spaces(register): register("tiny", lambda: TinySpace(layers=2))

@archloom.hookimpl
def register_tasks(register): register("tiny", lambda: tiny_task())

@archloom.hookimpl
def register_estimators(register):
    register("kernels", Kernels)
    register("truth", Truth)
"""


def test_the_command_prints_a_table_or_json(tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "tests_ranking", SimpleNamespace(Kernels=Kernels, Truth=Truth))
    (tmp_path / "plugin.py").write_text(PLUGIN)
    path = tmp_path / "rank.yaml"
    path.write_text(
        yaml.safe_dump({**BASE, "networks": 12, "predictors": [{"type": "kernels", "form": "same"}]})
    )
    argv = [
        "archloom",
        "rank",
        str(path),
        "--out",
        str(tmp_path / "out"),
        "--plugin",
        str(tmp_path / "plugin.py"),
    ]
    monkeypatch.setattr(sys, "argv", argv)
    cli.main()
    told = capsys.readouterr().out
    assert "undefined" in told
    assert "params (baseline)" in told
    monkeypatch.setattr(sys, "argv", [*argv, "--json"])
    cli.main()
    document = json.loads(capsys.readouterr().out)
    assert document["networks"] == 12
    assert [row["name"] for row in document["rows"]] == ["params", "macs", "same"]
    monkeypatch.setattr(sys, "argv", [*argv, "--set", "metric=nothing"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 2
    assert "unknown metric 'nothing'" in capsys.readouterr().err


def test_a_configuration_that_is_one_already_is_taken_as_it_is():
    config = parse_rank(BASE)
    assert parse_rank(config) is config


# -- what is on record ------------------------------------------------------------------------------

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def test_counting_macs_reaches_on_nas_bench_macro_what_is_known():
    """0.56 over all 6,561 networks by the published FLOPs; a sample of 1,200 must be near."""
    from archloom_tabular import MacroTable

    table = MacroTable()
    sample = np.random.default_rng(0).choice(6561, 1200, replace=False)
    networks = table.architectures()
    told = [table.figures(networks[i]) for i in sample]
    x, y = (np.array([figures[name] for figures in told]) for name in ("macs.table", "accuracy.table"))
    tau = kendall(x, y, resampling(1200, 0, np.random.default_rng(0)))[0]
    assert tau == pytest.approx(kendalltau(x, y)[0], abs=1e-6)
    assert 0.53 < tau < 0.60


@pytest.mark.parametrize(("name", "least"), [("rank_macro", 300), ("rank_digits", 256)])
def test_the_documented_figures_are_those_on_record(name, least):
    document = json.loads((RESULTS / f"{name}.json").read_text())
    assert document["networks"] >= least
    text = (RESULTS.parent.parent / "docs" / "ranking.md").read_text().split("## What was seen")[1]
    part = text.split("On **digits**")[name == "rank_digits"]
    names = {"macs": "MACs", "fbnet: accuracy.inherited": "supernet by `fbnet`"}
    names |= {"params": "params", "cream: accuracy.inherited": "supernet by `cream`"}
    for row in document["rows"]:
        told = f"| {names.get(row['name'], '`' + row['name'] + '`')} | {interval_text(row['tau'])} |"
        assert told in part, told
        assert f"| {interval_text(row['tau_top'])} |" in part


def test_the_other_seeds_of_the_supernets_are_those_on_record():
    names = ["rank_digits", "rank_digits_seed1", "rank_digits_seed2"]
    by_seed = [json.loads((RESULTS / f"{name}.json").read_text())["rows"] for name in names]
    text = (RESULTS.parent.parent / "docs" / "ranking.md").read_text()
    for method in ("fbnet", "cream"):
        rows = [next(row for row in each if row["name"].startswith(f"{method}: ")) for each in by_seed]
        assert f"| `{method}` | {' | '.join(interval_text(row['tau']) for row in rows)} |" in text
