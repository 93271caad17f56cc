"""The command line: what people type, and what they are told when it is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from archloom import cli, console

PLUGIN = """
import torch
import archloom
from archloom.architecture import Choice
from archloom.estimator import Metric
from archloom.space import Around, build_chain

class Tiny:
    '''Two layers of kernel 1 or 3.'''
    in_channels = 1
    def __init__(self, *, width: int = 4):
        self.width = width
        self.choices = [Choice("layer0", ("k1", "k3")), Choice("layer1", ("k1", "k3"))]
    def candidate(self, choice, option):
        return torch.nn.Conv2d(self.width, self.width, int(option[1]), padding=int(option[1]) // 2)
    def around(self, body):
        return Around(torch.nn.Conv2d(1, self.width, 1), body)
    def build(self, architecture):
        return build_chain(self, architecture)

class Raises:
    metrics = (Metric("raised", "1", "max"),)
    expense, needs = 0, ()
    def estimate(self, architecture, context): raise OSError("the meter is off")

@archloom.hookimpl
def register_search_spaces(register): register("tiny", Tiny)
@archloom.hookimpl
def register_estimators(register): register("raises", Raises)
"""


@pytest.fixture(autouse=True)
def _quiet():
    """Whatever the command line changed of the process is given back."""
    import warnings

    show = warnings.showwarning
    console._started.clear()
    yield
    warnings.showwarning = show


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a plugin file and a configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(PLUGIN)
    given = {
        "plugins": ["tiny.py"],
        "space": "tiny",
        "task": {"type": "digits", "train_size": 64},
        "strategy": "random",
        "estimators": ["params", "macs"],
        "objectives": ["macs"],
        "budget": {"trials": 3},
        "recipe": {"type": "default", "epochs": 1},
        "verdict": {"seeds": 0},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))
    return tmp_path


@pytest.fixture
def archloom(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Type a command: (exit code, stdout, stderr)."""

    def typed(*words: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["archloom", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        told = capfd.readouterr()
        return code, told.out, told.err

    return typed


# -- happy paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["--folder", "--run"])
def test_the_former_names_of_the_output_folder_are_accepted_with_a_warning(here, archloom, name):
    code, _, err = archloom("search", "c.yaml", name, "run", "--set", "verdict.seeds=0")
    assert code == 0, err
    assert "--folder and --run are now called --out" in err
    assert (here / "run" / "result.json").exists()
    code, _, err = archloom("search", "c.yaml", name, "run", "--out", "run2")
    assert code == 2
    assert "name the output folder twice" in err


def test_info_counts_a_network_of_a_model_file(here, archloom):
    (here / "net.yaml").write_text(
        "model: {backbone: {type: ResNet_CIFAR, depth: 18}, head: LinearHead}\ntask: digits\n"
    )
    code, out, err = archloom("info", "net.yaml", "--num-classes", "10", "--resolution", "32", "--json")
    assert code == 0, err
    facts = json.loads(out)
    # 11,173,962 are known of the ResNet-18 with a 3x3 stem; two input channels less save 2 x 64 x 9
    assert facts["params"] == 11_173_962 - 2 * 64 * 9
    assert facts["model"]["backbone"]["type"] == "ResNet_CIFAR"


def test_a_search_can_be_resumed_retrained_evaluated_and_reported(here, archloom):
    code, out, err = archloom("search", "c.yaml", "--out", "run")
    assert code == 0, err
    assert "trials, 3 measured; the budget of 3 trials is spent" in out
    assert "run folder: run" in out
    assert "trial 0 ok" in err

    assert "--folder" not in err

    code, out, err = archloom("resume", "run", "--set", "budget.trials=4")
    assert code == 0, err
    assert "trials, 4 measured" in out

    code, out, err = archloom(
        "retrain", "run", "--plugin", "tiny.py", "--set", "recipe.batch_size=16", "--out", "trained"
    )
    assert code == 0, err
    assert "test.accuracy" in out
    assert (here / "trained" / "weights.safetensors").exists()

    code, out, err = archloom(
        "evaluate", "run", "--weights", "trained/weights.safetensors", "--plugin", "tiny.py", "--json"
    )
    assert code == 0, err
    judged = json.loads(out)
    stored = json.loads((here / "trained" / "metrics.json").read_text())
    assert judged["accuracy"] == stored["test.accuracy"]

    code, out, err = archloom("report", "run")
    assert code == 0, err
    assert (here / "run" / "report.html").stat().st_size > 1000

    code, out, err = archloom("info", "run", "--plugin", "tiny.py", "--json")
    assert code == 0, err
    facts = json.loads(out)
    found = json.loads((here / "run" / "architecture.json").read_text())
    assert facts["macs"] == found["metrics"]["macs"]
    assert facts["params"] == found["metrics"]["params"]
    assert (facts["input"], facts["num_classes"]) == ([1, 8, 8], 10)


def test_a_verdict_trains_the_found_network_and_random_ones(here, archloom):
    code, out, err = archloom("search", "c.yaml", "--out", "run", "--set", "verdict={seeds: 1, random: 1}")
    assert code == 0, err
    assert "The found network" in out
    assert (here / "run" / "weights.safetensors").exists()


def test_info_knows_a_published_network_by_name(archloom):
    code, out, err = archloom("info", "fbnet_a", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["name"] == "fbnet_a"
    assert facts["macs"] == pytest.approx(facts["published"]["macs"], rel=0.05)
    assert len(facts["architecture"]) == 22


def test_plugins_lists_everything_with_its_options(here, archloom):
    code, out, err = archloom("plugins", "--json", "--plugin", "tiny.py")
    assert code == 0, err
    listing = json.loads(out)
    by_name = {(entry["kind"], entry["name"]): entry for entry in listing["plugins"]}
    assert by_name["space", "tiny"]["distribution"] == "file tiny.py"
    assert by_name["space", "tiny"]["options"] == [
        {"name": "width", "type": "int", "required": False, "default": 4}
    ]
    assert by_name["strategy", "evolution"]["distribution"] == "archloom"
    assert listing["broken"] == []
    assert "evolution" in archloom("plugins")[1]


def test_a_latency_table_is_built_and_used(here, archloom):
    code, _, err = archloom(
        "latency", "build", "tiny", "--plugin", "tiny.py", "--runs", "3", "--out", "t.json"
    )
    assert code == 0, err
    code, out, err = archloom(
        "search", "c.yaml", "--out", "r",
        "--set", "estimators=[{type: latency_table, table: t.json}]", "--set", "objectives=[latency.table]",
    )  # fmt: skip
    assert code == 0, err
    assert "latency.table" in out


def test_the_version_and_the_help_are_told(archloom):
    assert archloom("--version")[1].strip() == cli.version()
    code, out, err = archloom("search", "--help")
    assert code == 0
    assert "--set" in out + err


# -- what is wrong ------------------------------------------------------------------------------------------


def sets(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "gone.yaml"], "cannot read the configuration gone.yaml: No such file"),
        (["search", "c.yaml", *sets("strategy=evolutoin")], "unknown strategy 'evolutoin'; did you mean 'evolution'?"),
        (["search", "c.yaml", *sets("space=tiyn")], "unknown space 'tiyn'; did you mean 'tiny'?"),
        (["search", "c.yaml", *sets("budgte.trials=3")], "unknown key 'budgte'; did you mean 'budget'?"),
        (["search", "c.yaml", *sets("budget.trials=few")], "'budget.trials' = 'few'"),
        (["search", "c.yaml", *sets("space.widht=3")], "space 'tiny' has no option 'widht'; did you mean 'width'?"),
        (["search", "c.yaml", *sets("space.width=wide")], "space 'tiny': option 'width' = 'wide'"),
        (["search", "c.yaml", *sets("objectives=[mac]")], "unknown metric 'mac'; did you mean 'macs'?"),
        (["search", "c.yaml", *sets("constraints=['macs < ']")], "'macs < ' is no constraint"),
        (["search", "c.yaml", *sets("constraints=['macs < 1']")], "the nearest seen was"),
        (["search", "c.yaml", *sets("estimators=[raises]", "objectives=[raised]")], "OSError: the meter is off"),
        (["search", "c.yaml", "--set", "seed"], "--set takes key=value, not 'seed'"),
        (["search", "c.yaml", "--device", "cuda:99"], "device 'cuda' was asked for, but"),
        (["search", "c.yaml", "--precision", "int3"], "'precision' = 'int3'"),
        (["search", "c.yaml", "--plugin", "gone.py"], "there is no plugin file"),
        (["search", "c.yaml", "--plugin", "broken.py"], "broken.py failed: ModuleNotFoundError"),
        (["search", "c.yaml", "--plugin", "typo.py"], "unknown hook 'register_taks'; did you mean 'register_tasks'?"),
        (["search", "c.yaml", "--plugin", "tiny.py", "--plugin", "twin.py"], "by file tiny.py and by file twin.py"),
        (["resume", "nowhere"], "nowhere is no run folder"),
        (["resume", "."], ". is no run folder: it has no config.yaml"),
        (["info", "fbnet_q"], "unknown architecture 'fbnet_q'; did you mean 'fbnet_"),
        (["info", "gone/architecture.json"], "there is no architecture file"),
        (["info", "c.yaml"], "c.yaml configures a search and describes no network"),
        (["info", "fbnet_a", "--set", "bogus=1"], "bogus"),
        (["retrain", "fbnet_a"], "which task?"),
        (["retrain", "fbnet_a", "--task", "digist"], "unknown task 'digist'; did you mean 'digits'?"),
        (["evaluate", "fbnet_a", "--task", "digits"], "fbnet_a takes 3 channels, the images"),
        (["evaluate", "fbnet_a", "--task", "digits", "--split", "trian"], "there is no split 'trian'"),
        (["latency", "build", "tiyn"], "unknown space 'tiyn'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_wrong_input_is_told_in_a_line_or_two_with_exit_code_2(here, archloom, words, message):
    (here / "broken.py").write_text("import nowhere_to_be_found")
    (here / "typo.py").write_text("import archloom\n@archloom.hookimpl\ndef register_taks(register): pass")
    (here / "twin.py").write_text(PLUGIN)
    code, out, err = archloom(*words)
    assert code == 2, out + err
    told = err[err.index("error:") :]
    assert message in told
    assert len(told.strip().splitlines()) <= 2, told
    assert "Traceback" not in out + err
    assert not list(here.rglob("result.json"))


@pytest.mark.parametrize(
    "words", [["serach"], ["search"], ["search", "c.yaml", "--sat", "x=1"], ["retrain", "x", "--seed", "y"]]
)
def test_a_wrong_command_or_flag_is_told_with_exit_code_2(here, archloom, words):
    code, out, err = archloom(*words)
    assert code == 2
    assert "Traceback" not in out + err
    assert err


def test_debug_shows_the_traceback(here, archloom):
    from archloom.errors import UnknownName

    with pytest.raises(UnknownName):
        archloom("search", "c.yaml", "--set", "strategy=evolutoin", "--debug")


def test_strict_stops_at_the_first_estimator_that_raises(here, archloom):
    code, _, err = archloom(
        "search", "c.yaml", "--strict", "--out", "r", *sets("estimators=[raises]", "objectives=[raised]")
    )
    assert code == 1
    assert "error: OSError: the meter is off (--debug shows where)" in err
    assert (here / "r" / "log.jsonl").read_text().count('"propose"') == 1


def test_resuming_under_another_identity_is_told_with_old_and_new(here, archloom):
    assert archloom("search", "c.yaml", "--out", "r")[0] == 0
    code, _, err = archloom("resume", "r", "--set", "seed=5")
    assert code == 2
    assert "seed: then 0, now 5" in err


def test_an_installed_plugin_that_fails_is_a_warning_and_what_it_held_an_error(here, archloom, monkeypatch):
    info = here / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[archloom]\nstranger = stranger_of_tests\n")
    (here / "stranger_of_tests.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(str(here))
    code, _, err = archloom("search", "c.yaml", "--out", "r")
    assert code == 0
    assert "warning: plugin 'stranger' of stranger 1.0 could not be loaded: ModuleNotFoundError" in err
    code, _, err = archloom("search", "c.yaml", "--set", "strategy=strange")
    assert code == 2
    assert "It may belong to a plugin that failed" in err
    code, out, _ = archloom("plugins", "--json")
    assert "nowhere_to_be_found" in json.loads(out)["broken"][0]
    monkeypatch.setenv("ARCHLOOM_STRICT_PLUGINS", "1")
    assert archloom("plugins")[0] == 2
