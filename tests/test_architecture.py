from __future__ import annotations

import enum
import json
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archloom.architecture import Architecture, Choice
from archloom.errors import SpaceError
from archloom.randomness import derive_seed, forked_rng, python_rng, torch_rng
from archloom.space import check, check_choices, mutate, sample, size, violations
from toys import Blocks, Digits, digits

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.dictionaries(st.text(), scalars))
def test_an_architecture_survives_json_and_pickle(decisions):
    architecture = Architecture(decisions)
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture
    assert pickle.loads(pickle.dumps(architecture)) == architecture


@given(st.dictionaries(st.text(), scalars, min_size=1))
def test_equality_and_hash_forget_the_order_of_writing(decisions):
    turned = Architecture(dict(reversed(decisions.items())))
    assert turned == Architecture(decisions)
    assert hash(turned) == hash(Architecture(decisions))


def test_an_architecture_is_frozen_and_replace_gives_a_new_one():
    first = digits(1, 2)
    with pytest.raises(AttributeError, match="frozen; use replace"):
        first.d0 = 3
    with pytest.raises(TypeError):
        first["d0"] = 3
    assert first.replace(d0=3) == digits(3, 2)
    assert first == digits(1, 2)
    with pytest.raises(SpaceError, match=r"no choice named \['d9'\]"):
        first.replace(d9=1)


@pytest.mark.parametrize("data", [None, [1], "text", {"a": [1]}, {"a": {"b": 1}}, {1: 2}])
def test_what_is_no_flat_dictionary_of_scalars_is_no_architecture(data):
    with pytest.raises(SpaceError):
        Architecture.from_json(data)


def test_a_choice_refuses_no_options_and_equal_options():
    with pytest.raises(SpaceError, match="has no options"):
        Choice("c", ())
    for twice in (("a", "a"), (1, True), (0, False), (2, 2.0)):
        with pytest.raises(SpaceError, match="lists an option twice"):
            Choice("c", twice)


class Kernel(enum.Enum):
    SMALL = 3


class Size(enum.IntEnum):
    SMALL = 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (((3, 3), (5, 5)), r"choice 'kernel': \(3, 3\) is of type tuple; an option is a text, a number"),
        (([3], [5]), "of type list"),
        (({"k": 3},), "of type dict"),
        (tuple(Kernel), "of type Kernel"),
        (tuple(Size), "of type Size"),
        ((torch.tensor(3),), "of type Tensor"),
        ((b"k3",), "of type bytes"),
        ((float("nan"), 1.0), "nan is not finite"),
        ((1.0, float("inf")), "inf is not finite"),
        ((3, "3"), r"several kinds \(number, str\)"),
        ((3, "k5"), "several kinds"),
        ((False, "k5"), "several kinds"),
        ((False, 2), r"several kinds \(bool, number\)"),
        ((None, "None"), "two options that are written alike"),
        (("k3", ""), "'' is empty"),
        (("k3", " k5"), "begins or ends with a blank"),
        (("k3", "k\n5"), "cannot be printed"),
        (("k3", "\ud800"), r"U\+D800"),
        (("x" * 1000,), "1,000 characters; 200 are the most"),
        ((2**200,), "201 bits"),
        ("k3", "a list or a tuple, not 'k3'"),
        ({"k3", "k5"}, "a list or a tuple, not {'k"),
        (("caf\u00e9", "cafe\u0301"), "two options that are written alike"),
        (7, "a list or a tuple, not 7"),
    ],
)
def test_options_that_cannot_be_written_down_or_told_apart_are_refused_when_the_choice_is_made(
    options, message
):
    with pytest.raises(SpaceError, match=message):
        Choice("kernel", options)


@pytest.mark.parametrize(
    "name", ["", " ", "a.b", "a/b", "..", "a\\b", "a\0", "a\nb", "\ud800", " a", "a" * 300, 3, None, ("a",)]
)
def test_a_name_that_no_module_file_or_path_can_bear_is_refused(name):
    with pytest.raises(SpaceError, match="a choice cannot be called"):
        Choice(name, (1, 2))


def test_options_become_pythons_own_scalars_of_one_kind():
    assert Choice("k", np.array([3, 5])).options == (3, 5)
    assert Choice("k", np.array([3, 5], dtype=np.uint8)).options == (3, 5)
    assert Choice("k", np.array(["k3", "k5"])).options == ("k3", "k5")
    assert Choice("k", np.linspace(0, 1, 3)).options == (0.0, 0.5, 1.0)
    assert Choice("k", (0, 0.5, None)).options == (0.0, 0.5, None)
    assert Choice("k", np.array([False, True])).options == (False, True)
    for options in ((np.int64(3), 5), (np.float32(0.5), 1), (np.str_("a"), "b"), (np.bool_(True), False)):
        assert {type(option) for option in Choice("k", options).options} <= {int, float, str, bool}
    assert Choice(np.str_("k"), range(3)) == Choice("k", (0, 1, 2))


def test_a_decision_of_another_librarys_type_is_the_option_that_it_equals():
    assert Choice("n", (1, 2)).index(np.int64(2)) == 1
    assert Choice("n", (0.0, 1.0)).index(1) == 1
    assert Choice("n", ("a", "b")).index(np.str_("b")) == 1
    space = Digits(length=2)
    found = check(space, Architecture({"d0": np.int64(1), "d1": np.float64(2)}))
    assert json.dumps(found.to_json()) == '{"d0": 1, "d1": 2}'
    with pytest.raises(SpaceError, match=r"choice 'd0': \(1, 2\) is of type tuple"):
        Architecture({"d0": (1, 2)})
    assert Architecture({"self": 1}).replace(self=2) == Architecture({"self": 2})


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ((), "has no choices"),
        ("ab", "has no choices"),
        (({"name": "a"},), "no archloom.architecture.Choice"),
        ((Choice("a", (1, 2)), Choice("b", (1,)), Choice("a", (3, 4))), "two choices called 'a'"),
    ],
)
def test_a_space_whose_choices_cannot_be_told_apart_is_refused(choices, message):
    space = Digits()
    space.choices = choices
    with pytest.raises(SpaceError, match=message):
        check_choices(space)
    with pytest.raises(SpaceError, match=message):
        size(space)


def test_a_choice_that_would_hide_a_part_of_every_module_is_refused_where_weights_are_shared():
    for name in ("forward", "training", "train", "children", "_modules"):
        plain, shared = Digits(), Blocks()
        plain.choices = shared.choices = [Choice(name, ("k1", "k3"))]
        check_choices(plain)
        with pytest.raises(SpaceError, match=f"called '{name}', which every PyTorch module has already"):
            check_choices(shared)


def test_an_unknown_option_names_the_nearest_and_all():
    with pytest.raises(SpaceError, match=r"no option 'k3_e66'; did you mean 'k3_e6'\? It has: k3_e6, skip"):
        Choice("layer0", ("k3_e6", "skip")).index("k3_e66")
    with pytest.raises(SpaceError, match="has no option True"):
        Choice("n", (1, 2)).index(True)


def test_check_puts_decisions_into_the_spaces_order_and_refuses_strangers():
    space = Digits(length=2)
    assert list(check(space, Architecture({"d1": 0, "d0": 3}))) == ["d0", "d1"]
    with pytest.raises(SpaceError, match=r"lacks \['d1'\] and decides unknown \['e'\]"):
        check(space, Architecture({"d0": 0, "e": 1}))


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5))
def test_samples_lie_in_the_space_and_a_mutation_changes_exactly_one_decision(seed, length, base):
    space, rng = Digits(length=length, base=base), random.Random(seed)
    parent = check(space, sample(space, rng))
    child = check(space, mutate(space, parent, rng))
    changed = [name for name in parent if parent[name] != child[name]]
    assert len(changed) == (1 if base > 1 else 0)
    assert size(space) == base**length


def test_a_spaces_own_rule_is_found():
    space = Digits()
    assert violations(space, digits(0, 0, 0)) == []
    space.violations = lambda architecture: ["too round"] if architecture["d0"] == 0 else []
    assert violations(space, digits(0, 0, 0)) == ["too round"]


def test_seeds_depend_on_every_part_of_the_purpose_and_on_its_boundaries():
    keys = [
        (0,),
        (1,),
        (0, "a"),
        (0, "a", 1),
        (0, "a", "1"),
        (0, "a1"),
        (0, "a", 11),
        (0, "a1", 1),
        (0, 1, "a"),
    ]
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "a", 1) == seeds[3]


def test_generators_of_one_purpose_agree_and_move_nothing_global():
    import torch

    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), torch.random.get_rng_state()
    assert python_rng(3, "x").random() == python_rng(3, "x").random()
    assert torch.equal(torch.rand(3, generator=torch_rng(3, "x")), torch.rand(3, generator=torch_rng(3, "x")))
    with forked_rng(3, "x"):
        first = torch.rand(3)
    with forked_rng(3, "x"):
        assert torch.equal(torch.rand(3), first)
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
