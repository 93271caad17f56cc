"""What the page opens with, the found architecture, and where the run comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..columns import Judged
from ..cost import MACS, PARAMS
from ..objective import Objective
from ..trial import Trial
from .markup import (
    amount,
    counted,
    escaped,
    section,
    strip,
    table,
)
from .story import Story


def type_of(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, Mapping) else str(part)


def who(config: Mapping[str, Any]) -> str:
    method, strategy = config.get("method"), config.get("strategy")
    if method and strategy:
        return f"strategy {type_of(strategy)} over the supernet of {type_of(method)}"
    return f"method {type_of(method)}" if method else f"strategy {type_of(strategy)}"


def status(story: Story) -> str:
    if story.finished:
        return ""
    if story.end is not None and not any(trial.status == "ok" for trial in story.trials):
        return '<p class="unfinished"><b>This search ended without a result.</b></p>'
    fits, networks = story.of("fit"), story.finals
    if story.end is not None and story.found is not None and (networks or story.config["verdict"]["seeds"]):
        stage = (
            f"the search has ended; {counted(len(networks), 'training')} from scratch of the verdict are done"
        )
    elif story.trials:
        stage = f"the search is at {counted(len(story.trials), 'trial')}"
    elif fits:
        stage = f"the supernet is at unit {fits[-1]['unit']} of {fits[-1]['of']}"
    else:
        stage = "it has only begun"
    return (
        f'<p class="unfinished"><b>This run is unfinished:</b> {stage}. This is what there was '
        f"when the report was written. Go on with <code>archloom resume {escaped(story.folder)}</code></p>"
    )


def _tally(trials: Sequence[Trial]) -> str:
    fresh = [trial for trial in trials if trial.source is None]
    tally = {status: sum(t.status == status for t in fresh) for status in ("ok", "infeasible", "failed")}
    told = [f"{number:,} {status}" for status, number in tally.items() if number]
    if len(trials) > len(fresh):
        told.append(counted(len(trials) - len(fresh), "repeat"))
    return f"{counted(len(trials), 'trial')} ({', '.join(told)})" if trials else "no trial yet"


def summary(story: Story) -> str:
    config, fits = story.config, story.of("fit")
    length = len(story.trials[0].architecture) if story.trials else None
    choices = f" ({counted(length, 'choice')})" if length else ""
    task = "" if config["task"] is None else f" for the task <b>{escaped(type_of(config['task']))}</b>"
    told = [
        f"Searched: the space <b>{escaped(type_of(config['space']))}</b>{choices}{task}, by "
        f"{escaped(who(config))}, for "
        + " and ".join(_goal(story, objective) for objective in story.objectives)
        + "."
    ]
    if fits:
        told.append(f"A supernet was trained for {amount(fits[-1]['epochs'])} epochs.")
    told.append(f"{_tally(story.trials).capitalize()}.")
    if story.end is not None:
        told.append(f"The search ended because {escaped(story.end['reason'])}.")
    if story.found is not None and story.document is not None:
        metrics = ", ".join(
            f"{escaped(name)} {story.quantity(name, value)}"
            for name, value in story.document["metrics"].items()
        )
        what = "a network" if config["task"] is not None else "decisions"
        told.append(f"Found: {what} with {metrics or 'nothing measured'}, as measured during the search.")
    elif story.front and len(story.objectives) > 1:
        told.append(
            f"Nothing says how to pick one network, so the result is a Pareto front of {len(story.front)}; "
            "<code>pick</code> in the configuration chooses from it."
        )
    if not any(trial.status == "ok" for trial in story.trials) and story.end is not None:
        told.append("<b>No architecture was measured successfully; there is no result.</b>")
    if story.end is not None and not story.networks:
        told.append(
            "Nothing was trained from scratch, so nothing here says that the search beats random choice."
        )
    return f'<p class="summary">{" ".join(told)}</p>'


def _goal(story: Story, objective: Objective) -> str:
    known = any(trial.status == "ok" for trial in story.trials)
    better = {"max": "high", "min": "low"}[objective.direction] + " " if known else ""
    return f"{better}{escaped(objective.metric)}"


def sentences(story: Story) -> str:
    """The verdict as result.json has it, and what failed after the search; a loss looks like a win."""
    if not story.finished or story.result is None:
        return ""
    items = []
    for sentence in [*story.result["verdict"], *story.result.get("problems", [])]:
        told = escaped(sentence[:1].upper() + sentence[1:])
        for word in _words(story.judged):
            if f" {word} " in told:
                told = told.replace(f" {word} ", f" <b>{word}</b> ", 1)
                break
        items.append(f"<li>{told}.</li>")
    return f'<ul class="verdict">{"".join(items)}</ul>' if items else ""


def _words(by: Judged) -> tuple[str, ...]:
    """What a verdict says of the found network, in bold."""
    return (
        "does not beat",
        "beats",
        f"is {by.alike} as",
        f"is {by.better} but more expensive than",
        f"is {by.worse} but cheaper than",
        "is not distinguishable",
        "could not be trained",
    )


def found_section(story: Story) -> str:
    if story.found is not None and story.document is not None:
        rows = [
            [escaped(name), story.quantity(name, value)] for name, value in story.document["metrics"].items()
        ]
        return section(
            "The found architecture",
            strip(story.found, story.colours),
            table(["metric", "in the search"], rows, "narrow"),
            f'<p class="note">{_use(story.document)}</p>',
        )
    if len(story.objectives) > 1 and story.front:
        strips = [
            f"<h3>trial {trial.number}: "
            + ", ".join(f"{escaped(o.metric)} {amount(trial.metrics[o.metric])}" for o in story.objectives)
            + f"</h3>{strip(trial.architecture, story.colours)}"
            for trial in story.front[:10]
        ]
        more = f"<p>The first 10 of {len(story.front)}.</p>" if len(story.front) > 10 else ""
        return section("The Pareto front: no network is picked yet", *strips, more)
    return section("The found architecture", "<p>No network has been found.</p>")


def _use(document: Mapping[str, Any]) -> str:
    """What architecture.json is good for."""
    if document.get("shape") is None:
        return "The file architecture.json holds these decisions."
    axes = " (channels x height x width)" if len(document["shape"]) == 3 else ""
    gives = (
        f"outputs {_sizes(document['outputs'])}"
        if "outputs" in document
        else counted(len(document["classes"]), "class", "classes")
    )
    return (
        f"Input {_sizes(document['shape'])}{axes}, {gives}. "
        "The file architecture.json builds it: <code>archloom.build</code>."
    )


def _sizes(shape: Sequence[int]) -> str:
    return escaped(" x ".join(map(str, shape)))


def family_section(story: Story) -> str:
    """The networks that follow from the found one; nothing where its space names none."""
    members = (story.result or {}).get("family") if story.finished else None
    if not members:
        return ""
    rows = [
        [
            escaped(member["name"]),
            escaped(" x ".join(map(str, member["shape"]))),
            amount(member["params"]),
            amount(member["macs"]),
            f"<code>{escaped(member['file'])}</code>",
        ]
        for member in members
    ]
    return section(
        "The family that follows from it", table(["", "input", "params", "MACs", "file"], rows, "narrow")
    )


def provenance_section(story: Story) -> str:
    environment = dict(story.environment)
    versions = environment.pop("versions", {})
    facts = {
        "run folder": str(story.folder),
        **{name: _plain(value) for name, value in environment.items()},
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "times started": str(len(story.of("start"))),
        "active seconds of fit and search": amount(
            max((e["active"] for e in story.events if "active" in e), default=0)
        ),
    }
    device, threads = environment.get("device", "unknown"), environment.get("threads", "unknown")
    latency = (
        f"one image on {device} (configured: {story.config.get('device')}), {threads} threads, float32, "
        "nothing fused or compiled: the median of timed forwards, with the 10th and 90th percentile"
    )
    trained = {"MACs": MACS, "params": PARAMS, "latency of the verdict": latency}
    definitions = {} if story.config["task"] is None else trained
    for name, setting in story.settings.items():
        definitions[f"setting of {name}"] = ", ".join(f"{key} {value}" for key, value in setting.items())
    return section(
        "Provenance",
        table(["", ""], [[escaped(k), escaped(v)] for k, v in facts.items()], "facts"),
        "<h3>What the numbers mean</h3>",
        table(["", ""], [[escaped(k), escaped(v)] for k, v in definitions.items()], "facts"),
        f"<details open><summary>config.yaml</summary><pre>{escaped(story.config_text)}</pre></details>",
    )


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
