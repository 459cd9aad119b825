"""Policies are read from their words."""

import pytest

from orchestrator.policies.rungs import EarlyStopping
from orchestrator.replay.policy import Policy
from trainables.errors import InputError


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        ("random", Policy(sampler="random")),
        ("tpe-multivariate+start", Policy(sampler="tpe-multivariate", num_starting_points=6)),
        ("gp+start:12+rungs", Policy(sampler="gp", num_starting_points=12, early_stopping=EarlyStopping())),
        ("nsga2+rungs", Policy(sampler="nsga2", early_stopping=EarlyStopping())),
        ("tpe+rungs:0.6", Policy(sampler="tpe", early_stopping=EarlyStopping(first_rung=0.6))),
        (
            "tpe+start+rungs:.5:2.5",
            Policy(
                sampler="tpe",
                num_starting_points=6,
                early_stopping=EarlyStopping(first_rung=0.5, reduction_factor=2.5),
            ),
        ),
    ],
)
def test_policies_are_read(words, policy):
    assert Policy.parse(words) == policy


@pytest.mark.parametrize(
    "words", ["", "tpe+rungs+start", "tpe+start:", "TPE", "tpe rungs", "tpe+rungs:", "tpe+rungs:a"]
)
def test_other_words_are_refused(words):
    with pytest.raises(InputError, match=r"must be SAMPLER\[\+start\[:N\]\]\[\+rungs"):
        Policy.parse(words)
    with pytest.raises(InputError, match=r"policy is 'tpe\+start:5000', but N must be at most 1000"):
        Policy.parse("tpe+start:5000")


def test_unknown_samplers_are_refused():
    with pytest.raises(InputError, match="'tpee' is no sampler; there are tpe,"):
        Policy.parse("tpee+start")
