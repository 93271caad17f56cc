"""What the commands do with folders: whose they are, what lies in them, and what of it changed."""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import archloom
import toys
from archloom.comparing import compare
from archloom.errors import ConfigError, RunError
from archloom.estimator import Metric
from archloom.locking import Lock
from archloom.ranking import rank
from archloom.ranks import Ranks
from archloom.report import write_report
from archloom.retraining import retrain
from archloom.run import load_checkpoint, previous
from archloom.session import course
from archloom.session.opening import SEARCH, read_stored
from archloom.session.process import note_environment
from test_checkpoints import empty, flip, truncate
from test_fitting import Plugin, given
from toys import comparable, config, host


class Sheet:
    """Reads what it says of each architecture from a file."""

    metrics = (Metric("sheet", "1", "max"),)
    expense, needs = 0, ()

    def __init__(self, *, path: str) -> None:
        self.scale = float(Path(path).read_text())

    def estimate(self, architecture: Any, context: Any) -> dict[str, float]:
        return {"sheet": self.scale * sum(architecture.values())}


class Stepwise:
    """Trains nothing, but says that it does: its searches have folders. The score is the sum."""

    metrics = (Metric("stepwise", "1", "max"),)
    expense, needs, epochs = 2, (), 1.0

    def estimate(self, architecture: Any, context: Any) -> dict[str, float]:
        return {"stepwise": float(sum(architecture.values()))}


class Ladder:
    """Proposes architectures in order, from a place on."""

    def __init__(self, space: Any, *, start: float = 0) -> None:
        self.left = [toys.digits(a, b, c) for a in range(4) for b in range(4) for c in range(4)][int(start) :]

    def propose(self) -> Any:
        return self.left.pop(0)

    def observe(self, trial: Any) -> None:
        pass


class Reading:
    @archloom.hookimpl
    def register_estimators(self, register: Any) -> None:
        register("sheet", Sheet)
        register("stepwise", Stepwise)

    @archloom.hookimpl
    def register_strategies(self, register: Any) -> None:
        register("ladder", Ladder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reading(**changes: Any) -> dict[str, Any]:
    (Path("sheet.txt")).write_text("1.5")
    return config(estimators=[{"type": "sheet", "path": "sheet.txt"}], objectives=["sheet"]) | changes


def trials(result: Any) -> list[dict[str, Any]]:
    return list(map(comparable, result.trials))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- one owner ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["search", "resume", "verdict", "compare", "rank", "retrain"])
def test_every_command_refuses_a_folder_that_another_works_in_and_leaves_it(here, command):
    folder = here / "work"
    ranked = {
        "space": "digit_space",
        "truth": "additive",
        "metric": "sum",
        "networks": 10,
        "top": 3,
        "resamples": 100,
    }
    compared = {
        "space": "digit_space",
        "task": {"type": "digits", "train_size": 64},
        "estimators": ["additive"],
        "strategies": ["random"],
        "select": "sum",
        "score": "sum",
        "budget": {"trials": 3},
        "seeds": 2,
        "processes": 1,
        "resamples": 100,
    }
    commands: dict[str, Callable[[], object]] = {
        "search": lambda: archloom.search(config(), folder, host=host()),
        "resume": lambda: archloom.resume(folder, host=host()),
        "verdict": lambda: course.verdict(folder, host=host()),
        "compare": lambda: compare(compared, folder, host=host()),
        "rank": lambda: rank(ranked, folder, host=host()),
        "retrain": lambda: retrain("fbnet_a", folder, task="digits", host=host(), observers=()),
    }
    if command in ("resume", "verdict"):
        commands["search"]()
    folder.mkdir(exist_ok=True)
    if command == "retrain":
        archloom.search(
            config(space="blocks", estimators=["params"], objectives=["params"]), here / "run", host=host()
        )
        commands["retrain"] = lambda: retrain(here / "run", folder, host=host(), observers=())
    before = files(folder)
    lock = Lock(folder)
    try:
        with pytest.raises(
            RunError, match=rf"is in use: process {os.getpid()} on host '.*' has worked in it since"
        ):
            commands[command]()
    finally:
        lock.release()
    assert files(folder) == before


def test_the_folder_is_given_back_however_a_search_ends(tmp_path):
    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "result":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archloom.search(config(), tmp_path, host=host(), notify=interrupt)
    (tmp_path / "log.jsonl").write_text((tmp_path / "log.jsonl").read_text() + "5\n")
    with pytest.raises(RunError, match="is no event"):
        archloom.resume(tmp_path, host=host())
    (tmp_path / "log.jsonl").write_text((tmp_path / "log.jsonl").read_text()[:-2])
    with pytest.raises(RunError, match="seed: then 0, now 1"):
        archloom.resume(tmp_path, overrides=("seed=1",), host=host())
    assert len(archloom.resume(tmp_path, host=host()).trials) == 6
    assert not (tmp_path / ".lock").exists()


def test_a_run_that_was_taken_over_writes_nothing_more(tmp_path):
    def steal(event: dict[str, Any]) -> None:
        if event["event"] == "observe" and event["number"] == 2:
            (tmp_path / ".lock").unlink()

    with pytest.raises(RunError, match="was taken over by another process"):
        archloom.search(config(), tmp_path, host=host(), notify=steal)
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["number"]) == ("observe", 2)
    assert len(archloom.resume(tmp_path, host=host()).trials) == 6


def test_every_rank_of_a_gang_is_refused_with_the_first(tmp_path, monkeypatch):
    archloom.search(config(), tmp_path, host=host())
    told: list[Any] = []

    class First(Ranks):
        def broadcast_object(self, value: Any) -> Any:
            told.append(value)
            return value

    class Second(Ranks):
        is_first = False

        def broadcast_object(self, value: Any) -> Any:
            return told[-1]

    lock = Lock(tmp_path)
    for gang in (First(), Second()):  # the second one never looks at the folder
        monkeypatch.setattr(course, "join", lambda device, gang=gang: gang)
        with pytest.raises(RunError, match="is in use: process"):
            archloom.resume(tmp_path, host=host())
    lock.release()


def test_two_searches_of_one_instant_have_a_folder_each(here, monkeypatch):
    monkeypatch.setattr("archloom.session.opening.time.strftime", lambda *_: "20260101-000000")
    gate, found = threading.Barrier(3), []
    identity = course.identity_of(course.resolve(course.as_config(config()), host()))
    path = course.fresh_path(course.as_config(config()))

    def search() -> None:
        gate.wait()
        found.append(course.Folder.fresh(path, SEARCH, identity))

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    name = "20260101-000000-digit_space-random"
    assert {folder.path.name for folder in found} == {name, f"{name}-2", f"{name}-3"}
    for folder in found:
        folder.close()


# -- nobody's own file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl", "architecture.json", "weights.safetensors"])
def test_a_search_replaces_no_file_of_its_users(here, name):
    (here / name).write_text("mine")
    with pytest.raises(RunError, match="name another"):
        archloom.search(config(), ".", host=host())
    assert files(here) == {name: b"mine"}


def test_retraining_replaces_no_file_of_its_users(here):
    archloom.search(config(space="blocks", estimators=["params"], objectives=["params"]), "run", host=host())
    shutil.copy("run/architecture.json", "architecture.json")
    before = (here / "architecture.json").read_bytes()
    with pytest.raises(RunError, match=r"files that one would replace: architecture\.json"):
        retrain("architecture.json", ".", task="digits", host=host(), observers=())
    with pytest.raises(RunError, match=r"holds another kind of work \(search\), not a training"):
        retrain("run", "run", host=host(), observers=())
    assert (here / "architecture.json").read_bytes() == before
    assert sorted(path.name for path in here.iterdir()) == ["architecture.json", "run"]


def test_comparing_and_ranking_replace_no_file_of_their_users(here):
    for name in ("comparison.json", "rank.json"):
        (here / name).write_text("mine")
    with pytest.raises(RunError, match=r"would replace: comparison\.json"):
        compare(comparison(), ".", host=host(Reading()))
    ranked = {
        "space": "digit_space",
        "truth": "additive",
        "metric": "sum",
        "networks": 10,
        "top": 3,
        "resamples": 100,
    }
    with pytest.raises(RunError, match=r"would replace: rank\.json"):
        rank(ranked, ".", host=host())
    assert set(files(here)) == {"comparison.json", "rank.json"}


def test_a_latency_table_replaces_no_other_file(here, monkeypatch, capfd):
    import sys

    from archloom import cli

    def typed(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["archloom", "latency", *words])
        with suppress(SystemExit):
            cli.main()
        return capfd.readouterr().err

    small = ("--set", "space.form=small", "--set", "space.in_channels=1")
    build = ("build", "fbnet", *small, "--set", "space.candidates=[ir_k3_e1, skip]", "--runs", "1")
    (here / "latency.json").write_text("[1, 2]")
    assert (
        "latency.json is there and is no latency table of this space and setting; it is not replaced"
        in typed(*build)
    )
    assert (here / "latency.json").read_text() == "[1, 2]"
    (here / "latency.json").unlink()
    for _ in range(2):  # one's own may be measured anew
        assert "is not replaced" not in typed(*build)
    first = (here / "latency.json").read_bytes()
    assert "is not replaced" in typed(*build, "--batch", "2")
    (here / "latency-check.json").write_text("{}")
    assert "latency-check.json is there and is no result of a latency check" in typed("check", *build[1:-2])
    assert (here / "latency.json").read_bytes() == first


# -- what changed ---------------------------------------------------------------------------------------


def test_a_file_that_changed_between_a_search_and_its_resume_is_named(here):
    archloom.search(reading(), "run", host=host(Reading()))
    before = files(here / "run")
    (here / "sheet.txt").write_text("2.5")
    with pytest.raises(
        RunError, match=r"estimators\.0\.path, the file sheet\.txt, had another content: then \w+, now \w+"
    ):
        archloom.resume("run", overrides=("budget.trials=9",), host=host(Reading()))
    assert files(here / "run") == before
    (here / "sheet.txt").write_text("1.5")
    assert len(archloom.resume("run", overrides=("budget.trials=9",), host=host(Reading())).trials) >= 9


def test_a_file_that_was_moved_is_still_the_same(here):
    archloom.search(reading(), "run", host=host(Reading()))
    (here / "sheet.txt").rename("elsewhere.txt")
    words = ("budget.trials=9", "estimators.0.path=elsewhere.txt")
    assert len(archloom.resume("run", overrides=words, host=host(Reading())).trials) >= 9
    assert read_stored("run")["estimators"][0]["path"] == "elsewhere.txt"


def pictures(root: Path, *, shade: int = 0) -> None:
    for split, count in (("train", 8), ("val", 4)):
        for label, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (200 * label + shade, number, 0)).save(
                    root / split / name / f"{number}.png"
                )


def test_data_that_were_moved_go_on_and_other_data_are_refused(here):
    pictures(here / "a")
    task = {"type": "imagefolder", "root": "a", "resolution": 8, "workers": 0}
    space = {"type": "blocks", "in_channels": 3}
    counted = config(
        task=task, space=space, estimators=["params"], objectives=["params"], budget={"trials": 2}
    )
    archloom.search(counted, "run", host=host())
    (here / "a").rename("b")
    pictures(here / "c", shade=1)
    with pytest.raises(RunError, match="the data of task had another content"):
        archloom.resume("run", overrides=("task.root=c", "budget.trials=3"), host=host())
    with pytest.raises(RunError, match="task: then"):
        archloom.resume("run", overrides=("task.root=b", "task.normalize=advprop"), host=host())
    again = archloom.resume("run", overrides=("task.root=b", "budget.trials=3"), host=host())
    assert len(again.trials) >= 3


def test_a_run_of_an_older_version_goes_on_as_it_is(tmp_path):
    """Without identity.json, checksums, the owners of checkpoints, and the threads that it began with."""
    whole = archloom.search(given(), tmp_path / "whole", host=host(Plugin()))
    old = tmp_path / "old"
    archloom.search(given(budget={"epochs": 2}), old, host=host(Plugin()))
    for name in ("identity.json", "log.sums"):
        (old / name).unlink()
    lines = [json.loads(line) for line in (old / "log.jsonl").read_text().splitlines()]
    del lines[0]["threads"]
    lines[0]["identity"] |= {
        "space": {"type": "blocks"},
        "task": {"type": "digits", "train_size": 64},
    }  # as given
    (old / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for path in (old / "checkpoint.pt", previous(old / "checkpoint.pt")):
        state = load_checkpoint(path)
        del state["unit"]
        _save_as_before(path, state)
    again = archloom.resume(old, overrides=("budget.epochs=9",), host=host(Plugin()))
    assert trials(again) == trials(whole)
    assert (old / "identity.json").exists()
    assert (old / "log.sums").exists()


def test_a_training_of_an_older_version_goes_on_with_fields_that_recipes_had_not_yet(here):
    counted = config(space="blocks", estimators=["params"], objectives=["params"])
    archloom.search(counted, "run", host=host())
    words = ("recipe.epochs=1", "recipe.batch_size=64")
    first = retrain("run", "old", overrides=words, host=host(), observers=())
    Path("old/identity.json").unlink()
    then = yaml.safe_load(Path("old/training.yaml").read_text())
    del then["options"]["recalibrate"]
    Path("old/training.yaml").write_text(yaml.safe_dump(then))
    assert retrain("run", "old", overrides=words, host=host(), observers=()).metrics == first.metrics


def _save_as_before(path: Path, state: dict[str, Any]) -> None:
    import hashlib
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    path.write_bytes(b"archloom checkpoint 1\n" + digest + b"\n" + buffer.getvalue())


# -- checkpoints ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def supernets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two half-trained runs that differ by their seed, and the first one's whole."""
    folder = tmp_path_factory.mktemp("supernets")
    for seed in (0, 1):
        archloom.search(given(seed=seed, budget={"epochs": 2}), folder / f"half{seed}", host=host(Plugin()))
    archloom.search(given(), folder / "whole", host=host(Plugin()))
    return folder


def whole_of(supernets: Path) -> list[dict[str, Any]]:
    return trials(archloom.resume(supernets / "whole", host=host(Plugin())))


@pytest.mark.parametrize("both", [False, True])
def test_a_checkpoint_of_another_run_is_not_used(supernets, tmp_path, both):
    run = shutil.copytree(supernets / "half0", tmp_path / "run")
    for name in ("checkpoint.pt", "checkpoint.pt.previous") if both else ("checkpoint.pt",):
        shutil.copy(supernets / "half1" / name, run / name)
    if both:
        with pytest.raises(
            RunError, match=r"checkpoint\.pt belongs to other work.*No sound checkpoint is left"
        ):
            archloom.resume(run, overrides=("budget.epochs=9",), host=host(Plugin()))
    else:
        with pytest.warns(UserWarning, match="belongs to other work than this; going on from the one before"):
            again = archloom.resume(run, overrides=("budget.epochs=9",), host=host(Plugin()))
        assert trials(again) == whole_of(supernets)


def test_a_log_that_lacks_what_the_checkpoint_has_is_said(supernets, tmp_path):
    run = shutil.copytree(supernets / "half0", tmp_path / "run")
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (run / "log.jsonl").write_text("".join(lines[:2]))  # start and the first of two units
    with pytest.raises(
        RunError, match=r"is at unit 2 of the training, and the log ends at unit 1: lines are missing"
    ):
        archloom.resume(run, overrides=("budget.epochs=9",), host=host(Plugin()))
    for name in ("checkpoint.pt", "checkpoint.pt.previous"):
        (run / name).unlink()
    again = archloom.resume(run, overrides=("budget.epochs=9",), host=host(Plugin()))
    assert trials(again) == whole_of(supernets)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a verdict of two networks."""
    folder = tmp_path_factory.mktemp("judged") / "run"
    recipe = {"type": "default", "epochs": 2, "batch_size": 32}
    judging = {
        "estimators": ["params", "macs"],
        "objectives": ["params"],
        "verdict": {"seeds": 1, "random": 1},
    }
    task = {"type": "digits", "train_size": 64}
    archloom.search(
        config(
            space={"type": "blocks", "depth": 1}, task=task, recipe=recipe, budget={"trials": 2}, **judging
        ),
        folder,
        host=host(),
    )
    return folder


@pytest.mark.parametrize("name", ["training.pt", "best.pt"])
@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink], ids=lambda act: act.__name__)
def test_weights_of_the_verdict_that_were_damaged_are_trained_again(judged, tmp_path, name, damage):
    run = shutil.copytree(judged, tmp_path / "run")
    damage(next(run.glob("final/found-*")) / name)
    for file in run.glob("weights*.safetensors"):
        file.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        archloom.resume(run, host=host())
    for file in ("weights.safetensors", "weights-last.safetensors"):
        assert (run / file).read_bytes() == (judged / file).read_bytes()


def test_weights_of_another_network_are_no_verdict_of_this_one(judged, tmp_path):
    run = shutil.copytree(judged, tmp_path / "run")
    found, other = next(run.glob("final/found-*")), next(run.glob("final/random-*"))
    for name in ("training.pt", "training.pt.previous", "best.pt", "best.pt.previous"):
        if (other / name).exists():
            shutil.copy(other / name, found / name)
    with pytest.raises(RunError, match=r"training\.pt belongs to other work"):
        archloom.resume(run, host=host())


# -- comparing ------------------------------------------------------------------------------------------


def comparison(**changes: Any) -> dict[str, Any]:
    return {
        "space": "digit_space",
        "task": {"type": "digits", "train_size": 64},
        "estimators": ["stepwise"],
        "strategies": {"mine": {"type": "ladder", "start": 10}},
        "select": "stepwise",
        "score": "stepwise",
        "budget": {"trials": 3},
        "seeds": 2,
        "processes": 1,
        "resamples": 100,
    } | changes


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    compare(comparison(), folder, host=host(Reading()))
    return folder


def test_a_comparison_that_was_killed_refuses_other_options_under_the_same_label(compared, tmp_path):
    folder = shutil.copytree(compared, tmp_path / "compared")
    lines = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    (folder / "runs.jsonl").write_text(lines[0])  # as if killed before the first search was recorded
    changed = comparison(strategies={"mine": {"type": "ladder", "start": 40}})
    before = files(folder / "searches")
    with pytest.raises(
        RunError, match=r"has a search of 'mine' with other options \(strategy: then .*10.* now .*40"
    ):
        compare(changed, folder, host=host(Reading()))
    assert files(folder / "searches") == before
    compare(comparison(), folder, host=host(Reading()))
    assert (folder / "comparison.json").read_bytes() == (compared / "comparison.json").read_bytes()


def test_labels_that_look_alike_have_searches_of_their_own(tmp_path):
    starts = {"beta-0.5": 0, "beta+0.5": 50}
    strategies = {label: {"type": "ladder", "start": start} for label, start in starts.items()}
    scored = compare(comparison(strategies=strategies), tmp_path, host=host(Reading())).document["scores"][
        "stepwise"
    ]
    found = {label: scored["optimum"] - scored["regret"][label]["3"][0] for label in starts}
    assert found == {
        "beta-0.5": 2.0,
        "beta+0.5": 6.0,
    }  # the sums' largest: of 000, 001, 002; of 302, 303, 310
    assert len(list((tmp_path / "searches").iterdir())) == 3


def test_the_same_comparison_gives_the_same_file(compared, tmp_path):
    compare(comparison(), tmp_path, host=host(Reading()))
    assert (tmp_path / "comparison.json").read_bytes() == (compared / "comparison.json").read_bytes()
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert set(environment["seconds"]) == {"random", "mine"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            '{"event": "run", "label": "mine", "seed": 0}',
            "line 6, is a search whose contender cannot be meant",
        ),
        ("again", "line 6, is the search of 'random' with seed 0 once more"),
        ('{"event": "trial"}', "line 6, is no search"),
    ],
)
def test_a_line_of_a_comparison_that_cannot_be_meant_is_named(compared, tmp_path, line, told):
    folder = shutil.copytree(compared, tmp_path / "compared")
    log = folder / "runs.jsonl"
    lines = log.read_text().splitlines()
    (folder / "runs.sums").unlink()
    log.write_text("\n".join([*lines, lines[1] if line == "again" else line]) + "\n")
    with pytest.raises(RunError, match=told):
        compare(comparison(), folder, host=host(Reading()))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{}", "is no estimate: an architecture is a dictionary"),
        (
            '{"architecture": {"d0": 1}, "predictor": "p"}',
            "is no estimate, with a predictor, and values or an error",
        ),
        (
            '{"architecture": {"d0": 1}, "predictor": "p", "values": {"a": "b"}, "seconds": 1}',
            "is an estimate of something else than finite numbers",
        ),
        ("again", "is the estimate of line 1 once more"),
    ],
)
def test_a_line_of_a_ranking_that_cannot_be_meant_is_named(here, line, told):
    ranked = {
        "space": "digit_space",
        "truth": "additive",
        "metric": "sum",
        "networks": 10,
        "top": 3,
        "resamples": 100,
    }
    rank(ranked, "ranked", host=host())
    log = here / "ranked" / "estimates.jsonl"
    lines = log.read_text().splitlines()
    (here / "ranked" / "estimates.sums").unlink()
    log.write_text("\n".join([*lines, lines[0] if line == "again" else line]) + "\n")
    with pytest.raises(RunError, match=told):
        rank(ranked, "ranked", host=host())


# -- threads and environment ----------------------------------------------------------------------------


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_a_run_goes_on_with_the_threads_that_it_began_with_and_says_so(tmp_path, threads):
    seen: list[int] = []

    class Counting(toys.Additive):
        def estimate(self, architecture: Any, context: Any) -> Any:
            seen.append(torch.get_num_threads())
            return super().estimate(architecture, context)

    class Plugin:
        @archloom.hookimpl
        def register_estimators(self, register: Any) -> None:
            register("counting", Counting)

    counting = config(estimators=["counting"])
    archloom.search(counting, tmp_path, host=host(Plugin()))
    first = json.loads((tmp_path / "environment.json").read_text())
    threads(2)
    archloom.resume(tmp_path, overrides=("budget.trials=12",), host=host(Plugin()))
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2
    assert (
        "the run began with 1 CPU threads and is resumed with as many; this process has 2"
        in (tmp_path / "log.txt").read_text()
    )
    second = json.loads((tmp_path / "environment.json").read_text())
    assert {**second, "resumed": []} == {**first, "resumed": []}


def test_the_environment_of_the_beginning_is_kept_beside_what_is_other_later(tmp_path):
    path = tmp_path / "environment.json"
    note_environment(path, {"threads": 1, "commit": "a", "command": ["search"]})
    for _ in range(2):
        note_environment(path, {"threads": 2, "commit": "a", "command": ["resume"]})
    assert json.loads(path.read_text()) == {
        "threads": 1,
        "commit": "a",
        "command": ["search"],
        "resumed": [{"threads": 2}],
    }


# -- what may not be read or written ----------------------------------------------------------------------


@pytest.fixture
def forbidden(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose folder another user keeps to himself."""
    archloom.search(config(space="blocks", estimators=["params"], objectives=["params"]), "run", host=host())
    real_stat, real_open = os.stat, open

    def refuse(path: Any) -> None:
        if isinstance(path, str | os.PathLike) and "run/" in os.fspath(path):
            raise PermissionError(13, "Permission denied", os.fspath(path))

    def stat(path: Any, *rest: Any, **options: Any) -> Any:
        refuse(path)
        return real_stat(path, *rest, **options)

    def opening(path: Any, *rest: Any, **options: Any) -> Any:
        refuse(path)
        return real_open(path, *rest, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr("io.open", opening)
    return here / "run"


@pytest.mark.parametrize("command", ["report", "resume", "verdict", "retrain", "build", "evaluate"])
def test_a_run_that_may_not_be_read_is_said_in_one_sentence(forbidden, command):
    from archloom.trained import open_trained

    commands: dict[str, Callable[[], object]] = {
        "report": lambda: write_report("run"),
        "resume": lambda: archloom.resume("run", host=host()),
        "verdict": lambda: course.verdict("run", host=host()),
        "retrain": lambda: retrain("run", host=host()),
        "build": lambda: archloom.build("run", host=host()),
        "evaluate": lambda: open_trained("run", host=host()),
    }
    with pytest.raises(
        (RunError, ConfigError), match=r"cannot read .* run/.*: Permission denied\. Ask its owner"
    ):
        commands[command]()


@pytest.mark.parametrize("line", ["5", "null", "[]", "{}", '{"event": 3}'])
def test_a_report_of_a_log_with_a_line_that_is_no_event_names_it(tmp_path, line):
    (tmp_path / "config.yaml").write_text("space: a")
    (tmp_path / "log.jsonl").write_text('{"event": "start"}\n' + line + "\n")
    with pytest.raises(RunError, match=r"log\.jsonl, line 2, is no event"):
        write_report(tmp_path)


def test_a_report_that_cannot_be_written_is_said_in_one_sentence(tmp_path, monkeypatch):
    archloom.search(config(), tmp_path, host=host())
    before = files(tmp_path)

    def read_only(*_: Any, **__: Any) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(
        RunError, match=r"cannot write .*report\.html: Read-only file system.*copy the folder"
    ):
        write_report(tmp_path)
    assert files(tmp_path) == before


def test_a_configuration_of_a_run_that_is_another_runs_is_refused(here):
    archloom.search(config(), "a", host=host())
    archloom.search(config(seed=1), "b", host=host())
    shutil.copy("b/config.yaml", "a/config.yaml")
    with pytest.raises(RunError, match="seed: then 0, now 1"):
        archloom.resume("a", host=host())
    shutil.copy("b/identity.json", "a/identity.json")
    with pytest.raises(
        RunError, match=r"log\.jsonl, line 1, is the start of another run than identity\.json"
    ):
        archloom.resume("a", host=host())
    assert yaml.safe_load((here / "a" / "config.yaml").read_text())["seed"] == 1
