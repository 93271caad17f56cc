"""Training a supernet in resumable units, told with the smallest method that shares weights."""

from __future__ import annotations

import hashlib
import os
import signal
import threading

import pytest
import torch
from torch.nn import functional as F

import archloom
from archloom.architecture import Architecture
from archloom.errors import ConfigError, RunError, SearchError
from archloom.fitting import Fit
from archloom.model import ModelParts
from archloom.randomness import python_rng
from archloom.ranks import Ranks
from archloom.run import Memory, load_checkpoint
from archloom.shared import Supernet
from archloom.space import sample
from archloom.strategy import Progress
from archloom.task import batches
from toys import Blocks, comparable, config, host


class SinglePath:
    """Trains one random path a step; proposes the first two architectures of its space."""

    proposals = 2

    def __init__(self, space, task, *, seed: int, model, epochs: int = 4, lr: float = 0.05):
        self.space, self.task, self.seed, self.epochs, self.epoch = space, task, seed, epochs, 0
        self.supernet = model.assemble(
            Supernet(space, seed),
            shape=task.shape,
            num_classes=len(task.classes),
            seed=seed,
            selection=({choice.name: 0 for choice in space.choices},),
        )
        self.optimizer = torch.optim.SGD(self.supernet.parameters(), lr=lr, momentum=0.9)
        self.left = [Architecture(dict.fromkeys((c.name for c in space.choices), o)) for o in ("k1", "k3")]

    def fit(self):
        while self.epoch < self.epochs:
            data = batches(self.task.dataset("weights"), 32, seed=self.seed, epoch=self.epoch, shuffle=True)
            for step, (x, y) in enumerate(data):
                path = sample(self.space, python_rng(self.seed, "path", self.epoch, step))
                loss = F.cross_entropy(self.supernet(x, path), y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            self.epoch += 1
            yield Progress(self.epoch, self.epochs, float(self.epoch), {"loss": loss.item()})

    def state_dict(self):
        return {
            "epoch": self.epoch,
            "model": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state):
        self.epoch = state["epoch"]
        self.supernet.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def propose(self):
        return self.left.pop(0) if len(self.left) > 2 - self.proposals else None

    def observe(self, trial):
        pass


class Silent(SinglePath):
    proposals = 0


class Plugin:
    @archloom.hookimpl
    def register_strategies(self, register):
        register("single_path", SinglePath)
        register("silent", Silent)


def given(**changes):
    return config(
        **{
            "space": "blocks",
            "strategy": None,
            "method": "single_path",
            "estimators": ["params", "inherited_accuracy"],
            "objectives": ["accuracy.inherited"],
            "budget": {},
        }
        | changes
    )


@pytest.fixture(scope="module")
def task():
    return host().get("task", "digits").make({"train_size": 64})


def method(task, **options):
    return SinglePath(Blocks(), task, seed=0, model=ModelParts(), **options)


def fit(method, folder, log=None, *, epochs=None, seconds=None, every=0.0, notify=lambda event: None):
    return Fit(method, folder / "checkpoint.pt", log or Memory(), epochs, seconds, Ranks(), every, notify)


def digest(module):
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in module.state_dict().values())).hexdigest()


# -- units ------------------------------------------------------------------------------------------------


def test_fit_trains_to_the_end_and_logs_each_unit_once(tmp_path, task):
    log, told = Memory(), []
    assert fit(method(task), tmp_path, log, notify=told.append).run()
    assert [(event["unit"], event["of"], event["epochs"]) for event in log.events] == [
        (n, 4, n) for n in (1, 2, 3, 4)
    ]
    assert told == log.events
    actives = [event["active"] for event in log.events]
    assert actives == sorted(actives)


@pytest.mark.parametrize("killed_after", [1, 2, 3])
@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_fit_killed_between_units_resumes_to_the_same_state(tmp_path, task, killed_after, every):
    whole = method(task)
    fit(whole, tmp_path / "whole").run()

    class Killed(BaseException):
        pass

    def kill(event):
        if event["unit"] == killed_after + 1:
            raise Killed

    log = Memory()
    with pytest.raises(Killed):
        fit(method(task), tmp_path, log, every=every, notify=kill).run()
    resumed = method(task)
    assert fit(resumed, tmp_path, log, every=every).run()
    assert digest(resumed.supernet) == digest(whole.supernet)
    assert [event["unit"] for event in log.events] == [1, 2, 3, 4]


def test_checkpoints_are_saved_first_last_and_when_due(tmp_path, task, monkeypatch):
    saved = []
    monkeypatch.setattr(
        SinglePath, "state_dict", lambda self: saved.append(self.epoch) or {"epoch": self.epoch}
    )
    fit(method(task), tmp_path / "a", every=0.0).run()
    fit(method(task), tmp_path / "b", every=1e9).run()
    assert saved == [1, 2, 3, 4, 1, 4]


def test_a_damaged_checkpoint_costs_one_unit_and_no_more(tmp_path, task):
    whole, log = method(task), Memory()
    fit(whole, tmp_path, log).run()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-100])
    resumed = method(task)
    with pytest.warns(UserWarning, match="going on from the one before"):
        fit(resumed, tmp_path, log).run()
    assert digest(resumed.supernet) == digest(whole.supernet)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(RunError, match="No sound checkpoint is left"):
        fit(method(task), tmp_path, log).run()


@pytest.mark.parametrize("budget", [{"epochs": 2.0}, {"seconds": 1e-9}])
def test_a_budget_that_ends_inside_fit_is_kept_and_a_larger_one_goes_on(tmp_path, task, budget):
    whole = method(task)
    fit(whole, tmp_path / "whole").run()
    stopped, log = method(task), Memory()
    assert fit(stopped, tmp_path, log, every=1e9, **budget).run() is False
    assert stopped.epoch == (2 if "epochs" in budget else 1)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epochs"] == stopped.epoch
    resumed = method(task)
    assert fit(resumed, tmp_path, log).run()
    assert digest(resumed.supernet) == digest(whole.supernet)


def test_one_ctrl_c_stops_after_the_unit_with_all_saved(tmp_path, task):
    def press(event):
        if event["unit"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(method(task), tmp_path, every=1e9, notify=press).run()
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epochs"] == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path, task):
    def press(event):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(method(task), tmp_path, notify=press).run()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_fit_works_outside_the_main_thread(tmp_path, task):
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(method(task, epochs=1), tmp_path).run()))
    thread.start()
    thread.join()
    assert results == [True]


# -- the whole search -------------------------------------------------------------------------------------


def test_a_supernet_is_trained_then_searched_and_its_child_inherits(tmp_path):
    result = archloom.search(given(), tmp_path, host=host(Plugin()))
    assert len(result.trials) == 2
    assert all(0 <= trial.metrics["accuracy.inherited"] <= 100 for trial in result.trials)
    model = archloom.build(tmp_path, host=host(Plugin()))
    archloom.load_weights(model, tmp_path / "inherited.safetensors")
    trained = load_checkpoint(tmp_path / "checkpoint.pt")["method"]["model"]
    assert torch.equal(model.backbone.stem.weight, trained["backbone.network.stem.weight"])


def test_a_budget_that_ends_inside_fit_leaves_no_result_and_resume_completes_it(tmp_path):
    whole = archloom.search(given(), tmp_path / "whole", host=host(Plugin()))
    part = archloom.search(given(budget={"epochs": 2}), tmp_path / "part", host=host(Plugin()))
    assert not part.complete
    assert part.architecture is None
    assert not (tmp_path / "part" / "result.json").exists()
    assert not (tmp_path / "part" / "architecture.json").exists()
    full = archloom.resume(tmp_path / "part", overrides=("budget.epochs=9",), host=host(Plugin()))
    assert full.complete
    assert list(map(comparable, full.trials)) == list(map(comparable, whole.trials))


def test_the_epochs_of_fit_and_of_estimates_are_one_budget(tmp_path):
    changes = {"estimators": [{"type": "accuracy", "epochs": 1}], "objectives": ["accuracy.trained"]}
    result = archloom.search(given(budget={"epochs": 5}, **changes), tmp_path, host=host(Plugin()))
    assert len(result.trials) == 1
    assert result.reason == "the budget of 5 epochs is spent"


def test_a_method_that_proposes_nothing_is_an_error(tmp_path):
    with pytest.raises(SearchError, match="proposed nothing at all"):
        archloom.search(given(method="silent"), tmp_path, host=host(Plugin()))


def test_another_strategy_searches_what_the_method_trained(tmp_path):
    result = archloom.search(
        given(strategy={"type": "evolution", "population": 2, "tournament": 1}, budget={"trials": 3}),
        tmp_path,
        host=host(Plugin()),
    )
    assert len({trial.architecture for trial in result.trials}) == 3


def test_what_is_wrong_with_the_strategy_is_said_before_the_supernet_is_trained(tmp_path):
    wrong = {"type": "evolution", "population": 2, "tournament": 5}
    with pytest.raises(ConfigError, match=r"tournament must lie in 1\.\.2"):
        archloom.search(given(strategy=wrong), tmp_path, host=host(Plugin()))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_method_may_be_made_by_a_function_and_if_it_only_trains_that_is_said_first(tmp_path):
    class OnlyTrains:
        def __init__(self, inner):
            self.supernet, self.fit = inner.supernet, inner.fit
            self.state_dict, self.load_state_dict = inner.state_dict, inner.load_state_dict

    def make(space, task, seed, model, *, propose: bool = True):
        made = SinglePath(space, task, seed=seed, model=model, epochs=1)
        return made if propose else OnlyTrains(made)

    class ByFunction:
        @archloom.hookimpl
        def register_strategies(self, register):
            register("by_function", make)

    assert (
        len(archloom.search(given(method="by_function"), tmp_path / "a", host=host(ByFunction())).trials) == 2
    )
    with pytest.raises(ConfigError, match="only trains; name a 'strategy' that proposes"):
        archloom.search(
            given(method={"type": "by_function", "propose": False}), tmp_path / "b", host=host(ByFunction())
        )
    assert not (tmp_path / "b" / "checkpoint.pt").exists()


def test_inherited_estimates_leave_the_supernet_as_it_was(task):
    from archloom.estimator import Context
    from archloom_estimators import InheritedAccuracy

    trained = method(task)
    for _ in trained.fit():
        pass
    trained.supernet.train()
    before, modes = digest(trained.supernet), [m.training for m in trained.supernet.modules()]
    context = Context(
        trained.space,
        task,
        ModelParts(),
        0,
        torch.device("cpu"),
        "float32",
        lambda n, m: m(),
        trained.supernet,
    )
    numbers = [
        InheritedAccuracy(recalibration=r).estimate(Architecture({"layer0": "k1", "layer1": "k3"}), context)
        for r in (0, 2, 2)
    ]
    assert numbers[1] == numbers[2]
    assert digest(trained.supernet) == before
    assert [m.training for m in trained.supernet.modules()] == modes
