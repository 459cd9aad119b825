"""Where gates stand: behind the last layers from which zeros travel to all that read the channels."""

import pytest
import torch
from torch import nn

from trainables.pruning.dependencies import find_groups


class Asked(nn.Module):
    """Two convolutions over the image, a function of both, and a linear layer that reads it."""

    def __init__(self, function, *, norm: bool = False) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) if norm else nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(3, 4, 1)
        self.scores = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(self.function(self.first(x), self.second(x)).mean((2, 3)))
        return scores


BOTH, FIRST, SECOND = ("first", "second"), ("first",), ("second",)


@pytest.mark.parametrize(
    ("function", "gates"),
    [
        (lambda a, b: a + b, BOTH),
        (lambda a, b: a.relu() - torch.nn.functional.gelu(b), BOTH),
        (lambda a, b: a * b, FIRST),
        (lambda a, b: a.sigmoid() * b, SECOND),
        (lambda a, b: torch.nn.functional.hardsigmoid(a) * torch.nn.functional.hardswish(b), SECOND),
        (lambda a, b: (a + 3).clamp(0, 6) / 6 * b, SECOND),  # a hard sigmoid by hand
        (lambda a, b: a + b * a.exp(), BOTH),
        (lambda a, b: 2 * a * torch.tanh(b).abs().sqrt(), FIRST),
        (lambda a, b: sum([a, b]), BOTH),  # which begins with the number zero
        (lambda a, b: sum([a, b], 0.5), None),
        (lambda a, b: a.mul(b).add_(0), FIRST),
        (lambda a, b: a.sigmoid() + b, None),
        (lambda a, b: a * b + 1, None),
        (lambda a, b: torch.nn.functional.softplus(a) * b.cos(), None),
        (lambda a, b: (a + b).softmax(1), None),
    ],
)
def test_gates_are_what_silences_a_function(function, gates: tuple[str, ...] | None) -> None:
    network = Asked(function)
    if gates is None:
        with pytest.raises(ValueError, match="no gate silences what layer scores reads"):
            find_groups(network, (3, 4, 4))
    else:
        (group,) = find_groups(network, (3, 4, 4)).groups
        assert group.gates == gates


def test_a_gate_stands_behind_the_norm_where_there_is_one() -> None:
    (group,) = find_groups(Asked(lambda a, b: a.relu() + b, norm=True), (3, 4, 4)).groups
    assert group.gates == ("first.1", "second")


def test_parts_of_a_concatenation_keep_their_own_gates() -> None:
    network = Asked(lambda a, b: torch.cat([a.relu(), b], 1))
    network.scores = nn.Linear(8, 3)
    groups = find_groups(network, (3, 4, 4)).groups
    assert {group.name: group.gates for group in groups} == {"first": FIRST, "second": SECOND}
