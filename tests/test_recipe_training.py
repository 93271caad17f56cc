"""What the fields of a recipe do in a training: averages, accumulation, mixing, teachers, patience, refusals."""

from __future__ import annotations

import csv
import functools
import signal
import subprocess
import sys
import textwrap
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from archloom.architecture import Architecture
from archloom.errors import ConfigError
from archloom.model import Model, ModelParts, assemble
from archloom.run import load_checkpoint
from archloom.task import ImageTask, batches
from archloom.training import Recipe, evaluate, train
from archloom.training.trainer import Trainer
from toys import Blocks


class Rows:
    """Four classes: which quarter of the image is bright. 45 images: batches of 16 leave a rest."""

    name, shape, classes = "rows", (1, 8, 8), ("a", "b", "c", "d")

    def dataset(self, *splits, augment=False, resolution=None):
        count = 45 * len(splits)
        y = torch.arange(count) % 4
        x = 0.5 * torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(len("".join(splits))))
        for label in range(4):
            x[y == label, :, 2 * label : 2 * label + 2] += 2
        return TensorDataset(x, y)


def made(seed=0, dropout=0.2, loss=nn.CrossEntropyLoss, task=None):
    head = lambda channels, classes: nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, classes))
    parts = ModelParts(neck=nn.Flatten, head=head, loss=loss)
    layers = Architecture({"layer0": "k3", "layer1": "k1"})
    return assemble(Blocks(), layers, task or Rows(), parts, seed=seed)


def run(model, recipe, task=None, **options):
    return list(train(model, task or Rows(), recipe, seed=options.pop("seed", 0), **options))


def states_equal(first, second):
    return all(value.equal(second[key]) for key, value in first.items())


ALL = {
    "epochs": 4,
    "batch_size": 16,
    "accumulate": 3,
    "optimizer": "rmsprop_tf",
    "lr": 0.01,
    "warmup_epochs": 1,
    "ema": 0.7,
    "clip": 1.0,
    "mixup": 0.3,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "erasing": 0.5,
    "patience": 3,
}


# -- resuming -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_training_with_everything_set_goes_on_to_the_bit(tmp_path, cut, precision):
    recipe = Recipe(**ALL)
    run(made(), recipe, folder=tmp_path / "whole", precision=precision)
    list(islice(train(made(), Rows(), recipe, seed=0, folder=tmp_path / "cut", precision=precision), cut))
    run(made(seed=9), recipe, folder=tmp_path / "cut", precision=precision)
    for name in ("training.pt", "best.pt"):
        whole, halted = (load_checkpoint(tmp_path / part / name) for part in ("whole", "cut"))
        assert states_equal(whole["model"], halted["model"])
        assert whole["epoch"] == halted["epoch"]
    whole, halted = (load_checkpoint(tmp_path / part / "training.pt") for part in ("whole", "cut"))
    assert states_equal(whole["averaged"]["module"], halted["averaged"]["module"])
    for key in ("best", "stale", "scaler"):
        assert whole[key] == halted[key]
    timeless = [
        [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]
        for rows in (whole["history"], halted["history"])
    ]
    assert timeless[0] == timeless[1]


def test_a_training_killed_in_the_midst_of_an_epoch_goes_on_to_the_bit(tmp_path):
    script = textwrap.dedent(
        f"""
        import itertools, os, signal, sys
        from pathlib import Path
        import torch
        torch.set_num_threads(1)  # as the tests have it: sums depend on it
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from torch.optim.optimizer import register_optimizer_step_post_hook
        import test_recipe_training as here
        from archloom.training import Recipe, train
        steps = itertools.count(1)
        register_optimizer_step_post_hook(
            lambda *_: next(steps) == 5 and os.kill(os.getpid(), signal.SIGKILL)  # the first of two of epoch 3
        )
        folder, precision = Path(sys.argv[1]), "float16"
        list(train(here.made(), here.Rows(), Recipe(**here.ALL), seed=0, folder=folder, precision=precision))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "killed")], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert load_checkpoint(tmp_path / "killed" / "training.pt")["epoch"] == 2
    for folder in ("killed", "whole"):
        run(made(), Recipe(**ALL), folder=tmp_path / folder, precision="float16")
    whole, killed = (load_checkpoint(tmp_path / part / "training.pt") for part in ("whole", "killed"))
    assert states_equal(whole["model"], killed["model"])
    assert states_equal(whole["averaged"]["module"], killed["averaged"]["module"])
    assert [whole[key] for key in ("best", "stale", "scaler")] == [
        killed[key] for key in ("best", "stale", "scaler")
    ]


# -- averages -----------------------------------------------------------------------------------------------


def test_with_averages_the_network_is_judged_and_kept_by_them(tmp_path):
    model = made()
    epochs = run(model, Recipe(epochs=3, batch_size=16, lr=0.05, ema=0.9), folder=tmp_path)
    last = epochs[-1]
    assert last.network is not model
    for network, prefix in ((last.network, "validation"), (model, "validation.raw")):
        judged = evaluate(network, batches(Rows().dataset("validation"), 64), 4)
        assert judged["accuracy"] == last.metrics[f"{prefix}.accuracy"]
        assert judged["loss"] == pytest.approx(last.metrics[f"{prefix}.loss"], rel=1e-6)
    scores = [epoch.metrics["validation.accuracy"] for epoch in epochs]
    best = load_checkpoint(tmp_path / "best.pt")
    assert best["epoch"] == max(n for n, score in enumerate(scores, 1) if score == max(scores))
    if best["epoch"] == 3:
        assert states_equal(best["model"], last.network.state_dict())
    assert states_equal(load_checkpoint(tmp_path / "training.pt")["model"], model.state_dict())


def test_without_averages_the_network_is_the_model():
    model = made()
    assert run(model, Recipe(epochs=1, batch_size=16))[0].network is model


# -- accumulation -------------------------------------------------------------------------------------------


class Still(Rows):
    """Rows whose number of images is a multiple of 8."""

    def dataset(self, *splits, augment=False, resolution=None):
        x, y = super().dataset(*splits).tensors
        return TensorDataset(x[:40], y[:40])


def without_norm(seed=0):
    model = made(seed, dropout=0.0)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def test_accumulated_batches_are_one_large_batch():
    small, large = without_norm(), without_norm()
    options = {"epochs": 1, "lr": 0.05, "schedule": "constant"}
    run(small, Recipe(batch_size=10, accumulate=2, **options), Still(), watch=None)
    run(large, Recipe(batch_size=20, **options), Still(), watch=None)
    for first, second in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_the_last_group_counts_by_the_batches_that_it_has():
    """40 images in batches of 8, four of them to a step: the second step has one batch."""
    model, reference = without_norm(), without_norm()
    run(
        model,
        Recipe(epochs=1, batch_size=8, accumulate=4, lr=0.05, schedule="constant", channels_last=False),
        Still(),
        watch=None,
    )
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=4e-5)
    stream = list(
        batches(Still().dataset("weights", "architecture"), 8, seed=0, epoch=0, shuffle=True, drop_last=True)
    )
    for group in (stream[:4], stream[4:]):
        x, y = (torch.cat(parts) for parts in zip(*group, strict=True))
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(x), y).backward()
        optimizer.step()
    for first, second in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


# -- targets ------------------------------------------------------------------------------------------------


def test_smoothed_labels_are_those_of_pytorchs_cross_entropy():
    ours, theirs = made(), made(loss=functools.partial(nn.CrossEntropyLoss, label_smoothing=0.2))
    first = run(ours, Recipe(epochs=2, batch_size=16, lr=0.05, label_smoothing=0.2))
    second = run(theirs, Recipe(epochs=2, batch_size=16, lr=0.05))
    assert first[-1].metrics["loss"] == pytest.approx(second[-1].metrics["loss"], rel=1e-4)


class Seen(nn.Module):
    """Cross entropy that remembers its targets."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, logits, targets):
        self.seen.append(targets)
        return nn.functional.cross_entropy(logits, targets)


@pytest.mark.parametrize("fields", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}], ids=str)
def test_mixed_targets_are_probabilities_of_at_most_two_classes(fields):
    model = made(loss=Seen)
    metrics = run(model, Recipe(epochs=2, batch_size=16, lr=0.05, **fields))[-1].metrics
    targets = torch.cat(model.loss.seen)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
    assert ((targets > 0).sum(1) <= 2).all()
    assert ((targets > 0).sum(1) == 2).any()
    assert 0 <= metrics["accuracy"] <= 100


class LabelsOnly(nn.Module):
    def forward(self, logits, targets):
        return -logits.log_softmax(1).gather(1, targets[:, None]).mean()


class Misread(nn.Module):
    """Takes probabilities, and makes something else of them."""

    def forward(self, logits, targets):
        if targets.ndim == 2:
            return (logits - targets).square().mean()
        return nn.functional.cross_entropy(logits, targets)


@pytest.mark.parametrize("loss", [LabelsOnly, Misread])
@pytest.mark.parametrize("field", ["mixup", "cutmix", "label_smoothing"])
def test_a_loss_that_takes_no_probabilities_is_refused_before_training(loss, field):
    run(made(loss=loss), Recipe(epochs=1, batch_size=16))
    with pytest.raises(
        ConfigError, match=rf"{field} give the loss probabilities .* {loss.__name__} does not"
    ):
        train(made(loss=loss), Rows(), Recipe(epochs=1, batch_size=16, **{field: 0.1}), seed=0)


def test_labels_are_not_smoothed_twice():
    model = made(loss=functools.partial(nn.CrossEntropyLoss, label_smoothing=0.2))
    with pytest.raises(ConfigError, match="smoothed twice"):
        train(model, Rows(), Recipe(label_smoothing=0.1), seed=0)


def test_a_loss_that_gives_a_number_for_each_image_is_refused():
    model = made()
    model.loss = nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(ConfigError, match="gives a tensor of shape"):
        train(model, Rows(), Recipe(), seed=0)


# -- images -------------------------------------------------------------------------------------------------


def pixels(fields, **transforms):
    """What a training sees of 24 grey images of 128, in order of brightness sums."""
    raw = TensorDataset(torch.full((24, 3, 16, 16), 128, dtype=torch.uint8), torch.arange(24) % 2)
    task = ImageTask(
        name="grey",
        shape=(3, 16, 16),
        classes=("a", "b"),
        train=raw,
        train_targets=[n % 2 for n in range(24)],
        test=raw,
        eval_transform=lambda resolution: lambda image: image.float() / 255 - 0.5,
        **transforms,
    )
    seen = []
    model = Model(nn.Identity(), nn.Flatten(), nn.Linear(3 * 16 * 16, 2), nn.CrossEntropyLoss())
    model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].clone()))
    run(model, Recipe(epochs=1, batch_size=6, **fields), task, watch=None, workers=0)
    return torch.cat(seen)


def test_erasing_leaves_rectangles_of_zeros_in_normalized_images_of_any_task():
    seen = pixels({"erasing": 1.0})
    zeros = (seen == 0).flatten(1).sum(1)
    assert (zeros > 0).all()
    assert (zeros < 3 * 16 * 16).all()
    assert not (pixels({}) == 0).any()


def test_a_policy_is_given_uint8_images_and_goes_before_normalization():
    kinds = []

    def with_policy(policy, resolution):
        transform = policy.transform()

        def apply(image):
            kinds.append(image.dtype)
            return transform(image).float() / 255 - 0.5

        return apply

    seen = pixels({"randaugment": (2, 9)}, policy_transform=with_policy)
    assert set(kinds) == {torch.uint8}
    assert len(seen.unique()) > 1


@pytest.mark.parametrize(
    "field", [{"autoaugment": "cifar10"}, {"randaugment": (2, 9)}, {"trivialaugment": True}]
)
def test_a_task_that_knows_no_policies_is_refused_and_never_asked(field):
    with pytest.raises(ConfigError, match=rf"{next(iter(field))} needs a task .* 'rows' does not"):
        train(made(), Rows(), Recipe(**field), seed=0)


# -- teachers -----------------------------------------------------------------------------------------------


def test_a_teacher_alone_teaches_what_the_labels_would():
    teacher = made()
    run(teacher, Recipe(epochs=8, batch_size=16, lr=0.1))
    teacher.zero_grad()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    pupil = made(seed=5, loss=Zero)
    recipe = Recipe(epochs=8, batch_size=16, lr=0.05, distill_weight=1.0, temperature=2.0)
    metrics = run(pupil, recipe, teacher=teacher)[-1].metrics
    assert metrics["validation.accuracy"] > 80
    assert states_equal(before, teacher.state_dict())
    assert not any(p.grad is not None for p in teacher.parameters())


class Zero(nn.Module):
    """A loss without any word on the labels."""

    def forward(self, logits, targets):
        return 0.0 * logits.sum()


def test_the_teachers_part_of_the_loss_is_hintons():
    teacher, pupil = made(seed=1).eval(), made(seed=2, dropout=0.0)
    x, y = next(iter(batches(Rows().dataset("weights"), 16)))
    recipe = Recipe(distill_weight=0.3, temperature=3.0)
    trainer = Trainer(pupil, recipe, 4, 0, torch.device("cpu"), "float32", teacher=teacher)
    with torch.no_grad():
        logits, taught = pupil(x), teacher(x)
        ours = trainer.loss(x, logits, y)
        q, p = (taught / 3).softmax(1), (logits / 3).softmax(1)
        kl = (q * (q / p).log()).sum(1).mean()
        expected = 0.7 * nn.functional.cross_entropy(logits, y) + 0.3 * 9 * kl
    assert float(ours) == pytest.approx(float(expected), rel=1e-5)


def test_a_teacher_that_is_named_and_not_handed_over_is_missed():
    with pytest.raises(ConfigError, match="names the teacher 'runs/best'"):
        train(made(), Rows(), Recipe(teacher="runs/best"), seed=0)


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
            r"gives \(1, 3\) for one image, the network \(1, 4\)",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), "cannot take images of shape"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_with_both_shapes(teacher, told):
    with pytest.raises(ConfigError, match=told):
        train(made(), Rows(), Recipe(), seed=0, teacher=teacher)


# -- stopping, judging, machine -----------------------------------------------------------------------------


class Noise(Rows):
    """Nothing to learn: the accuracy does not rise for long."""

    def dataset(self, *splits, augment=False, resolution=None):
        x, y = super().dataset(*splits).tensors
        return TensorDataset(torch.zeros_like(x), y)


def test_a_training_stops_when_its_patience_is_over_and_stays_stopped(tmp_path):
    recipe = Recipe(epochs=20, batch_size=16, lr=0.01, patience=2)
    epochs = run(made(), recipe, Noise(), folder=tmp_path)
    scores = [epoch.metrics["validation.accuracy"] for epoch in epochs]
    best = scores.index(max(scores)) + 1
    assert len(epochs) == best + 2 < 20
    assert not run(made(), recipe, Noise(), folder=tmp_path)


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="no precision 'float17'; there are float32"):
        train(made(), Rows(), Recipe(), seed=0, precision="float17")


def test_patience_needs_something_to_watch():
    with pytest.raises(ConfigError, match="patience waits"):
        train(made(), Rows(), Recipe(patience=3), seed=0, watch=None)


class Head(nn.Linear):
    """A head that asks for the accuracy of the three best."""

    topk = (1, 3)


def test_the_table_has_each_metric_of_each_epoch_for_training_and_validation(tmp_path):
    model = assemble(
        Blocks(),
        Architecture({"layer0": "k1", "layer1": "k1"}),
        Rows(),
        ModelParts(neck=nn.Flatten, head=Head),
        seed=0,
    )
    epochs = run(model, Recipe(epochs=3, batch_size=16), folder=tmp_path)
    with (tmp_path / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("epoch") for row in rows] == ["1", "2", "3"]
    assert [{k: float(v) for k, v in row.items()} for row in rows] == [dict(e.metrics) for e in epochs]
    plain = {"loss", "accuracy", "top3"}
    assert set(rows[0]) == (
        plain
        | {"lr", "seconds", "images_per_second", "recalibrated"}
        | {f"validation.{name}" for name in plain}
    )
    assert all(float(row["accuracy"]) <= float(row["top3"]) for row in rows)
    counted = float(rows[0]["images_per_second"]) * float(rows[0]["seconds"])
    assert counted == pytest.approx(80)  # five whole batches of the 90 images


def test_a_compiled_training_is_the_same_training(monkeypatch):
    """Through the compiler's front end; what the back end makes of it is PyTorch's own affair."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled, plain = made(), made()
    recipe = {"epochs": 1, "batch_size": 16, "lr": 0.05}
    run(compiled, Recipe(compile=True, **recipe))
    run(plain, Recipe(**recipe))
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert states_equal(compiled.state_dict(), plain.state_dict())


def test_mixing_draws_from_the_seed_alone():
    first, second = made(), made()
    for number, model in enumerate((first, second)):
        torch.manual_seed(number)
        run(model, Recipe(**ALL))
    assert states_equal(first.state_dict(), second.state_dict())
