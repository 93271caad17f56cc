"""A space's choices as decisions: checked, drawn, changed, counted and listed; conditional ones only where active.

Everything here goes through the choices in the space's order, so that a condition is always about decisions that
stand. `decide` is the one place that knows which choices are active.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from ..architecture import Architecture, Choice, Option
from ..errors import SpaceError, shown
from .protocol import SearchSpace, violations

# -- checked ----------------------------------------------------------------------------------------------


def check(space: SearchSpace, architecture: Architecture) -> Architecture:
    """The same architecture, with its choices in the space's order; a SpaceError where it does not fit."""
    decided: dict[str, Option] = {}
    missing, idle = [], []
    for choice in space.choices:
        name = choice.name
        if not choice.active(decided):
            idle += [choice] if name in architecture else []
        elif name in architecture:
            decided[name] = choice.options[choice.index(architecture[name])]
        else:
            missing.append(name)
    if not missing and len(decided) == len(architecture):
        return Architecture(decided)
    names = [choice.name for choice in space.choices]
    unknown = [name for name in architecture if name not in names]
    if not missing and not unknown:
        raise SpaceError(_not_active(idle, decided))
    parts = [
        f"{what} {shown(str(those))}"
        for what, those in (("lacks", missing), ("decides unknown", unknown))
        if those
    ]
    raise SpaceError(
        f"the architecture does not belong to this space: it {' and '.join(parts)}; "
        f"the space has {len(names)} choices, {names[0]} to {names[-1]}"
    )


def _not_active(idle: Sequence[Choice], decided: Mapping[str, Option]) -> str:
    first, when = idle[0], idle[0].when or {}
    broken = next(name for name in when if decided.get(name) not in when[name] or name not in decided)
    here = f"here it is {decided[broken]!r}" if broken in decided else "here that one is not decided itself"
    listed = " or ".join(map(repr, when[broken]))
    return (
        f"the architecture decides {shown(str([choice.name for choice in idle]))}, and '{first.name}' is decided only "
        f"where '{broken}' is {listed}; {here}. Leave it out, as archloom.space.canonical does"
    )


_MODULE = nn.Module()


def check_choices(space: Any) -> None:
    """Refuse, with a SpaceError, a space whose choices cannot be told apart or cannot name the supernet's modules, or
    have conditions that cannot be looked up."""
    choices, name = getattr(space, "choices", None), type(space).__name__
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise SpaceError(f"{name} has no choices: 'choices' must be a list of archloom.architecture.Choice")
    if alien := next((one for one in choices if not isinstance(one, Choice)), None):
        raise SpaceError(
            f"{name}.choices holds {shown(repr(alien))}, which is no archloom.architecture.Choice"
        )
    names = [choice.name for choice in choices]
    if len(set(names)) != len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise SpaceError(
            f"{name} has two choices called '{twice}'; an architecture decides each name once. Rename one"
        )
    if hasattr(space, "candidate") and hasattr(space, "around"):
        taken = next((one for one in names if hasattr(_MODULE, one)), None)
        if taken is not None:
            raise SpaceError(
                f"{name} has a choice called '{taken}', which every PyTorch module has already; rename it"
            )
    _check_conditions(choices, name)


def _check_conditions(choices: Sequence[Choice], space: str) -> None:
    known = {choice.name: choice for choice in choices}
    earlier: set[str] = set()
    for choice in choices:
        for name, options in (choice.when or {}).items():
            where = f"{space}: choice '{choice.name}' is decided only under a condition on '{name}'"
            if name == choice.name:
                raise SpaceError(f"{where}, which is itself; name an earlier choice")
            if name not in known:
                raise SpaceError(
                    f"{where}, and there is no such choice; there are {shown(str(list(known)), 600)}"
                )
            if name not in earlier:
                circle = choice.name in (known[name].when or {})
                why = "; each of them waits for the other" if circle else ""
                raise SpaceError(
                    f"{where}, which comes later{why}. A condition is about earlier choices; reorder"
                )
            for option in options:
                try:
                    known[name].index(option)
                except SpaceError as error:
                    raise SpaceError(f"{where}: {error}") from error
        earlier.add(choice.name)
    for group in _groups(_related(choices)):
        if never := _counted(group)[1]:
            raise SpaceError(
                f"{space}: the conditions of '{never[0]}' never hold together; it is decided nowhere"
            )


# -- decided ----------------------------------------------------------------------------------------------


def decide(
    space: SearchSpace, pick: Callable[[Choice], Option], given: Mapping[str, Option] | None = None
) -> Architecture:
    """The architecture of `given`, with `pick` asked for each active choice that it lacks, in the space's order; what
    it decides for choices that are not active is dropped."""
    known, decided = given or {}, dict[str, Option]()
    for choice in space.choices:
        if choice.when is None or choice.active(decided):
            decided[choice.name] = known[choice.name] if choice.name in known else pick(choice)
    return Architecture(decided)


def changed(
    space: SearchSpace,
    architecture: Architecture,
    choice: Choice,
    option: Option,
    rng: random.Random | None = None,
) -> Architecture:
    """`architecture` with another option of `choice`. Choices that this activates take their first options, or are
    drawn as `sample` draws them where `rng` is given; those that it deactivates are dropped."""
    pick = first_option if rng is None else lambda fresh: rng.choice(fresh.options)
    return decide(space, pick, {**architecture, choice.name: option})


def first_option(choice: Choice) -> Option:
    """A `pick` that takes the first one."""
    return choice.options[0]


def canonical(space: SearchSpace, architecture: Architecture) -> Architecture:
    """One architecture for all that are the same network: without decisions that have no effect, since their choices
    are not active, and as the space's own `canonical` has it. A SpaceError where it does not fit."""
    effective = dict(architecture)
    for choice in space.choices:
        if not choice.active(effective):
            effective.pop(choice.name, None)
    checked = check(space, Architecture(effective))
    own = getattr(space, "canonical", None)
    if own is None:
        return checked
    try:
        return check(space, own(checked))
    except SpaceError as error:
        raise SpaceError(
            f"{type(space).__name__}.canonical does not give an architecture: {error}"
        ) from error


# -- drawn and changed ------------------------------------------------------------------------------------


def sample(space: SearchSpace, rng: random.Random) -> Architecture:
    """One architecture, uniform over the decisions: each active choice takes each of its options equally often.

    With conditions the architectures are not equally likely: a depth is drawn as often as any other, however many
    architectures there are of it.
    """
    return decide(space, lambda choice: rng.choice(choice.options))


def distinct(
    space: SearchSpace,
    rng: random.Random,
    *,
    draws: int,
    feasible: Callable[[Architecture], bool] = lambda architecture: True,
) -> Iterator[Architecture]:
    """The different ones among so many `draws` that the space does not forbid, and for which `feasible` holds."""
    seen: set[Architecture] = set()
    for _ in range(draws):
        drawn = sample(space, rng)
        if drawn not in seen and not violations(space, drawn) and feasible(drawn):
            seen.add(drawn)
            yield drawn


def draw(
    space: SearchSpace,
    number: int,
    rng: random.Random,
    *,
    feasible: Callable[[Architecture], bool] = lambda architecture: True,
    tries: int = 1000,
) -> list[Architecture]:
    """`number` different architectures as `distinct` gives them; fewer where `tries` draws for each are not enough."""
    found: list[Architecture] = []
    if number > 0:
        for architecture in distinct(space, rng, draws=tries * number, feasible=feasible):
            found.append(architecture)
            if len(found) == number:
                break
    return found


def mutate(
    space: SearchSpace, architecture: Architecture, rng: random.Random, *, decisions: int = 1
) -> Architecture:
    """So many different `decisions` changed, each to another option; all of them where fewer have two options.

    The option of an ordered choice becomes one of its neighbours. Choices that a change activates are drawn as `sample`
    draws them, and those that it deactivates are dropped; a choice that is not active is never changed.
    """
    open_choices = [
        choice for choice in space.choices if len(choice.options) > 1 and choice.name in architecture
    ]
    for _ in range(decisions):
        if not open_choices:
            break
        choice = rng.choice(open_choices)
        option = rng.choice(other_options(choice, architecture[choice.name]))
        architecture = changed(space, architecture, choice, option, rng)
        open_choices = [c for c in open_choices if c is not choice and c.name in architecture]
    return architecture


def other_options(choice: Choice, option: Option) -> Sequence[Option]:
    """What `option` can be changed to in one step: any other; of an ordered choice, those beside it."""
    if not choice.ordered:
        return [other for other in choice.options if other != option]
    at = choice.index(option)
    return (*choice.options[max(0, at - 1) : at], *choice.options[at + 1 : at + 2])


def neighbours(
    space: SearchSpace, architecture: Architecture, rng: random.Random | None = None
) -> list[Architecture]:
    """All architectures that differ in one decision by one step, in the order of the choices and options.

    Choices that the step activates take their first options, or are drawn where `rng` is given.
    """
    return [
        changed(space, architecture, choice, option, rng)
        for choice in space.choices
        if choice.name in architecture
        for option in other_options(choice, architecture[choice.name])
    ]


# -- counted and listed -----------------------------------------------------------------------------------


def size(space: SearchSpace) -> int:
    """How many architectures there are, not counting the space's own `violations`."""
    check_choices(space)
    related = _related(space.choices)
    apart = [len(choice.options) for choice in space.choices if choice not in related]
    return math.prod([*apart, *(_counted(group)[0] for group in _groups(related))])


def _related(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that depend on others or have others depend on them."""
    conditions = {name for choice in choices for name in (choice.when or ())}
    return [choice for choice in choices if choice.when or choice.name in conditions]


def _groups(choices: Sequence[Choice]) -> list[list[Choice]]:
    """The choices parted so that no condition leads from one part to another; each in the space's order."""
    parts: list[set[str]] = []
    for choice in choices:
        own = {choice.name, *(choice.when or ())}
        touched = [part for part in parts if part & own]
        parts = [part for part in parts if not part & own] + [own.union(*touched)]
    return [[choice for choice in choices if choice.name in part] for part in parts]


def _counted(group: Sequence[Choice]) -> tuple[int, list[str]]:
    """Architectures of choices that depend on each other, and which of these are decided in none of them. While the
    choices are gone through, all that matters of the decisions so far is which of the later choices they rule out."""
    states: Counter[frozenset[str]] = Counter({frozenset(): 1})
    never = []
    for choice in group:
        later = [other for other in group if other.when and choice.name in other.when]
        idle = frozenset(other.name for other in later)
        ruled_out = Counter(
            frozenset(other.name for other in later if option not in (other.when or {})[choice.name])
            for option in choice.options
        )
        never += [choice.name] if all(choice.name in state for state in states) else []
        following: Counter[frozenset[str]] = Counter()
        for state, number in states.items():
            ways = {idle: 1} if choice.name in state else ruled_out
            for out, options in ways.items():
                following[(state | out) - {choice.name}] += number * options
        states = following
    return sum(states.values()), never


def everything(space: SearchSpace, *, limit: int | None = None) -> Iterator[Architecture]:
    """Each architecture once, the last choice changing fastest, those that the space forbids included; a SpaceError
    where there are more than `limit`."""
    if limit is not None and (number := size(space)) > limit:
        raise SpaceError(f"the space has {number:,} architectures, too many to list; {limit:,} are the most")
    return _listed(list(space.choices), {})


def _listed(choices: Sequence[Choice], decided: Mapping[str, Option]) -> Iterator[Architecture]:
    for place, choice in enumerate(choices):
        if choice.active(decided):
            for option in choice.options:
                yield from _listed(choices[place + 1 :], {**decided, choice.name: option})
            return
    yield Architecture(decided)
