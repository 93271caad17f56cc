"""The contract of strategies that propose and observe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar

from ..architecture import Architecture
from ..engine import Limits, Search
from ..errors import ArchloomError, ConfigError, RunError, SearchError
from ..estimator import FULL, Fidelity
from ..measuring import Here, Outcome
from ..objective import Objective
from ..randomness import python_rng
from ..run import Memory
from ..space import check
from ..strategy import Proposal
from ..trial import Trial
from .checks import Contract, global_generators_untouched, require
from .tiny import TinySpace, run_context, tiny_task


class StrategyContract(Contract):
    """Checks a strategy that proposes and observes. Override `space` where it needs a certain one;
    `objectives` is how many scores a trial has, `trials` how many are told in a check."""

    kind = "strategy"
    objectives: ClassVar[int] = 1
    trials: ClassVar[int] = 40

    def space(self) -> Any:
        """The space that is searched."""
        return TinySpace()

    def task(self) -> Any:
        """The data."""
        return tiny_task()

    def _strategy(self, seed: int = 0, space: Any = None) -> Any:
        context = run_context(space or self.space(), self.task(), seed=seed, objectives=self._objectives())
        return context.strategy(self._maker())

    def _objectives(self) -> tuple[Objective, ...]:
        return tuple(Objective(f"m{i}", "max") for i in range(self.objectives))

    def _measure(self, architecture: Architecture, seed: int, fidelity: Fidelity = FULL) -> Outcome:
        """Numbers that depend on the architecture alone; a fifth of all is infeasible, a fifth fails."""
        text = json.dumps(architecture.to_json(), sort_keys=True)
        draw = python_rng(0, "measure", text)
        fate = draw.random()
        if fate < 0.4:
            return Outcome(
                "failed" if fate < 0.2 else "infeasible", {}, {"seconds": 0.0, "epochs": 0.0}, "told so"
            )
        metrics = {f"m{i}": draw.uniform(-1, 1) for i in range(self.objectives)}
        return Outcome("ok", metrics, {"seconds": 0.0, "epochs": 0.0})

    def _search(self, log: Memory, window: int = 1, strategy: Any = None) -> Search:
        space = self.space()
        return Search(
            space,
            strategy or self._strategy(space=space),
            Here(self._measure),
            self._objectives(),
            Limits(trials=self.trials, max_failures=10**9, max_rejected=10**9, max_repeats=1000),
            seed=0,
            log=log,
            window=window,
        )

    def _told(self, strategy: Any, status: Any = "ok") -> Iterator[Architecture]:
        """Proposals of a strategy whose trials are observed at once, at most `trials` of them."""
        for number in range(self.trials):
            proposal = strategy.propose()
            if proposal is None:
                return
            architecture, fidelity = _apart(proposal)
            yield architecture
            draw = python_rng(number, "score")
            scores = tuple(draw.random() for _ in range(self.objectives)) if status == "ok" else None
            strategy.observe(Trial(number, architecture, status, scores=scores, fidelity=fidelity))

    def test_it_proposes_and_observes(self) -> None:
        try:
            self._strategy()
        except ConfigError as error:
            raise AssertionError(f"{error}; a strategy has `propose()` and `observe(trial)`") from error

    def test_its_proposals_belong_to_the_space(self) -> None:
        space, proposals = self.space(), 0
        for proposals, architecture in enumerate(self._told(self._strategy()), 1):
            require(
                isinstance(architecture, Architecture), f"propose gave {architecture!r}, not an Architecture"
            )
            try:
                check(space, architecture)
            except ArchloomError as error:
                raise AssertionError(f"proposal {proposals - 1}: {error}") from error
        require(proposals, "it proposed nothing at all; the first `propose` must give an Architecture")

    def test_its_proposals_survive_json(self) -> None:
        for architecture in self._told(self._strategy()):
            back = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
            require(
                back == architecture and repr(back) == repr(architecture),
                f"{architecture} comes back from the log as {back}; propose the space's own options",
            )

    def test_the_same_seed_gives_the_same_proposals(self) -> None:
        first, second = (list(self._told(self._strategy(seed=3))) for _ in range(2))
        require(first == second, "two strategies with the same rng and the same trials proposed differently")

    def test_it_leaves_the_global_generators_alone(self) -> None:
        with global_generators_untouched("the strategy"):
            list(self._told(self._strategy()))

    def test_it_leaves_the_trials_that_it_observes_as_they_are(self) -> None:
        strategy = self._strategy()
        architecture, fidelity = _apart(strategy.propose())
        scores = (0.5,) * self.objectives
        trial = Trial(0, architecture, "ok", {"m0": 0.5}, scores, {"seconds": 1.0}, fidelity=fidelity)
        before = json.dumps(trial.to_json())
        strategy.observe(trial)
        require(json.dumps(trial.to_json()) == before, "observe changed the trial that it was given")

    def test_it_copes_with_trials_that_fail_or_are_infeasible(self) -> None:
        for status in ("failed", "infeasible"):
            count = sum(1 for _ in self._told(self._strategy(), status))
            require(count, "it proposed nothing at all")
        _run(self._search(Memory()))

    def test_it_can_be_asked_again_before_it_is_told(self) -> None:
        log = Memory()
        _run(self._search(log, window=4))
        asked = [event for event in log.events if event["event"] == "propose"]
        require(asked, "it proposed nothing with four trials open")

    def test_after_none_it_can_be_told_and_asked_again(self) -> None:
        strategy, waiting = self._strategy(), []
        for _ in range(self.trials):  # a strategy without end never says None, which is as good
            proposal = strategy.propose()
            if proposal is None:
                break
            waiting.append(_apart(proposal))
        for number, (architecture, fidelity) in enumerate(waiting):
            scores = (0.0,) * self.objectives
            strategy.observe(Trial(number, architecture, "ok", scores=scores, fidelity=fidelity))
        again, _ = _apart(strategy.propose())
        require(again is None or isinstance(again, Architecture), f"after None it proposed {again!r}")

    def test_a_search_killed_anywhere_resumes_to_the_same_trials(self) -> None:
        for window in (1, 3):
            whole = Memory()
            _run(self._search(whole, window))
            for cut in range(1, len(whole.events), max(1, len(whole.events) // 12)):
                log = Memory([dict(event) for event in whole.events[:cut]])
                try:
                    _run(self._search(log, window))
                except RunError as error:
                    raise AssertionError(f"resumed after event {cut}: {error}") from error
                require(
                    _trials(log) == _trials(whole),
                    f"a search killed after event {cut} of its log resumed to other trials; what the "
                    "strategy does may depend on nothing but its factory's arguments and the calls before",
                )


def _apart(proposal: Any) -> tuple[Any, float]:
    """What is proposed, and at which fidelity."""
    return (proposal.architecture, proposal.fidelity) if isinstance(proposal, Proposal) else (proposal, 1.0)


def _run(search: Search) -> None:
    with suppress(SearchError):  # a short search of which nothing succeeded: no result, but a log
        search.run()


def _trials(log: Memory) -> list[Any]:
    results = [event for event in log.events if event["event"] == "result"]
    return [
        {k: v for k, v in event.items() if k != "active"}
        for event in sorted(results, key=lambda e: e["number"])
    ]
