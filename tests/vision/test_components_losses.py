"""Losses."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archloom
from archloom.errors import ConfigError
from archloom.losses import weighted_loss
from archloom.model import GlobalAverage, ModelParts
from archloom_vision import losses
from archloom_vision.focal import FocalLoss, SoftmaxFocalLoss
from archloom_vision.losses import BCEWithLogitsLoss, CrossEntropyLoss, DistillationLoss, L1Loss

PRED = torch.tensor([[0.0, 2.0, -1.0], [3.0, 0.5, 1.0]])
TARGET = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
TERMS = torch.tensor([[1.0, 2.0, 2.0], [2.0, 0.5, 0.0]])  # |PRED - TARGET|, by hand
WEIGHT = torch.tensor([[1.0, 0.0, 2.0], [1.0, 4.0, 1.0]])
WEIGHED = torch.tensor([[1.0, 0.0, 4.0], [2.0, 2.0, 0.0]])


@weighted_loss
def absolute(pred, target, *, power=1.0):
    """Terms."""
    return (pred - target).abs() ** power


# -- weighted_loss, rule by rule ----------------------------------------------------------------------


def test_a_decorated_loss_takes_the_mean_unless_told_otherwise():
    assert absolute(PRED, TARGET).item() == pytest.approx(7.5 / 6)
    assert absolute(PRED, TARGET, reduction="sum").item() == pytest.approx(7.5)
    assert torch.equal(absolute(PRED, TARGET, reduction="none"), TERMS)
    assert absolute(PRED, TARGET, power=2.0).item() == pytest.approx(13.25 / 6)
    assert (absolute.__name__, absolute.__doc__) == ("absolute", "Terms.")


def test_the_weight_multiplies_each_term_before_the_reduction():
    assert torch.equal(absolute(PRED, TARGET, WEIGHT, "none"), WEIGHED)
    assert absolute(PRED, TARGET, WEIGHT).item() == pytest.approx(9 / 6)
    assert absolute(PRED, TARGET, WEIGHT, "sum").item() == pytest.approx(9)


def test_avg_factor_with_mean_divides_the_sum():
    assert absolute(PRED, TARGET, avg_factor=3).item() == pytest.approx(7.5 / 3)
    assert absolute(PRED, TARGET, WEIGHT, avg_factor=torch.tensor(2.0)).item() == pytest.approx(4.5)


def test_avg_factor_with_none_does_nothing():
    assert torch.equal(absolute(PRED, TARGET, reduction="none", avg_factor=3), TERMS)


def test_avg_factor_with_sum_is_an_error():
    with pytest.raises(ConfigError, match=r"avg_factor = 3.0 divides a mean, and the reduction is 'sum'"):
        absolute(PRED, TARGET, reduction="sum", avg_factor=3)


def test_an_unknown_reduction_is_an_error():
    with pytest.raises(ConfigError, match="a loss has no reduction 'median'; it has none, mean, sum"):
        absolute(PRED, TARGET, reduction="median")
    with pytest.raises(ConfigError, match="no reduction 'median'"):
        L1Loss(reduction="median")


@pytest.mark.parametrize("own", ["none", "mean", "sum"])
@pytest.mark.parametrize("override", [None, "none", "mean", "sum"])
def test_a_call_may_override_the_reduction(own, override):
    expected = {"none": 0.5 * TERMS, "mean": torch.tensor(0.5 * 7.5 / 6), "sum": torch.tensor(3.75)}
    loss = L1Loss(reduction=own, loss_weight=0.5)
    found = loss(PRED, TARGET, reduction_override=override)
    assert torch.allclose(found, expected[override or own])
    assert loss.reduction == own


def test_other_overrides_are_an_error():
    with pytest.raises(
        ConfigError, match="reduction_override is None or one of none, mean, sum, not 'average'"
    ):
        L1Loss()(PRED, TARGET, reduction_override="average")
    with pytest.raises(ConfigError, match="avg_factor"):
        L1Loss()(PRED, TARGET, avg_factor=2, reduction_override="sum")


def test_l1_loss_weighs_averages_and_scales_in_one_call():
    assert L1Loss(loss_weight=10)(PRED, TARGET, WEIGHT, avg_factor=4).item() == pytest.approx(22.5)
    assert torch.allclose(L1Loss()(PRED, TARGET), F.l1_loss(PRED, TARGET))


# -- the losses themselves, against PyTorch or by hand ------------------------------------------------

LABELS = torch.tensor([2, 0])


def test_cross_entropy_takes_labels_and_soft_targets():
    soft = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    logs = PRED.log_softmax(1)
    assert CrossEntropyLoss()(PRED, LABELS).item() == pytest.approx(
        float(-(logs[0, 2] + logs[1, 0]) / 2), abs=1e-6
    )
    assert CrossEntropyLoss()(PRED, soft).item() == pytest.approx(float(-(soft * logs).sum() / 2), abs=1e-6)
    assert CrossEntropyLoss(loss_weight=3, reduction="sum")(PRED, soft).item() == pytest.approx(
        float(-3 * (soft * logs).sum()), abs=1e-5
    )


def test_label_smoothing_is_a_mixture_with_the_uniform_distribution():
    smooth = 0.9 * F.one_hot(LABELS, 3) + 0.1 / 3
    expected = -(smooth * PRED.log_softmax(1)).sum(1)
    loss = CrossEntropyLoss(label_smoothing=0.1)
    assert torch.allclose(loss(PRED, LABELS), expected.mean())
    weight = torch.tensor([2.0, 1.0])
    assert torch.allclose(loss(PRED, LABELS, weight), (weight * expected).mean())
    assert torch.allclose(loss(PRED, LABELS, weight, avg_factor=3), (weight * expected).sum() / 3)
    with pytest.raises(ConfigError, match=r"label_smoothing must lie in 0..1, not 2"):
        CrossEntropyLoss(label_smoothing=2)


def test_binary_cross_entropy_asks_about_each_class_by_itself():
    p = PRED.sigmoid()
    expected = -(TARGET * p.log() + (1 - TARGET) * (1 - p).log())
    assert torch.allclose(BCEWithLogitsLoss()(PRED, TARGET), expected.mean(), atol=1e-6)
    one_hot = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert torch.equal(BCEWithLogitsLoss()(PRED, LABELS), BCEWithLogitsLoss()(PRED, one_hot))
    assert torch.equal(L1Loss()(PRED, LABELS), L1Loss()(PRED, one_hot))


@pytest.mark.parametrize("target", [torch.zeros(3, 2), torch.zeros(2), torch.zeros(2, 3, 1)])
def test_targets_of_another_shape_are_refused_and_not_broadcast(target):
    with pytest.raises(ConfigError, match=r"targets of shape .* fit predictions of shape \(2, 3\) neither"):
        L1Loss()(PRED, target)


# -- distillation -------------------------------------------------------------------------------------


def test_distillation_is_labels_and_teacher_in_the_proportion_of_alpha():
    teacher = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 1.0]])
    t = 3.0
    p, q = (teacher / t).softmax(1), (PRED / t).softmax(1)
    kl = (p * (p / q).log()).sum(1).mean()
    expected = 0.4 * F.cross_entropy(PRED, LABELS) + 0.6 * t**2 * kl
    loss = DistillationLoss(temperature=t, alpha=0.6, loss_weight=2.0)
    assert torch.allclose(loss(PRED, LABELS, teacher), 2 * expected, atol=1e-6)
    assert losses.distillation(PRED, PRED, temperature=t).item() == pytest.approx(0, abs=1e-6)


def pupil_and_teacher():
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Dropout(0.5))
    loss = DistillationLoss(teacher, alpha=1.0)
    parts = ModelParts(neck=GlobalAverage, loss=loss)
    return parts.assemble(nn.Conv2d(3, 8, 1), shape=(3, 4, 4), num_classes=5), teacher


def test_a_teacher_judges_the_images_of_each_training_step():
    model, teacher = pupil_and_teacher()
    images, labels = torch.randn(6, 3, 4, 4), torch.tensor([0, 1, 2, 3, 4, 0])
    logits = model.train()(images)
    found = model.loss(logits, labels)
    assert torch.allclose(found, losses.distillation(logits, teacher.eval()(images), temperature=4.0))
    with pytest.raises(ConfigError, match="has seen no teacher's logits"):
        model.loss(logits, labels)  # one set of logits is used once


def test_a_teacher_is_neither_trained_nor_saved_nor_left_in_another_mode():
    model, teacher = pupil_and_teacher()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    assert not any("teacher" in key for key in model.state_dict())
    assert {id(p) for p in model.parameters()}.isdisjoint({id(p) for p in teacher.parameters()})
    teacher.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    images, labels = torch.randn(16, 3, 4, 4), torch.zeros(16, dtype=torch.long)
    values = []
    for _ in range(40):
        loss = model.loss(model.train()(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.9 * values[0]
    assert teacher.training
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_teacher_of_other_classes_or_images_is_refused_before_training():
    parts = ModelParts(loss=DistillationLoss(nn.Sequential(nn.Flatten(), nn.Linear(48, 4))))
    with pytest.raises(
        ConfigError, match=r"the teacher of DistillationLoss gives \(2, 4\), the network \(2, 5\)"
    ):
        parts.assemble(nn.Conv2d(3, 8, 1), shape=(3, 4, 4), num_classes=5)
    with pytest.raises(ConfigError, match=r"cannot take images of shape \(2, 3, 8, 8\)"):
        parts.assemble(nn.Conv2d(3, 8, 1), shape=(3, 8, 8), num_classes=4)


def test_a_configuration_names_a_teacher_and_its_weights(tmp_path):
    teacher = archloom.build("fbnet_96_035_1", 3, seed=5)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    loss = losses.distillation_loss(
        teacher="fbnet_96_035_1", weights=str(tmp_path / "teacher.pt"), classes=3, alpha=1.0
    )
    images = torch.randn(2, 3, 32, 32)
    loss.see(images)
    pupil = torch.randn(2, 3)
    expected = losses.distillation(pupil, teacher.eval()(images), temperature=4.0)
    assert torch.allclose(loss(pupil, LABELS), expected, atol=1e-5)
    with pytest.raises(
        ConfigError, match=r"the teacher 'fbnet_a' has no weights.safetensors; name its weights"
    ):
        losses.distillation_loss(teacher="fbnet_a")


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"alpha": 1.5}])
def test_a_distillation_that_cannot_be_meant_is_refused(options):
    with pytest.raises(ConfigError, match=r"temperature must be positive and alpha in 0..1"):
        DistillationLoss(**options)


# -- factors of classes, and focal losses: against PyTorch's and torchvision's ---------------------------


def drawn(seed, classes=4, n=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, classes, generator=generator) * 3, torch.randint(classes, (n,), generator=generator)


FACTORS = [0.2, 1.0, 3.0, 0.0]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_of_the_cross_entropy_are_pytorchs(reduction, smoothing):
    pred, labels = drawn(1)
    loss = CrossEntropyLoss(
        class_weight=FACTORS, reduction=reduction, label_smoothing=smoothing, loss_weight=2.0
    )
    how = {"weight": torch.tensor(FACTORS), "reduction": reduction, "label_smoothing": smoothing}
    assert torch.allclose(loss(pred, labels), 2 * F.cross_entropy(pred, labels, **how))
    soft = pred.flip(0).softmax(1)
    assert torch.allclose(loss(pred, soft), 2 * F.cross_entropy(pred, soft, **how))
    ones = torch.ones(12)
    assert torch.allclose(loss(pred, labels, weight=ones), 2 * F.cross_entropy(pred, labels, **how))
    terms = F.cross_entropy(pred, labels, **(how | {"reduction": "none"}))
    if reduction == "mean":
        assert loss(pred, labels, avg_factor=5).item() == pytest.approx(2 * float(terms.sum()) / 5, rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("pos", [None, 3.0, [0.5, 1.0, 2.0, 7.0]])
@pytest.mark.parametrize("factors", [None, FACTORS])
def test_class_and_positive_weights_of_the_binary_cross_entropy_are_pytorchs(reduction, pos, factors):
    pred, labels = drawn(2)
    on = F.one_hot(labels, 4).float()
    loss = BCEWithLogitsLoss(class_weight=factors, pos_weight=pos, reduction=reduction)
    wanted = F.binary_cross_entropy_with_logits(
        pred,
        on,
        weight=None if factors is None else torch.tensor(factors),
        pos_weight=None if pos is None else torch.tensor(pos),
        reduction=reduction,
    )
    assert torch.allclose(loss(pred, labels), wanted)
    assert torch.allclose(loss(pred, on), wanted)


@pytest.mark.parametrize("alpha", [0.25, None, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_is_torchvisions(alpha, gamma):
    from torchvision.ops import sigmoid_focal_loss

    pred, labels = drawn(3)
    on = F.one_hot(labels, 4).float()
    wanted = sigmoid_focal_loss(pred, on, alpha=-1 if alpha is None else alpha, gamma=gamma)
    assert torch.allclose(FocalLoss(alpha=alpha, gamma=gamma)(pred, labels), wanted.mean())
    weighed = FocalLoss(alpha=alpha, gamma=gamma, class_weight=FACTORS)(pred, labels)
    assert torch.allclose(weighed, (wanted * torch.tensor(FACTORS)).mean())
    if gamma == 0 and alpha is None:
        assert torch.allclose(wanted.mean(), BCEWithLogitsLoss()(pred, labels))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_the_softmax_focal_loss_is_the_cross_entropy_times_a_power_of_the_doubt(gamma):
    pred, labels = drawn(4)
    p = pred.softmax(1).gather(1, labels[:, None])[:, 0]
    terms = (1 - p) ** gamma * F.cross_entropy(pred, labels, reduction="none")
    assert torch.allclose(SoftmaxFocalLoss(gamma=gamma)(pred, labels), terms.mean(), atol=1e-6)
    factors = torch.tensor(FACTORS)[labels]
    weighed = SoftmaxFocalLoss(gamma=gamma, class_weight=FACTORS, reduction="none")(pred, labels)
    assert torch.allclose(weighed, factors * terms, atol=1e-6)
    soft = 0.9 * F.one_hot(labels, 4) + 0.025
    by_hand = -(soft * (1 - pred.softmax(1)) ** gamma * pred.log_softmax(1)).sum(1).mean()
    assert torch.allclose(SoftmaxFocalLoss(gamma=gamma)(pred, soft), by_hand, atol=1e-6)


@pytest.mark.parametrize("loss", [FocalLoss(gamma=0.5), SoftmaxFocalLoss(gamma=0.5), SoftmaxFocalLoss()])
def test_focal_losses_have_finite_gradients_where_a_prediction_is_certain(loss):
    pred = torch.tensor([[200.0, 0.0, -200.0], [0.0, 0.0, 500.0]], requires_grad=True)
    loss(pred, torch.tensor([0, 1])).backward()
    assert bool(pred.grad.isfinite().all())


def test_factors_of_classes_go_with_the_module_and_are_not_saved_with_the_network():
    loss = CrossEntropyLoss(class_weight=[1.0, 2.0])
    assert loss.state_dict() == {}
    assert loss.to(torch.float64).class_weight.dtype == torch.float64
    pred = torch.zeros(3, 2, dtype=torch.bfloat16)
    assert loss(pred, torch.tensor([0, 1, 1])).item() == pytest.approx(0.6931, abs=1e-2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CrossEntropyLoss(class_weight=[]), "class_weight is of numbers from 0 on"),
        (lambda: FocalLoss(class_weight=[1.0, -1.0, 1.0]), "class_weight is of numbers from 0 on"),
        (lambda: BCEWithLogitsLoss(pos_weight=float("nan")), "pos_weight is of numbers from 0 on"),
        (lambda: FocalLoss(gamma=-1.0), "gamma must be at least 0"),
        (lambda: SoftmaxFocalLoss(gamma=float("inf")), "gamma must be at least 0"),
        (lambda: FocalLoss(alpha=1.5), "alpha must lie in 0..1, or be null"),
    ],
)
def test_factors_that_cannot_be_meant_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    "loss",
    [
        {"type": "CrossEntropyLoss", "class_weight": [1, 2]},
        {"type": "BCEWithLogitsLoss", "pos_weight": [1, 2]},
        {"type": "FocalLoss", "class_weight": [1, 2]},
        {"type": "SoftmaxFocalLoss", "class_weight": [1]},
    ],
)
def test_factors_of_another_number_of_classes_are_refused_before_a_training(loss):
    from archloom.assembly import build_model
    from archloom.plugins import Host

    class Task:
        name, shape, classes = "three", (3, 32, 32), ("a", "b", "c")

    section = {"backbone": {"type": "ResNet", "depth": 18, "base_channels": 4}, "head": "LinearClsHead"}
    section = section | {"head": {"type": "LinearClsHead", "loss": loss}}
    with pytest.raises(ConfigError, match="numbers, and there are 3 classes"):
        build_model(section, Task(), Host())
