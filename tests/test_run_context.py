"""One object that a run's parts are made from: what a factory names is handed in wherever factories are called."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import archloom
from archloom import testing
from archloom.architecture import Architecture
from archloom.comparing import compare
from archloom.context import BEFORE_STAR, HANDED, RunContext
from archloom.errors import ConfigError
from archloom.estimator import STATIC, Metric
from archloom.factories import INJECTED
from archloom.model import ModelParts
from archloom.objective import Constraint, Objective
from archloom.ranking import rank
from archloom.resolve import Maker
from archloom.shared import Supernet
from archloom.space import sample
from archloom.strategy import Progress, Strategy, WeightSharing
from archloom.task import batches
from toys import Dear, host

MADE: list[Any] = []
"""What was made of the factories below, in order."""


def kept(**handed: Any) -> dict[str, Any]:
    """What was handed in, with the first number of the generator and the costs of a network."""
    assert set(handed) == set(HANDED)
    space, context = handed["space"], handed["context"]
    assert all(getattr(context, name) is value for name, value in handed.items() if name != "context")
    first = Architecture({choice.name: choice.options[0] for choice in space.choices})
    asked = {"draw": handed["rng"].random(), "first costs": dict(handed["costs"](first))}
    return handed | asked


class Asks:
    """A strategy that names everything there is, and draws."""

    def __init__(
        self, context, space, rng, task, model, constraints, costs,
        *, seed, ranks, device, precision, recorded, objectives, metrics, spare: int = 1,
    ) -> None:  # fmt: skip
        self.space, self.rng = space, rng
        names = "context space rng task model constraints costs seed ranks device precision recorded objectives metrics"
        values = locals()
        self.handed = kept(**{name: values[name] for name in names.split()})
        MADE.append(self)

    def propose(self):
        return sample(self.space, self.rng)

    def observe(self, trial):
        pass


class AsksAndTrains(Asks):
    """A method that names everything there is, and trains the path of all first options for two steps."""

    def __init__(
        self, context, space, rng, task, model, constraints, costs,
        *, seed, ranks, device, precision, recorded, objectives, metrics, spare: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(
            context, space, rng, task, model, constraints, costs,
            seed=seed, ranks=ranks, device=device, precision=precision, recorded=recorded, objectives=objectives,
            metrics=metrics,
        )  # fmt: skip
        self.task, self.seed, self.done, self.proposed = task, seed, 0, 0
        self.path = Architecture({choice.name: choice.options[0] for choice in space.choices})
        self.supernet = model.assemble(
            Supernet(space, seed), shape=task.shape, num_classes=len(task.classes), seed=seed, selection=(self.path,)
        )  # fmt: skip

    def fit(self):
        while self.done < 2:
            data = self.task.dataset("weights")
            x, y = next(batches(data, 16, seed=self.seed, epoch=self.done, shuffle=True))
            gradients = torch.autograd.grad(
                F.cross_entropy(self.supernet(x, self.path), y), self.supernet.head.parameters()
            )
            with torch.no_grad():
                for parameter, gradient in zip(self.supernet.head.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
            self.done += 1
            yield Progress(self.done, 2, float(self.done))

    def propose(self):
        self.proposed += 1
        return self.path if self.proposed == 1 else None

    def state_dict(self):
        return {"done": self.done, "supernet": self.supernet.state_dict()}

    def load_state_dict(self, state):
        self.done = state["done"]
        self.supernet.load_state_dict(state["supernet"])


class Norm:
    """The norm of the inherited weights."""

    metrics, expense, needs = (Metric("norm", "1", "max"),), 1, ("supernet",)

    def estimate(self, architecture: Architecture, context: Any) -> Mapping[str, float]:
        return {
            "norm": float(
                sum(p.abs().sum() for p in context.supernet.extract(architecture).state_dict().values())
            )
        }


class Truth:
    """A number for each network."""

    metrics, expense, needs = (Metric("truth", "%", "max"),), STATIC, ()

    def estimate(self, architecture: Architecture, context: Any) -> Mapping[str, float]:
        return {
            "truth": float(sum(len(str(option)) * 3**n for n, option in enumerate(architecture.values())))
        }


class Plugin:
    @archloom.hookimpl
    def register_strategies(self, register):
        register("asks", Asks)
        register("asks_and_trains", AsksAndTrains)

    @archloom.hookimpl
    def register_search_spaces(self, register):
        register("tiny", lambda: testing.TinySpace(layers=2))

    @archloom.hookimpl
    def register_tasks(self, register):
        register("tiny", lambda: testing.tiny_task())

    @archloom.hookimpl
    def register_estimators(self, register):
        register("norm", Norm)
        register("truth", Truth)
        register("dear", Dear)


@pytest.fixture(autouse=True)
def nothing_made_yet():
    MADE.clear()


SEARCH = {
    "space": "tiny",
    "task": "tiny",
    "estimators": ["params", "truth", "norm"],
    "objectives": ["truth", "params"],
    "constraints": ["params <= 1e9"],
    "method": "asks_and_trains",
    "budget": {"trials": 2},
    "verdict": {"seeds": 0},
    "observers": [],
    "seed": 5,
}
METRICS = ("params", "truth", "norm")


def test_a_method_and_a_strategy_are_handed_all_that_they_name_in_a_search(tmp_path):
    archloom.search({**SEARCH, "strategy": "asks"}, tmp_path / "run", host=host(Plugin()))
    method, strategy = MADE
    for made, purpose in ((method, "method"), (strategy, "strategy")):
        handed = made.handed
        assert handed["objectives"] == (Objective("truth", "max"), Objective("params", "min"))
        assert tuple(handed["metrics"]) == METRICS
        assert handed["metrics"]["norm"] == Norm.metrics[0]
        assert handed["constraints"] == (Constraint("params", "<=", 1e9),)
        assert (handed["seed"], handed["precision"], handed["device"]) == (5, "float32", torch.device("cpu"))
        assert isinstance(handed["model"], ModelParts)
        assert set(handed["first costs"]) == {"params", "truth"}
        assert handed["first costs"]["truth"] == 4 + 3 * 4
        assert handed["draw"] == archloom.randomness.python_rng(5, purpose).random()
        assert handed["recorded"]("of " + purpose, lambda: [1]) == [1]
    assert method.handed["draw"] != strategy.handed["draw"]


RANK = {
    "space": "tiny",
    "task": "tiny",
    "truth": "truth",
    "metric": "truth",
    "predictors": ["params", "norm"],
    "supernets": ["asks_and_trains"],
    "networks": 16,
    "top": 3,
    "resamples": 100,
    "seed": 5,
}


def test_a_supernet_of_a_ranking_is_handed_all_that_its_method_names(tmp_path):
    document = rank(RANK, tmp_path / "rank", host=host(Plugin())).document
    assert "asks_and_trains: norm" in [row["name"] for row in document["rows"]]
    assert len(MADE) == 2  # once to check its options, and once to be trained
    for made in MADE:
        assert made.handed["objectives"] == (Objective("truth", "max"),)
        assert set(made.handed["metrics"]) == set(METRICS)
        assert made.handed["constraints"] == ()
        assert set(made.handed["first costs"]) == {"params"}, "what it is compared with is not told to it"
        assert made.handed["draw"] == archloom.randomness.python_rng(5, "method").random()


def test_what_a_supernets_method_refuses_is_said_before_the_truth_of_a_ranking_is_measured(tmp_path):
    class Refuses(AsksAndTrains):
        def __init__(self, context) -> None:
            raise ConfigError("never with these options")

    class Registers:
        @archloom.hookimpl
        def register_strategies(self, register):
            register("refuses", Refuses)

    config = {**RANK, "supernets": ["asks_and_trains", "refuses"]}
    with pytest.raises(ConfigError, match="never with these options"):
        rank(config, tmp_path / "rank", host=host(Plugin(), Registers()))
    assert not (tmp_path / "rank" / "estimates.jsonl").read_text()
    assert not (tmp_path / "rank" / "supernets").exists()


def comparison(**changes: Any) -> dict[str, Any]:
    return {
        "space": "digit_space",
        "task": {"type": "digits", "train_size": 64},
        "estimators": ["additive"],
        "strategies": {"asks": "asks"},
        "select": "sum",
        "score": "sum",
        "budget": {"trials": 3},
        "seeds": 2,
        "processes": 1,
    } | changes


def test_a_strategy_is_handed_all_that_it_names_in_a_comparison_in_memory(tmp_path):
    compare(comparison(), tmp_path / "c", host=host(Plugin()))
    assert len(MADE) == 1 + 2  # once to check its options, and for each seed
    assert [made.handed["seed"] for made in MADE[1:]] == [0, 1]
    for made in MADE:
        assert made.handed["objectives"] == (Objective("sum", "max"),)
        assert made.handed["first costs"] == {"sum": 0.0}
        measured = iter(((1,), (2,)))
        recorded = made.handed["recorded"]
        assert [recorded("mine", functools.partial(next, measured)) for _ in range(2)] == [[1], [1]]


def test_a_strategy_is_handed_all_that_it_names_in_a_comparison_in_folders(tmp_path):
    compare(comparison(estimators=["additive", "dear"]), tmp_path / "c", host=host(Plugin()))
    assert sorted({made.handed["seed"] for made in MADE}) == [0, 1]
    assert all(set(made.handed["first costs"]) == {"sum"} for made in MADE)


class TestAMethodThatNamesEverythingKeepsItsContract(testing.WeightSharingContract):
    factory = AsksAndTrains


class TestAStrategyThatNamesEverythingKeepsItsContract(testing.StrategyContract):
    factory = Asks


# -- what is handed in ------------------------------------------------------------------------------------


def test_the_names_that_can_be_handed_in_are_the_fields_and_the_object_itself():
    assert set(INJECTED["strategy"]) == set(HANDED)
    assert set(HANDED) == {one.name for one in fields(RunContext)} - {"purpose"} | {"context"}
    assert all(HANDED.values())


def test_an_option_that_bore_its_name_before_the_field_did_stays_one():
    """As the costs of `surrogate`: behind the star, where it could be nothing else then."""

    def older(space, rng, *, costs: list[str] | None = None, constraints: int = 3, context: str):
        return Asks

    entry = registered(older)
    assert (
        {option.name for option in entry.options} == set(BEFORE_STAR) == {"costs", "constraints", "context"}
    )
    assert entry.injected == ("space", "rng")
    assert entry.validate({"context": "x", "costs": ["macs"]})["costs"] == ["macs"]


# -- who trains a supernet ----------------------------------------------------------------------------------


class Walks:
    """A strategy that looks at the data."""

    def __init__(self, space, task, rng) -> None:
        self.space, self.task, self.rng = space, task, rng

    def propose(self):
        return sample(self.space, self.rng)

    def observe(self, trial):
        pass


class Trains(AsksAndTrains):
    """A method that asks for no data by that name."""

    def __init__(self, context) -> None:
        handed = {name: getattr(context, name) for name in HANDED if name != "context"}
        super().__init__(context, **handed)


class LateTrainer(Walks):
    """It trains once it is made, and its class does not show it."""

    def __init__(self, context) -> None:
        super().__init__(context.space, context.task, context.rng)
        self.inner = Trains(context)
        self.supernet, self.fit = self.inner.supernet, self.inner.fit
        self.state_dict, self.load_state_dict = self.inner.state_dict, self.inner.load_state_dict


class Regresses(Walks):
    """A strategy whose model is fitted by a method of that name."""

    def fit(self, X, y):
        pass


def registered(factory: Any) -> Any:
    class Registers:
        @archloom.hookimpl
        def register_strategies(self, register):
            register("mine", factory)

    return host(Registers()).get("strategy", "mine")


def plainly(space, task, rng):
    """A function that does not say what it returns."""
    return Walks(space, task, rng)


def strategy(space, task, rng) -> Strategy:
    """A function that says that it makes a strategy."""
    return Walks(space, task, rng)


def walks(space, task, rng) -> Walks:
    """A function that says what it makes."""
    return Walks(space, task, rng)


def either(space, task, rng, *, deep: bool = False) -> Walks | AsksAndTrains:
    """A function that says two things."""
    return Walks(space, task, rng)


def trains(context) -> AsksAndTrains:
    """A function that makes a method."""
    return Trains(context)


def shares(context) -> WeightSharing:
    """A function that makes some method."""
    return Trains(context)


def anything(space, rng) -> Any:
    """A function that says nothing, and takes no task."""
    return Walks(space, None, rng)


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (Walks, False),
        (Asks, False),
        (functools.partial(Walks), False),
        (Trains, True),
        (AsksAndTrains, True),
        (strategy, False),
        (walks, False),
        (trains, True),
        (shares, True),
        (anything, False),
        (plainly, True),
        (either, True),
    ],
)
def test_what_has_fit_trains_a_supernet_and_a_silent_function_does_where_it_takes_a_task(factory, expected):
    entry = registered(factory)
    assert entry.shares_weights is expected
    assert ("supernet" in entry.needs) is expected


def test_a_strategy_that_looks_at_the_data_searches_a_space_without_weights(tmp_path):
    class Registers:
        @archloom.hookimpl
        def register_strategies(self, register):
            register("walks", Walks)

    config = {
        "space": "digit_space",
        "task": {"type": "digits", "train_size": 64},
        "strategy": "walks",
        "estimators": ["additive"],
        "objectives": ["sum"],
        "budget": {"trials": 3},
        "verdict": {"seeds": 0},
        "observers": [],
    }
    assert len(archloom.search(config, tmp_path / "run", host=host(Registers())).trials) == 3


def made_from(factory: Any, kind: str) -> Any:
    entry = registered(factory)
    context = testing.run_context(testing.TinySpace(layers=2), testing.tiny_task())
    return getattr(context, kind)(Maker(entry, entry.validate({})))


def test_a_silent_function_that_takes_a_task_and_makes_a_strategy_is_told_the_way_out():
    with pytest.raises(
        ConfigError,
        match=r"method 'mine' lacks supernet, fit, state_dict, load_state_dict.*takes a task and does not say what it "
        r"returns; where it only proposes, annotate that: '-> archloom.strategy.Strategy'",
    ):
        made_from(plainly, "method")


def test_a_class_with_fit_that_only_proposes_is_told_the_way_out(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"lacks supernet, state_dict, load_state_dict.*'fit'; where it only proposes, call that",
    ):
        made_from(Regresses, "method")

    class Registers:
        @archloom.hookimpl
        def register_strategies(self, register):
            register("regresses", Regresses)
            register("by_function", lambda space, rng: Regresses(space, None, rng))

    config = {
        **SEARCH,
        "space": "digit_space",
        "method": None,
        "estimators": ["additive"],
        "objectives": ["sum"],
    }
    config |= {"constraints": [], "task": {"type": "digits", "train_size": 64}}
    with pytest.raises(
        ConfigError, match=r"needs a space that shares weights .* It is taken to train a supernet"
    ):
        archloom.search(config | {"strategy": "regresses"}, tmp_path / "a", host=host(Registers()))
    made = archloom.search(config | {"strategy": "by_function"}, tmp_path / "b", host=host(Registers()))
    assert len(made.trials) == 2


def test_what_is_named_as_a_method_and_does_not_show_its_fit_is_told_where_to_show_it(tmp_path):
    class Registers:
        @archloom.hookimpl
        def register_strategies(self, register):
            register("late", LateTrainer)

    made, told = host(Plugin(), Registers()), "'late' trains no supernet.*'fit'.*the class that is registered"
    with pytest.raises(ConfigError, match=told):
        archloom.search({**SEARCH, "method": "late"}, tmp_path / "run", host=made)
    with pytest.raises(ConfigError, match=told):
        rank({**RANK, "supernets": ["late"]}, tmp_path / "rank", host=made)


@pytest.mark.parametrize("factory", [LateTrainer, lambda context: Trains(context)])
def test_what_trains_without_having_said_so_is_told_the_way_out(factory):
    assert not registered(factory).shares_weights
    with pytest.raises(ConfigError, match="which trains a supernet, but its factory does not say so"):
        made_from(factory, "strategy")


# -- nowhere by hand ----------------------------------------------------------------------------------------


def places(name: str) -> set[str]:
    """The modules of the core that call `name`."""
    core = Path(archloom.__file__).parent
    return {
        path.relative_to(core).as_posix()
        for path in core.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name
    }


def test_what_parts_are_made_from_is_spelled_where_a_configuration_is_resolved_and_nowhere_else():
    assert places("RunContext") == {"resolve.py", "ranking/plan.py", "testing/tiny.py"}
    assert places("Context") == {"context.py"}, "what an estimate may use is a view of the run's context"
