from __future__ import annotations

import json
from contextlib import suppress

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archloom.config import DEFAULT, SearchConfig, parse_config, parse_part
from archloom.config_files import override, read_config
from archloom.errors import ConfigError

MINIMAL = {"space": "fbnet", "strategy": "random", "objectives": ["macs"]}

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
options = st.dictionaries(names.filter(lambda name: name != "type"), values, max_size=3)
parts = names | st.builds(lambda name, given: {"type": name, **given}, names, options)
configs = st.fixed_dictionaries(
    {"space": parts, "objectives": st.lists(names, min_size=1, max_size=3)},
    optional={
        "task": parts,
        "method": st.none() | parts,
        "strategy": parts,
        "estimators": st.lists(parts, max_size=3),
        "constraints": st.lists(names, max_size=2),
        "pick": st.none()
        | st.fixed_dictionaries(
            {"best": names}, optional={"within": st.dictionaries(names, st.floats(0, 9))}
        ),
        "budget": st.fixed_dictionaries(
            {}, optional={"trials": st.none() | st.integers(1, 99), "seconds": st.floats(0.1, 1e6)}
        ),
        "model": st.fixed_dictionaries({}, optional={"neck": parts, "head": parts}),
        "seed": st.integers(0, 2**62),
        "checkpoint_every": st.floats(0, 1e9),
        "plugins": st.lists(names, max_size=2),
    },
)


@given(configs)
def test_dumping_and_reading_a_configuration_again_is_the_identity(data):
    config = parse_config(data)
    dumped = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    again = parse_config(yaml.safe_load(dumped))
    assert again == config
    assert again.identity() == config.identity()
    assert json.loads(json.dumps(again.identity())) == config.identity()


@given(
    values
    | st.dictionaries(
        st.sampled_from(sorted(SearchConfig.model_fields)) | names | st.integers(), values | parts
    )
)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_arbitrary_data_is_a_configuration_or_a_config_error_and_nothing_else(data):
    with suppress(ConfigError):
        assert parse_config(data).objectives


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_arbitrary_file_is_a_configuration_or_a_config_error_and_nothing_else(tmp_path, content):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError):
        read_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "content", ["a: 2001-99-99", "a: 0b_", "[" * 5000, "a: !!python/object:os.system x", "\x00", "a: b: c"]
)
def test_files_that_yaml_cannot_read_are_config_errors(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"c\.yaml is not YAML"):
        read_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spcae": 1}, r"the configuration: unknown key 'spcae'; did you mean 'space'\?"),
        ({"budget": {"trails": 3}}, r"unknown key 'budget.trails'; did you mean 'trials'\?"),
        ({"budget": {"zzz": 3}}, "unknown key 'budget.zzz'; known keys: trials, epochs, seconds"),
        ({"pick": {"best": "a", "withn": {}}}, r"unknown key 'pick.withn'; did you mean 'within'\?"),
        ({"model": {"haed": "x"}}, r"unknown key 'model.haed'; did you mean 'head'\?"),
        ({"verdict": {"seed": 3}}, r"unknown key 'verdict.seed'; did you mean 'seeds'\?"),
        (
            {"space": {"typ": "fbnet", "form": "small"}},
            r"'space' = .*: it needs the key 'type'; is 'typ' meant\?",
        ),
        (
            {"model": {"head": {"dropout": 1}}},
            "'model.head' = .*needs the key 'type': a name, or {type: name",
        ),
        (
            {"estimators": ["macs", {"tpye": "x"}]},
            r"'estimators.1' = .*needs the key 'type'; is 'tpye' meant\?",
        ),
        ({"estimators": "macs"}, "'estimators' = 'macs': .*list"),
        ({"space": 5}, "'space' = 5"),
        ({"space": {"type": 5}}, "'space.type' = 5: .*string"),
        ({"budget": {"trials": 0}}, "'budget.trials' = 0: .*greater than or equal to 1"),
        ({"budget": {"trials": "many"}}, "'budget.trials' = 'many': .*integer"),
        ({"objectives": []}, "'objectives' = .*at least 1"),
        ({"order": "random"}, "'order' = 'random': .*'submitted' or 'completion'"),
        ({"seed": -1}, "'seed' = -1"),
        ({"pick": {"best": "a", "within": {"b": -1}}}, "'pick.within.b' = -1"),
        ({"seed": True}, "'seed' = True: a number is needed; YAML reads yes, no"),
        ({"budget": {"trials": True}}, "'budget.trials' = True: a number is needed"),
        ({"budget": {"epochs": False}}, "'budget.epochs' = False: a number"),
        ({"verdict": {"seeds": True}}, "'verdict.seeds' = True: a number"),
        ({"checkpoint_every": True}, "'checkpoint_every' = True: a number"),
        ({"reference": {"macs": True}}, "'reference.macs' = True: a number"),
        ({"pick": {"best": "a", "within": {"b.c": True}}}, "'pick.within.b.c' = True: a number"),
        ({"threads": True}, "'threads' = True: a number"),
        ({"space": {"type": "x", "sizes": [{1}]}}, "'space.sizes.0' is .1., of type builtins.set"),
        ({"seed": "9" * 10**6}, "'seed' = '999.*more characters"),
        ({"x" * 10**6: 1}, "unknown key 'xxx.*more characters"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_path_and_the_way_out(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(MINIMAL | change)


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="the key 'space' is missing"):
        parse_config({"objectives": ["macs"]})
    with pytest.raises(ConfigError, match="must be a mapping of keys to values, not NoneType"):
        parse_config(None)


def test_all_problems_are_told_at_once_one_line_each():
    with pytest.raises(ConfigError) as caught:
        parse_config(MINIMAL | {"sede": 1, "order": "x", "window": 0})
    assert len(str(caught.value).splitlines()) == 3


def test_a_part_is_a_name_or_a_mapping_and_may_have_an_option_called_options():
    assert parse_part("fbnet", "space") == parse_part({"type": "fbnet"}, "space")
    assert parse_part({"type": "x", "options": {"a": 1}}, "space").options == {"options": {"a": 1}}
    with pytest.raises(ConfigError, match="space"):
        parse_part(3, "space")


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4", "+1e-4"])
def test_numbers_as_people_write_them_are_numbers(tmp_path, text):
    from archloom.plugins import Host

    (tmp_path / "c.yaml").write_text(
        f"space: fbnet\nstrategy: random\nobjectives: [macs]\nrecipe: {{type: default, lr: {text}}}\n"
        f"checkpoint_every: {text}\nconstraints: ['macs <= 300e6']\n"
    )
    config = read_config(tmp_path / "c.yaml")
    assert config.checkpoint_every == 1e-4
    assert Host().get("recipe", "default").validate(config.recipe.options)["lr"] == 1e-4


# -- --set --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("budget.trials=20", ("budget", "trials"), 20),
        ("seed=3", ("seed",), 3),
        ("strategy.population=5", ("strategy",), {"type": "random", "population": 5}),
        ("estimators.1.runs=5", ("estimators", 1), {"type": "latency", "runs": 5}),
        ("estimators=[params, {type: latency, batch: 8}]", ("estimators", 1, "batch"), 8),
        ("constraints=['macs <= 3e6']", ("constraints", 0), "macs <= 3e6"),
        ("method=", ("method",), None),
        ("space.candidates=[a, b]", ("space", "candidates"), ["a", "b"]),
        ("model.head.type=Cosine", ("model", "head", "type"), "Cosine"),
        ("recipe.lr=1e-3", ("recipe", "lr"), "1e-3"),
        ("plugins=[a=b.py]", ("plugins", 0), "a=b.py"),
        ("pick.within.accuracy.trained=1", ("pick", "within", "accuracy.trained"), 1),
        ("recipe.epochs=6", ("recipe",), {"type": DEFAULT, "epochs": 6}),
        ("task.train_size=64", ("task",), {"type": DEFAULT, "train_size": 64}),
        ("model.head.dropout=0.1", ("model", "head"), {"type": DEFAULT, "dropout": 0.1}),
        ("recipe.type=brisk", ("recipe",), {"type": "brisk"}),
        ("reference.accuracy.trained=50", ("reference", "accuracy.trained"), 50),
        ('strategy."a.b".c=1', ("strategy", "a.b", "c"), 1),
        ("labels.beta-0.5.population=9", ("labels", "beta-0.5", "population"), 9),
    ],
)
def test_an_override_sets_one_key_at_any_depth(text, path, expected):
    data = {
        "space": {"type": "fbnet"},
        "strategy": "random",
        "estimators": ["macs", "latency"],
        "budget": {"trials": 3},
        "labels": {"beta-0.5": {"population": 1}},
    }
    before = json.dumps(data)
    value = override(data, [text])
    for step in path:
        value = value[step]
    assert value == expected
    assert json.dumps(data) == before, "the data given is left alone"


def test_overrides_are_applied_in_order():
    assert override({}, ["a=1", "a=2", "b.c=3", "b.d=4"]) == {"a": 2, "b": {"c": 3, "d": 4}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget.trials", "--set takes key=value, not 'budget.trials'"),
        ("=3", "--set takes key=value"),
        ("seed=[1", "the value is not YAML"),
        ("seed=2001-99-99", "the value is not YAML"),
        ("estimators.7.runs=5", "'7' is no position of a list of 1"),
        ("estimators.x=5", "'x' is no position of a list of 1"),
        ("estimators.²=5", "is no position"),
        ("seed.x=5", "'x' cannot be set inside 0"),
        ("a." * 1000 + "b=1", "a key has at most 40 parts, this one 1,001"),
        ("seed=" + "[" * 1000, "the value is not YAML"),
        ("seed={a: 1, a: 2}", "the key 'a' is there twice"),
    ],
)
def test_an_override_that_cannot_be_meant_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        override({"estimators": ["macs"], "seed": 0}, [text])


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*gone\.yaml: No such file"):
        read_config(tmp_path / "gone.yaml")


# -- identity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "free",
    [
        {"budget": {"trials": 99}},
        {"checkpoint_every": 5},
        {"device": "cuda"},
        {"strict": True},
        {"observers": []},
        {"order": "completion", "workers": 4},
    ],
)
def test_what_trials_do_not_depend_on_is_no_part_of_the_identity(free):
    before = MINIMAL | ({"order": "completion"} if "order" in free else {})
    assert parse_config(MINIMAL | free).identity() == parse_config(before).identity()


@pytest.mark.parametrize(
    "bound",
    [
        {"seed": 1},
        {"space": "other"},
        {"space": {"type": "fbnet", "form": "small"}},
        {"task": "cifar10"},
        {"strategy": "evolution"},
        {"method": "fbnet"},
        {"estimators": ["macs"]},
        {"objectives": ["params"]},
        {"constraints": ["macs < 1"]},
        {"window": 2},
        {"workers": 2},
        {"order": "completion"},
        {"precision": "bfloat16"},
    ],
)
def test_what_trials_depend_on_is_part_of_the_identity(bound):
    assert parse_config(MINIMAL | bound).identity() != parse_config(MINIMAL).identity()


def test_two_workers_are_a_window_of_two():
    assert (
        parse_config(MINIMAL | {"workers": 2}).identity() == parse_config(MINIMAL | {"window": 2}).identity()
    )


@pytest.mark.parametrize("key", ["threads", "workers"])
@pytest.mark.parametrize("number", [1025, 100_000, 10**12])
def test_more_threads_or_processes_than_any_machine_has_are_refused_first(key, number):
    with pytest.raises(ConfigError, match=f"'{key}' = {number}: .*less than or equal to 1024"):
        parse_config({**MINIMAL, key: number})
    assert getattr(parse_config({**MINIMAL, key: 1024}), key) == 1024
