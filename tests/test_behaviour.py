"""The comparison of what searches leave: it sees what changed, and nothing but that."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from archloom.plugins import Host

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


RESULT = {
    "event": "result",
    "active": 0.51,
    "number": 0,
    "architecture": {"a": "x"},
    "status": "ok",
    "metrics": {"macs": 7616.0, "latency.measured": 0.7},
    "cost": {"seconds": 0.06, "epochs": 1.0},
    "seed": 12,
}


@pytest.fixture
def leave(tmp_path):
    """Writes a folder of each kind of file, as a run leaves them, with something put otherwise."""

    def write(name, *, result=None, weight=1.0, momentum=0.5, seconds=3.0, epochs=2, config=None):
        folder = tmp_path / name
        (folder / "final").mkdir(parents=True)
        events = [
            {"event": "start", "folder": str(folder), "versions": {"torch": name}},
            {"event": "propose", "number": 0, "architecture": {"a": "x"}},
            RESULT | {"active": seconds} | (result or {}),
            {"event": "observe", "number": 0},
        ]
        (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        save_file({"w": torch.full((2, 3), weight)}, str(folder / "weights.safetensors"))
        state = {"key": name, "done": 3, "optimizer": {"state": [{"momentum": torch.tensor(momentum)}]}}
        torch.save(state, folder / "checkpoint.pt")
        payload = (folder / "checkpoint.pt").read_bytes()
        (folder / "checkpoint.pt").write_bytes(b"archloom checkpoint 2\nsum owner\n" + payload)
        with (folder / "final" / "epochs.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "loss", "images_per_second"])
            writer.writerows([epoch, 0.5, seconds] for epoch in range(epochs))
        (folder / "config.yaml").write_text(
            yaml.safe_dump({"seed": 0, "space": {"type": "s"}} | (config or {}))
        )
        (folder / "report.html").write_text(f"<p>{seconds}</p>")
        (folder / "environment.json").write_text(json.dumps({"command": [name]}))
        return folder

    return write


def differing(before, after):
    from run_records import differences, read

    return differences(read(before), read(after))


def test_runs_that_differ_in_time_and_place_alone_are_equal(leave):
    assert differing(leave("one"), leave("other", seconds=9.0)) == []


def test_one_changed_value_of_a_tensor_is_seen(leave):
    (difference,) = differing(leave("one"), leave("other", weight=1.0000001))

    assert difference.startswith("weights.safetensors: tensor w: ")
    assert "float32 2x3" in difference


def test_a_changed_number_within_a_checkpoint_is_seen(leave):
    (difference,) = differing(leave("one"), leave("other", momentum=0.25))

    assert difference.startswith("checkpoint.pt: tensor optimizer.state.0.momentum: ")


def test_a_tensor_of_another_type_is_another_tensor():
    from run_records import described

    assert described(torch.zeros(2)) != described(torch.zeros(2, dtype=torch.int32))
    assert described(torch.zeros(2, 1)) != described(torch.zeros(2))


@pytest.mark.parametrize(
    ("changed", "item"),
    [
        ({"metrics": {"macs": 7617.0, "latency.measured": 0.7}}, "result 0: metrics"),
        ({"metrics": {"macs": 7616.0, "params": 3.0}}, "result 0: metrics"),
        ({"status": "failed"}, "result 0: status"),
        ({"seed": 13}, "result 0: seed"),
        ({"cost": {"seconds": 0.06, "epochs": 2.0}}, "result 0: cost"),
        ({"architecture": {"a": "y"}}, "result 0: architecture"),
    ],
)
def test_a_changed_trial_is_seen(leave, changed, item):
    (difference,) = differing(leave("one"), leave("other", result=changed))

    assert difference.startswith(f"log.jsonl: {item}: ")


def test_a_trial_of_another_number_is_seen(leave):
    lines = differing(leave("one"), leave("other", result={"number": 1}))

    assert any(one.startswith("log.jsonl: result 0: status is missing") for one in lines)


def test_a_missing_file_is_seen(leave):
    one, other = leave("one"), leave("other")
    (other / "weights.safetensors").unlink()

    assert differing(one, other) == ["weights.safetensors is missing"]


def test_an_epoch_more_or_less_is_seen(leave):
    assert "final/epochs.csv: rows: 2 became 3" in differing(leave("one"), leave("other", epochs=3))
    assert "final/epochs.csv: rows: 2 became 1" in differing(leave("first"), leave("last", epochs=1))


def test_what_is_written_beside_all_else_is_an_addition_and_no_difference(leave):
    from run_records import additions, read

    one, other = leave("one"), leave("other", config={"executor": {"type": "processes"}})
    (other / "more.json").write_text("{}")

    assert differing(one, other) == []
    assert additions(read(one), read(other)) == ["more.json", "config.yaml: executor.type"]
    assert differing(other, one) != []


def test_a_case_is_not_equal_because_both_trees_fail_alike(leave, monkeypatch, tmp_path):
    import behaviour
    from behaviour_cases import Case, Step

    monkeypatch.setitem(behaviour.CASES, "some", Case((Step("search config.yaml"),)))
    sides = []
    for name in ("base", "head"):
        folder = leave(f"{name}/cases/some")
        (folder / "exits.json").write_text(json.dumps({"step 0": 2, "seconds": 1.0}))
        side = object.__new__(behaviour.Side)
        side.folder = tmp_path / name
        sides.append(side)

    outcome = behaviour.outcomes(*sides, ["some"])["some"]

    assert outcome["differences"] == ["the base's `search config.yaml` ends with 2"]
    line, right = behaviour.report("some", outcome)
    assert line.startswith("some: DIFFERS")
    assert not right


def test_a_change_on_purpose_hides_no_other_and_holds_for_its_case_alone(monkeypatch):
    import behaviour

    monkeypatch.setattr(behaviour, "CHANGED", {r"some: run/config.yaml: lr: .*": "a better rate"})
    meant, other = "run/config.yaml: lr: 1 became 2", "run/log.jsonl: result 0: seed: 1 became 2"
    outcome = {"equal": False, "differences": [meant], "added": [], "values": 1, "seconds": [1.0, 1.0]}

    line, right = behaviour.report("some", outcome)
    assert right
    assert line.startswith("some: equal but for what CHANGED names")
    line, right = behaviour.report("some", outcome | {"differences": [meant, other]})
    assert not right
    assert line.startswith("some: DIFFERS")
    assert other in line
    assert not behaviour.report("another", outcome)[1]


def test_what_was_changed_on_purpose_is_counted(monkeypatch):
    import behaviour

    monkeypatch.setattr(behaviour, "CHANGED", {"some: x: .*": "why", "some: y: .*": "why"})

    counts = behaviour.changed({"some": {"differences": ["x: 1 became 2", "z: 1 became 2"]}})

    assert counts == {"some: x: .*": 1, "some: y: .*": 0}


def test_each_shipped_strategy_has_a_case():
    from behaviour_cases import CASES, LATER

    configurations = json.dumps([list(case.files.values()) for case in CASES.values()])

    for name in set(Host().names("strategy")) - set(LATER):
        assert f'"{name}"' in configurations, (
            f"benchmarks/behaviour_cases.py has no case with the strategy '{name}'"
        )
