"""The baselines on NAS-Bench-Macro: the search is real, only the training is looked up."""

from __future__ import annotations

from pathlib import Path

from archloom.comparing import compare, read_comparison

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare_macro.yaml"


def test_after_100_trials_every_strategy_beats_random_search_and_the_surrogate_all(tmp_path):
    few = read_comparison(EXAMPLE, ("seeds=8", "processes=1", "at=[100]"))
    document = compare(few, tmp_path).document
    assert {one["trials"] for one in document["strategies"].values()} == {100}
    curves = document["scores"]["mean of the three trainings"]["curves"]
    regret = {label: curve["mean"][-1] for label, curve in curves.items()}
    assert 0.2 < regret["random"] < 0.5  # 0.32 over 200 searches
    assert max(regret["evolution"], regret["local search"]) < regret["random"]
    assert regret["surrogate"] < 0.05
