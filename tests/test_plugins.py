from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

import archloom
from archloom.architecture import Choice
from archloom.errors import ConfigError, PluginError, SpaceError, UnknownName
from archloom.plugins import Host
from toys import Digits, ToyPlugin


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a distribution with one plugin module, as pip would: metadata and entry point on sys.path."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(distribution: str, module: str, source: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.5\n")
        (info / "entry_points.txt").write_text(f"[archloom]\n{module} = {module}\n")

    yield install
    for name in set(sys.modules) - before:
        if name.startswith("stranger"):
            del sys.modules[name]


WITH_STRATEGY = """
import archloom
class Walk:
    '''One step after another.'''
    def __init__(self, space, rng, *, steps: int = 3): pass
    def propose(self): return None
    def observe(self, trial): pass
@archloom.hookimpl
def register_strategies(register): register("walk", Walk)
"""


def adding(hook: str, name: str, factory: Any) -> Any:
    """A plugin object whose one hook registers one factory."""

    def implement(self: Any, register: Any) -> None:
        register(name, factory)

    return type("Inline", (), {hook: archloom.hookimpl(implement, specname=hook)})()


def one(factory: Any, kind: str = "strategies") -> Host:
    host = Host(entry_points=False)
    host.add(adding(f"register_{kind}", "mine", factory), "mine", "my-dist", "1.0")
    return host


# -- distributions ------------------------------------------------------------------------------------


def test_a_strangers_distribution_is_found_with_its_name_version_and_options(install):
    install("stranger-dist", "stranger_walk", WITH_STRATEGY)
    entry = Host().get("strategy", "walk")
    assert entry.to_json() == {
        "name": "walk",
        "kind": "strategy",
        "distribution": "stranger-dist",
        "version": "2.5",
        "default": False,
        "summary": "One step after another.",
        "options": [{"name": "steps", "type": "int", "required": False, "default": 3}],
    }


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("import archloom\n@archloom.hookimpl\ndef register_tasks(register): 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_distribution_and_cause_and_stops_nobody(
    install, source, cause
):
    install("stranger-dist", "stranger_broken", source)
    host = Host()
    assert "random" in host.names("strategy")
    (broken,) = host.broken
    assert str(broken).startswith("plugin 'stranger_broken' of stranger-dist 2.5 could not be loaded: ")
    assert cause in str(broken)


def test_asking_for_what_a_failed_plugin_may_have_held_says_so(install):
    install("stranger-dist", "stranger_broken", "import nowhere_to_be_found")
    with pytest.raises(
        UnknownName, match=r"unknown strategy 'walk'.*may belong to a plugin.*stranger-dist.*nowhere"
    ):
        Host().get("strategy", "walk")


def test_strict_plugins_turn_a_failed_one_into_an_error_with_the_way_out(install, monkeypatch):
    install("stranger-dist", "stranger_broken", "import nowhere_to_be_found")
    monkeypatch.setenv("ARCHLOOM_STRICT_PLUGINS", "1")
    with pytest.raises(
        PluginError, match=r"stranger_broken.*nowhere_to_be_found.*pip uninstall stranger-dist"
    ):
        Host()


def test_two_distributions_with_one_name_are_an_error_that_names_both(install):
    install("stranger-a", "stranger_a", WITH_STRATEGY)
    install("stranger-b", "stranger_b", WITH_STRATEGY)
    with pytest.raises(
        PluginError, match="strategy 'walk' is registered twice: by stranger-a and by stranger-b"
    ):
        Host()


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (
            "def register_strategy(register): pass",
            r"unknown hook 'register_strategy'; did you mean 'register_strategies'\?",
        ),
        (
            "def register_strategies(register): register('x', lambda space, speed=1: None)",
            "'speed' is neither an option",
        ),
        ("def register_strategies(register, more): pass", "stranger_typo"),
    ],
)
def test_a_breach_of_the_contract_in_an_installed_plugin_warns_as_a_failed_import_does(install, body, cause):
    install("stranger-dist", "stranger_typo", f"import archloom\n@archloom.hookimpl\n{body}")
    host = Host()
    assert "random" in host.names("strategy")
    (broken,) = host.broken
    assert re.search(f"stranger-dist 2.5 could not be loaded: .*{cause}", str(broken))


# -- objects ------------------------------------------------------------------------------------------


def test_a_name_of_a_built_in_cannot_be_taken():
    host = Host()
    with pytest.raises(
        PluginError, match="strategy 'random' is registered twice: by archloom and by my-dist"
    ):
        host.add(adding("register_strategies", "random", lambda space, rng: None), "mine", "my-dist", "1.0")


def test_a_plugin_registers_everything_or_nothing():
    class Half:
        @archloom.hookimpl
        def register_search_spaces(self, register):
            register("fine", Digits)

        @archloom.hookimpl
        def register_strategies(self, register):
            register("wrong", lambda space, options: None)

    host = Host(entry_points=False)
    with pytest.raises(PluginError, match="'options' is neither an option"):
        host.add(Half(), "half", "my-dist", "1.0")
    assert list(host.entries()) == []
    host.add(ToyPlugin(), "toys", "my-dist", "1.0")
    assert "digit_space" in host.names("space")


def test_one_plugin_cannot_be_loaded_twice_nor_register_a_name_twice():
    host = Host(entry_points=False)
    host.add(ToyPlugin(), "toys", "my-dist", "1.0")
    with pytest.raises(PluginError, match="'toys' of my-dist is loaded twice"):
        host.add(ToyPlugin(), "toys", "my-dist", "1.0")

    class Twice:
        @archloom.hookimpl
        def register_search_spaces(self, register):
            register("a", Digits)
            register("a", Digits)

    with pytest.raises(PluginError, match="space 'a' is registered twice"):
        host.add(Twice(), "twice", "my-dist", "1.0")


def test_a_hook_that_raises_is_told_with_the_plugin_and_the_cause():
    class Raises:
        @archloom.hookimpl
        def register_tasks(self, register):
            raise OSError("no such disk")

    with pytest.raises(
        PluginError, match="'raises' of my-dist failed while it registered: OSError: no such disk"
    ):
        Host(entry_points=False).add(Raises(), "raises", "my-dist", "1.0")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            lambda space, population=3: None,
            "'population' is neither an option .* nor something that is handed in",
        ),
        (lambda population, /: None, "'population' is neither an option"),
        (lambda space, rng, *, population=3: None, "option 'population' has no type annotation"),
        ("no factory", "takes a callable, not 'no factory'"),
    ],
)
def test_a_factory_that_breaks_the_contract_is_refused_with_its_name(factory, message):
    with pytest.raises(PluginError, match=f"strategy 'mine' of my-dist: .*{message}"):
        one(factory)


def bad_default(space, *, start: int = "hot"):
    return start


def no_default(space, *, start: int = None):  # noqa: RUF013 - a stranger's
    return start


def yes_for_a_number(space, *, start: float = True):
    return start


def outside_the_words(space, *, mode: Literal["up", "down"] = "sideways"):
    return mode


def list_of_what(space, *, rates: list[int] = (1, "x")):
    return rates


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (bad_default, "option 'start' has the default 'hot', which its annotation refuses: .*valid integer"),
        (no_default, r"option 'start' has the default None, .*; write 'start: \.\.\. \| None'"),
        (yes_for_a_number, "option 'start' has the default True, .*a number is needed"),
        (outside_the_words, "option 'mode' has the default 'sideways', .*'up' or 'down'"),
        (list_of_what, "option 'rates.1' has the default 'x'"),
        (lambda space, *, speed=3: None, "option 'speed' has no type annotation"),
        (type("Walk", (), {"__init__": bad_default}), "option 'start' has the default 'hot'"),
    ],
)
def test_a_default_that_its_annotation_refuses_is_named_with_file_and_line_when_it_is_registered(
    factory, message
):
    with pytest.raises(PluginError, match=rf"^strategy 'mine' of my-dist: {message}.* \({__file__}:\d+\)$"):
        one(factory)


def test_an_annotation_that_means_nothing_is_named_with_file_and_line(tmp_path):
    (tmp_path / "p.py").write_text(
        "from __future__ import annotations\nimport archloom\ndef walk(space, *, start: flaot = 1.0): pass\n"
        "@archloom.hookimpl\ndef register_strategies(register): register('walk', walk)\n"
    )
    with pytest.raises(
        PluginError, match=r"strategy 'walk' of file p.py: .*'flaot' is not defined.*p\.py:3\)"
    ):
        Host([tmp_path / "p.py"])


@pytest.mark.parametrize(
    ("kind", "needs", "message"),
    [
        (
            "estimators",
            ("supernett",),
            r"it needs 'supernett', which means nothing here; did you mean 'supernet'\?",
        ),
        ("estimators", ("differentiable",), "needs 'differentiable', .*It can need: supernet"),
        (
            "estimators",
            "supernet",
            r"'needs' is a tuple of words, such as \('supernet',\), and not 'supernet'",
        ),
        ("estimators", 3, "'needs' is a tuple of words"),
        ("strategies", ("fidelty",), "did you mean 'fidelity'"),
        ("strategies", "supernet", "'needs' is a tuple of words"),
    ],
)
def test_a_word_of_needs_that_means_nothing_is_refused_when_it_is_registered(kind, needs, message):
    factory = type("Made", (), {"needs": needs})
    with pytest.raises(PluginError, match=message):
        one(factory, kind)


def test_what_an_estimator_needs_by_its_options_is_checked_when_it_is_made():
    class Weighs:
        def __init__(self, *, word: str = "supernet"):
            self.needs = (word,)

    entry = one(Weighs, "estimators").get("estimator", "mine")
    assert entry.make(entry.validate({})).registered_as == "estimator 'mine'"
    with pytest.raises(PluginError, match="estimator 'mine' of my-dist: it needs 'supernett'"):
        entry.make(entry.validate({"word": "supernett"}))


def test_a_space_is_checked_when_it_is_made():
    class Twins:
        def __init__(self, *, kernel: int = 3):
            self.choices = [Choice("a", (1, kernel)), Choice("a", (1, 2))]

    entry = one(Twins, "search_spaces").get("space", "mine")
    with pytest.raises(SpaceError, match="space 'mine' of my-dist: Twins has two choices called 'a'"):
        entry.make(entry.validate({}))
    with pytest.raises(SpaceError, match="space 'mine' of my-dist: choice 'a' lists an option twice"):
        entry.make(entry.validate({"kernel": 1}))


def test_an_estimator_is_handed_host_and_task_and_may_have_options_of_these_names():
    with pytest.raises(PluginError, match=r"'space' is neither .* handed in \(host, task\)"):
        one(lambda space: None, "estimators")

    def remote(*, host: str = "localhost") -> None:
        """Measures on another machine."""

    entry = one(remote, "estimators").get("estimator", "mine")
    assert entry.validate({"host": "phone"}) == {"host": "phone"}


# -- options ------------------------------------------------------------------------------------------


def walk(space, rng, *, steps: int, mode: Literal["up", "down"] = "up", rates: list[float] | None = None):
    return space, rng, steps, mode, rates


def test_options_are_converted_completed_and_handed_in_with_what_the_factory_names():
    entry = one(walk).get("strategy", "mine")
    options = entry.validate({"steps": "3", "rates": ["1e-4", 2]})
    assert options == {"steps": 3, "mode": "up", "rates": [1e-4, 2.0]}
    assert entry.make(options, space="S", rng="R", seed=7) == ("S", "R", 3, "up", [1e-4, 2.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"steps": 3, "mod": "up"},
            r"strategy 'mine' has no option 'mod'; did you mean 'mode'\? It has: steps, mode, rates",
        ),
        ({"steps": 3, "xyz": 1}, "has no option 'xyz'; It has: steps"),
        ({}, "strategy 'mine' needs the option 'steps'"),
        ({"steps": "many"}, "option 'steps' = 'many': .*integer"),
        ({"steps": 2.5}, "option 'steps' = 2.5: .*integer"),
        ({"steps": 1, "mode": "sideways"}, "option 'mode' = 'sideways': .*'up' or 'down'"),
        ({"steps": 1, "rates": [1, "x"]}, "option 'rates.1' = 'x': .*number"),
    ],
)
def test_a_wrong_option_is_named_with_the_way_out(options, message):
    with pytest.raises(ConfigError, match=message):
        one(walk).get("strategy", "mine").validate(options)


def numbers(
    space,
    *,
    one: int = 1,
    many: list[float] = [1.0],  # noqa: B006
    pair: tuple[int, ...] = (1,),
    by_name: dict[str, float | None] = {},  # noqa: B006
    perhaps: int | None = None,
    stages: list[list[int]] = [],  # noqa: B006
    either: bool | int = 3,
    word: Literal[0, 1] = 0,
):
    return space


@pytest.mark.parametrize(
    "options",
    [
        {"one": True},
        {"many": [1, False]},
        {"pair": [True]},
        {"by_name": {"a": True}},
        {"perhaps": False},
        {"stages": [[8, True, 2]]},
        {"word": True},
    ],
)
def test_true_and_false_are_no_numbers_at_any_depth_of_an_option(options):
    with pytest.raises(ConfigError, match=r"option '[\w.]+' = (True|False): "):
        one(numbers).get("strategy", "mine").validate(options)


def test_true_and_false_are_taken_where_they_are_meant():
    entry = one(numbers).get("strategy", "mine")
    assert entry.validate({"either": True})["either"] is True
    assert entry.validate({"one": "7", "perhaps": None, "many": ["1e-3"]})["many"] == [1e-3]


def test_options_are_completed_with_the_defaults_as_plain_data():
    entry = one(numbers).get("strategy", "mine")
    whole = entry.complete({"one": "7"})
    assert whole == {
        "one": "7",
        "many": [1.0],
        "pair": [1],
        "by_name": {},
        "perhaps": None,
        "stages": [],
        "either": 3,
        "word": 0,
    }
    assert entry.validate(whole) == entry.validate({"one": "7"})


def test_all_wrong_options_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        one(walk).get("strategy", "mine").validate({"mod": 1, "rates": 5})
    assert len(str(caught.value).splitlines()) == 3


def test_an_option_may_bear_a_name_that_the_validating_library_uses_itself():
    def factory(*, schema: int = 1, copy: bool = False, model_config: str = "x", json: int):
        return schema, copy, model_config, json

    entry = one(factory, "search_spaces").get("space", "mine")
    assert entry.make(entry.validate({"json": 5, "schema": 2})) == (2, False, "x", 5)


def test_a_default_list_is_not_shared_between_objects():
    def factory(*, steps: list[int] = [1]):  # noqa: B006 - the default of a stranger
        return steps

    entry = one(factory, "search_spaces").get("space", "mine")
    entry.make(entry.validate({})).append(2)
    assert entry.make(entry.validate({})) == [1]


def test_an_unknown_name_lists_the_known_and_the_nearest():
    with pytest.raises(
        UnknownName, match=r"unknown strategy 'evolutoin'; did you mean 'evolution'\? Known: .*random"
    ):
        Host().get("strategy", "evolutoin")


def test_a_method_needs_a_supernet_without_saying_so():
    def method(space, task, *, seed: int):
        return None

    method.needs = ("differentiable",)
    entry = one(method).get("strategy", "mine")
    assert entry.shares_weights
    assert entry.needs == ("supernet", "differentiable")
    assert one(walk).get("strategy", "mine").needs == ()


# -- files --------------------------------------------------------------------------------------------


def test_a_plugin_file_registers_like_a_distribution(tmp_path):
    file = tmp_path / "walking.py"
    file.write_text(WITH_STRATEGY)
    entry = Host([file], entry_points=False).get("strategy", "walk")
    assert entry.distribution == "file walking.py"


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("p.py", "1 / 0", "plugin file .*p.py failed: ZeroDivisionError"),
        ("p.py", "def (:", "plugin file .*p.py failed: SyntaxError"),
        ("p.py", "import nowhere_to_be_found", "failed: ModuleNotFoundError: .*nowhere_to_be_found"),
        ("p.py", "raise SystemExit(1)", "plugin file .*p.py failed: SystemExit"),
        ("p.txt", "x = 1", "is no Python file; a plugin file ends with .py"),
        (
            "p.py",
            "import archloom\n@archloom.hookimpl\ndef register_taks(register): pass",
            r"'p.py' of file p.py implements an unknown hook 'register_taks'; did you mean 'register_tasks'\?",
        ),
    ],
)
def test_a_plugin_file_that_cannot_be_used_is_named_with_the_cause(tmp_path, name, source, message):
    (tmp_path / name).write_text(source)
    with pytest.raises(PluginError, match=message):
        Host([tmp_path / name])


def test_a_plugin_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(PluginError, match=r"there is no plugin file .*gone.py"):
        Host([tmp_path / "gone.py"])
