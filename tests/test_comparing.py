"""`archloom compare`: the protocol, the statistics, and that nothing is lost or run twice."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import statistics as plain
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon

import archloom
import toys
from archloom import cli
from archloom.architecture import Architecture
from archloom.commands.compare import _print_score
from archloom.comparing import compare, parse_comparison, read_comparison
from archloom.comparing.runs import incumbents
from archloom.comparing.statistics import band, curve, holm, paired
from archloom.errors import ConfigError, RunError
from archloom.plugins import Host
from archloom.trial import Trial


def comparison(**changes: Any) -> dict[str, Any]:
    """Two strategies on 64 architectures whose score is the sum of their digits."""
    return {
        "space": "digit_space",
        "task": {"type": "digits", "train_size": 64},
        "estimators": ["additive"],
        "strategies": {"evolved": {"type": "evolution", "population": 4, "tournament": 2}},
        "select": "sum",
        "score": "sum",
        "optimum": "exhaustive",
        "budget": {"trials": 12},
        "seeds": 6,
        "processes": 1,
    } | changes


@pytest.fixture
def host():
    return toys.host()


def runs(folder: Any) -> list[dict[str, Any]]:
    lines = (folder / "runs.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "run"]


# -- the configuration ---------------------------------------------------------------------------------


def test_random_search_is_added_when_it_is_left_out():
    parsed = parse_comparison(comparison()).named(Host())
    assert list(parsed.protocol.strategies) == ["random", "evolved"]
    named = parse_comparison(comparison(strategies=["evolution", "random"])).named(Host())
    assert list(named.protocol.strategies) == ["evolution", "random"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategys": {}}, "unknown key 'strategys'; did you mean 'strategies'"),
        (
            {"strategy": "random"},
            "'strategy' has no place in a comparison; name each of them under 'strategies'",
        ),
        ({"objectives": ["sum"]}, "'select' is the one objective"),
        ({"budget": {}}, "has no budget"),
        ({"seeds": 1}, "'seeds' = 1: .*greater than or equal to 2"),
        ({"at": [5, 50]}, "'at' names 50 trials, but the budget is 12"),
        ({"at": [2.5]}, "'at' names 2.5 trials; the budget counts whole trials"),
        ({"at": [0.5, 3]}, "'at' names 0.5 trials; the budget counts whole trials"),
        ({"at": [2.5], "budget": {"trials": 1000}}, "'at' names 2.5 trials"),
        ({"processes": 100_000}, "'processes' = 100000: .*less than or equal to 1024"),
        ({"threads": 100_000}, "'threads' = 100000: .*less than or equal to 1024"),
        ({"strategies": ["random", "random"]}, "'random' is there twice; give each a label"),
        ({"strategies": []}, "'strategies' ="),
        ({"score": {}}, "'score' ="),
        ({"optimum": 9.0, "score": {"a": "sum", "b": "sum"}}, "one number cannot be the optimum of several"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        parse_comparison(comparison(**changes))
    without = {key: value for key, value in comparison().items() if key != "select"}
    with pytest.raises(ConfigError, match="the key 'select' is missing"):
        parse_comparison(without)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": "summ"}, "score 'summ' needs 'summ', which no estimator here measures; there are sum"),
        ({"strategies": {"a": "evolutoin"}}, "did you mean 'evolution'"),
        ({"strategies": {"a": {"type": "evolution", "populaton": 3}}}, "did you mean 'population'"),
        ({"strategies": {"a": {"type": "evolution", "population": 4, "tournament": 5}}}, "must lie in 1"),
        ({"strategies": {"a": {"type": "surrogate", "costs": ["mac"]}}}, "unknown metric 'mac'"),
        ({"budget": {"epochs": 5}}, "the budget counts epochs, and nothing here trains"),
        ({"space": {"type": "digit_space", "length": 20}}, "would measure 1,099,511,627,776 architectures"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(changes, message, host, tmp_path):
    with pytest.raises(ConfigError, match=message):
        compare(comparison(**changes), tmp_path / "c", host=host)
    assert not (tmp_path / "c" / "runs.jsonl").exists() or not runs(tmp_path / "c")


# -- the protocol --------------------------------------------------------------------------------------


def test_the_incumbent_is_the_best_by_the_selecting_metric_among_those_measured():
    def trial(number: int, score: float | None, source: int | None = None) -> Trial:
        scores = None if score is None else (score,)
        status = "infeasible" if score is None else "ok"
        cost = {"seconds": 0.5, "epochs": 2.0}
        return Trial(number, toys.digits(number), status, {"true": -number}, scores, cost, 0, source)

    found = incumbents([trial(0, 1.0), trial(1, None), trial(2, 1.0, 0), trial(3, 0.5), trial(4, 2.0)])
    assert [(one["trials"], one["metrics"]["true"]) for one in found] == [(1, 0), (3, -4)]
    assert [(one["epochs"], one["seconds"]) for one in found] == [(2.0, 0.5), (10.0, 2.5)]


def test_regret_is_what_the_engine_s_own_search_leaves(host, tmp_path):
    """Random search again by hand, in plain Python: same draws, same incumbents, same regret."""
    document = compare(comparison(at=[3, 12]), tmp_path, host=host).document
    from archloom.randomness import python_rng

    scored = document["scores"]["sum"]
    assert scored["optimum"] == 9
    for seed in range(6):
        rng, seen = python_rng(seed, "strategy"), {}
        while len(seen) < 12:
            drawn = tuple(rng.choice(range(4)) for _ in range(3))
            seen.setdefault(drawn, sum(drawn))
        values = list(seen.values())
        assert scored["regret"]["random"]["3"][seed] == 9 - max(values[:3])
        assert scored["regret"]["random"]["12"][seed] == 9 - max(values)
    means = scored["curves"]["random"]
    assert means["mean"][means["at"].index(12)] == plain.fmean(scored["regret"]["random"]["12"])


def test_without_an_optimum_regret_is_to_the_best_that_any_search_found(host, tmp_path):
    changes = {
        "optimum": None,
        "budget": {"trials": 3},
        "seeds": 3,
        "space": {"type": "digit_space", "length": 9},
    }
    document = compare(comparison(**changes), tmp_path, host=host).document
    scored = document["scores"]["sum"]
    best = max(one["incumbents"][-1]["metrics"]["sum"] for one in runs(tmp_path))
    assert (scored["optimum"], scored["optimum of"]) == (best, "the best of all these searches")
    assert min(min(values["3"]) for values in scored["regret"].values()) == 0


def test_the_floor_is_the_regret_of_whoever_measures_everything(tmp_path):
    """On NAS-Bench-Macro's table, counted here without the comparison's code."""
    from archloom_tabular import MacroTable

    config = comparison(
        space="nasbench_macro",
        task="fake",
        estimators=["macro_table"],
        select="accuracy.table.seed1",
        score={"three": "accuracy.table", "others": ["accuracy.table.seed2", "accuracy.table.seed3"]},
        strategies=["random"],
        seeds=2,
        budget={"trials": 5},
    )
    found = compare(config, tmp_path).document["scores"]
    rows = [row.accuracy for row in MacroTable().rows.values()]
    chosen = max(rows, key=lambda accuracy: accuracy[0])
    others = max((b + c) / 2 for _, b, c in rows)
    assert found["others"]["floor"] == pytest.approx(others - (chosen[1] + chosen[2]) / 2)
    assert found["others"]["floor"] == pytest.approx(0.185, abs=1e-9)
    assert found["three"]["optimum"] == pytest.approx(max(sum(row) / 3 for row in rows))


# -- nothing is lost, nothing is run twice -------------------------------------------------------------


def test_a_comparison_goes_on_where_it_was_cut_and_ends_the_same(host, tmp_path):
    whole = compare(comparison(), tmp_path / "whole", host=host).document
    lines = (tmp_path / "whole" / "runs.jsonl").read_text().splitlines(keepends=True)
    for cut in (1, 4, 7):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "runs.jsonl").write_text("".join(lines[:cut]) + lines[cut][:20])  # torn by a crash
        events: list[Any] = []
        again = compare(comparison(), folder, host=host, notify=events.append).document
        assert len([event for event in events if event["event"] == "run"]) == 12 - (cut - 1)
        assert again["scores"] == whole["scores"]


def test_an_exception_in_the_middle_keeps_what_was_done(host, tmp_path):
    def stop(event: Any) -> None:
        if event["event"] == "run" and event["seed"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(comparison(), tmp_path, host=host, notify=stop)
    assert [(one["label"], one["seed"]) for one in runs(tmp_path)] == [
        ("random", 0),
        ("evolved", 0),
        ("random", 1),
        ("evolved", 1),
        ("random", 2),
    ]
    compare(comparison(), tmp_path, host=host)
    assert len(runs(tmp_path)) == 12


def test_seeds_and_strategies_may_be_added_and_scores_changed(host, tmp_path):
    compare(comparison(seeds=3), tmp_path, host=host)
    events: list[Any] = []
    more = comparison(
        seeds=4, strategies={"climb": "local_search", **comparison()["strategies"]}, optimum=9.0
    )
    document = compare(more, tmp_path, host=host, notify=events.append).document
    assert sum(event["event"] == "run" for event in events) == 4 + 2
    assert list(document["strategies"]) == ["random", "climb", "evolved"]


def test_another_comparison_in_the_folder_is_refused(host, tmp_path):
    compare(comparison(seeds=2), tmp_path, host=host)
    with pytest.raises(RunError, match=r"holds another comparison; name another --out.*budget: then"):
        compare(comparison(seeds=2, budget={"trials": 13}), tmp_path, host=host)
    other = {"evolved": {"type": "evolution", "population": 5, "tournament": 2}}
    with pytest.raises(RunError, match="has searches of 'evolved' with other options"):
        compare(comparison(seeds=2, strategies=other), tmp_path, host=host)


ONCE = """
import os, time
import archloom
from archloom.estimator import STATIC, Metric


class Once:
    '''A value that is measured once, by whom is written down.'''

    metrics, expense, needs = (Metric("unit", "1", "max"),), STATIC, ()

    def __init__(self, *, log: str) -> None:
        self.log = log

    def estimate(self, architecture, context):
        return {"unit": context.recorded("unit", self.measure)}

    def measure(self):
        time.sleep(0.5)  # so that the other process asks meanwhile
        with open(self.log, "a", encoding="utf-8") as file:
            print(os.getpid(), file=file)
        return 2.5


@archloom.hookimpl
def register_estimators(register):
    register("once", Once)
"""


def test_two_processes_find_what_one_finds_and_measure_once_what_is_measured_once(tmp_path):
    (tmp_path / "once.py").write_text(ONCE, encoding="utf-8")
    log = tmp_path / "log"
    config = comparison(
        plugins=[str(tmp_path / "once.py")],
        optimum=None,
        space="nasbench_macro",
        task="fake",
        estimators=["macro_table", {"type": "once", "log": str(log)}],
        select="accuracy.table.seed1",
        score="accuracy.table",
        strategies=["evolution"],
        seeds=2,
        budget={"trials": 30},
    )
    alone = compare(config, tmp_path / "alone").document
    together = compare(config | {"processes": 2}, tmp_path / "together").document
    assert together["scores"] == alone["scores"]
    here, elsewhere = map(int, log.read_text().split())
    assert here == os.getpid() != elsewhere


def test_searches_that_train_have_run_folders_and_go_on_in_them(host, tmp_path):
    changes = {
        "space": {"type": "blocks", "depth": 1, "width": 2},
        "estimators": [{"type": "accuracy", "epochs": 1}],
        "select": "accuracy.trained",
        "score": "accuracy.trained",
        "optimum": None,
        "strategies": ["random"],
        "budget": {"trials": 2},
        "seeds": 2,
    }
    document = compare(comparison(**changes), tmp_path, host=host).document
    log = tmp_path / "searches" / "random" / "seed1" / "log.jsonl"
    whole = log.read_text()
    # killed after the first trial of the second search
    (tmp_path / "runs.jsonl").write_text("".join((tmp_path / "runs.jsonl").read_text().splitlines(True)[:2]))
    log.write_text("".join(whole.splitlines(True)[:4]))
    assert compare(comparison(**changes), tmp_path, host=host).document["scores"] == document["scores"]


def test_a_budget_of_epochs_is_what_the_curves_run_over(host, tmp_path):
    """Halving pays for parts of trainings; its incumbent is the one that was trained the longest, and then the best."""
    changes = {
        "space": {"type": "blocks", "depth": 3, "width": 2},
        "estimators": [{"type": "accuracy", "epochs": 4, "batch_size": 16}],
        "select": "accuracy.trained",
        "score": "accuracy.trained",
        "optimum": 100.0,
        "strategies": {"halving": {"type": "successive_halving", "width": 4, "eta": 2, "rungs": 3}},
        "budget": {"epochs": 12},
        "at": [6],
        "seeds": 2,
    }
    document = compare(comparison(**changes), tmp_path, host=host).document
    assert (document["protocol"]["axis"], document["protocol"]["at"]) == ("epochs", [6, 12])
    for one in runs(tmp_path):
        spent = [step["epochs"] for step in one["incumbents"]]
        assert spent == sorted(spent)
        assert spent[0] == (1 if one["label"] == "halving" else 4)
        last = one["incumbents"][-1]["metrics"]["accuracy.trained"]
        regret = document["scores"]["accuracy.trained"]["regret"][one["label"]]["12"][one["seed"]]
        assert regret == 100.0 - last


@pytest.mark.slow
def test_killed_and_interrupted_from_outside_it_loses_nothing_and_leaves_nobody_behind(tmp_path):
    """The real command with two processes: Ctrl-C, then SIGKILL, then to the end."""
    config = tmp_path / "c.yaml"
    example = Path(__file__).parent.parent / "examples" / "compare_macro.yaml"
    config.write_text(example.read_text().replace("seeds: 200", "seeds: 30\nprocesses: 2"))
    folder = tmp_path / "folder"
    command = [sys.executable, "-m", "archloom", "compare", str(config), "--out", str(folder)]

    def until(count: int, how: int) -> tuple[int, str]:
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # where the tests themselves run in a shell's background, Ctrl-C is ignored and that is inherited
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        waited = time.monotonic()
        while not (folder / "runs.jsonl").exists() or len(runs(folder)) < count:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() - waited < 300
            time.sleep(0.05)
        os.kill(process.pid, how)
        _, told = process.communicate(timeout=120)
        gone = time.monotonic()
        while _alive(process.pid):
            assert time.monotonic() - gone < 60, "a worker outlived its parent"
            time.sleep(0.1)
        return process.returncode, told

    code, told = until(5, signal.SIGINT)
    assert (code, "interrupted; progress is saved" in told) == (130, True)
    done = len(runs(folder))
    assert 5 <= done < 120
    until(done + 5, signal.SIGKILL)
    kept = {(one["label"], one["seed"]): one["incumbents"] for one in runs(folder)}
    assert len(kept) == len(runs(folder)) >= done + 5
    subprocess.run([*command, "--set", "seeds=8"], check=True, capture_output=True, timeout=300)
    for one in runs(folder):
        known = kept.get((one["label"], one["seed"]))
        assert known is None or known == one["incumbents"]
    assert len(json.loads((folder / "comparison.json").read_text())["strategies"]) == 4


def _alive(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def test_the_example_is_the_protocol_of_record():
    example = read_comparison(Path(__file__).parent.parent / "examples" / "compare_macro.yaml")
    assert (example.protocol.seeds, example.limit, example.protocol.at) == (200, 100, (20, 50, 100))
    assert list(example.protocol.strategies) == ["random", "evolution", "local search", "surrogate"]
    results = Path(__file__).parent.parent / "benchmarks" / "results" / "compare_macro.json"
    kept = json.loads(results.read_text())
    assert kept["protocol"]["seeds"] == 200
    assert {name: kept["strategies"][name]["strategy"] for name in kept["strategies"]} == {
        name: one.to_json()["strategy"] for name, one in example.protocol.strategies.items()
    }


# -- statistics ----------------------------------------------------------------------------------------


def test_a_curve_holds_the_last_incumbent_at_each_budget():
    values = curve([(1, 5.0), (3, 7.0)], [0.5, 1, 2, 3, 9])
    assert np.isnan(values[0])
    assert values[1:].tolist() == [5.0, 5.0, 7.0, 7.0]


def test_the_band_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        _, low, high = band(rng.exponential(1.0, (60, 1)), 0.9, 400, trial)
        held += bool(low[0] <= 1.0 <= high[0])
    assert 0.82 <= held / 300 <= 0.95


def test_the_signed_rank_test_is_the_exact_one_counted_by_hand():
    mine, theirs = np.array([0.1, 0.2, 0.9, 0.4, 0.25]), np.array([0.5, 0.7, 0.6, 1.0, 0.25])
    test = paired("s", 1, mine, theirs, confidence=0.95, resamples=500, seed=0)
    differences = [-0.4, -0.5, 0.3, -0.6]  # the zero is left out; ranks 2, 3, 1, 4
    ranks = [2, 3, 1, 4]
    seen = min(1, 2 + 3 + 4)  # the smaller sum of ranks
    sums = [
        sum(r for r, s in zip(ranks, signs, strict=True) if s > 0)
        for signs in itertools.product((-1, 1), repeat=4)
    ]
    assert test.wilcoxon == pytest.approx(2 * sum(s <= seen for s in sums) / len(sums))
    assert (test.wins, test.ties, test.losses) == (3, 1, 1)
    assert test.difference == pytest.approx(sum(differences) / 5)


def test_both_tests_reject_as_rarely_as_they_should_where_nothing_differs():
    rng = np.random.default_rng(1)
    rejected = np.zeros(2)
    for trial in range(300):
        mine, theirs = rng.normal(size=(2, 30))
        test = paired("s", 1, mine, theirs, confidence=0.95, resamples=400, seed=trial)
        rejected += [test.wilcoxon < 0.05, test.bootstrap < 0.05]
    assert (rejected / 300 < 0.09).all()


def test_a_clear_difference_is_found_and_equal_searches_have_none():
    rng = np.random.default_rng(2)
    theirs = rng.normal(size=40)
    better = paired("s", 1, theirs - 0.5, theirs, confidence=0.95, resamples=500, seed=0)
    assert better.wilcoxon == pytest.approx(wilcoxon(np.full(40, -0.5)).pvalue)
    assert better.bootstrap == pytest.approx(1 / 501)
    assert better.high < 0
    same = paired("s", 1, theirs, theirs, confidence=0.95, resamples=500, seed=0)
    assert (same.wilcoxon, same.bootstrap, same.difference) == (1.0, 1.0, 0.0)


def test_holm_is_the_step_down_of_his_paper():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    drawn = [random.Random(0).random() for _ in range(9)]
    by_definition = [
        max(min(1.0, (9 - sum(q < p for q in drawn)) * p) for p in drawn if p <= mine) for mine in drawn
    ]
    assert holm(drawn) == pytest.approx(by_definition)


# -- page and command ----------------------------------------------------------------------------------


def test_the_page_needs_no_network_and_escapes_what_it_is_told(host, tmp_path):
    nasty = {"<script>alert(1)</script>": "local_search"}
    compare(comparison(strategies=nasty, seeds=2), tmp_path, host=host)
    html = (tmp_path / "comparison.html").read_text()
    assert "<script>alert(1)" not in html
    assert "default-src 'none'" in html
    assert "p, Wilcoxon" in html
    assert "12 trials" in html


def test_a_score_without_a_unit_is_headed_without_one(host, tmp_path, capsys):
    found = compare(comparison(seeds=2), tmp_path, host=host).document
    (label, scored) = next(iter(found["scores"].items()))
    assert scored["unit"] == "1"
    _print_score(found["protocol"], label, scored)
    assert "sum: mean regret, 2 seeds" in capsys.readouterr().out
    assert '"text":"regret"' in (tmp_path / "comparison.html").read_text().replace(" ", "")
    _print_score(found["protocol"], label, {**scored, "unit": "nJ"})
    assert "sum: mean regret, nJ, 2 seeds" in capsys.readouterr().out


def test_the_command_prints_the_table_and_goes_on(tmp_path, monkeypatch, capsys):
    import yaml

    config = comparison(
        space="nasbench_macro",
        task="fake",
        estimators=["macro_table"],
        select="accuracy.table.seed1",
        score="accuracy.table",
        strategies=["evolution"],
        seeds=2,
        budget={"trials": 15},
    )
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["archloom", "compare", "c.yaml"])
    cli.main()
    told = capsys.readouterr().out
    assert "evolution" in told
    assert "15 trials" in told
    assert (tmp_path / "runs" / "compare-c" / "comparison.json").exists()
    monkeypatch.setattr("sys.argv", ["archloom", "compare", "c.yaml", "--json"])
    cli.main()
    assert json.loads(capsys.readouterr().out)["format"] == "archloom comparison 1"
    assert len(runs(tmp_path / "runs" / "compare-c")) == 4


class Sorted(toys.Digits):
    """The order of its digits makes no difference."""

    def canonical(self, architecture: Architecture) -> Architecture:
        return Architecture(dict(zip(architecture, sorted(architecture.values()), strict=True)))


class Plugin:
    @archloom.hookimpl
    def register_search_spaces(self, register: Any) -> None:
        register("sorted_digits", Sorted)


def test_a_comparison_pays_once_for_equal_networks_where_it_is_told_to(tmp_path):
    """A grid comes to 013, the best of the first eight, as the eighth; 010, the fifth, is 001 again."""
    asked = comparison(space="sorted_digits", strategies={"grid": "grid"}, seeds=2, budget={"trials": 8})
    spent = {}
    for equal_once in (False, True):
        folder = tmp_path / str(equal_once)
        compare(asked | {"canonical": equal_once}, folder, host=toys.host(Plugin()))
        best = next(run for run in runs(folder) if run["label"] == "grid")["incumbents"][-1]
        assert list(best["architecture"].values()) == [0, 1, 3]
        spent[equal_once] = best["trials"]
    assert spent == {False: 8, True: 7}
    with pytest.raises(RunError, match="canonical: then on, now off"):
        compare(asked, folder, host=toys.host(Plugin()))


class OwnHead:
    """A space whose networks end at logits."""

    owns_head = True

    def __init__(self) -> None:
        self.choices = [archloom.Choice("width", (2, 4, 6))]

    def build(self, architecture, num_classes):
        width = architecture["width"]
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, width, 3), torch.nn.Flatten(), torch.nn.Linear(36 * width, num_classes)
        )


def test_a_comparison_goes_on_with_a_search_whose_networks_own_their_head(tmp_path):
    class Plugin:
        @archloom.hookimpl
        def register_search_spaces(self, register):
            register("own_head", OwnHead)

    host = Host()
    host.add(Plugin(), "plugin", "a test", "-")
    asked = {
        "space": "own_head",
        "strategies": ["random"],
        "select": "macs",
        "score": "macs",
        "budget": {"trials": 2},
        "seeds": 2,
        "processes": 1,
    }
    first = compare(asked, tmp_path, host=host)
    log = tmp_path / "runs.jsonl"
    log.write_text(
        "".join(log.read_text().splitlines(keepends=True)[:-1])
    )  # killed before the last was written down
    assert compare(asked, tmp_path, host=host).document == first.document
