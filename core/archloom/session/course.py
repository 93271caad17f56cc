"""The course of one search, from the first line of its log to its result; each process has its part in it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ..config import SearchConfig
from ..environment import describe
from ..errors import ArchloomError, RunError, SearchError
from ..fitting import Fit
from ..folder import MARK, Folder, Identity, differences
from ..history import check_history
from ..metrics import said_of_main
from ..observing import Observers, name_of
from ..plugins import Host
from ..processes import check_main_guard
from ..ranks import Ranks, join, leave
from ..resolve import Resolved, resolve
from ..run import Run, recorded, write_atomically
from ..standing import announced
from ..strategy import Strategy, WeightSharing
from ..surroundings import undisturbed
from ..trial import Trial, since_anew
from ..trust import keep
from .batching import check_batches
from .changing import check_constraints_kept, logged_trials
from .feasibility import check_constraints
from .finals import Finals, check_verdict
from .finishing import finish
from .making import (
    Notify,
    executor_of,
    make_loop,
    make_observers,
)
from .opening import as_config, fresh_path, identity_of, keep_tables, reopened, search_kind
from .process import cpu_threads, log_file, note_environment, threads_then
from .result import Result

logger = logging.getLogger("archloom")


@undisturbed("a search")
def search(
    config: SearchConfig | Mapping[str, Any] | str | Path,
    folder: str | Path | None = None,
    *,
    host: Host | None = None,
    notify: Notify = lambda event: None,
) -> Result:
    """Run a search in a new folder (default: runs/, date and space). The config: an object, a dict, or a file."""
    check_main_guard()
    checked = as_config(config)
    host = host or Host(checked.plugins)
    resolved = resolve(checked, host)
    claim = (
        partial(Folder.fresh, fresh_path(checked), search_kind(resolved.host))
        if folder is None
        else partial(Folder.begin, folder, search_kind(resolved.host))
    )
    return _Session(resolved, claim, join(resolved.device), notify).run()


@undisturbed("a search")
def resume(
    folder: str | Path,
    *,
    overrides: tuple[str, ...] = (),
    host: Host | None = None,
    notify: Notify = lambda event: None,
    trust: bool = False,
) -> Result:
    """Go on with an interrupted run, or with a finished one under a larger budget (`budget.trials=50`).

    trust: run the plugin files that the folder names, also where they never ran on this machine.
    """
    check_main_guard()
    folder = Path(folder)
    config = reopened(folder, overrides, trust=trust)
    host = host or Host(config.plugins)
    resolved = resolve(config, host)
    return _Session(
        resolved, partial(Folder.go_on, folder, search_kind(resolved.host)), join(resolved.device), notify
    ).run()


@undisturbed("a search")
def search_or_resume(config: SearchConfig, folder: Path, *, host: Host) -> Result:
    """Run a search in `folder`, or go on with it where the same one was begun there."""
    resolved = resolve(config, host)
    claim = partial(Folder.begin_or_go_on, folder, search_kind(resolved.host))
    return _Session(resolved, claim, join(resolved.device), lambda event: None).run()


@undisturbed("a verdict")
def verdict(
    folder: str | Path,
    *,
    overrides: tuple[str, ...] = (),
    host: Host | None = None,
    notify: Notify = lambda event: None,
    trust: bool = False,
) -> Result:
    """Make the verdict of an ended search anew, perhaps with other settings (`recipe.lr=0.01`, `verdict.seeds=5`).

    Nothing is searched. Trainings of the same settings are kept, those that failed are tried again. A RunError where
    the search has not ended. trust: as of `resume`.
    """
    folder = Path(folder)
    config = reopened(folder, overrides, trust=trust)
    host = host or Host(config.plugins)
    resolved = resolve(config, host)
    claim = partial(Folder.go_on, folder, search_kind(resolved.host))
    return _Session(resolved, claim, join(resolved.device), notify).run(search=False)


def _opened(folder: Folder) -> Run:
    """The run in a claimed folder, its log checked; the folder is given back where that fails."""
    run = Run(folder.path, folder.lock)
    try:
        check_history(run.log.events, run.log.damage, whole=True)
        begun = folder.kind.legacy(folder.path)  # what the log itself says
        if begun is not None and differences(folder.identity, begun):
            raise run.log.damage(0, f"is the start of another run than {MARK} beside it speaks of")
    except BaseException:
        run.close()
        raise
    return run


class _Session:
    """One process's part in one search."""

    def __init__(
        self, resolved: Resolved, claim: Callable[[Identity], Folder], ranks: Ranks, notify: Notify
    ) -> None:
        self.resolved, self.config, self.ranks = resolved, resolved.config, ranks
        self._teacher: nn.Module | None = None
        self.run_folder: Run | None = None
        self._owner, self._threads, self._own_threads = "", self.config.threads, torch.get_num_threads()
        refused: ArchloomError | None = None
        if ranks.is_first:  # the one owner of the folder, for all ranks
            try:
                self._teacher = check_verdict(resolved)  # before anything is written
                check_batches(resolved, ranks)
                claimed = claim(identity_of(resolved))
                self.run_folder, self._owner = _opened(claimed), claimed.identity.key
                self._threads = self.config.threads or threads_then(self.run_folder)
            except ArchloomError as error:
                refused = error
        place, self._owner, self._threads, told = ranks.broadcast_object(
            (
                self.run_folder and self.run_folder.folder,
                self._owner,
                self._threads,
                refused and str(refused),
            )
        )
        if told is not None:
            raise refused or RunError(told)  # on every rank: nobody waits for one that was refused
        self.folder: Path = place
        try:
            self.notify = (
                make_observers(resolved, self.folder, notify)
                if ranks.is_first
                else Observers([(name_of(notify), notify)])
            )
        except BaseException:
            if self.run_folder:
                self.run_folder.close()
            raise

    def recorded(self, name: str, measure: Callable[[], Any]) -> Any:
        value = self.run_folder.recorded(name, measure) if self.run_folder else None
        return self.ranks.broadcast_object(value)

    def run(self, *, search: bool = True) -> Result:
        try:
            with cpu_threads(self._threads):
                return self._run_here(search)
        finally:
            if self.run_folder is not None:
                self.run_folder.close()

    def _run_here(self, search: bool) -> Result:
        if self.run_folder is None and not search:
            return Result(self.folder, None, (), (), "this is not the first rank; the result is the first's")
        if self.run_folder is None:
            self._fit(self._make_method())
            self.ranks = leave()
            return Result(self.folder, None, (), (), "this is not the first rank; the result is the first's")
        with log_file(self.folder / "log.txt"):
            try:
                return self._run(self.run_folder) if search else self._judge_again(self.run_folder)
            except KeyboardInterrupt:
                logger.info("interrupted; go on with: archloom resume %s", shlex.quote(str(self.folder)))
                raise

    def _run(self, run: Run) -> Result:
        self._start(run)
        method = self._make_method()
        strategy = self._make_strategy(method)  # before fit: what is wrong is said before days are spent
        if method is not None:
            self._check_constraints(run)
        epochs = self._fit(method)
        self.ranks = leave()  # the others end here: what follows is the first rank's alone
        if epochs is None:
            return Result(
                self.folder, None, (), (), "the budget ended before the supernet was trained", complete=False
            )
        trials, reason = self._search(run, method, strategy, epochs)
        finals = Finals(self.resolved, run, self._teacher, self.recorded, self.notify)
        result = finish(self.resolved, self.folder, method, trials, reason, finals)
        self.notify({"event": "finished", "folder": str(self.folder)})
        return result

    def _judge_again(self, run: Run) -> Result:
        """The verdict alone, of the trials that the log has."""
        events = since_anew(run.log.events)
        last = [event for event in events if event["event"] in ("start", "end")]
        if not last or last[-1]["event"] != "end":
            raise RunError(
                f"the search in {self.folder} has not ended; go on with: archloom resume {self.folder}"
            )
        check_constraints_kept(self.resolved, run, searched=True)
        self._describe()
        self._announce({"event": "start", "folder": str(self.folder)}, run)
        finals = Finals(self.resolved, run, self._teacher, self.recorded, self.notify, again=True)
        result = finish(self.resolved, self.folder, None, logged_trials(events), last[-1]["reason"], finals)
        self.notify({"event": "finished", "folder": str(self.folder)})
        return result

    def _check_constraints(self, run: Run) -> None:
        """Before a supernet is trained: can the constraints be kept at all?"""
        if self.run_folder is None or any(e["event"] == "propose" for e in since_anew(run.log.events)):
            return
        context = self.resolved.context(self.ranks, partial(recorded, self.folder))
        try:
            check_constraints(self.resolved, context.measuring())
        except SearchError as error:
            raise SearchError(f"{error}{self._loosen()}") from None

    def _loosen(self) -> str:
        return f": archloom resume {self.folder} --set 'constraints=[...]' goes on with what was trained"

    def _start(self, run: Run) -> None:
        first = next(run.log.of("start"), None)
        if first is not None:
            check_constraints_kept(self.resolved, run)
            versions = describe(self.resolved.host, self.config)["versions"]
            for name, then in first["versions"].items():
                if (now := versions.get(name)) != then:
                    logger.warning("%s was %s when the run began and is %s now", name, then, now)
            if first["device"] != self.config.device:
                logger.warning("the run began on %s and goes on on %s", first["device"], self.config.device)
            if (then := torch.get_num_threads()) != self._own_threads and self.config.threads is None:
                told = "the run began with %d CPU threads and is resumed with as many; this process has %d"
                logger.warning(told, then, self._own_threads)
        environment = self._describe()
        event = {
            "event": "start",
            "identity": self.config.identity(),
            "versions": environment["versions"],
            "device": self.config.device,
            "folder": str(self.folder),
            "threads": torch.get_num_threads(),
        }
        run.log.append(event)
        self._announce(event, run)

    def _announce(self, event: dict[str, Any], run: Run) -> None:
        """Tell of the start, and of what a display needs to know."""
        verdict, metrics = self.config.verdict, self.resolved.metrics
        objectives = [{"name": o.metric, "unit": metrics[o.metric].unit} for o in self.resolved.objectives]
        trainings = verdict.seeds * (1 + 2 * verdict.random)
        budget = self.config.budget.model_dump()
        events = since_anew(run.log.events)
        main = said_of_main(self.resolved.task)
        self.notify(announced(event, events, objectives, budget, trainings, main))

    def _describe(self) -> dict[str, Any]:
        """Write configuration and environment as they are now."""
        environment = describe(self.resolved.host, self.config)
        keep_tables(self.config, self.folder)
        plugins = keep(self.folder, self.resolved.host.plugin_files)
        stored = self.config.model_dump(mode="json") | {"plugins": plugins}
        dumped = yaml.safe_dump(stored, sort_keys=False)
        write_atomically(self.folder / "config.yaml", dumped.encode())
        note_environment(self.folder / "environment.json", environment)
        return environment

    def _make_method(self) -> WeightSharing | None:
        maker = self.resolved.method
        return None if maker is None else self.resolved.context(self.ranks, self.recorded).method(maker)

    def _make_strategy(self, method: WeightSharing | None) -> Strategy:
        # the first rank alone makes it, so nothing is broadcast
        keep = partial(recorded, self.folder)
        return self.resolved.context(self.ranks, keep).strategy(self.resolved.strategy, method)

    def _fit(self, method: WeightSharing | None) -> float | None:
        """Train the supernet, if there is one: the epochs that it took; None where the budget ended before."""
        if method is None:
            return 0.0
        fit = Fit(
            method,
            self.folder / "checkpoint.pt",
            self.run_folder.log if self.run_folder else None,
            self.config.budget.epochs,
            self.config.budget.seconds,
            self.ranks,
            self.config.checkpoint_every,
            self.notify,
            self._owner,
        )
        return fit.epochs if fit.run() else None

    def _search(
        self, run: Run, method: WeightSharing | None, strategy: Strategy, epochs: float
    ) -> tuple[list[Trial], str]:
        supernet = None if method is None else method.supernet
        run_context = self.resolved.context(self.ranks, self.recorded)
        context = run_context.measuring(supernet=supernet, folder=self.folder)
        with executor_of(self.resolved, context, self.folder) as executor:
            loop = make_loop(self.resolved, strategy, executor, run.log, self.notify, epochs=epochs)
            try:
                reason = loop.run()
            except SearchError as error:
                if method is None or not loop.nothing_feasible:
                    raise
                raise SearchError(f"{error}{self._loosen()}") from error
        return [loop.trials[number] for number in sorted(loop.trials)], reason
