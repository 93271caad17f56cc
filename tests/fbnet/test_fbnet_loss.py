from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archloom.errors import ConfigError
from archloom_fbnet.loss import Objective, Scaled, Stillness, expected_cost, paper_loss, reference_loss
from archloom_fbnet.schedule import Temperature, cosine


@given(ce=st.floats(0.01, 10), cost=st.floats(1.5, 1e6), alpha=st.floats(0.01, 2), beta=st.floats(0, 2))
def test_the_paper_s_loss_is_its_formula_and_so_is_its_gradient(ce, cost, alpha, beta):
    CE, LAT = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (ce, cost))
    loss = paper_loss(CE, LAT, alpha, beta)
    loss.backward()
    assert loss.item() == pytest.approx(ce * alpha * math.log(cost) ** beta)
    assert CE.grad.item() == pytest.approx(alpha * math.log(cost) ** beta)
    factor = alpha * math.log(cost) ** beta
    assert LAT.grad.item() == pytest.approx(factor * ce * beta / (math.log(cost) * cost), abs=1e-12)


@given(beta=st.floats(0.1, 2), alpha=st.floats(0.05, 2))
def test_in_the_reference_s_loss_alpha_and_beta_only_scale(beta, alpha):
    CE, LAT = torch.tensor(2.0, dtype=torch.float64), torch.tensor(65_000.0, dtype=torch.float64)
    assert reference_loss(CE, LAT, alpha, beta).item() == pytest.approx(alpha * beta * 2 * math.log(65_000))


def test_the_additive_and_the_target_loss_are_their_formulas():
    CE, LAT = torch.tensor(2.0), torch.tensor(30.0)
    assert Objective("additive", "ms", 0.1, 0.6)(CE, LAT).item() == pytest.approx(5.0)
    assert Objective("target", "ms", 0.2, 0.5, target=7.5)(CE, LAT).item() == pytest.approx(4.0)


def test_the_expected_cost_is_the_mean_over_all_architectures():
    """Eq. 9 against the enumeration of all twelve architectures with their probabilities."""
    costs = {"a": torch.tensor([1.0, 5.0, 2.0]), "b": torch.tensor([3.0, 0.5]), "c": torch.tensor([1.0, 7.0])}
    weights = {name: torch.softmax(torch.randn(len(c)), 0) for name, c in costs.items()}
    mean = sum(
        weights["a"][i]
        * weights["b"][j]
        * weights["c"][k]
        * (10 + costs["a"][i] + costs["b"][j] + costs["c"][k])
        for i in range(3)
        for j in range(2)
        for k in range(2)
    )
    torch.testing.assert_close(expected_cost(weights, costs, 10.0), mean)


@pytest.mark.parametrize("form", ["paper", "reference"])
def test_a_cost_whose_logarithm_is_not_positive_is_refused(form):
    Objective(form, "ms", 0.2, 0.6).check(1.01)
    with pytest.raises(ConfigError, match=r"costs 0\.8 ms.*smaller unit"):
        Objective(form, "ms", 0.2, 0.6).check(0.8)
    with pytest.raises(ConfigError, match="no number"):
        Objective(form, "ms", 0.2, 0.6).check(float("nan"))
    Objective("additive", "ms", 0.2, 0.6).check(0.8)


def test_numbers_that_do_not_belong_to_a_loss_are_refused():
    with pytest.raises(ConfigError, match="needs a target cost in us"):
        Objective("target", "us", 0.2, 0.6)
    with pytest.raises(ConfigError, match="has no target"):
        Objective("paper", "us", 0.2, 0.6, target=3.0)
    with pytest.raises(ConfigError, match="alpha must be positive"):
        Objective("paper", "us", 0, 0.6)


def test_the_temperature_falls_from_the_first_epoch_to_its_floor():
    tau = Temperature(5.0, 0.956, 0.1)
    assert tau(0) == 5.0
    assert tau(10) == pytest.approx(5 * 0.956**10)
    assert tau(500) == 0.1


def test_the_reference_s_temperature_waits_for_the_warm_up_and_has_no_floor():
    tau = Temperature(5.0, math.exp(-0.045), 0.0, start=10)
    assert tau(0) == tau(10) == 5.0
    assert tau(180) == pytest.approx(0.0024, rel=0.02)


@pytest.mark.parametrize(
    ("initial", "decay", "floor"), [(0, 0.9, 0), (5, 1.1, 0.1), (5, 0.9, 6), (5, 0.9, -1)]
)
def test_a_temperature_that_cannot_be_is_refused(initial, decay, floor):
    with pytest.raises(ConfigError, match="temperature"):
        Temperature(initial, decay, floor)


def test_the_learning_rate_falls_along_half_a_cosine():
    assert [cosine(0.1, epoch, 4) for epoch in range(5)] == pytest.approx(
        [0.1, 0.0853553, 0.05, 0.0146447, 0], rel=1e-5
    )


FORMS = [("paper", {}), ("reference", {}), ("additive", {}), ("target", {"target": 300.0})]


def slope(loss, ce=1.7, cost=500.0):
    """The loss and its gradient to CE and LAT, in float32."""
    leaves = [torch.tensor(value, requires_grad=True) for value in (ce, cost)]
    value = loss(*leaves)
    return value.item(), [g.item() for g in torch.autograd.grad(value, leaves)]


@given(
    st.sampled_from(FORMS), st.floats(1e-4, 1e9), st.floats(0.1, 16), st.floats(0.1, 9), st.floats(300, 600)
)
def test_where_nothing_overflows_the_scaled_loss_is_the_objective_to_the_bit(form, alpha, beta, ce, cost):
    objective = Objective(form[0], "K", alpha, beta, **form[1])
    scaled = Scaled(objective, 641.0)
    if scaled.exponent == 0:
        assert slope(scaled, ce, cost) == slope(objective, ce, cost)
        assert (scaled.decay, scaled.eps) == (1.0, 1e-8)
    elif scaled.exponent < 0 and math.isfinite(slope(objective, ce, cost)[0]):
        (value, gradients), factor = slope(objective, ce, cost), 2.0**scaled.exponent
        assert slope(scaled, ce, cost) == (value * factor, [g * factor for g in gradients])
        assert scaled.true(value * factor) == value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alpha", [1e-300, 1e-30, 0.2, 1e10, 1e30, 1e300])
@pytest.mark.parametrize("beta", [0.6, 24, 30, 60, 1000])
def test_a_loss_of_any_size_and_the_square_of_its_gradient_stay_in_range(form, alpha, beta):
    scaled = Scaled(Objective(form[0], "K", alpha, beta, **form[1]), 641.0)
    value, gradients = slope(scaled, cost=641.0)
    ce, cost = gradients
    squares = [torch.tensor(g) ** 2 for g in gradients]
    # in a sum one of the terms may be nothing beside the other
    assert all(square < math.inf for square in squares)
    assert 0 < value < math.inf
    assert form[0] == "additive" or all(square > 0 for square in squares)
    # the two slopes stand to one another as by hand: CE / LAT of the loss's logarithm
    by_hand = {
        "paper": 1.7 * beta / (math.log(641) * 641),
        "reference": 1.7 / (math.log(641) * 641),
        "additive": alpha,
        "target": 1.7 * beta / 641,
    }[form[0]]
    assert ce == 0 or cost / ce == pytest.approx(by_hand, rel=1e-4)


def test_theta_that_stands_still_is_said_once(caplog):
    theta = {"a": torch.zeros(3), "b": torch.zeros(1)}
    watch = Stillness(theta, lr=0.1)
    for moved in (torch.tensor([0.1, 0.0, 0.0]), torch.full((3,), 0.1), torch.zeros(3)):
        watch.begin()
        theta["a"] += moved  # a constant for all of them changes no probability
        theta["b"] += 1
        watch.end(4)
        assert len(caplog.records) == int(bool(moved[0] == moved[1]))
    assert "theta stood still in the pass of epoch 5" in caplog.text
