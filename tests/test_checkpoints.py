"""A training whose files were damaged, removed or exchanged comes out as one that was left alone, or is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from archloom.architecture import Architecture
from archloom.errors import CheckpointError
from archloom.estimator import FULL, Fidelity
from archloom.run import load_checkpoint
from archloom.training import Recipe, train
from archloom_estimators.accuracy import TrainedAccuracy
from test_fidelity import SMALL, context
from test_training import Halves, equal, made, trained

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    trained(made(), RECIPE, folder=folder)
    return folder


def same(folder: Path, whole: Path) -> bool:
    return all(
        load_checkpoint(folder / name)["epoch"] == load_checkpoint(whole / name)["epoch"]
        and all(
            one.equal(other)
            for one, other in zip(
                load_checkpoint(folder / name)["model"].values(),
                load_checkpoint(whole / name)["model"].values(),
                strict=True,
            )
        )
        for name in ("training.pt", "best.pt")
    )


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("name", ["training.pt", "best.pt"])
@pytest.mark.parametrize("damage", [flip, truncate, empty, Path.unlink], ids=lambda act: act.__name__)
def test_a_damaged_training_comes_out_the_same(tmp_path, whole, cut, name, damage: Callable[[Path], object]):
    list(islice(train(made(), Halves(), RECIPE, seed=0, folder=tmp_path), cut))
    damage(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        trained(
            made(seed=9) if cut > 1 and name == "training.pt" and damage is not Path.unlink else made(),
            RECIPE,
            folder=tmp_path,
        )
        assert same(tmp_path, whole)


def test_what_a_kill_left_of_a_later_epoch_is_no_damage(tmp_path, whole):
    list(islice(train(made(), Halves(), RECIPE, seed=0, folder=tmp_path), 2))
    kept = (tmp_path / "training.pt").read_bytes()
    list(islice(train(made(), Halves(), RECIPE, seed=0, folder=tmp_path), 1))
    assert load_checkpoint(tmp_path / "best.pt")["epoch"] == 3
    (tmp_path / "training.pt").write_bytes(kept)  # as if killed between the best weights and the checkpoint
    trained(made(), RECIPE, folder=tmp_path)
    assert same(tmp_path, whole)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"recipe": Recipe(epochs=3, batch_size=16, lr=0.06)},
        {"network": "another"},
        {"precision": "bfloat16"},
        {"watch": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_another_training_is_refused_and_left(tmp_path, other):
    list(islice(train(made(), Halves(), RECIPE, seed=0, folder=tmp_path), 1))
    before = (tmp_path / "training.pt").read_bytes()
    given = {"recipe": RECIPE, "seed": 0, **other}
    with pytest.raises(CheckpointError, match=r"training\.pt belongs to other work than this"):
        next(iter(train(made(), Halves(), folder=tmp_path, **given)))
    assert (tmp_path / "training.pt").read_bytes() == before


def test_the_same_training_of_a_network_with_other_weights_to_begin_with_goes_on(tmp_path):
    list(islice(train(made(), Halves(), RECIPE, seed=0, folder=tmp_path), 2))
    left, right = made(seed=9), made()
    trained(left, RECIPE, folder=tmp_path)
    trained(right, RECIPE)
    assert equal(left, right)


# -- trainings that a strategy goes on with ---------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [flip, truncate, empty, Path.unlink, "exchanged", "a folder"],
    ids=lambda act: getattr(act, "__name__", act),
)
def test_a_continued_training_that_was_damaged_or_exchanged_comes_out_the_same(tmp_path, caplog, damage):
    estimator = TrainedAccuracy(epochs=3, batch_size=16)
    architectures = [Architecture(SMALL), Architecture({**SMALL, "layer0": "k1"})]
    whole = [estimator.estimate(one, context(None, FULL)) for one in architectures]
    kept = []
    for one in architectures:
        estimator.estimate(one, context(tmp_path, Fidelity(0.34)))
        kept.append(context(tmp_path, FULL).kept(one) / "training.pt")
    if damage == "exchanged":
        first, second = (path.read_bytes() for path in kept)
        kept[0].write_bytes(second)
        kept[1].write_bytes(first)
    elif damage == "a folder":
        kept[0].unlink()
        kept[0].mkdir()
    else:
        damage(kept[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        again = [estimator.estimate(one, context(tmp_path, Fidelity(1.0, 0.34))) for one in architectures]
    assert again == whole
    assert ("starts again" in caplog.text) == (damage in ("exchanged", "a folder"))
