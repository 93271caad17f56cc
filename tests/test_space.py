"""Spaces with ordered and conditional choices, against all that the definition of a condition allows."""

from __future__ import annotations

import itertools
import json
import pickle
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom import testing
from archloom.architecture import Architecture, Choice
from archloom.errors import SpaceError
from archloom.space import (
    Encoding,
    canonical,
    check,
    check_choices,
    decide,
    distinct,
    draw,
    everything,
    from_text,
    mutate,
    neighbours,
    one_hot,
    resolution,
    sample,
    size,
    to_text,
)

ABSENT = object()


def of(*choices, **more):
    return SimpleNamespace(choices=list(choices), **more)


def by_hand(space):
    """Every architecture, from all ways to decide a choice or to leave it out."""
    found = []
    for options in itertools.product(*((*choice.options, ABSENT) for choice in space.choices)):
        decided = {
            choice.name: option
            for choice, option in zip(space.choices, options, strict=True)
            if option is not ABSENT
        }
        holds = lambda when: all(n in decided and decided[n] in allowed for n, allowed in when.items())  # noqa: B023
        if all((choice.name in decided) == holds(choice.when or {}) for choice in space.choices):
            found.append(Architecture(decided))
    return found


@st.composite
def any_spaces(draw):
    choices = []
    for place in range(draw(st.integers(1, 6))):
        options = tuple(f"{letter}{place}" for letter in "xyz"[: draw(st.integers(1, 3))])
        parents = (
            draw(st.lists(st.sampled_from(choices), max_size=2, unique_by=lambda c: c.name))
            if choices
            else []
        )
        when = {
            parent.name: tuple(draw(st.lists(st.sampled_from(parent.options), min_size=1, unique=True)))
            for parent in parents
        }
        choices.append(Choice(f"c{place}", options, ordered=draw(st.booleans()), when=when or None))
    return of(*choices)


def everywhere_alive(space):
    every = by_hand(space)
    return all(any(choice.name in one for one in every) for choice in space.choices)


def spaces():
    return any_spaces().filter(everywhere_alive)


def elastic(stages=2, depths=(2, 3, 4)):
    """Stages of ordered depths, whose later blocks are there only where the depth says so."""
    choices = []
    for stage in range(stages):
        choices.append(Choice(f"depth{stage}", depths, ordered=True))
        for block in range(max(depths)):
            when = {f"depth{stage}": tuple(d for d in depths if d > block)} if block >= min(depths) else None
            choices.append(Choice(f"kernel{stage}_{block}", (3, 5, 7), ordered=True, when=when))
    return of(*choices)


# -- counted and listed -------------------------------------------------------------------------------


@given(spaces())
def test_all_architectures_are_counted_and_listed_once_as_by_hand(space):
    expected = by_hand(space)
    assert size(space) == len(expected)
    listed = list(everything(space))
    assert len(listed) == len(expected)
    assert set(listed) == set(expected)
    assert all(check(space, architecture) == architecture for architecture in listed)


def test_a_space_without_conditions_is_listed_as_a_product_the_last_choice_changing_fastest():
    space = of(Choice("a", (1, 2)), Choice("b", ("x", "y")))
    assert [tuple(one.values()) for one in everything(space)] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_the_size_of_an_elastic_space_is_counted_without_listing_it():
    """Three kernels and three expansions in each of 2 to 4 blocks of 5 stages: (9^2 + 9^3 + 9^4)^5."""
    choices = [Choice(f"depth{stage}", (2, 3, 4), ordered=True) for stage in range(5)]
    for stage, block, name in itertools.product(range(5), range(4), ("kernel", "expand")):
        when = {f"depth{stage}": tuple(range(block + 1, 5))} if block >= 2 else None
        choices.append(Choice(f"{name}{stage}_{block}", ("a", "b", "c"), when=when))
    assert size(of(*choices)) == (9**2 + 9**3 + 9**4) ** 5


def test_one_condition_on_very_many_choices_is_counted():
    choices = [Choice(f"c{place}", (0, 1, 2)) for place in range(60)]
    last = Choice("last", ("a", "b"), when={choice.name: (1, 2) for choice in choices})
    assert size(of(*choices, last)) == 2 * 2**60 + (3**60 - 2**60)


def test_a_list_longer_than_allowed_is_refused_before_it_begins():
    with pytest.raises(SpaceError, match=r"has 13,689 architectures, too many to list; 100 are the most"):
        everything(elastic(), limit=100)
    assert len(list(everything(elastic(), limit=13_689))) == 13_689


# -- drawn and changed --------------------------------------------------------------------------------


@given(spaces(), st.integers(0, 100))
def test_what_is_drawn_or_changed_is_an_architecture_of_the_space(space, seed):
    rng, known = random.Random(seed), set(by_hand(space))
    here = sample(space, rng)
    assert here in known
    for decisions in (1, 2, 9):
        mutant = mutate(space, here, rng, decisions=decisions)
        assert mutant in known
        can_change = any(len(choice.options) > 1 for choice in space.choices if choice.name in here)
        assert (mutant != here) == can_change
    assert set(neighbours(space, here)) <= known
    assert set(neighbours(space, here, rng)) <= known


@given(spaces(), st.integers(0, 100))
def test_one_mutation_changes_one_decision_and_what_depends_on_it(space, seed):
    """No other decision that both have differs; those that only one has depend on the changed one."""
    rng = random.Random(seed)
    here = sample(space, rng)
    there = mutate(space, here, rng)
    differs = [name for name in here if name in there and here[name] != there[name]]
    assert len(differs) == (there != here)
    depends = set(differs)
    for choice in space.choices:
        if depends & set(choice.when or ()):
            depends.add(choice.name)
    assert set(here) ^ set(there) <= depends


@given(spaces(), st.integers(0, 100))
def test_neighbours_are_one_step_of_one_decision_away(space, seed):
    here = sample(space, random.Random(seed))
    steps = []
    for choice in space.choices:
        for place, option in enumerate(choice.options if choice.name in here else ()):
            gap = abs(place - choice.options.index(here[choice.name]))
            if gap == 1 or (gap > 1 and not choice.ordered):
                steps.append((choice.name, option))
    found = neighbours(space, here)
    assert [one[name] == option for one, (name, option) in zip(found, steps, strict=True)] == [True] * len(
        steps
    )
    for one, (name, _) in zip(found, steps, strict=True):
        assert [n for n in here if n in one and here[n] != one[n]] == [name]


def test_a_mutation_that_deepens_a_stage_draws_the_new_block_and_one_that_shortens_it_drops_the_block():
    space, rng = elastic(stages=1), random.Random(0)
    here = from_text(space, "3 3 5 7")
    mutants = [mutate(space, here, rng) for _ in range(400)]
    deeper = [one for one in mutants if one["depth0"] == 4]
    shorter = [one for one in mutants if one["depth0"] == 2]
    assert {one["kernel0_3"] for one in deeper} == {3, 5, 7}
    assert set(map(str, shorter)) == {"2 3 5"}
    assert len(deeper) + len(shorter) > 50
    assert {one["kernel0_0"] for one in mutants} == {3, 5}  # ordered: 7 is two steps away from 3


def test_each_active_decision_is_drawn_evenly_whatever_depends_on_it():
    space, rng = elastic(stages=1), random.Random(1)
    drawn = [sample(space, rng) for _ in range(6000)]
    for name in ("depth0", "kernel0_0", "kernel0_3"):
        counted = Counter(one[name] for one in drawn if name in one)
        assert len(counted) == 3
        assert max(counted.values()) < 1.15 * min(counted.values())


def test_a_draw_gives_different_ones_that_nothing_forbids_and_fewer_where_there_are_no_more():
    space = of(
        Choice("a", (1, 2, 3)), Choice("b", (1, 2)), violations=lambda one: ["no"] if one["a"] == 3 else []
    )
    found = draw(space, 3, random.Random(0), feasible=lambda one: one["b"] == 2 or one["a"] == 2)
    assert len(set(found)) == 3
    assert all(one["a"] != 3 and (one["b"] == 2 or one["a"] == 2) for one in found)
    assert len(draw(space, 5, random.Random(0))) == 4
    assert draw(space, 0, random.Random(0)) == []


def test_a_draw_takes_no_more_random_numbers_than_it_needs():
    space, rng = of(Choice("a", (1, 2, 3, 4))), random.Random(0)
    taken = draw(space, 2, rng)
    again = random.Random(0)
    seen = []
    while len(set(seen)) < 2:
        seen.append(sample(space, again))
    assert list(dict.fromkeys(seen)) == taken
    assert rng.getstate() == again.getstate()
    assert list(distinct(space, random.Random(0), draws=len(seen))) == taken


def test_what_is_asked_for_in_order_are_the_active_choices_alone():
    asked = []
    space = elastic(stages=1)
    decided = decide(
        space, lambda choice: asked.append(choice.name) or choice.options[0], {"kernel0_1": 7, "kernel0_3": 5}
    )
    assert asked == ["depth0", "kernel0_0"]
    assert decided == from_text(space, "2 3 7")


# -- checked ------------------------------------------------------------------------------------------


@given(spaces(), st.data())
def test_check_accepts_the_architectures_and_nothing_else(space, data):
    known = set(by_hand(space))
    decided = {}
    for choice in space.choices:
        option = data.draw(st.sampled_from([*choice.options, None]))
        if option is not None:
            decided[choice.name] = option
    architecture = Architecture(decided)
    if architecture in known:
        assert check(space, architecture) == architecture
    else:
        with pytest.raises(SpaceError, match=r"lacks|is decided only where"):
            check(space, architecture)


def test_a_decision_of_a_choice_that_is_not_active_is_refused_with_the_way_out_and_dropped_by_canonical():
    space = elastic(stages=1)
    idle = Architecture({"depth0": 2, "kernel0_0": 3, "kernel0_1": 5, "kernel0_2": 7})
    with pytest.raises(
        SpaceError, match=r"'kernel0_2' is decided only where 'depth0' is 3 or 4; here it is 2.*canonical"
    ):
        check(space, idle)
    assert canonical(space, idle) == from_text(space, "2 3 5")
    with pytest.raises(SpaceError, match=r"lacks \['kernel0_2'\]"):
        check(space, Architecture({"depth0": 3, "kernel0_0": 3, "kernel0_1": 5}))
    with pytest.raises(SpaceError, match=r"decides unknown \['other'\]"):
        canonical(space, Architecture({"depth0": 2, "kernel0_0": 3, "kernel0_1": 5, "other": 7}))


def test_where_the_condition_is_not_decided_itself_the_error_says_so():
    space = of(
        Choice("a", (0, 1)), Choice("b", (0, 1), when={"a": (1,)}), Choice("c", (0, 1), when={"b": (1,)})
    )
    with pytest.raises(
        SpaceError, match=r"'c' is decided only where 'b' is 1; here that one is not decided itself"
    ):
        check(space, Architecture({"a": 0, "c": 1}))


def test_the_spaces_own_canonical_form_is_used_and_must_fit_it():
    space = of(
        Choice("a", (0, 1)), Choice("b", (0, 1)), canonical=lambda one: one.replace(a=max(*one.values()), b=0)
    )
    assert canonical(space, Architecture({"b": 1, "a": 0})) == Architecture({"a": 1, "b": 0})
    space.canonical = lambda one: Architecture({"a": 0})
    with pytest.raises(SpaceError, match=r"lacks \['b'\]"):
        canonical(space, Architecture({"b": 1, "a": 0}))


A = Choice("a", (0, 1))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([A, Choice("b", (0, 1), when={"z": (1,)})], r"'b' is decided only under a condition on 'z', and there is no"),
        ([Choice("b", (0, 1), when={"a": (1,)}), A], r"'b' .* on 'a', which comes later\. .*reorder"),
        (
            [Choice("b", (0, 1), when={"c": (1,)}), Choice("c", (0, 1), when={"b": (1,)})],
            r"'b' .* on 'c', which comes later; each of them waits for the other",
        ),
        ([Choice("b", (0, 1), when={"b": (1,)})], r"'b' .* on 'b', which is itself"),
        (
            [A, Choice("b", (0, 1), when={"a": (0,)}), Choice("c", (0, 1), when={"a": (1,), "b": (0,)})],
            r"the conditions of 'c' never hold together; it is decided nowhere",
        ),
        ([A, Choice("b", (0, 1), when={"a": (2,)})], r"'b' .* on 'a': choice 'a' has no option 2"),
        ([A, Choice("b", (0, 1), when={"a": (True,)})], r"'b' .* on 'a': choice 'a' has no option True"),
    ],
)  # fmt: skip
def test_conditions_that_cannot_be_looked_up_are_refused_by_name(choices, message):
    with pytest.raises(SpaceError, match=message):
        check_choices(of(*choices))


@given(any_spaces())
def test_a_choice_that_no_architecture_decides_is_refused_and_no_other(space):
    if everywhere_alive(space):
        check_choices(space)
    else:
        with pytest.raises(SpaceError, match="never hold together"):
            check_choices(space)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ordered": 1}, "ordered is True or False, not 1"),
        ({"when": {}}, r"when is a dictionary of earlier choices .* leave it out"),
        ({"when": ["a"]}, "when is a dictionary of earlier choices"),
        ({"when": {"a": 3}}, r"when names the options of 'a' in a list or a tuple, not as 3"),
        ({"when": {"a": "xy"}}, r"in a list or a tuple, not as 'xy'"),
        ({"when": {"a": ()}}, "when names no option of 'a'; it would never be decided"),
        ({"when": {"a": [[1]]}}, "an option is a text, a number"),
        ({"when": {1: (1,)}}, "when names a choice by 1, which is no text"),
    ],
)
def test_what_is_no_order_and_no_condition_is_refused_where_the_choice_is_made(more, message):
    with pytest.raises(SpaceError, match=message):
        Choice("b", (0, 1), **more)


def test_a_choice_is_a_value_whatever_it_depends_on():
    plain, conditional = Choice("b", (0, 1)), Choice("b", [0, 1], True, {"a": [np.int64(3), 4]})
    assert plain == Choice("b", (0, 1), False, None) != conditional
    assert conditional == Choice("b", (0, 1), ordered=True, when={"a": (3, 4)})
    assert len({plain, conditional, pickle.loads(pickle.dumps(conditional))}) == 2
    assert conditional.when == {"a": (3, 4)}
    given_to_it = {"a": (3,)}
    kept = Choice("b", (0, 1), when=given_to_it)
    given_to_it["a"] = (4,)
    assert kept.when == {"a": (3,)}


# -- encoded and written ------------------------------------------------------------------------------


@given(spaces())
@settings(max_examples=50)
def test_rows_have_one_width_and_tell_architectures_apart(space):
    every = by_hand(space)
    for numbers in (True, False):
        encoding = Encoding(space.choices, numbers=numbers)
        rows = encoding.of(every)
        assert rows.shape == (len(every), len(encoding.columns))
        assert len({tuple(row) for row in rows}) == len(every)
        assert rows.min() >= 0
        assert rows.max() <= 1
    assert len(encoding.columns) == sum(len(choice.options) for choice in space.choices)


def test_a_row_has_a_number_for_an_ordered_choice_and_zeros_for_one_that_is_not_active():
    space = of(
        Choice("depth", (2, 3, 4), ordered=True),
        Choice("op", ("x", "y")),
        Choice("k", ("u", "v"), when={"depth": (4,)}),
    )
    assert Encoding(space.choices).columns == [
        ("depth", None),
        ("op", "x"),
        ("op", "y"),
        ("k", "u"),
        ("k", "v"),
    ]
    assert one_hot(space, from_text(space, "3 y")) == (0.5, 0, 1, 0, 0)
    assert one_hot(space, from_text(space, "4 x v")) == (1, 1, 0, 0, 1)
    assert Encoding(space.choices, numbers=False).of([from_text(space, "3 y")])[0].tolist() == [
        0,
        1,
        0,
        0,
        1,
        0,
        0,
    ]


@given(spaces())
def test_a_line_of_options_and_json_can_be_read_back(space):
    for architecture in by_hand(space):
        assert from_text(space, to_text(space, architecture)) == architecture
        back = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
        assert check(space, back) == architecture


def test_positions_are_read_as_digits_or_words_of_the_active_choices():
    space = elastic(stages=1)
    assert (
        from_text(space, "1012", "indices")
        == from_text(space, "1 0 1 2", "indices")
        == from_text(space, "3 3 5 7")
    )
    assert from_text(space, "3 3 5 2", "either") == from_text(space, "3 3 5 7")
    long = of(Choice("a", tuple(range(100, 120))))
    assert from_text(long, "12", "indices") == Architecture({"a": 112})


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (
            "2 3",
            "options",
            r"has 2 decisions, but the space has 5 choices, depth0 to kernel0_3, and needs one for each",
        ),
        ("2 3 5 7", "options", r"has 4 decisions"),
        ("", "options", r"has 0 decisions"),
        ("2 3 4", "options", r"architecture '2 3 4': choice 'kernel0_1' has no option '4'"),
        (
            "003",
            "indices",
            r"'3' is no position of an option of choice 'kernel0_1'; it has 3, 0 to 2: 3, 5, 7",
        ),
        ("2 3 9", "either", r"'9' is neither an option nor the position of one of choice 'kernel0_1'"),
    ],
)
def test_a_line_that_is_no_architecture_is_refused(text, code, message):
    with pytest.raises(SpaceError, match=message):
        from_text(elastic(stages=1), text, code)


def test_options_with_blanks_are_not_written_as_a_line():
    space = of(Choice("op", ("conv 3x3", "skip")))
    assert to_text(space, Architecture({"op": "skip"})) == "skip"
    with pytest.raises(SpaceError, match="'conv 3x3' holds a blank"):
        to_text(space, Architecture({"op": "conv 3x3"}))


def test_the_resolution_is_the_side_that_differs_from_the_tasks():
    task = SimpleNamespace(shape=(3, 32, 32))
    space = of(Choice("side", (32, 48)), input_shape=lambda one, task: (3, one["side"], one["side"]))
    assert resolution(space, Architecture({"side": 32}), task) is None
    assert resolution(space, Architecture({"side": 48}), task) == 48
    assert resolution(of(A), Architecture({"a": 0}), task) is None


class Deepening(testing.TinySpace):
    """One to four layers, the number a choice of its own."""

    def __init__(self) -> None:
        super().__init__(layers=4)
        self.choices = [
            Choice("depth", (1, 2, 3, 4), ordered=True),
            *(
                Choice(choice.name, choice.options, when={"depth": tuple(range(n + 1, 5))} if n else None)
                for n, choice in enumerate(self.choices)
            ),
        ]

    def candidate(self, choice, option):
        return None if choice.name == "depth" else super().candidate(choice, option)


class TestASpaceWithAConditionalChain(testing.SharedSpaceContract):
    factory, shape = Deepening, (1, 8, 8)
