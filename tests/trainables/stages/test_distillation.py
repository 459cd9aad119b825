"""The loss of a level against its formula and its limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from trainables.stages.distillation import decoupled_divergence, label_loss
from trainables.stages.objective import Objective


def naive_loss(logits, larger, labels, temperature: float, weight: float, smoothing: float) -> float:
    total = 0.0
    for own, other, label in zip(logits.tolist(), larger.tolist(), labels.tolist(), strict=True):
        norm = math.log(sum(math.exp(z) for z in own))
        targets = [smoothing / len(own) + (1 - smoothing) * (k == label) for k in range(len(own))]
        cross_entropy = -sum(t * (z - norm) for t, z in zip(targets, own, strict=True))
        p = [math.exp(z / temperature) for z in other]
        q = [math.exp(z / temperature) for z in own]
        kl = sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
        total += (1 - weight) * cross_entropy + weight * temperature**2 * kl
    return total / len(labels)


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits, larger = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64) * 3
    return logits, larger, torch.randint(5, (6,), generator=generator)


@given(st.integers(0, 2**31), st.floats(0.5, 20), st.floats(0, 1), st.floats(0, 0.9))
def test_loss_is_its_formula(seed: int, temperature: float, weight: float, smoothing: float) -> None:
    logits, larger, labels = draw(seed)
    loss = Objective(label_smoothing=smoothing).of_level(logits, larger, labels, temperature=temperature, weight=weight)
    assert float(loss) == pytest.approx(naive_loss(logits, larger, labels, temperature, weight, smoothing))


@given(st.integers(0, 2**31), st.floats(0, 0.9))
def test_classes_count_as_their_weights_say(seed: int, smoothing: float) -> None:
    logits, _, labels = draw(seed)
    weights = torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    total = 0.0
    for row, label in zip(logits.log_softmax(1).tolist(), labels.tolist(), strict=True):
        targets = [smoothing / 5 + (1 - smoothing) * (k == label) for k in range(5)]
        total -= sum(w * t * z for w, t, z in zip(weights.tolist(), targets, row, strict=True))
    loss = label_loss(logits, labels, label_smoothing=smoothing, class_weights_K=weights)
    assert float(loss) == pytest.approx(total / len(labels))
    parts = [label_loss(logits[part], labels[part], class_weights_K=weights) for part in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(torch.stack(parts).mean(), label_loss(logits, labels, class_weights_K=weights))


def test_shares_of_a_single_class_are_that_class() -> None:
    logits, larger, labels = draw(3)
    shares = F.one_hot(labels, 5).float()
    for weights in (None, torch.linspace(1, 2, 5, dtype=torch.float64)):
        objective = Objective(label_smoothing=0.1, class_weights_K=weights)
        torch.testing.assert_close(
            *(objective.of_level(logits, larger, y, temperature=2.0, weight=0.3) for y in (labels, shares))
        )


def test_weight_0_is_the_cross_entropy() -> None:
    logits, larger, labels = draw(0)
    assert Objective().of_level(logits, larger, labels, temperature=4.0, weight=0.0) == F.cross_entropy(logits, labels)


def test_weight_1_and_equal_logits_is_zero() -> None:
    logits, _, labels = draw(0)
    loss = Objective().of_level(logits, logits + 7.0, labels, temperature=4.0, weight=1.0)  # a shift changes no softmax
    assert float(loss) == pytest.approx(0.0, abs=1e-12)


@given(st.integers(0, 2**31), st.floats(0.5, 20), st.floats(0, 1))
def test_loss_of_several_labels_is_its_formula(seed: int, temperature: float, weight: float) -> None:
    logits, larger, _ = draw(seed)
    labels = torch.rand(6, 5, generator=torch.Generator().manual_seed(seed)) < 0.4

    def coin(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    total = 0.0
    for own, other, truth in zip(
        logits.flatten().tolist(), larger.flatten().tolist(), labels.flatten().tolist(), strict=True
    ):
        cross_entropy = -math.log(coin(own if truth else -own))
        p, q = coin(other / temperature), coin(own / temperature)
        not_p, not_q = coin(-other / temperature), coin(-own / temperature)  # 1 - p would lose digits where p is near 1
        kl = p * math.log(p / q) + not_p * math.log(not_p / not_q)
        total += (1 - weight) * cross_entropy + weight * temperature**2 * kl
    loss = Objective(multi_label=True).of_level(logits, larger, labels, temperature=temperature, weight=weight)
    assert float(loss) == pytest.approx(total / 30, abs=1e-9)


def test_several_labels_at_the_limits() -> None:
    logits, larger, _ = draw(1)
    labels = torch.eye(6, 5).bool()
    plain = Objective(multi_label=True).of_level(logits, larger, labels, temperature=4.0, weight=0.0)
    assert plain == F.binary_cross_entropy_with_logits(logits, labels.double())
    equal = Objective(multi_label=True).of_level(logits, logits, labels, temperature=4.0, weight=1.0)
    assert float(equal) == pytest.approx(0.0, abs=1e-12)
    sure = Objective(multi_label=True).of_level(logits * 1e4, -logits * 1e4, labels, temperature=1.0, weight=0.5)
    assert sure.isfinite()


def test_no_gradient_flows_into_the_larger_level() -> None:
    logits, larger, labels = draw(0)
    logits.requires_grad_()
    larger.requires_grad_()
    Objective().of_level(logits, larger, labels, temperature=2.0, weight=0.5).backward()
    assert larger.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_the_gradients_scale_hardly_depends_on_the_temperature() -> None:
    norms = []
    for temperature in (10.0, 40.0):
        logits, larger, labels = draw(0)
        logits.requires_grad_()
        Objective().of_level(logits, larger, labels, temperature=temperature, weight=1.0).backward()
        norms.append(float(logits.grad.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.25)


def naive_divergences(own: list[float], larger: list[float], label: int) -> tuple[float, float, float]:
    """Of the coin of the image's class, of the other classes among themselves, and the larger's part of those."""
    p, q = ([math.exp(z) / sum(map(math.exp, row)) for z in row] for row in (larger, own))
    coins = [(p[label], q[label]), (1 - p[label], 1 - q[label])]
    others = [(a / (1 - p[label]), b / (1 - q[label])) for k, (a, b) in enumerate(zip(p, q, strict=True)) if k != label]
    coin, within = (sum(a * math.log(a / b) for a, b in pairs) for pairs in (coins, others))
    return coin, within, 1 - p[label]


@given(st.integers(0, 2**31), st.floats(0.5, 20), st.floats(0, 8))
def test_a_decoupled_divergence_is_its_formula(seed: int, temperature: float, weight: float) -> None:
    logits, larger, labels = draw(seed)
    own, other = logits / temperature, larger / temperature
    found = decoupled_divergence(own, other, labels, non_target_weight=weight)
    parts = [
        naive_divergences(a, b, label)
        for a, b, label in zip(own.tolist(), other.tolist(), labels.tolist(), strict=True)
    ]
    assert float(found) == pytest.approx(sum(coin + weight * within for coin, within, _ in parts) / len(parts))
    whole = Objective().of_level(logits, larger, labels, temperature=temperature, weight=1.0)
    again = temperature**2 * sum(coin + rest * within for coin, within, rest in parts) / len(parts)
    assert float(whole) == pytest.approx(again)  # the whole one weighs the others by how unsure the larger level is


def test_a_decoupled_loss_has_gradients_of_the_level_alone_and_no_others_where_there_are_two_classes() -> None:
    logits, larger, labels = draw(5)
    logits.requires_grad_()
    larger.requires_grad_()
    Objective(non_target_weight=4.0).of_level(logits, larger, labels, temperature=2.0, weight=0.7).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
    assert larger.grad is None
    two, larger_two, label = logits[:, :2].detach(), larger[:, :2].detach(), labels % 2
    losses = [
        Objective(non_target_weight=weight).of_level(two, larger_two, label, temperature=2.0, weight=1.0)
        for weight in (None, 0.0, 8.0)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])
