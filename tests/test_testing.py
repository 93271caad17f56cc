"""The conformance kit: what ships passes it, and each of its checks fails on a plugin that breaks it."""

import dataclasses
import random
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from archloom import testing
from archloom.architecture import Architecture, Choice
from archloom.errors import PluginError
from archloom.estimator import FULL, Metric
from archloom.measuring import Here, Outcome
from archloom.model import ModelParts
from archloom.randomness import forked_rng
from archloom.shared import Supernet
from archloom.space import NamedArchitecture, sample
from archloom.strategy import Progress
from archloom.task import batches
from archloom.testing import TinySpace, answering
from archloom_baselines import RandomSearch, RegularizedEvolution
from archloom_estimators import (
    InheritedAccuracy,
    Macs,
    MeasuredLatency,
    Params,
    TableLatency,
    TrainedAccuracy,
)
from archloom_estimators.executors import Workers
from archloom_fbnet import FBNet, FBNetSpace
from broken_spaces import BROKEN_SHARING
from test_testing_parts import BROKEN as BROKEN_PARTS

# -- what ships passes ----------------------------------------------------------------------------------


class TestRandomSearch(testing.StrategyContract):
    factory = RandomSearch


class TestEvolution(testing.StrategyContract):
    factory, options = RegularizedEvolution, {"population": 6, "tournament": 3}


class TestEvolutionWithTwoObjectives(testing.StrategyContract):
    factory, options, objectives = RegularizedEvolution, {"population": 4, "tournament": 2}, 2


class TestFBNetSpace(testing.SharedSpaceContract):
    factory, options, shape, samples = FBNetSpace, {"form": "small", "in_channels": 1}, (1, 8, 8), 2


class TestParams(testing.EstimatorContract):
    factory = Params


class TestMacs(testing.EstimatorContract):
    factory = Macs


class TestMeasuredLatency(testing.EstimatorContract):
    factory, options, repeatable = MeasuredLatency, {"runs": 3, "warmup": 1}, False


class TestTableLatency(testing.EstimatorContract):
    factory, options, repeatable = TableLatency, {"runs": 2}, False

    def space(self):
        return TinySpace(layers=2)


class TestTrainedAccuracy(testing.EstimatorContract):
    factory, options = TrainedAccuracy, {"epochs": 1, "batch_size": 16}


class TestInheritedAccuracy(testing.EstimatorContract):
    factory, options = InheritedAccuracy, {"batch_size": 16, "recalibration": 2}


class TestHere(testing.ExecutorContract):
    factory = Here


class TestWorkers(testing.ExecutorContract):
    factory, options = Workers, {"workers": 2}


class TestFBNet(testing.WeightSharingContract):
    factory = FBNet
    options: ClassVar = {
        "epochs": 2,
        "warmup_epochs": 1,
        "batch_size": 16,
        "cost": "macs",
        "loss": "additive",
    }


# -- what is broken fails: strategies --------------------------------------------------------------------


class Sound:
    """A strategy without fault, to be broken in one thing at a time."""

    def __init__(self, space, rng) -> None:
        self.space, self.rng, self.seen = space, rng, 0

    def propose(self):
        return sample(self.space, self.rng)

    def observe(self, trial):
        self.seen += 1


class Undocumented(Sound):
    __doc__ = ""

    def __init__(self, space, rng) -> None:
        super().__init__(space, rng)


class Untyped(Sound):
    """An option without a type."""

    def __init__(self, space, rng, *, rate=1) -> None:
        super().__init__(space, rng)


class Deaf(Sound):
    """It cannot observe."""

    observe = None

    def __getattribute__(self, name):
        if name == "observe":
            raise AttributeError(name)
        return super().__getattribute__(name)


class Stranger(Sound):
    """It proposes what the space does not have."""

    def propose(self):
        return super().propose().replace(layer0="k7")


class Silent(Sound):
    """It proposes nothing."""

    def propose(self):
        return None


class Careless(Sound):
    """Its dictionaries are no architectures."""

    def propose(self):
        return dict(super().propose())


class Shortened(Architecture):
    """It loses something in JSON."""

    def to_json(self):
        return {name: str(option)[:1] for name, option in self.items()}


class Retyped(Sound):
    """It proposes architectures of a kind of its own, which come back from JSON as others."""

    def propose(self):
        return Shortened(super().propose())


class Unseeded(Sound):
    """It draws from the system."""

    def propose(self):
        return sample(self.space, random.SystemRandom())


class Globally(Sound):
    """It draws from a global generator."""

    def propose(self):
        with_torch = int(torch.randint(2, ()))
        return super().propose().replace(layer0=("k1", "k3")[with_torch])


class GloballyNumpy(Sound):
    """It draws from numpy's global generator."""

    def observe(self, trial):
        np.random.rand()


class GloballyPython(Sound):
    """It draws from the standard library's global generator."""

    def observe(self, trial):
        random.random()


class Meddling(Sound):
    """It writes into what it observes."""

    def observe(self, trial):
        trial.metrics["mine"] = 1.0


class Optimist(Sound):
    """It computes with the score of every trial."""

    def observe(self, trial):
        self.best = trial.score * 2


class Impatient(Sound):
    """It must be told of a proposal before it is asked for the next."""

    waiting = False

    def propose(self):
        if self.waiting:
            raise RuntimeError("tell me first")
        self.waiting = True
        return super().propose()

    def observe(self, trial):
        self.waiting = False


class Ended(Sound):
    """Once it has ended it cannot be asked again."""

    def propose(self):
        if self.rng is None:
            raise RuntimeError("over")
        if self.seen or self.rng.random() < 0.2:
            self.rng = None
            return None
        return super().propose()


class Remembering(Sound):
    """What it does depends on what another of its kind has done in this process."""

    told: list = []  # noqa: RUF012 - the fault

    def observe(self, trial):
        self.told.append(trial.number)

    def propose(self):
        return super().propose().replace(layer0=("k1", "k3")[len(self.told) % 2])


BROKEN_STRATEGIES = [
    ("test_the_host_accepts_the_factory_and_its_options", Undocumented, AssertionError, "docstring"),
    ("test_the_host_accepts_the_factory_and_its_options", Untyped, AssertionError, "no type annotation"),
    ("test_it_proposes_and_observes", Deaf, AssertionError, "observe"),
    ("test_its_proposals_belong_to_the_space", Stranger, AssertionError, "no option 'k7'"),
    ("test_its_proposals_belong_to_the_space", Careless, AssertionError, "not an Architecture"),
    ("test_its_proposals_belong_to_the_space", Silent, AssertionError, "nothing at all"),
    ("test_its_proposals_survive_json", Retyped, AssertionError, "space's own options"),
    ("test_the_same_seed_gives_the_same_proposals", Unseeded, AssertionError, "same rng"),
    ("test_it_leaves_the_global_generators_alone", Globally, AssertionError, "generator of torch"),
    ("test_it_leaves_the_global_generators_alone", GloballyNumpy, AssertionError, "generator of numpy"),
    ("test_it_leaves_the_global_generators_alone", GloballyPython, AssertionError, "generator of random"),
    ("test_it_leaves_the_trials_that_it_observes_as_they_are", Meddling, AssertionError, "changed the trial"),
    ("test_it_copes_with_trials_that_fail_or_are_infeasible", Optimist, TypeError, "NoneType"),
    ("test_it_can_be_asked_again_before_it_is_told", Impatient, RuntimeError, "tell me first"),
    ("test_after_none_it_can_be_told_and_asked_again", Ended, RuntimeError, "over"),
    ("test_a_search_killed_anywhere_resumes_to_the_same_trials", Unseeded, AssertionError, "resumed after"),
    ("test_a_search_killed_anywhere_resumes_to_the_same_trials", Remembering, AssertionError, "resumed"),
]

# -- what is broken fails: spaces ------------------------------------------------------------------------


class NoChoices(TinySpace):
    """It has no choices."""

    def __init__(self) -> None:
        self.choices = []


class Twins(TinySpace):
    """Two choices of one name."""

    def __init__(self) -> None:
        super().__init__()
        self.choices.append(self.choices[0])


class Shuffled(TinySpace):
    """Its options are others each time."""

    def __init__(self) -> None:
        super().__init__()
        options = list(self.choices[0].options)
        random.SystemRandom().shuffle(options)
        self.choices = [
            Choice(f"layer{i}", (f"{random.SystemRandom().random()}", *options)) for i in range(6)
        ]


class Tuples(TinySpace):
    """Its options are no JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.choices = [Choice("layer0", ((1, 2), (3, 4)))]


class Pooled(TinySpace):
    """Its networks pool and flatten."""

    def build(self, architecture):
        return nn.Sequential(super().build(architecture), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Infinite(TinySpace):
    """Its networks divide by nothing."""

    def build(self, architecture):
        return nn.Sequential(super().build(architecture), nn.Threshold(float("inf"), float("nan")))


class Stubborn(TinySpace):
    """It asks for the CPU, whatever the device."""

    def build(self, architecture):
        network = super().build(architecture)
        network.stem = nn.Conv2d(1, 4, 1, device="cpu")
        return network


class Entropic(TinySpace):
    """Its weights come from the system."""

    def build(self, architecture):
        network = super().build(architecture)
        nn.init.constant_(network.stem.bias, random.SystemRandom().random())
        return network


class PythonDrawn(TinySpace):
    """Its weights come from the standard library's global generator."""

    def build(self, architecture):
        random.random()
        return super().build(architecture)


class Sharing(TinySpace):
    """All its networks have the same stem."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)

    def build(self, architecture):
        network = super().build(architecture)
        network.stem = self.stem
        return network


class Grumbling(TinySpace):
    """Its rules are numbers."""

    def violations(self, architecture):
        return [1] if architecture["layer0"] == "skip" else []


class Misnamed(TinySpace):
    """A named architecture that it cannot express."""

    @property
    def named(self):
        return {"net": NamedArchitecture(Architecture({"layer0": "k9"}), 8)}


class Apart(TinySpace):
    """`build` does not use what the supernet uses."""

    def build(self, architecture):
        network = super().build(architecture)
        network.tail = nn.ReLU6()
        return nn.Sequential(network)


class SaysOther(TinySpace):
    """Same weights, another function."""

    def build(self, architecture):
        network = super().build(architecture)
        network.tail = nn.Hardtanh(-0.1, 0.1)
        return network


class Leaky(TinySpace):
    """Its supernet and its networks have one stem between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)

    def around(self, body):
        outer = super().around(body)
        outer.stem = self.stem
        return outer


class UnseededSupernet(TinySpace):
    """The candidates draw from the system."""

    def candidate(self, choice, option):
        module = super().candidate(choice, option)
        for parameter in module.parameters():
            nn.init.constant_(parameter, random.SystemRandom().random())
        return module


class Uneven(TinySpace):
    """Two candidates of a choice differ in shape, and it does not say so."""

    def candidate(self, choice, option):
        return nn.MaxPool2d(2) if option == "k5" else super().candidate(choice, option)


class Backward(TinySpace):
    """A choice depends on one that comes later."""

    def __init__(self) -> None:
        super().__init__()
        self.choices[0] = Choice("layer0", self.choices[0].options, when={"layer1": ("k3",)})


class Presuming(TinySpace):
    """It asks for a decision that is not always there."""

    def __init__(self) -> None:
        super().__init__()
        self.choices[5] = Choice("layer5", self.choices[5].options, when={"layer4": ("k3", "k5")})

    def build(self, architecture):
        return self.around(nn.Sequential(*(self.candidate(c, architecture[c.name]) for c in self.choices)))


class Restless(TinySpace):
    """The canonical form of a canonical form is another one."""

    def canonical(self, architecture):
        return architecture.replace(
            **dict(zip(architecture, [*list(architecture.values())[1:], "skip"], strict=True))
        )


class Equating(TinySpace):
    """It calls networks equal that are not."""

    def canonical(self, architecture):
        return architecture.replace(layer0="skip")


class Forbidding(TinySpace):
    """It forbids some canonical forms."""

    def canonical(self, architecture):
        return architecture.replace(**dict(zip(architecture, sorted(architecture.values()), strict=True)))

    def violations(self, architecture):
        return ["no"] if list(architecture.values()) == sorted(architecture.values()) else []


class NoAround(TinySpace):
    """It has candidates and nothing around them."""

    around = None


BROKEN_SPACES = [
    *BROKEN_SHARING,
    ("test_its_choices_are_choices_with_names_of_their_own", NoChoices, AssertionError, "no choices"),
    ("test_its_choices_are_choices_with_names_of_their_own", Twins, AssertionError, "two choices"),
    ("test_it_is_the_same_space_each_time_that_it_is_made", Shuffled, AssertionError, "other choices"),
    ("test_its_architectures_survive_json", Tuples, Exception, "of type tuple"),
    ("test_its_networks_give_feature_maps", Pooled, AssertionError, "ends at a feature map"),
    ("test_its_networks_give_feature_maps", Infinite, AssertionError, "NaN"),
    ("test_its_networks_can_be_traced_without_numbers", Stubborn, AssertionError, "meta"),
    ("test_its_weights_follow_the_seed_and_nothing_else", Entropic, AssertionError, "different weights"),
    ("test_its_weights_follow_the_seed_and_nothing_else", PythonDrawn, AssertionError, "generator of random"),
    ("test_its_networks_share_nothing", Sharing, AssertionError, "share parameters"),
    ("test_its_rules_are_sentences", Grumbling, AssertionError, "sentences"),
    ("test_its_conditions_are_about_earlier_choices", Backward, AssertionError, "comes later"),
    (
        "test_its_networks_are_built_with_and_without_each_conditional_choice",
        Presuming,
        AssertionError,
        "where 'layer5' is not decided",
    ),
    ("test_its_canonical_form_is_one_form_of_the_same_network", Restless, AssertionError, "has another one"),
    (
        "test_its_canonical_form_is_one_form_of_the_same_network",
        Equating,
        AssertionError,
        "not the same network",
    ),
    ("test_its_canonical_form_is_one_form_of_the_same_network", Forbidding, AssertionError, "forbids one of"),
    ("test_its_named_architectures_belong_to_it", Misnamed, AssertionError, "'net'"),
    ("test_a_shared_network_can_be_made_of_it", NoAround, AssertionError, "`around`"),
    (
        "test_a_path_of_the_supernet_computes_what_the_extracted_network_computes",
        Apart,
        AssertionError,
        "disagree",
    ),
    (
        "test_a_path_of_the_supernet_computes_what_the_extracted_network_computes",
        SaysOther,
        AssertionError,
        "differ for",
    ),
    ("test_extracting_leaves_the_supernet_as_it_was", Leaky, AssertionError, "changed the supernet"),
    ("test_the_supernets_weights_follow_the_seed", UnseededSupernet, AssertionError, "same seed"),
    ("test_its_candidates_can_be_mixed", Uneven, AssertionError, "cannot be mixed"),
]

# -- what is broken fails: estimators --------------------------------------------------------------------


class SoundEstimator:
    """An estimator without fault: the length of an architecture's text."""

    metrics = (Metric("length", "letters", "min"),)
    expense, needs = 0, ()

    def estimate(self, architecture, context):
        return {"length": len(str(architecture))}


class Unmeasured(SoundEstimator):
    """It measures nothing."""

    metrics = ()


class Unitless(SoundEstimator):
    """A length of what?"""

    metrics = (Metric("length", "", "min"),)


class Priceless(SoundEstimator):
    """It does not say how dear it is."""

    expense = None


class Needy(SoundEstimator):
    """It needs what no method offers."""

    needs = ("a miracle",)


class Partial(SoundEstimator):
    """It measures one thing less than it says."""

    metrics = (*SoundEstimator.metrics, Metric("width", "letters", "min"))


class Tensorial(SoundEstimator):
    """It gives tensors."""

    def estimate(self, architecture, context):
        return {"length": torch.tensor(1.0)}


class Nan(SoundEstimator):
    """It gives no number."""

    def estimate(self, architecture, context):
        return {"length": float("nan")}


class Counting(SoundEstimator):
    """Each estimate adds to the one before."""

    calls = 0

    def estimate(self, architecture, context):
        self.calls += 1
        return {"length": self.calls}


class Secret(SoundEstimator):
    """Two of its kind measure differently."""

    def __init__(self) -> None:
        self.bias = random.SystemRandom().random()

    def estimate(self, architecture, context):
        return {"length": self.bias}


class GlobalNoise(SoundEstimator):
    """It seeds torch for all."""

    def estimate(self, architecture, context):
        torch.manual_seed(0)
        return super().estimate(architecture, context)


class InPlace(SoundEstimator):
    """It leaves the supernet in another mode."""

    needs = ("supernet",)

    def estimate(self, architecture, context):
        context.supernet.train(not context.supernet.training)
        return super().estimate(architecture, context)


class Recalibrating(SoundEstimator):
    """It moves the supernet's BatchNorm statistics."""

    needs = ("supernet",)

    def estimate(self, architecture, context):
        context.supernet.train()
        with torch.no_grad():
            context.supernet(torch.ones(2, *context.task.shape), architecture.replace(layer0="k3"))
        return super().estimate(architecture, context)


BROKEN_ESTIMATORS = [
    ("test_it_says_what_it_measures", Unmeasured, AssertionError, "has `metrics`"),
    ("test_it_says_what_it_measures", Unitless, AssertionError, "no unit"),
    ("test_it_says_how_dear_it_is_and_what_it_needs", Priceless, AssertionError, "expense"),
    ("test_it_says_how_dear_it_is_and_what_it_needs", Needy, PluginError, "miracle"),
    ("test_an_estimate_has_all_its_metrics_as_finite_numbers", Partial, AssertionError, "width"),
    ("test_an_estimate_has_all_its_metrics_as_finite_numbers", Tensorial, AssertionError, "of Python"),
    ("test_an_estimate_has_all_its_metrics_as_finite_numbers", Nan, AssertionError, "finite"),
    ("test_an_estimate_can_be_repeated", Counting, AssertionError, "measured twice"),
    ("test_an_estimate_can_be_repeated", Secret, AssertionError, "fresh estimator"),
    ("test_it_leaves_the_global_generators_alone", GlobalNoise, AssertionError, "generator of torch"),
    ("test_it_leaves_the_supernet_as_it_was", InPlace, AssertionError, "changed the supernet"),
    ("test_it_leaves_the_supernet_as_it_was", Recalibrating, AssertionError, "changed the supernet"),
]

# -- what is broken fails: executors ---------------------------------------------------------------------


class SoundExecutor:
    """Measures in this process, each in a thread of its own, and speaks as if each had a process of its own: what
    would end this one is answered without being measured."""

    offers: ClassVar = ("timeout",)

    def __init__(self, job, measure) -> None:
        self.job, self.measure, self.workers = job, measure, 1
        self.running, self.pool = [], ThreadPoolExecutor(1)

    def submit(self, architecture, seed, fidelity=FULL):
        if architecture["does"] == "sleeps":
            return self.sleep(architecture)
        return self.pool.submit(self.work, architecture, seed, fidelity)

    def work(self, architecture, seed, fidelity):
        if architecture["does"] == "dies":
            self.note(architecture)
            return self.die(architecture)
        if architecture["does"] == "dies once":
            return self.die_once(architecture, seed, fidelity)
        done = self.measure(architecture, seed, fidelity)
        return dataclasses.replace(done, metrics={**done.metrics, "process": 0.5})

    def note(self, architecture):
        with (self.job.folder / answering.MEASURED).open("a") as file:
            print(architecture["does"], architecture["number"], 2**22, sep=",", file=file)

    def die(self, architecture):
        self.note(architecture)
        return Outcome("failed", {}, {"seconds": 0.0, "epochs": 0.0}, "its process died")

    def die_once(self, architecture, seed, fidelity):
        return self.work(architecture.replace(does="answers"), seed, fidelity)

    def sleep(self, architecture):
        self.note(architecture)
        future = Future()
        if architecture["number"] == 4:
            future.set_result(self.end())
        else:
            self.running.append(future)
        return future

    def end(self):
        return Outcome("failed", {}, {"seconds": 5.0, "epochs": 0.0}, "contract_answering took too long")

    def close(self):
        for future in self.running:
            future.cancel()
        self.pool.shutdown(cancel_futures=True)


class Endless(SoundExecutor):
    """Nobody can end it."""

    close = None


class Lazy(SoundExecutor):
    """It has no workers."""

    def __init__(self, job, measure) -> None:
        super().__init__(job, measure)
        self.workers = 0


class Unordered(SoundExecutor):
    """Whoever is finished first answers the oldest question."""

    def __init__(self, job, measure) -> None:
        super().__init__(job, measure)
        self.pool, self.futures = ThreadPoolExecutor(2), []

    def submit(self, architecture, seed, fidelity=FULL):
        self.futures.append(Future())
        done = super().submit(architecture, seed, fidelity)
        done.add_done_callback(lambda done: self.futures.pop(0).set_result(done.result()))
        return self.futures[-1] if self.futures else done


class OneSeed(SoundExecutor):
    """It measures all under one seed."""

    def work(self, architecture, seed, fidelity):
        return super().work(architecture, 1, fidelity)


class Whole(SoundExecutor):
    """It knows no fidelity."""

    def work(self, architecture, seed, fidelity):
        return super().work(architecture, seed, FULL)


class Raising(SoundExecutor):
    """What an estimator raises, its futures raise."""

    def work(self, architecture, seed, fidelity):
        done = super().work(architecture, seed, fidelity)
        if done.error and done.error.startswith("contract_answering: "):
            raise RuntimeError(done.error)
        return done


class Mute(SoundExecutor):
    """It keeps to itself why an estimate failed."""

    def work(self, architecture, seed, fidelity):
        return dataclasses.replace(super().work(architecture, seed, fidelity), error=None)


class Fragile(SoundExecutor):
    """The death of a process is an exception."""

    def die(self, architecture):
        raise BrokenProcessPool("a process died")


class Contagious(SoundExecutor):
    """After the death of a process nothing is measured any more."""

    dead = False

    def work(self, architecture, seed, fidelity):
        self.dead = self.dead or architecture["does"] == "dies"
        done = super().work(architecture, seed, fidelity)
        return dataclasses.replace(done, status="failed", error="dead") if self.dead else done


class Stubborn(SoundExecutor):
    """What kills its process is begun again and again."""

    def die(self, architecture):
        self.note(architecture)
        return super().die(architecture)


class Hasty(SoundExecutor):
    """What dies once is given up."""

    def die_once(self, architecture, seed, fidelity):
        return self.die(architecture)


class Deaf(SoundExecutor):
    """It knows no timeout."""

    def end(self):
        return Outcome("ok", {"number": 4.0}, {"seconds": 60.0, "epochs": 0.0})


class Repeating(SoundExecutor):
    """What takes too long is begun again."""

    def end(self):
        self.note(Architecture({"does": "sleeps", "number": 4}))
        return super().end()


class Elsewhere(SoundExecutor):
    """It says that it measures here."""

    offers = ("supernet",)


class Alone(SoundExecutor):
    """Each measurement has recorded values of its own."""

    def work(self, architecture, seed, fidelity):
        context = dataclasses.replace(self.measure.context, recorded=lambda name, measure: measure())
        self.measure = dataclasses.replace(self.measure, context=context)
        return super().work(architecture, seed, fidelity)


class Uncancelled(SoundExecutor):
    """What is cancelled is measured all the same."""

    def submit(self, architecture, seed, fidelity=FULL):
        done, shown = super().submit(architecture, seed, fidelity), Future()
        done.add_done_callback(lambda done: shown.cancelled() or shown.set_result(done.result()))
        return shown


class Abandoning(SoundExecutor):
    """It leaves what runs without an end."""

    def close(self):
        self.pool.shutdown(cancel_futures=True)


class Handing(SoundExecutor):
    """It hands outcomes over, and no futures."""

    def submit(self, architecture, seed, fidelity=FULL):
        return super().submit(architecture, seed, fidelity).result()


BROKEN_EXECUTORS = [
    (
        "test_each_submission_has_its_own_result_as_measured_here",
        Handing,
        AssertionError,
        "gave an Outcome from submit",
    ),
    ("test_it_can_be_asked_and_closed", Endless, AssertionError, "lacks close; an executor has"),
    ("test_it_can_be_asked_and_closed", Lazy, AssertionError, "of at least 1"),
    ("test_each_submission_has_its_own_result_as_measured_here", Unordered, AssertionError, "finished first"),
    ("test_each_submission_has_its_own_result_as_measured_here", OneSeed, AssertionError, "came out as"),
    ("test_the_fidelity_is_handed_on", Whole, AssertionError, "the estimator was handed"),
    ("test_an_estimator_that_raises_fails_its_own_trial", Raising, AssertionError, "search would end there"),
    ("test_an_estimator_that_raises_fails_its_own_trial", Mute, AssertionError, "has its words"),
    (
        "test_a_measurement_that_kills_its_process_fails_alone_after_two_tries",
        Fragile,
        AssertionError,
        "BrokenProcessPool",
    ),
    (
        "test_a_measurement_that_kills_its_process_fails_alone_after_two_tries",
        Contagious,
        AssertionError,
        "took other trials",
    ),
    (
        "test_a_measurement_that_kills_its_process_fails_alone_after_two_tries",
        Stubborn,
        AssertionError,
        "begun 3 times",
    ),
    ("test_a_measurement_whose_process_died_once_is_made_again", Hasty, AssertionError, "made again"),
    (
        "test_an_estimate_that_takes_too_long_is_ended_where_it_offers_that",
        Deaf,
        AssertionError,
        "with the estimator's name",
    ),
    (
        "test_an_estimate_that_takes_too_long_is_ended_where_it_offers_that",
        Repeating,
        AssertionError,
        "begun 2 times",
    ),
    (
        "test_it_measures_in_this_process_where_it_offers_the_supernet",
        Elsewhere,
        AssertionError,
        "in another",
    ),
    ("test_a_recorded_value_is_measured_once_for_all", Alone, AssertionError, "measured 4 times"),
    ("test_a_cancelled_measurement_is_not_made", Uncancelled, AssertionError, "was made"),
    ("test_closing_ends_what_runs_and_what_waits", Abandoning, AssertionError, "never done"),
]

# -- what is broken fails: weight sharing ----------------------------------------------------------------


class SoundMethod:
    """A method without fault, and without ambition: SGD on the path of all first options, three steps."""

    def __init__(self, space, task, *, seed, ranks) -> None:
        self.space, self.task, self.seed = space, task, seed
        self.path = Architecture({c.name: c.options[1] for c in space.choices})
        backbone = Supernet(space, seed)
        self.supernet = ModelParts().assemble(
            backbone, shape=task.shape, num_classes=len(task.classes), seed=seed, selection=(self.path,)
        )
        self.optimizer = torch.optim.SGD(self.supernet.parameters(), lr=0.1, momentum=0.9)
        self.epoch, self.of, self.proposed = 0, 3, 0

    def fit(self):
        while self.epoch < self.of:
            loss = self.step()
            self.epoch += 1
            yield Progress(self.epoch, self.of, self.epoch, {"loss": loss})

    def step(self):
        data = self.task.dataset("weights")
        x, y = next(batches(data, 16, seed=self.seed, epoch=self.epoch, shuffle=True))
        self.supernet.train()
        with forked_rng(self.seed, "step", self.epoch):
            loss = F.cross_entropy(self.supernet(x, self.path), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def propose(self):
        self.proposed += 1
        return self.path if self.proposed == 1 else None

    def observe(self, trial):
        pass

    def state_dict(self):
        return {
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
        }

    def load_state_dict(self, state):
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]


class Bare(SoundMethod):
    """Its supernet is no model."""

    def __init__(self, space, task, *, seed, ranks) -> None:
        super().__init__(space, task, seed=seed, ranks=ranks)
        self.supernet = self.supernet.backbone


class FromZero(SoundMethod):
    """Its units are counted from zero."""

    def fit(self):
        for progress in super().fit():
            yield dataclasses.replace(progress, unit=progress.unit - 1)


class Tireless(SoundMethod):
    """It begins anew whenever it is asked."""

    def fit(self):
        self.epoch = 0
        yield from super().fit()


class GlobalSteps(SoundMethod):
    """It draws its noise from torch's global generator."""

    def step(self):
        with torch.no_grad():
            self.supernet.head.fc.bias += torch.randn(4)
        return super().step()


class SystemSteps(SoundMethod):
    """It draws its noise from the system."""

    def step(self):
        self.optimizer.param_groups[0]["lr"] = 0.1 * random.SystemRandom().random()
        return super().step()


class Forgetful(SoundMethod):
    """It does not save the optimizer's momentum."""

    def load_state_dict(self, state):
        self.supernet.load_state_dict(state["supernet"])
        self.epoch = state["epoch"]


class Counterless(SoundMethod):
    """It does not read back where it was."""

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.epoch = 0


class Counting2(SoundMethod):
    """Each saving changes the learning rate."""

    def state_dict(self):
        self.optimizer.param_groups[0]["lr"] *= 0.5
        return super().state_dict()


class Opaque(SoundMethod):
    """Its state holds an object."""

    def state_dict(self):
        return super().state_dict() | {"space": self.space}


class Fruitless(SoundMethod):
    """It trains, and proposes nothing."""

    def propose(self):
        return None


BROKEN_METHODS = [
    ("test_it_has_a_supernet_and_trains_it", Bare, AssertionError, "Model whose backbone"),
    ("test_its_units_count_up_to_the_last", FromZero, AssertionError, "numbered 1, 2"),
    ("test_a_trained_one_trains_no_more", Tireless, AssertionError, "fit went on"),
    ("test_the_same_seed_trains_the_same", GlobalSteps, AssertionError, "generator of torch"),
    ("test_the_same_seed_trains_the_same", SystemSteps, AssertionError, "different states"),
    ("test_killed_and_resumed_it_trains_to_the_same_bits", Forgetful, AssertionError, "another state"),
    ("test_killed_and_resumed_it_trains_to_the_same_bits", Counterless, AssertionError, "trained units"),
    ("test_saving_changes_nothing", Counting2, AssertionError, "changed the training"),
    ("test_its_state_is_plain_data", Opaque, AssertionError, "saved and read safely"),
    (
        "test_what_it_proposes_belongs_to_the_space_and_can_be_extracted",
        Fruitless,
        AssertionError,
        "proposed nothing",
    ),
]

BROKEN = [
    *((testing.StrategyContract, {}, *case) for case in BROKEN_STRATEGIES),
    *((testing.SharedSpaceContract, {"shape": (1, 8, 8)}, *case) for case in BROKEN_SPACES),
    *((testing.EstimatorContract, {}, *case) for case in BROKEN_ESTIMATORS),
    *((testing.ExecutorContract, {}, *case) for case in BROKEN_EXECUTORS),
    *((testing.WeightSharingContract, {}, *case) for case in BROKEN_METHODS),
]


@pytest.mark.parametrize(
    ("contract", "given", "check", "broken", "error", "told"),
    BROKEN,
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_plugin_fails_the_check_that_it_breaks(
    contract, given, check, broken, error, told, monkeypatch
):
    case = type("Case", (contract,), {"factory": broken, **given})()
    monkeypatch.setattr("archloom.testing.answering.SLEEP", 2.0)  # how long a process may take to end
    try:
        with pytest.raises(error, match=told):
            getattr(case, check)()
    finally:
        getattr(case, "teardown_class", lambda: None)()


@pytest.mark.parametrize(
    "contract",
    [
        contract
        for name, contract in vars(testing).items()
        if name.endswith("Contract") and contract not in {owner for owner, *_ in BROKEN_PARTS}
    ],
)
def test_each_check_is_seen_to_fail_on_a_broken_plugin(contract):
    checks = {name for name in dir(contract) if name.startswith("test_")}
    seen = {check for owner, _, check, *_ in BROKEN if issubclass(owner, contract)}
    # the way in through the host is the same for all kinds
    assert checks - seen <= {"test_the_host_accepts_the_factory_and_its_options"}
    assert "test_the_host_accepts_the_factory_and_its_options" in {check for _, _, check, *_ in BROKEN}


class TestTheSoundStrategyPasses(testing.StrategyContract):
    factory = Sound


class TestTheSoundSpacePasses(testing.SharedSpaceContract):
    factory, shape = TinySpace, (1, 8, 8)


class TestTheSoundEstimatorPasses(testing.EstimatorContract):
    factory = SoundEstimator


class TestTheSoundExecutorPasses(testing.ExecutorContract):
    factory = SoundExecutor


class TestTheSoundMethodPasses(testing.WeightSharingContract):
    factory = SoundMethod


def test_a_plain_function_is_a_factory_too():
    def make(space, rng, *, keep: int = 1):
        """A function with an option."""
        return Sound(space, rng)

    case = type("Case", (testing.StrategyContract,), {"factory": make, "options": {"keep": 2}})()
    case.test_the_host_accepts_the_factory_and_its_options()
    case.test_its_proposals_belong_to_the_space()
    wrong = type("Case", (testing.StrategyContract,), {"factory": make, "options": {"keeep": 2}})()
    with pytest.raises(AssertionError, match="did you mean 'keep'"):
        wrong.test_the_host_accepts_the_factory_and_its_options()


def test_states_are_compared_to_the_bit():
    a = {"x": torch.tensor([1.0, float("nan")]), "n": [1, "b"]}
    assert testing.same(a, {"x": a["x"].clone(), "n": [1, "b"]})
    assert not testing.same(a, {"x": a["x"].double(), "n": [1, "b"]})
    assert not testing.same(a, {"x": torch.tensor([1.0 + 2**-23, float("nan")]), "n": [1, "b"]})
    assert not testing.same(a, {"x": a["x"], "n": [1.0, "b"]})
    assert not testing.same(a, {"x": a["x"]})
