"""The documentation is executed.

Python blocks of README.md and docs/*.md are run from top to bottom, those of one file in one module and in an
empty folder. YAML blocks that have a `space:` are configurations and must resolve. A block after the line
`<!-- not run -->` is left out.
"""

import importlib
import json
import re
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import archloom
from archloom import config, hookspecs
from archloom.config import parse_config
from archloom.context import BEFORE_STAR, HANDED
from archloom.factories import INJECTED
from archloom.plugins import HOOKS, Host
from archloom.ranking import RankConfig, parse_rank
from archloom.ranking.plan import make_plan
from archloom.resolve import resolve
from archloom.trial import Trial

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "data.md"  # its blocks need files, which its own tests make
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if page.exists() and page != DATA
]
BLOCK = re.compile(r"^(?P<skip><!-- not run -->\n+)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


def blocks(page, language):
    """(line, text) of each block that is to be run."""
    text = page.read_text()
    found = (match for match in BLOCK.finditer(text) if match["language"] == language and not match["skip"])
    return [(text[: match.start("text")].count("\n") + 1, match["text"]) for match in found]


def run_page(page, module):
    for line, text in blocks(page, "python"):
        # blank lines before it let a traceback name the line of the page
        exec(compile("\n" * (line - 1) + text, str(page), "exec"), vars(module))


@pytest.fixture
def page_module():
    """A module for a page's code to live in, where classes and hooks are looked up."""
    module = types.ModuleType("page")
    sys.modules["page"] = module
    yield module
    del sys.modules["page"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page, page_module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page, page_module)


def test_the_regression_of_the_page_on_data_is_searched_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (written,) = [text for _, text in blocks(DATA, "python") if "class Dots" in text]
    (tmp_path / "dots.py").write_text(written)
    (configuration,) = [yaml.safe_load(text) for _, text in blocks(DATA, "yaml") if "dots.py" in text]
    host = Host(configuration["plugins"])
    task = archloom.make(host, "task", {"type": "dots", "size": 20})
    images, places = task.dataset("weights", "test")[0]
    assert images.shape == (1, 12, 12)
    assert divmod(int(images.argmax()), 12) == tuple(places.round().int().tolist())[::-1]
    small = {"epochs": 1, "batch_size": 32}
    result = archloom.search(
        configuration
        | {"estimators": [{"type": "accuracy", **small}, "params", "macs"], "verdict": {"seeds": 0}}
        | {"budget": {"trials": 1}, "observers": []},
        folder=tmp_path / "run",
        host=host,
    )
    assert result.units["distance.trained"] == "pixels"
    assert result.trials[0].metrics["distance.trained"] > 0


def configurations():
    for page in PAGES:
        for line, text in blocks(page, "yaml"):
            for document in yaml.safe_load_all(text):
                if isinstance(document, dict) and "space" in document and "truth" not in document:
                    yield pytest.param(document, id=f"{page.name}:{line}:{len(document)}")


def test_each_comparison_can_be_planned():
    text = (ROOT / "docs" / "ranking.md").read_text()
    (written,) = [b["text"] for b in BLOCK.finditer(text) if b["language"] == "yaml"]
    plan = make_plan(parse_rank(yaml.safe_load(written)), Host())
    assert len(plan.networks) == 300
    rows = re.findall(
        r"^\| `(\w+)` \| (?:`(.*?)`|(required)) \|", text.split("## The configuration")[1], re.M
    )
    for key, default, required in rows:
        field = RankConfig.model_fields[key]
        assert field.is_required() == bool(required), key
        if not required:
            least = {"space": "x", "truth": "y", "metric": "z"}
            assert parse_rank(least | {key: yaml.safe_load(default)}) == parse_rank(least), key
    others = {"model", "device", "precision", "executor", "workers", "threads", "plugins"}
    assert {key for key, *_ in rows} | others == set(RankConfig.model_fields)


def write_files(page, folder):
    """The blocks of a page that begin with the name of a file, as these files."""
    for _, text in blocks(page, "python"):
        if name := re.match(r"# (\w+\.py)\n", text):
            (folder / name[1]).write_text(text)


@pytest.mark.parametrize("document", list(configurations()))
def test_each_configuration_resolves(document, page_module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(ROOT / "docs" / "configuration.md", tmp_path)
    host = Host(parse_config(document).plugins)
    if config.parse_part(document["space"], "space").type == "towers":
        for line, text in blocks(ROOT / "docs" / "plugins.md", "python"):
            if "host" not in text:
                exec(compile("\n" * (line - 1) + text, "plugins.md", "exec"), vars(page_module))
        host.add(page_module, "page", "docs/plugins.md", "-")
    resolve(parse_config(document), host)


def test_the_training_function_of_the_page_is_searched_with(tmp_path):
    page = ROOT / "docs" / "configuration.md"
    write_files(page, tmp_path)
    (told,) = [text for _, text in blocks(page, "yaml") if "train.py:evaluate" in text]
    (tmp_path / "config.yaml").write_text(told)
    result = archloom.search(tmp_path / "config.yaml", tmp_path / "run")
    best = max(trial.metrics["accuracy"] for trial in result.trials)
    assert 80 < best <= 100
    assert json.loads((tmp_path / "run" / "architecture.json").read_text())["metrics"]["accuracy"] == best
    for trial in result.trials:
        width = trial.architecture["width"]
        assert trial.metrics["params"] == 65 * width + 10 * width + 10
    assert (tmp_path / "run" / "report.html").is_file()


# -- plugins.md -----------------------------------------------------------------------------------------


def sections(page, level):
    """heading -> the text below it."""
    parts = re.split(rf"^{'#' * level} (.+)$", page.read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_what_the_page_on_plugins_writes_keeps_its_contracts(page_module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(ROOT / "docs" / "plugins.md", page_module)
    cases = [value for name, value in vars(page_module).items() if name.startswith("Test")]
    assert len(cases) == 6
    for case in cases:
        for name in dir(case):
            if name.startswith("test_"):
                getattr(case(), name)()
        getattr(case, "teardown_class", lambda: None)()


@pytest.mark.parametrize(("kind", "hook"), HOOKS.items())
def test_each_hook_has_a_heading_its_signature_and_an_example(kind, hook):
    found = sections(ROOT / "docs" / "plugins.md", 3)
    assert list(found) == [name for name in vars(hookspecs) if name.startswith("register_")]
    text = found[hook]
    assert f"`{hook}(register)`" in text
    documented = " ".join(getattr(hookspecs, hook).__doc__.split())
    for signature in re.findall(r"factory\(.*?\)", documented):
        assert f"`{signature}`" in text
    for made in re.findall(r"`(archloom\.[\w.]+)`", documented):
        assert f"`{made}`" in text
        module, _, name = made.rpartition(".")
        assert hasattr(importlib.import_module(module), name)
    if kind != "strategy":  # the page begins with one
        assert f"def {hook}(register):" in text
    row = re.search(rf"^\| {kind} \| (.*) \|$", (ROOT / "docs" / "plugins.md").read_text(), re.M)[1]
    assert set(re.findall(r"`(\w+)`", row)) == set(INJECTED[kind])
    if kind == "strategy":
        assert set(re.findall(r"`(\w+)`", row.partition("before the")[0].rpartition(";")[2])) == set(
            BEFORE_STAR
        )


def test_what_is_handed_in_is_explained():
    text = (ROOT / "docs" / "plugins.md").read_text()
    explained = re.search(r"\| name \| what it is \|\n(.*?)\n\n", text, re.S)[1]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", explained, re.M))
    assert set(rows) == set().union(*INJECTED.values())
    assert {name: rows[name] for name in HANDED} == HANDED


# -- configuration.md -----------------------------------------------------------------------------------

MODELS = {
    "Parts: something by name": (config.Part, None),
    "The keys": (config.SearchConfig, ()),
    "estimators": (config.EstimatorPart, None),
    "budget": (config.Budget, ("budget",)),
    "pick": (config.Pick, ("pick",)),
    "model": (config.ModelConfig, ("model",)),
    "verdict": (config.Verdict, ("verdict",)),
}
LEAST = {"space": "fbnet", "objectives": ["macs"]}


@pytest.mark.parametrize("heading", MODELS)
def test_each_key_is_documented_with_its_default(heading):
    model, path = MODELS[heading]
    text = sections(ROOT / "docs" / "configuration.md", 2)[heading]
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`|(required)) \| (\S.*) \|$", text, re.M)
    assert [row[0] for row in rows] == list(model.model_fields)
    for key, default, required, _ in rows:
        assert bool(required) == model.model_fields[key].is_required(), key
        if not required and path is not None:
            inside = {key: yaml.safe_load(default)}
            if model is config.Pick:
                inside["best"] = "macs"
            data = LEAST | ({path[0]: inside} if path else inside)
            bare = LEAST | ({"pick": {"best": "macs"}} if model is config.Pick else {})
            assert parse_config(data) == parse_config(bare), key


def test_no_model_of_the_configuration_is_left_out():
    models = {m for m in vars(config).values() if isinstance(m, type) and issubclass(m, config._Strict)}
    assert models - {config._Strict} == {model for model, _ in MODELS.values()}


def test_the_identity_is_told_in_full():
    text = sections(ROOT / "docs" / "configuration.md", 2)["What a resumed run may change"]
    told = re.search(r"must stay: (.*?)\. ", text, re.S)[1]
    assert set(re.findall(r"`(\w+)`", told)) == set(parse_config(LEAST).identity()) - set(config.LATER)


# -- engine.md ------------------------------------------------------------------------------------------


def documented_events():
    text = sections(ROOT / "docs" / "engine.md", 2)["The log"]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", text, re.M))


def test_each_event_of_a_log_is_documented_with_its_fields(tmp_path):
    result = archloom.search(
        {
            "space": {"type": "fbnet", "stages": [[8, 1, 1]], "head_width": 8, "in_channels": 1},
            "task": {"type": "digits", "train_size": 40},
            "method": {"type": "fbnet", "epochs": 1, "warmup_epochs": 0, "batch_size": 16, "cost": "macs"},
            "estimators": ["macs"],
            "objectives": ["macs"],
            "recipe": {"type": "default", "epochs": 1},
            "verdict": {"seeds": 1, "random": 1},
            "observers": [],
        },
        tmp_path / "run",
    )
    events = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    documented = documented_events()
    # `anew` comes where constraints are changed on the way, which this search does not
    assert {event["event"] for event in events} == set(documented) - {"anew"}
    for event in events:
        names = set(re.findall(r"`(\w+)`", documented[event["event"]]))
        if "all fields of the trial" in documented[event["event"]]:
            names |= {field.name for field in fields(Trial)}
        assert set(event) == names | {"event"}


def test_each_field_of_a_trial_is_documented():
    text = sections(ROOT / "docs" / "engine.md", 2)["The protocols"]
    assert re.findall(r"^\| `(\w+)` \|", text, re.M) == [field.name for field in fields(Trial)]


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]), ids=lambda page: page.name
)
def test_each_link_of_a_page_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target
