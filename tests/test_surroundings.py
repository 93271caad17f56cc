"""What a caller has set, and what other threads do, changes no result."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from archloom.cost import count
from archloom.drawing import Drawing, own_rng
from archloom.errors import RunError
from archloom.randomness import forked_rng, torch_rng, watched_rng
from archloom.retraining import evaluate, retrain
from archloom.session import search
from archloom.surroundings import plain_settings, undisturbed
from archloom.task import batches
from toys import config, host

TRAINED = {"space": "blocks", "estimators": [{"type": "accuracy", "epochs": 1}, "macs"]}
TRAINED |= {
    "objectives": ["accuracy.trained"],
    "budget": {"trials": 2},
    "task": {"type": "digits", "train_size": 64},
}


def numbers(folder: Path, **changes: Any) -> list[Any]:
    """What a search with trained networks finds, apart from what a clock measured."""
    result = search(config(**TRAINED | changes), folder, host=host())
    return [(str(trial.architecture), trial.status, dict(trial.metrics)) for trial in result.trials]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    found = numbers(tmp_path_factory.mktemp("alone") / "run")
    assert all(status == "ok" for _, status, _ in found)
    return found


# -- what the caller has set ------------------------------------------------------------------------------------


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS: dict[str, Callable[[], Any]] = {
    "gradients off": torch.no_grad,
    "inference mode": torch.inference_mode,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "a default device": lambda: default_device("meta"),
    "a device around": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "numpy's errors": lambda: np.errstate(all="raise"),
}


def state() -> tuple[Any, ...]:
    device = torch.get_default_device()
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    return (torch.get_default_dtype(), device, *modes, np.geterr())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_search_gives_the_plain_figures_whatever_the_caller_has_set(name, alone, tmp_path):
    with SETTINGS[name]():
        before = state()
        assert numbers(tmp_path / "run") == alone
        assert state() == before


def test_retraining_and_judging_give_the_plain_figures_whatever_the_caller_has_set(tmp_path):
    numbers(tmp_path / "run", budget={"trials": 1})
    found = {}
    for name, setting in {"plain": contextlib.nullcontext, **SETTINGS}.items():
        if name in ("plain", "inference mode", "float64", "a device around"):
            folder = tmp_path / name
            with setting():
                retrain(tmp_path / "run", folder, overrides=["recipe.epochs=1"], host=host(), observers=())
                judged = evaluate(folder, task="digits", host=host())
            found[name] = (folder / "metrics.json").read_bytes(), judged
    assert len(found) == 4
    assert all(one == found["plain"] for one in found.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_network_has_the_same_cost_whatever_the_caller_has_set(name):
    before = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    plain = count(before, 8)
    with SETTINGS[name]():
        assert count(before, 8) == plain
        assert count(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), 8) == plain


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(set(SETTINGS) - {"a default device"})), max_size=5))
def test_settings_are_plain_inside_and_as_they_were_outside_in_any_combination(names):
    plain = state()
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(SETTINGS[name]())
        before = state()
        with plain_settings():
            assert state()[:-1] == plain[:-1]
            assert torch.ones(2, requires_grad=True).mul(2).sum().requires_grad
        assert state() == before


# -- other threads ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def drawing_thread(at_least: int = 1) -> Iterator[list[int]]:
    """A thread that draws from every global generator as fast as it can."""
    stop, drawn = threading.Event(), [0]

    def draw() -> None:
        while not stop.is_set():
            torch.rand(1)
            random.random()
            np.random.rand()
            drawn[0] += 1

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield drawn
    finally:
        stop.set()
        thread.join()


def test_a_thread_that_draws_random_numbers_meanwhile_changes_no_result_and_is_told_of(alone, tmp_path):
    with (
        drawing_thread() as drawn,
        pytest.warns(UserWarning, match="other code draws from PyTorch's global random"),
    ):
        assert numbers(tmp_path / "run") == alone
    assert drawn[0] > 100
    assert "other code draws" in (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")


def test_a_second_search_in_another_thread_is_refused_in_one_sentence_and_the_first_ends(alone, tmp_path):
    begun, refused = threading.Event(), threading.Event()
    found: list[Any] = []

    def first() -> None:
        def wait(event: Any) -> None:
            begun.set()
            assert refused.wait(60)

        result = search(config(**TRAINED), tmp_path / "first", host=host(), notify=wait)
        found.extend((str(t.architecture), t.status, dict(t.metrics)) for t in result.trials)

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert begun.wait(60)
        threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
        for call in (
            lambda: search(config(**TRAINED), tmp_path / "second", host=host()),
            lambda: retrain(tmp_path / "first", tmp_path / "net", host=host()),
        ):
            with pytest.raises(
                RunError, match=r"a search is at work in another thread of this process, .* Start "
            ):
                call()
        assert not (tmp_path / "second").exists()
        assert (threads, dtype) == (torch.get_num_threads(), torch.get_default_dtype())
    finally:
        refused.set()
        thread.join()
    assert found == alone
    assert numbers(tmp_path / "after") == alone


def test_two_trainings_in_two_threads_both_draw_as_alone():
    def trained(seed: int) -> list[torch.Tensor]:
        drawn = []
        for number in range(20):
            with forked_rng(seed, number):
                drawn += [nn.functional.dropout(torch.ones(64)) for _ in range(5)]
        return drawn

    expected = [trained(seed) for seed in range(3)]
    found: list[Any] = [None] * 3
    threads = [
        threading.Thread(target=lambda seed=seed: found.__setitem__(seed, trained(seed))) for seed in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert all(a.equal(b) for a, b in zip(one, other, strict=True))


def test_work_within_work_of_the_same_thread_goes_on_and_an_error_frees_the_process():
    @undisturbed("inner work")
    def inner() -> int:
        return 1

    @undisturbed("outer work")
    def outer() -> int:
        return inner() + 1

    @undisturbed("failing work")
    def fails() -> None:
        raise ValueError("no")

    assert outer() == 2
    with pytest.raises(ValueError, match="no"):
        fails()
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(outer()))
    thread.start()
    thread.join()
    assert answers == [2]


def test_images_are_augmented_alike_while_another_thread_draws():
    class Noisy(torch.utils.data.Dataset[Any]):
        def __getitem__(self, position: int) -> Any:
            return torch.rand(1, 2, 2) + torch.randint(9, ()), position

        def __len__(self) -> int:
            return 64

    def drawn() -> torch.Tensor:
        return torch.cat([x for x, _ in batches(Noisy(), 16, seed=1, shuffle=True)])

    plain = drawn()
    with drawing_thread():
        assert all(drawn().equal(plain) for _ in range(20))


# -- a generator of one's own -----------------------------------------------------------------------------------


def draws() -> list[torch.Tensor]:
    """Numbers by every door of PyTorch."""
    ones, half = torch.ones(5), torch.full((4,), 0.5)
    return [
        torch.rand(3), torch.randn(2, 2), torch.randint(5, (3,)), torch.randint(2, 9, (3,)), torch.randperm(7),
        torch.bernoulli(half), torch.bernoulli(ones, 0.3), torch.multinomial(ones, 2), torch.poisson(ones),
        torch.normal(0.0, 1.0, (3,)), torch.normal(ones, half[0]), torch.normal(ones, torch.ones(5)),
        torch.rand_like(ones), torch.randn_like(ones), torch.randint_like(ones, 5), torch.binomial(ones, ones * 0.4),
        torch.empty(3).uniform_(), torch.empty(3).normal_(), torch.empty(3).exponential_(), torch.empty(3).cauchy_(),
        torch.empty(3).log_normal_(), torch.empty(3).geometric_(0.4), torch.empty(3).random_(),
        torch.empty(3).random_(9), nn.functional.dropout(torch.ones(8)), nn.functional.alpha_dropout(ones, 0.5, True),
        nn.functional.gumbel_softmax(ones), nn.init.orthogonal_(torch.empty(3, 3)),
        nn.LSTM(2, 3).weight_ih_l0.detach(),
    ]  # fmt: skip


def test_numbers_of_an_own_generator_are_those_of_the_global_one_which_is_left_alone():
    with forked_rng(3, "x"):
        expected = draws()
    before = torch.get_rng_state()
    with own_rng(3, "x"):
        found = draws()
        torch.rand(2, generator=torch_rng(0))  # one that is asked for is used
    assert before.equal(torch.get_rng_state())
    for position, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.equal(other), position


def test_an_operation_that_takes_no_generator_draws_as_the_seed_says():
    def drawn() -> torch.Tensor:
        with own_rng(5):
            return nn.functional.rrelu(-torch.ones(4), training=True)

    before = torch.get_rng_state()
    assert drawn().equal(drawn())
    assert before.equal(torch.get_rng_state())


def test_what_lies_on_the_meta_device_is_left_to_it():
    with own_rng(0), torch.device("meta"):
        assert nn.Linear(2, 3).weight.device.type == "meta"
        assert torch.rand(2).device.type == "meta"


def test_a_generator_that_is_given_twice_draws_on():
    generator = torch_rng(1)
    with Drawing(generator):
        first, second = torch.rand(2), torch.rand(2)
    assert torch.cat((first, second)).equal(torch.rand(4, generator=torch_rng(1)))


def test_nobody_is_accused_of_drawing_who_does_not(caplog):
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with watched_rng():
            for number in range(3):
                with forked_rng(number):
                    torch.rand(3)
                    with forked_rng(10):  # as images are changed while a network is trained
                        torch.rand(3)
    finally:
        stop.set()
        thread.join()
    assert not caplog.records
