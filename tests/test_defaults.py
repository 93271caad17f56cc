"""What a configuration leaves out is what a plugin registers as the default of its kind; the core knows no name."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import archloom
from archloom.cli import app
from archloom.comparing import parse_comparison
from archloom.config import DEFAULT, parse_config
from archloom.config_files import override
from archloom.defaults import default, named
from archloom.errors import ConfigError, PluginError
from archloom.plugins import Host
from archloom.resolve import completed, resolve

CORE = Path(archloom.__file__).parent
LEAST: dict[str, Any] = {
    "space": {"type": "fbnet", "form": "small", "in_channels": 1},
    "strategy": "random",
    "objectives": ["macs"],
}
WRITTEN_OUT: dict[str, Any] = {
    "task": "digits",
    "estimators": ["params", "macs"],
    "recipe": "default",
    "observers": ["tensorboard"],
    "model": {"neck": "GlobalAverage", "head": "LinearHead", "loss": "CrossEntropyLoss"},
}


@pytest.fixture(scope="module")
def host() -> Host:
    return Host()


def plugin(hook: str, *registered: tuple[str, Any], default: bool = True) -> Any:
    """A plugin object whose one hook registers factories, as defaults unless told otherwise."""

    def implement(self: Any, register: Any) -> None:
        for name, factory in registered:
            register(name, factory, default=default)

    return type("Inline", (), {hook: archloom.hookimpl(implement, specname=hook)})()


def bare(*plugins: Any) -> Host:
    host = Host(entry_points=False)
    for number, one in enumerate(plugins):
        host.add(one, f"plugin{number}", f"dist-{number}", "1.0")
    return host


def nothing() -> None:
    """A factory without options."""


# -- what is left out is named --------------------------------------------------------------------------


def test_a_configuration_without_the_keys_means_the_one_that_names_the_defaults(host):
    left_out, written = (completed(parse_config(LEAST | more), host) for more in ({}, WRITTEN_OUT))
    assert left_out == written
    assert left_out.identity() == written.identity()
    assert DEFAULT not in json.dumps(left_out.model_dump(mode="json"))


def test_a_resolved_configuration_names_every_part(host):
    assert DEFAULT not in json.dumps(resolve(parse_config(LEAST), host).config.model_dump(mode="json"))


def test_what_is_named_already_stays(host):
    whole = named(parse_config(LEAST | WRITTEN_OUT | {"task": "fake", "observers": []}), host)
    assert (whole.task.type, whole.observers) == ("fake", [])
    assert named(whole, host) == whole


def test_an_option_is_set_on_a_default_that_nobody_named(host):
    data = override(LEAST, ["recipe.epochs=3", "model.head.dropout=0.5"])
    whole = named(parse_config(data), host)
    assert (whole.recipe.type, whole.recipe.options) == ("default", {"epochs": 3})
    assert (whole.model.head.type, whole.model.head.options) == ("LinearHead", {"dropout": 0.5})


def test_the_defaults_of_a_list_keep_their_order_and_stand_beside_others(host):
    whole = named(parse_config(LEAST | {"estimators": [DEFAULT, "latency"]}), host)
    assert [part.type for part in whole.estimators] == ["params", "macs", "latency"]


def test_options_are_not_given_to_all_defaults_of_a_list(host):
    with pytest.raises(ConfigError, match="estimators: options go to one that is named"):
        named(parse_config(LEAST | {"estimators": [{"type": DEFAULT, "runs": 3}]}), host)


def test_the_default_strategy_is_the_baseline_of_a_comparison_but_searches_nowhere_else(host):
    data = {**LEAST, "strategies": {"evolved": "evolution"}, "select": "macs", "score": "macs"}
    del data["strategy"], data["objectives"]
    comparison = parse_comparison(data | {"budget": {"trials": 3}}).named(host)
    assert list(comparison.protocol.strategies) == ["random", "evolved"]
    assert comparison.baseline == "random"
    with pytest.raises(ConfigError, match="neither a 'strategy' nor a 'method'"):
        resolve(parse_config({"space": "fbnet", "objectives": ["macs"]}), host)


def test_the_list_of_plugins_marks_the_defaults():
    listed = json.loads(CliRunner().invoke(app, ["plugins", "--json"]).stdout)["plugins"]
    marked = [(one["kind"], one["name"]) for one in listed if one["default"]]
    assert marked == [
        ("component", "head.LinearHead"),
        ("component", "loss.CrossEntropyLoss"),
        ("component", "neck.GlobalAverage"),
        ("estimator", "macs"),
        ("estimator", "params"),
        ("executor", "here"),
        ("executor", "processes"),
        ("observer", "tensorboard"),
        ("recipe", "default"),
        ("strategy", "random"),
        ("task", "digits"),
    ]
    assert "digits (default)" in CliRunner().invoke(app, ["plugins"], env={"COLUMNS": "200"}).stdout


# -- where nothing is the default, and where two are -----------------------------------------------------


@pytest.mark.parametrize("key", ["task", "recipe", "estimators", "neck", "head", "loss"])
def test_where_nothing_is_the_default_the_part_must_be_named(key):
    hook = {"task": "tasks", "recipe": "recipes", "estimators": "estimators"}.get(key, "components")
    name = f"{key}.mine" if hook == "components" else "mine"
    there = [
        plugin("register_tasks", ("t", nothing)),
        plugin("register_recipes", ("r", nothing)),
        plugin("register_estimators", ("e", nothing)),
        plugin("register_components", ("neck.n", nothing), ("head.h", nothing), ("loss.l", nothing)),
    ]
    assert named(parse_config(LEAST), bare(*there)).model.neck.type == "n"
    others = [one for one in there if not hasattr(one, f"register_{hook}")]
    if hook == "components":
        parts = [(f"{sort}.x", nothing) for sort in ("neck", "head", "loss") if sort != key]
        others.append(plugin("register_components", *parts))
    unmarked = plugin(f"register_{hook}", (name, nothing), default=False)
    with pytest.raises(ConfigError, match=rf"leaves out '{key}'.*name it: {key}: .*Registered are: mine"):
        named(parse_config(LEAST), bare(*others, unmarked))


def test_without_a_default_observer_nobody_observes():
    parts = [(f"{sort}.x", nothing) for sort in ("neck", "head", "loss")]
    host = bare(
        plugin("register_tasks", ("t", nothing)),
        plugin("register_recipes", ("r", nothing)),
        plugin("register_estimators", ("e", nothing)),
        plugin("register_components", *parts),
    )
    assert named(parse_config(LEAST), host).observers == []


@pytest.mark.parametrize(
    ("hook", "sort", "first", "second"),
    [
        ("register_tasks", "task", "a", "b"),
        ("register_recipes", "recipe", "a", "b"),
        ("register_strategies", "strategy", "a", "b"),
        ("register_components", "head", "head.a", "head.b"),
    ],
)
def test_two_plugins_that_claim_one_default_clash_and_both_are_named(hook, sort, first, second):
    with pytest.raises(
        PluginError,
        match=rf"the default {sort}: '{first}' of dist-0 and '{second}' of dist-1\. .*without default=True",
    ):
        bare(plugin(hook, (first, nothing)), plugin(hook, (second, nothing)))


def test_a_stranger_that_claims_the_default_task_is_never_passed_over():
    host = Host()
    with pytest.raises(PluginError, match=r"'digits' of archloom and 'mine' of stranger"):
        host.add(plugin("register_tasks", ("mine", nothing)), "mine", "stranger", "1.0")
    assert default(host, "task").name == "digits"


def test_several_estimators_and_observers_are_defaults_together():
    for hook, kind in (("register_estimators", "estimator"), ("register_observers", "observer")):
        host = bare(plugin(hook, ("z", nothing)), plugin(hook, ("a", nothing)))
        assert [entry.name for entry in host.defaults(kind)] == ["z", "a"]


def needs_an_option(*, size: int) -> None: ...


@pytest.mark.parametrize(
    ("hook", "name", "factory", "message"),
    [
        ("register_search_spaces", "mine", nothing, "a space is always named"),
        ("register_components", "backbone.mine", nothing, "a backbone is always named"),
        ("register_tasks", "mine", needs_an_option, "made without options, and 'size' must be given"),
    ],
)
def test_what_cannot_be_a_default_is_refused_when_it_is_registered(hook, name, factory, message):
    with pytest.raises(PluginError, match=message):
        bare(plugin(hook, (name, factory)))


# -- the law --------------------------------------------------------------------------------------------

METRICS = {"params", "macs", "accuracy"}
"""What the core itself measures of a network goes by the names of estimators; none of them is a `type`."""


def chosen_names(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line, text and whether it is a `type`, of texts that choose something: the default of a parameter or a field,
    `type=` and {"type": ...}, a constant, what `get`, `pop` and `setdefault` fall back to."""
    for node in ast.walk(tree):
        values: list[ast.AST | None] = []
        is_type = False
        if isinstance(node, ast.arguments):
            values += [*node.defaults, *node.kw_defaults]
        elif isinstance(node, ast.AnnAssign) or (
            isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        ):
            values.append(node.value)
        elif isinstance(node, ast.keyword) and node.arg in ("type", "default"):
            values.append(node.value)
            is_type = node.arg == "type"
        elif isinstance(node, ast.Dict):
            is_type = True
            values += [
                value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "type"
            ]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("get", "pop", "setdefault"):
            values += node.args[1:]
        for value in values:
            inner = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
            for one in inner:
                if isinstance(one, ast.Constant) and isinstance(one.value, str):
                    yield one.lineno, one.value, is_type


def test_the_law_sees_each_way_to_choose_a_name():
    source = (
        "def f(a='n1', *, b=('n2',)): pass\nx: str = 'n3'\ny = 'n4'\nPart(type='n5')\n"
        "{'type': 'n6'}\nd.pop('base', 'n7')\nd.setdefault('recipe', {'type': 'n8'})\nField(default='n9')\n"
    )
    assert {name for _, name, _ in chosen_names(ast.parse(source))} == {f"n{n}" for n in range(1, 10)}


def test_the_core_chooses_nothing_by_the_name_that_a_plugin_registered(host):
    names = {entry.name.rpartition(".")[2] for entry in host.entries()}
    chosen = [
        f"{path.relative_to(CORE)}:{line}: {name}"
        for path in sorted(CORE.rglob("*.py"))
        for line, name, is_type in chosen_names(ast.parse(path.read_text()))
        if name in names and (is_type or name not in METRICS)
    ]
    assert not chosen
